"""Does batch normalization make training converge faster?"""

import math
from collections.abc import Mapping

import numpy as np

from bnlab.analysis.stats import MedianEffect
from bnlab.claims._base import (
    CLAIMS,
    Claim,
    Imagined,
    best_lrs,
    divergences,
)
from bnlab.claims._contrast import (
    LEVEL,
    Array,
    Chart,
    Contrast,
    Detail,
    Evidence,
    Line,
    detail,
    make_median_contrast,
)

TARGETS: Mapping[str, float] = {"full": 0.7, "quick": 0.4, "smoke": 0.3}
"""Test accuracy to be reached, by preset: fixed beforehand, and taken from no run. What the network
without BN comes to within the budgets, and not at once."""

CONTROLS = {
    "batch_same": "BN at the best lr of the arm without",
    "frozen_init": "frozen_init",
    "group": "group norm",
}
"""Further levels of the norm with the same budgets; a preset may leave out all of them."""

UNKNOWN_SHARE = 0.2
"""Largest share of seeds on which nothing limits the effect from below."""


def times(budgets: Array, scores: Array, target: float) -> Array:
    """Shortest budget whose own schedule reaches the target, per seed, in log2 of epochs.

    Between two budgets accuracy is a straight line over log2(epochs).

    Args:
        budgets: Epochs, rising: (budgets,).
        scores: (seeds, budgets).
        target: Accuracy.

    Returns:
        (seeds,); minus infinity where the shortest budget reaches it already, infinity where none
        does.
    """
    return np.array([_time(np.log2(budgets), row, target) for row in scores])


def _time(octaves: Array, row: Array, target: float) -> float:
    hits = np.flatnonzero(row >= target)
    if len(hits) == 0:
        return math.inf
    hit = int(hits[0])
    if hit == 0:
        return -math.inf
    share = (target - row[hit - 1]) / (row[hit] - row[hit - 1])
    return float(octaves[hit - 1] + share * (octaves[hit] - octaves[hit - 1]))


def octaves_saved(none: Array, batch: Array, budgets: Array) -> tuple[Array, Array]:
    """Least and greatest log2 of how many times fewer epochs BN needs: two of (seeds,).

    Args:
        none: Times without BN, as `times` gives them: (seeds,).
        batch: Times with BN: (seeds,).
        budgets: Epochs, rising: (budgets,).
    """

    def bounds(found: Array) -> tuple[Array, Array]:
        least = np.where(np.isposinf(found), np.log2(budgets[-1]), found)
        return least, np.where(np.isneginf(found), np.log2(budgets[0]), found)

    (low_none, high_none), (low_batch, high_batch) = bounds(none), bounds(batch)
    return low_none - high_batch, high_none - low_batch


def measure(evidence: Evidence) -> Contrast:
    """Octaves of epochs that BN saves on the way to one target."""
    whole = next(iter(evidence.arms("budget")))
    norms = evidence.arms("norm", budget=whole)
    arms = {norm: sorted(_budgets(evidence, norm), key=evidence.epochs.get) for norm in norms}  # type: ignore[arg-type]
    budgets = np.array([evidence.epochs[arm] for arm in arms["none"]])
    scores = {
        norm: np.column_stack([evidence.best[arm] for arm in names]) for norm, names in arms.items()
    }
    target = TARGETS[evidence.preset]
    raw = {norm: times(budgets, found, target) for norm, found in scores.items()}
    clipped = {n: np.clip(found, *np.log2(budgets[[0, -1]])) for n, found in raw.items()}
    low, high = octaves_saved(raw["none"], raw["batch"], budgets)
    details = [
        detail(f"{name} instead of BN", clipped["none"] - clipped[norm], "octaves")
        for norm, name in CONTROLS.items()
        if norm in arms
    ]
    outside = _outside(raw)
    told = f"the target is reached outside the budgets: {', '.join(outside)}"
    unknown = np.isneginf(low).mean() > UNKNOWN_SHARE
    return make_median_contrast(
        low,
        high,
        [*_in_seconds(evidence, low, high), *details],
        [
            f"target: {100 * target:g} % test accuracy",
            best_lrs(evidence),
            *divergences(evidence),
            *[f"{told}; such seeds give bounds only, and other arms take the ends"] * bool(outside),
        ],
        told if unknown else "",
        Chart(
            f"Test accuracy after budgets of their own; the target is {100 * target:g} %.",
            "epochs of the budget",
            "test accuracy, %",
            tuple(Line(norm, budgets, found) for norm, found in scores.items()),
        ),
    )


def _budgets(evidence: Evidence, norm: str) -> list[str]:
    return list(evidence.arms("budget", norm=norm).values())


def _outside(raw: Mapping[str, Array]) -> list[str]:
    """On how many seeds the target lies outside the budgets."""
    return [
        f"{norm} ({int(count)} of {len(raw[norm])} {where})"
        for norm in ("none", "batch")
        for where, count in (
            ("never", np.sum(np.isposinf(raw[norm]))),
            ("at the shortest", np.sum(np.isneginf(raw[norm]))),
        )
        if count
    ]


def _in_seconds(evidence: Evidence, low: Array, high: Array) -> list[Detail]:
    """The headline less what an epoch with BN takes longer, with the sign test's limits, too."""
    if not {"none", "batch"} <= evidence.seconds.keys():
        return []
    price = math.log2(evidence.seconds["batch"] / evidence.seconds["none"])
    effect = MedianEffect(low - price, high - price)
    return [Detail("in seconds instead of epochs", effect.interval(LEVEL), "octaves")]


def failures(evidence: Evidence) -> dict[str, Array]:
    """Whether runs diverged at the whole budget: after a shorter one little is learned as yet."""
    return {arm: evidence.diverged[arm] for arm in ("none", "batch") if arm in evidence.diverged}


def imagine(run: Imagined) -> Mapping[str, float | Array]:
    """Accuracy rises by 6 points with every doubling of the budget; BN is ahead by the effect."""
    images = run.config.dataset.train_size or 50_000
    octaves = math.log2(run.config.train.epochs * images) + run.effect * (
        run.levels["norm"] == "batch"
    )
    return run.reach(0.4 + 0.06 * (octaves - math.log2(2.5 * 8_000)))


CLAIMS.register("convergence")(
    Claim(
        name="convergence",
        statement="Batch normalization makes training converge faster.",
        against="A network without BN that reaches the same accuracy in as many epochs, or in less "
        "than a quarter more.",
        quote=("002", "BN算法在很大程度上加速了训练过程"),
        sources=(
            "documents 000 to 004, all of them",
            "Ioffe and Szegedy 2015, arXiv:1502.03167",
        ),
        definition="How many octaves (factors of two) fewer epochs BN needs to reach one test "
        f"accuracy, fixed beforehand: {100 * TARGETS['full']:g} % under full, "
        f"{100 * TARGETS['quick']:g} % under quick. A time is the shortest budget that gets there "
        "by a schedule of its own, which has decayed to the end: the curve of a longer schedule "
        "would say when its learning rate falls. Times are those that a single seed shows, "
        "between two budgets on a straight line over log2(epochs).",
        formula="log2(epochs without BN / epochs with BN), median over seeds with the limits of a "
        "sign test; a seed whose time lies outside the budgets gives a bound only, "
        "and the effect is the least median that the bounds allow",
        protocol="Budgets from half an epoch (an epoch over half of the images) up, with and "
        "without BN. Pilot seeds find for each arm the neighborhood of its best learning rate at "
        "the whole budget; every final seed then tunes for itself within it, on validation images, "
        "and trains every budget at what was best for it, on all images; the test set is read "
        "once, after training. In seconds instead of epochs the effect is one less the "
        "logarithm of what an epoch with BN takes longer here. Under full also BN at the learning "
        "rate of the arm without, and frozen_init (the start that BN gives, without its ongoing "
        "work) and group norm (normalization without batch noise), as exploratory arms.",
        smallest_effect=math.log2(1.25),
        reason="A quarter more epochs: less is saved or lost by the choice of a schedule.",
        unit="octaves",
        treated=("batch_half", "batch_b1", "batch_b2", "batch_b3", "batch"),
        control=("none_half", "none_b1", "none_b2", "none_b3", "none"),
        at_best=("none", "batch"),
        measure=measure,
        failures=failures,
        imagine=imagine,
    )
)
