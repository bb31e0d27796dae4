import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import SLEEP_1, SLEEP_2, laws, pairs

from bnlab.analysis.stats import paired_tost, welch_tost


def test_tost_is_two_one_sided_t_tests() -> None:
    from scipy import stats

    margin = 2.5
    differences = np.subtract(SLEEP_2, SLEEP_1)
    p_low = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    p_high = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    result = paired_tost(SLEEP_2, SLEEP_1, margin)
    assert result.p == pytest.approx(max(p_low, p_high))
    assert result.equivalent
    assert result.interval.level == pytest.approx(0.9)
    welch = welch_tost(SLEEP_2, SLEEP_1, margin)
    above = np.add(SLEEP_1, margin)
    theirs = stats.ttest_ind(SLEEP_2, above, equal_var=False, alternative="less")
    assert welch.p == pytest.approx(theirs.pvalue)
    assert not welch.equivalent
    with pytest.raises(ValueError, match=r"alpha must lie between 0 and \.5"):
        paired_tost(SLEEP_2, SLEEP_1, margin, alpha=0.5)


@laws
@given(pairs, st.floats(0.1, 200))
def test_equivalence_holds_exactly_if_the_90_percent_interval_is_inside(
    values: list[tuple[float, float]], margin: float
) -> None:
    a, b = (list(arm) for arm in zip(*values, strict=True))
    for test in (paired_tost, welch_tost):
        result = test(a, b, margin)
        inside = -margin < result.interval.low and result.interval.high < margin
        if abs(result.p - 0.05) > 1e-9:
            assert result.equivalent == inside
