import subprocess
import sys

import pytest

from bnlab.analysis.stats import fisher_p, wilson_interval


def test_wilsons_limits_are_the_published_ones() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for count, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        found = wilson_interval(count, n)
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
        assert found.estimate == count / n


def test_none_of_twelve_means_at_most_24_percent() -> None:
    assert wilson_interval(0, 12).high == pytest.approx(0.2425, abs=1e-4)


def test_fishers_test_of_the_lady_tasting_tea() -> None:
    # Fisher 1935, chapter II: 3 of 4 cups right, p = 34 / 70 two-sided.
    assert fisher_p(3, 4, 1, 4) == pytest.approx(34 / 70)
    assert fisher_p(4, 4, 0, 4) == pytest.approx(2 / 70)
    assert fisher_p(0, 12, 0, 12) == 1.0
    assert fisher_p(12, 12, 12, 12) == 1.0


def test_counts_outside_their_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to the 3 runs, not 4"):
        wilson_interval(4, 3)
    with pytest.raises(ValueError, match="n must be at least 1"):
        fisher_p(0, 0, 0, 1)


def test_the_statistics_load_without_scipys_slow_part() -> None:
    code = "import sys, bnlab.claims, bnlab.report.claims; print('scipy.stats' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
