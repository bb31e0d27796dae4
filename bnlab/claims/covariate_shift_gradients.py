"""Does batch normalization keep what a layer learns from being undone by the layers before it?"""

from collections.abc import Mapping

import numpy as np

from bnlab.claims._base import CLAIMS, Claim, Imagined, best_lrs, divergences
from bnlab.claims._contrast import Array, Contrast, Evidence, detail, make_contrast
from bnlab.claims._inside import (
    at_matched_loss,
    layers_of,
    mean_over_epochs,
    mean_over_layers,
    over_layers,
    unrecorded,
)

RELATIVE, RAW, COSINE = (
    "gradient_shift_relative",
    "gradient_shift",
    "gradient_shift_cosine",
)


def reduction(evidence: Evidence, quantity: str, treated: str = "batch") -> Array:
    """By how many octaves a shift is smaller than without BN, mean over epochs: (seeds,)."""
    without, with_bn = (
        mean_over_epochs(over_layers(evidence, arm, quantity, among=("none", treated)))
        for arm in ("none", treated)
    )
    return without - with_bn


def measure(evidence: Evidence) -> Contrast:
    """By how many octaves gradients shift less with BN."""
    differences = reduction(evidence, RELATIVE)
    matched = at_matched_loss(
        evidence, {arm: over_layers(evidence, arm, RELATIVE) for arm in ("none", "batch")}
    )
    return make_contrast(
        differences,
        [
            detail("raw norms", reduction(evidence, RAW), "octaves"),
            detail(
                "cosine of the two gradients, with BN less without",
                -_cosine(evidence, "none") + _cosine(evidence, "batch"),
                "|r|",
            ),
            detail(
                "at the learning rates of the arm without BN",
                reduction(evidence, RELATIVE, "batch_same"),
                "octaves",
            ),
            detail("at matched training loss", matched["none"] - matched["batch"], "octaves"),
        ],
        [best_lrs(evidence), *divergences(evidence)],
        unrecorded(evidence, differences, RELATIVE),
    )


def _cosine(evidence: Evidence, arm: str) -> Array:
    """Mean over layers and epochs: (seeds,)."""
    layers = layers_of(evidence, arm, COSINE)
    return mean_over_epochs(mean_over_layers(evidence, arm, COSINE, layers))


def imagine(run: Imagined) -> Mapping[str, float | Array]:
    """With BN gradients shift less by the effect."""
    less = run.effect * (run.arm.startswith("batch"))
    shift = np.full(5, 2.0 ** (-1.0 - less + 20 * run.noise))
    return {
        **run.reach(0.5),
        "train/loss": np.linspace(2.0, 1.0, 5),
        **{f"probe/{quantity}/conv2": shift for quantity in (RELATIVE, RAW, COSINE)},
    }


CLAIMS.register("covariate_shift_gradients")(
    Claim(
        name="covariate_shift_gradients",
        statement="With batch normalization a layer's gradient changes less when the layers before "
        "it are updated (internal covariate shift as a matter of optimization).",
        against="Gradients that shift as much with BN, or more: what Santurkar et al. report.",
        quote=("004", "使得网络的每层都在一个更加稳定的分布中学习,有助于减少内部协变量偏移"),
        sources=(
            "documents 000, 003 and 004 (less covariate shift, hence steadier training)",
            "Santurkar et al. 2018, arXiv:1805.11604, definition 2.1 and figure 3",
        ),
        definition="For each layer, G is the gradient of a batch's loss in its weight, and G' that "
        "of the same batch after the layers before it have taken the step that the optimizer "
        "makes, momentum, decay, gammas and betas included. Measured is ||G - G'|| / ||G||: "
        "gradients in front of a normalizer are as small as weights are large, so that raw norms "
        "compare nothing between arms (they stand beside it). A redefinition: to refute this "
        "refutes nothing about distributions. A layer counts if both arms recorded it, and "
        "a shift of 0 does not.",
        formula="log2(shift without BN / shift with BN), geometric mean over layers, then over "
        "epochs, four steps after each, mean over seeds",
        protocol="The runs of covariate_shift: each seed of either arm at its own best learning "
        "rate. Beside it BN at the learning rates of the arm without it, and where the training "
        "loss is the same.",
        smallest_effect=0.32,
        reason="0.32 octaves are a fifth less (log2 1.25).",
        unit="octaves",
        treated=("batch",),
        control=("none",),
        at_best=("none", "batch"),
        measure=measure,
        imagine=imagine,
        study="covariate_shift",
    )
)
