import math

import numpy as np
import pytest

from bnlab.analysis.stats import Interval
from bnlab.claims import ANCHORS, CLAIMS, Anchor, hold, study_file
from bnlab.claims._anchors import compare_with
from bnlab.claims._calibration import World, imagine_study
from bnlab.study.load import load_plan


@pytest.mark.parametrize("anchor", [one for one in ANCHORS if one.own is None], ids=str)
def test_every_anchor_is_held_against_a_number_that_its_claim_measures(anchor: Anchor) -> None:
    claim = CLAIMS[anchor.claim]
    plan = load_plan(study_file(anchor.claim), name="claims", preset="quick")
    study = imagine_study(claim, plan, "quick", World(), np.random.default_rng(0))
    contrast = study.contrast
    assert contrast is not None
    if anchor.again:
        assert contrast.again is not None
        contrast = contrast.again
    if anchor.detail:
        (unit,) = [one.unit for one in contrast.details if one.name == anchor.detail]
        assert unit == anchor.unit
    else:
        assert anchor.unit == claim.unit


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        (0.5, "agree: within the 95 % limits"),
        (2.0, "the same sign, another size"),
        (-1.0, "differ: the opposite sign"),
        (0.0, "differ"),
    ],
)
def test_agreement_is_told_from_the_limits(value: float, outcome: str) -> None:
    assert compare_with(value, Interval(0.6, 0.2, 1.0, 0.95, 12)) == outcome


def test_an_effect_that_may_be_none_differs_from_one_beyond_its_limits() -> None:
    assert compare_with(2.0, Interval(0.1, -0.2, 0.4, 0.95, 12)) == "differ"


def test_without_runs_only_what_a_test_holds_is_told() -> None:
    outcomes = [one.outcome for one in hold([])]
    assert outcomes.count("agree") == 2
    assert set(outcomes) == {"agree", "not measured"}
    (ladder,) = [one for one in ANCHORS if one.value == 0.0 and one.own is not None]
    assert ladder.own is not None
    assert math.exp(ladder.own) == pytest.approx(1.0012)
