"""Does batch normalization make the normalization of inputs matter less?"""

from collections.abc import Mapping

import numpy as np

from bnlab.claims._base import CLAIMS, Claim, Imagined, divergences
from bnlab.claims._contrast import (
    Array,
    Contrast,
    Evidence,
    Failures,
    detail,
    make_contrast,
    named_range,
)

WAYS = ("minmax", "half", "zscore", "per_image", "decimal")
"""Ways whose inputs are of the order of one or below."""

RAW = "raw"
"""Inputs from 0 to 255, whose runs are counted and take no part in the range."""

NAMING = 3
"""The first of the seeds, which only choose what all others measure: nothing is tuned, so there is
no pilot to choose by."""


def spread(
    scores: Mapping[str, Array], arms: Mapping[str, str], diverged: Mapping[str, Array]
) -> Array:
    """How far the ways spread accuracy: (seeds - NAMING,).

    A way is named by the seeds on which it trained, as its effect is: a failure that counted as
    guessing would name the worst way by chance.
    """
    table = np.column_stack([scores[arms[way]] for way in WAYS])
    none = np.zeros(len(table))
    failed = np.column_stack([diverged.get(arms[way], none) for way in WAYS])[:NAMING] > 0
    naming = np.where(failed & ~failed.all(axis=0), np.nan, table[:NAMING])
    return named_range(table[NAMING:], np.nanmedian(naming, axis=0))


def failures(evidence: Evidence) -> Mapping[str, Array]:
    """Whether the runs that the headline is of diverged."""
    return evidence.same_diverged or evidence.diverged


def measure(evidence: Evidence) -> Contrast:
    """How far input normalizations spread accuracy without BN less how far with BN."""
    tuned, fixed = evidence.best, evidence.same or evidence.best
    none, batch = (evidence.arms("inputs", norm=norm) for norm in ("none", "batch"))
    failed = failures(evidence)
    without, with_bn = spread(fixed, none, failed), spread(fixed, batch, failed)
    details = [detail("range without BN", without), detail("range with BN", with_bn)]
    if evidence.same:
        own = evidence.diverged
        reduced = spread(tuned, none, own) - spread(tuned, batch, own)
        details.append(detail("reduction, each at its pilot's best lr", reduced))
    gains = [
        detail(f"BN's gain on {way} inputs", fixed[batch[way]] - fixed[none[way]])
        for way in (*WAYS, RAW)
    ]
    return make_contrast(
        without - with_bn, [*details, *gains], [*_raw(evidence), *divergences(evidence)]
    )


def _raw(evidence: Evidence) -> list[str]:
    """How many runs on raw inputs failed, and whether BN changes that."""
    none, batch = (evidence.arms("inputs", norm=norm)[RAW] for norm in ("none", "batch"))
    diverged = failures(evidence)
    if not {none, batch} <= diverged.keys():
        return []
    found = Failures(diverged[batch], diverged[none], (batch, none))
    return [f"raw inputs: {found}"]


def imagine(run: Imagined) -> Mapping[str, float | Array]:
    """One way costs every arm 5 points, and that without BN as many more as the effect."""
    worst, none = run.levels["inputs"] == "decimal", run.levels["norm"] == "none"
    return run.reach(0.5 - worst * (0.05 + run.effect * none))


CLAIMS.register("input_normalization")(
    Claim(
        name="input_normalization",
        statement="A network with batch normalization adapts to inputs of different scale: how "
        "inputs are normalized matters less.",
        against="Input normalizations that spread accuracy as far with BN as without. Raw inputs "
        "are counted apart: they would decide the range alone.",
        quote=("003", "减少不同特征之间的数值差异,使得模型训练更加稳定。"),
        sources=(
            "document 004 (adapts to features of different scale); 003 lists the normalizations",
            "Ioffe and Szegedy 2015, arXiv:1502.03167",
        ),
        definition="The range of test accuracy over five normalizations of the inputs ([0, 1], "
        "[-1, 1], z-score, z-score of each image, divided by 1000), without BN less with BN, at "
        "one learning rate for all. Best and worst normalization are named by the median of the "
        "first three seeds and measured on the others, so that noise does not widen a range; a "
        "run that diverged names nothing unless all three of a way did. The range with BN stands "
        "beside it, and how many runs fail on inputs from 0 to 255.",
        formula="range(none) - range(batch); range on seed s: accuracy(best way by the naming "
        "seeds, s) - accuracy(worst way by the naming seeds, s)",
        protocol="Twelve arms, six normalizations with and without BN, at lr 0.03 with linear "
        "decay. Nothing is tuned: a user who changes the inputs keeps the rest. Under full the "
        "range is also measured with the learning rate tuned for each arm, on validation images, "
        "by a pilot.",
        smallest_effect=0.02,
        reason="Two percentage points are several times what seeds differ by, and what a change of "
        "learning rate within its usual range costs.",
        unit="pp",
        treated=tuple(f"batch_{way}" for way in WAYS),
        control=tuple(f"none_{way}" for way in WAYS),
        measure=measure,
        failures=failures,
        about_training=True,
        imagine=imagine,
    )
)
