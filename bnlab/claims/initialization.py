"""Does batch normalization make the initialization matter less?"""

import numpy as np

from bnlab.claims._base import (
    CLAIMS,
    Claim,
    best_lrs,
    divergences,
)
from bnlab.claims._contrast import (
    Array,
    Chart,
    Contrast,
    Evidence,
    Line,
    detail,
    make_contrast,
    named_range,
)

GAINS = ("gain_0.1", "gain_0.3", "gain_3", "gain_10")
GAIN_VALUES = np.array([0.1, 0.3, 1.0, 3.0, 10.0])
SCHEMES = ("torch_default", "normal_small")
CAREFUL = ("xavier_normal", "orthogonal")
"""Schemes made to keep variances, as He's; trained under full only and no part of the headline."""


def measure(evidence: Evidence) -> Contrast:
    """How far initializations spread accuracy without BN less how far with BN."""

    def spread(norm: str, ways: tuple[str, ...]) -> Array:
        arms = (norm, *(f"{norm}_{way}" for way in ways))
        return named_range(np.column_stack([evidence.best[arm] for arm in arms]))

    def by_gain(norm: str) -> Array:
        arms = (f"{norm}_gain_0.1", f"{norm}_gain_0.3", norm, f"{norm}_gain_3", f"{norm}_gain_10")
        return np.column_stack([evidence.best[arm] for arm in arms])

    def reduction(ways: tuple[str, ...]) -> Array:
        return spread("none", ways) - spread("batch", ways)

    without, with_bn = spread("none", GAINS + SCHEMES), spread("batch", GAINS + SCHEMES)
    everything = GAINS + SCHEMES + CAREFUL
    careful = all(f"none_{way}" in evidence.best for way in CAREFUL)
    return make_contrast(
        without - with_bn,
        [
            detail("range without BN", without),
            detail("range with BN", with_bn),
            detail("reduction over gains alone", reduction(GAINS)),
            detail("reduction over schemes alone", reduction(SCHEMES)),
            *([detail("with Xavier and orthogonal", reduction(everything))] if careful else []),
        ],
        [best_lrs(evidence), *divergences(evidence)],
        chart=Chart(
            "Test accuracy by the gain on He's initialization.",
            "gain",
            "test accuracy, %",
            tuple(Line(norm, GAIN_VALUES, by_gain(norm)) for norm in ("none", "batch")),
        ),
    )


CLAIMS.register("initialization")(
    Claim(
        name="initialization",
        statement="With batch normalization the network is no longer sensitive to how its weights "
        "are initialized.",
        sources=(
            "documents 000, 002 and 004",
            "Ioffe and Szegedy 2015, arXiv:1502.03167",
        ),
        definition="The range of test accuracy over seven initializations (He's with gains 0.1, "
        "0.3, 1, 3 and 10; PyTorch's default; N(0, 0.01^2)), without BN less with BN, at the "
        "learning rate that is best for He's with gain 1. Three seeds name the best and the worst, "
        "the others measure, so that noise does not widen a range.",
        formula="range(none) - range(batch); range on seed s: accuracy(best initialization by the "
        "naming seeds, s) - accuracy(worst initialization by the naming seeds, s)",
        protocol="Fourteen arms, seven initializations with and without BN; under full also Xavier "
        "and orthogonal. The learning rate is tuned on validation images for He's initialization, "
        "with and without BN; the other initializations are trained at that rate, as by a user who "
        "changes nothing else. Fresh seeds train on all images and read the test set once.",
        smallest_effect=0.02,
        reason="Two percentage points are several times what seeds differ by, and what a change of "
        "learning rate within its usual range costs.",
        unit="pp",
        treated=("batch", *(f"batch_{way}" for way in GAINS + SCHEMES)),
        control=("none", *(f"none_{way}" for way in GAINS + SCHEMES)),
        at_best=("none", "batch"),
        measure=measure,
        about_training=True,
    )
)
