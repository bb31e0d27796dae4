"""Does batch normalization make the initialization matter no longer?"""

import itertools
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bnlab.analysis.stats import mean_interval
from bnlab.claims._base import (
    CLAIMS,
    Claim,
    Imagined,
    Verdict,
    best_lrs,
    divergences,
)
from bnlab.claims._contrast import (
    CLAIM_ALPHA,
    Array,
    Contrast,
    Evidence,
    detail,
    make_contrast,
)
from bnlab.claims._rule import judge_effect
from bnlab.claims.initialization import CONTROL, TREATED, beside, spread

PAIRS = tuple(itertools.combinations(TREATED, 2))


def widest(evidence: Evidence) -> Array:
    """The difference of the two initializations that may lie furthest apart with BN: (seeds,).

    Of all pairs that whose difference has the highest upper limit on the seeds that the headline is
    of, those on which every run with BN trained: if it is below a bound, all are. Two that a pilot
    has named would do for a range that there is, but not for one that is said to be none: with the
    wrong two it is too small.
    """
    failed = [evidence.diverged[arm] for arm in TREATED if arm in evidence.diverged]
    kept = np.max(failed, axis=0) == 0 if failed else np.ones(len(evidence.best["batch"]), bool)
    both_ways = [pair for two in PAIRS for pair in (two, two[::-1])]
    differences = [evidence.best[one] - evidence.best[other] for one, other in both_ways]
    limits = [make_contrast(values[kept]).limits.high for values in differences]
    return differences[int(np.argmax(limits))]


def measure(evidence: Evidence) -> Contrast:
    """How far initializations spread accuracy with BN."""
    return make_contrast(
        widest(evidence),
        [
            detail("range with BN, named by the pilot", spread(evidence, "batch")),
            detail("range without BN, named by the pilot", spread(evidence, "none")),
            *beside(evidence),
        ],
        [best_lrs(evidence), *divergences(evidence)],
    )


def judge_range(claim: Claim, contrast: Contrast, smallest: float) -> Verdict:
    """The common rule; that one of so many pairs lies further apart takes limits for all of them.

    That none does is a test of each at the whole level (Berger 1982).
    """
    verdict = judge_effect(claim, contrast, smallest)
    if verdict.label != "REFUTED":
        return verdict
    least = mean_interval(contrast.differences, 1 - CLAIM_ALPHA / len(PAIRS)).low
    if least > smallest:
        return verdict
    told = f"{verdict.why}, but not at the level that {len(PAIRS)} pairs ask for"
    return replace(verdict, label="INCONCLUSIVE", why=told)


def imagine(run: Imagined) -> Mapping[str, float | Array]:
    """A gain of 2 costs as much accuracy as the effect."""
    return run.reach(0.5 - (run.levels["init"] == "gain_2") * run.effect)


CLAIMS.register("insensitive")(
    Claim(
        name="insensitive",
        statement="With batch normalization the network is no longer sensitive to how its weights "
        "are initialized.",
        against="Initializations that, each at its own best learning rate, still spread accuracy "
        "by more than 2 percentage points with BN.",
        quote=("004", "引入归一化层后,CNN对权重的初始化方法不再敏感。"),
        sources=(
            "document 004 states it, and by a double negation the opposite",
            "Ioffe and Szegedy 2015, arXiv:1502.03167",
        ),
        definition="The range of test accuracy over four initializations (He's with gains 0.3, 1 "
        "and 2, and PyTorch's default) with BN, each at its own best learning rate: SUPPORTED if "
        "it is below 2 percentage points, REFUTED if above. The range is that of the two "
        "initializations whose difference has the highest upper limit at the claims' level, on "
        "the seeds of the headline, so that none is wider.",
        formula="accuracy(one initialization) - accuracy(another), with BN, mean over seeds, of "
        "the two that may lie furthest apart",
        protocol="The study of `initialization`, run by run.",
        smallest_effect=0.02,
        reason="Two percentage points are several times what seeds differ by, and what a change of "
        "learning rate within its usual range costs.",
        unit="pp",
        treated=TREATED,
        control=TREATED,
        needs=CONTROL,
        at_best=TREATED,
        measure=measure,
        bounded=True,
        tests=len(PAIRS),
        judge=judge_range,
        ruled=f"REFUTED asks for limits at the level of all {len(PAIRS)} pairs of initializations.",
        study="initialization",
        imagine=imagine,
    )
)
