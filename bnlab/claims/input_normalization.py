"""Does batch normalization make the normalization of inputs matter less?"""

from collections.abc import Mapping

import numpy as np

from bnlab.claims._base import CLAIMS, Claim, divergences
from bnlab.claims._contrast import (
    Array,
    Contrast,
    Evidence,
    detail,
    make_contrast,
    named_range,
)

WAYS = ("raw", "minmax", "half", "zscore", "per_image", "decimal")
SMALL = tuple(way for way in WAYS if way != "raw")
"""Ways whose inputs are of the order of one or below."""


def measure(evidence: Evidence) -> Contrast:
    """How far input normalizations spread accuracy without BN less how far with BN."""
    tuned, fixed = evidence.best, evidence.same or evidence.best

    def spread(norm: str, ways: tuple[str, ...], scores: Mapping[str, Array] = fixed) -> Array:
        return named_range(np.column_stack([scores[f"{norm}_{way}"] for way in ways]))

    without, with_bn = spread("none", WAYS), spread("batch", WAYS)
    reduced = spread("none", SMALL) - spread("batch", SMALL)
    details = [
        detail("range without BN", without),
        detail("range with BN", with_bn),
        detail("reduction, raw inputs left out", reduced),
    ]
    if evidence.same:
        reduced = spread("none", WAYS, tuned) - spread("batch", WAYS, tuned)
        details.append(detail("reduction, each at its best lr", reduced))
    gains = [
        detail(
            f"BN's gain on {way} inputs",
            fixed[f"batch_{way}"] - fixed[f"none_{way}"],
        )
        for way in WAYS
    ]
    return make_contrast(
        without - with_bn,
        [*details, *gains],
        divergences(evidence),
    )


CLAIMS.register("input_normalization")(
    Claim(
        name="input_normalization",
        statement="A network with batch normalization adapts to inputs of different scale: how "
        "inputs are normalized matters less.",
        sources=(
            "document 004 (adapts to features of different scale); 003 lists the normalizations",
            "Ioffe and Szegedy 2015, arXiv:1502.03167",
        ),
        definition="The range of test accuracy over six normalizations of the inputs ([0, 255], "
        "[0, 1], [-1, 1], z-score, z-score of each image, divided by 1000), without BN less with "
        "BN, at one learning rate for all. Best and worst normalization are named by three "
        "seeds and measured on the others, so that noise does not widen a range.",
        formula="range(none) - range(batch); range on seed s: accuracy(best way by the naming "
        "seeds, s) - accuracy(worst way by the naming seeds, s)",
        protocol="Twelve arms, six normalizations with and without BN, at lr 0.03 with linear "
        "decay. Nothing is tuned: a user who changes the inputs keeps the rest. Under full the "
        "range is also measured with the learning rate tuned for each arm, on validation images.",
        smallest_effect=0.02,
        reason="Two percentage points are several times what seeds differ by, and what a change of "
        "learning rate within its usual range costs.",
        unit="pp",
        treated=tuple(f"batch_{way}" for way in WAYS),
        control=tuple(f"none_{way}" for way in WAYS),
        measure=measure,
        about_training=True,
    )
)
