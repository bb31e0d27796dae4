"""Does batch normalization make training converge faster?"""

import math

import numpy as np

from bnlab.claims._base import (
    CLAIMS,
    Claim,
    best_lrs,
    divergences,
)
from bnlab.claims._contrast import (
    NAMING,
    Array,
    Chart,
    Contrast,
    Evidence,
    Line,
    detail,
    make_median_contrast,
)

SHORTER = ("b1", "b2", "b3", "b4", "b5", "b6")
"""Arms with shorter budgets, rising; the whole budget is the arm without a suffix."""

CONTROLS = {
    "batch_same": "BN at the best lr of the arm without",
    "frozen_init": "frozen_init",
    "group": "group norm",
}
"""Further arms with the same budgets; a preset may leave out all of them."""

BELOW = 0.01
"""The target lies 1 pp below the worse arm at the whole budget."""

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
    arms = {
        norm: (*(f"{norm}_{b}" for b in SHORTER), norm)
        for norm in ("none", "batch", *CONTROLS)
        if norm in evidence.best
    }
    budgets = np.array([evidence.epochs[arm] for arm in arms["none"]], dtype=np.float64)
    scores = {
        norm: np.column_stack([evidence.best[arm] for arm in names]) for norm, names in arms.items()
    }
    target = min(float(np.median(scores[n][:NAMING, -1])) for n in ("none", "batch")) - BELOW
    raw = {norm: times(budgets, s[NAMING:], target) for norm, s in scores.items()}
    ends = np.log2(budgets[0]), np.log2(budgets[-1])
    clipped = {norm: np.clip(found, *ends) for norm, found in raw.items()}
    saved = np.asarray(clipped["none"] - clipped["batch"])
    outside = [
        f"{norm} ({int(count)} of {len(raw[norm])} {where})"
        for norm in ("none", "batch")
        for where, count in (
            ("never", np.sum(np.isposinf(raw[norm]))),
            ("at the shortest", np.sum(np.isneginf(raw[norm]))),
        )
        if count
    ]
    details = [
        detail(f"{CONTROLS[norm]} instead of BN", clipped["none"] - clipped[norm], "octaves")
        for norm in arms
        if norm in CONTROLS
    ]
    if {"none", "batch"} <= evidence.seconds.keys():
        price = math.log2(evidence.seconds["batch"] / evidence.seconds["none"])
        details.append(detail("in seconds instead of epochs", saved - price, "octaves"))
    remarks = [f"target: {100 * target:.2f} % test accuracy", best_lrs(evidence)]
    remarks += divergences(evidence)
    low, high = octaves_saved(raw["none"], raw["batch"], budgets)
    chart = Chart(
        f"Test accuracy after budgets of their own; the target is {100 * target:.2f} %.",
        "epochs of the budget",
        "test accuracy, %",
        tuple(Line(norm, budgets, found) for norm, found in scores.items()),
    )
    told = f"the target is reached outside the budgets: {', '.join(outside)}"
    if outside:
        remarks.append(f"{told}; such seeds give bounds only, and numbers beside take the ends")
    unknown = np.isneginf(low).mean() > UNKNOWN_SHARE
    return make_median_contrast(low, high, details, remarks, told if unknown else "", chart)


def failures(evidence: Evidence) -> dict[str, Array]:
    """Whether runs diverged at the whole budget: after a shorter one little is learned as yet."""
    return {arm: evidence.diverged[arm] for arm in ("none", "batch") if arm in evidence.diverged}


CLAIMS.register("convergence")(
    Claim(
        name="convergence",
        statement="Batch normalization makes training converge faster.",
        sources=(
            "documents 000 to 004, all of them",
            "Ioffe and Szegedy 2015, arXiv:1502.03167",
        ),
        definition="How many octaves (factors of two) fewer epochs BN needs to reach one test "
        "accuracy, 1 percentage point below the worse arm at the whole budget. A time is the "
        "shortest budget that gets there by a schedule of its own, which has decayed to the end: "
        "the curve of a longer schedule would say when its learning rate falls. Times are those "
        "that a single seed shows.",
        formula="log2(epochs without BN / epochs with BN), median over seeds with the limits of a "
        "sign test; a seed whose time lies outside the budgets gives a bound only",
        protocol="Seven budgets with and without BN. The learning rate is tuned for each arm at "
        "the whole budget, on validation images; shorter budgets are trained at the same rate. "
        "Fresh seeds train on all images and read the test set once, after training; three of them "
        "name the target, the others measure. Under full also BN at the learning rate of the arm "
        "without, and frozen_init (the start that BN gives, without its ongoing work) and group "
        "norm (normalization without batch noise), each tuned, as exploratory arms.",
        smallest_effect=math.log2(1.25),
        reason="A quarter more epochs: less is saved or lost by the choice of a schedule.",
        unit="octaves",
        treated=(*(f"batch_{b}" for b in SHORTER), "batch"),
        control=(*(f"none_{b}" for b in SHORTER), "none"),
        at_best=("none", "batch"),
        measure=measure,
        failures=failures,
    )
)
