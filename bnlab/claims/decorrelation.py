"""Does batch normalization make features less alike?"""

from collections.abc import Mapping

import numpy as np

from bnlab.claims._base import CLAIMS, Claim, Imagined, best_lrs, divergences
from bnlab.claims._contrast import Array, Contrast, Evidence, detail, make_contrast
from bnlab.claims._inside import (
    AT_ONE_LOSS,
    at_matched_loss,
    layers_of,
    mean_over_layers,
    unrecorded,
)

CHANNELS, IMAGES = "channel_correlation", "image_cosine"


def less(evidence: Evidence, quantity: str, treated: str = "batch") -> Array:
    """How much smaller a correlation is than without BN, at matched loss: (seeds,)."""
    # Of the layers that carry weights: the arm without BN has no others.
    layers = layers_of(evidence, "none", quantity)[:-1]  # the classifier's outputs are no features
    found = at_matched_loss(
        evidence,
        {arm: mean_over_layers(evidence, arm, quantity, layers) for arm in ("none", treated)},
    )
    return found["none"] - found[treated]


def measure(evidence: Evidence) -> Contrast:
    """How much less channels correlate with BN."""
    differences = less(evidence, CHANNELS)
    return make_contrast(
        differences,
        [
            detail("at one learning rate", less(evidence, CHANNELS, "batch_same"), "|r|"),
            detail("cosine of images", less(evidence, IMAGES), "|r|"),
            *(
                [
                    detail(
                        "statistics kept from the start",
                        less(evidence, CHANNELS, "frozen_init"),
                        "|r|",
                    )
                ]
                if "frozen_init" in evidence.best
                else []
            ),
        ],
        [best_lrs(evidence), *divergences(evidence)],
        unrecorded(evidence, differences, CHANNELS),
    )


def imagine(run: Imagined) -> Mapping[str, float | Array]:
    """With BN channels correlate less by the effect."""
    smaller = run.effect * (run.arm.startswith("batch"))
    values = np.linspace(0.3, 0.4, 5) - smaller + run.noise
    layers = ("conv1", "conv2", "fc1", "classifier")
    return {
        **run.reach(0.5),
        "train/loss": np.linspace(2.0, 1.0, 5),
        **{
            f"probe/{quantity}/{name}": values for quantity in (CHANNELS, IMAGES) for name in layers
        },
    }


CLAIMS.register("decorrelation")(
    Claim(
        name="decorrelation",
        statement="Batch normalization lowers the correlation between features.",
        against="Channels that are as alike with BN as without, where both networks have come down "
        "to the same training loss.",
        quote=("004", "规范化特征的分布,降低特征之间的相关性"),
        sources=(
            "document 004 states it",
            (
                "Daneshmand et al. 2021, arXiv:2106.03970 (at the start it is images, not "
                "channels, whose features become orthogonal with depth)"
            ),
        ),
        definition="Mean absolute correlation of two channels of a layer's output before norm and "
        "activation, over 1,024 training images and all positions, mean over the convolutions and "
        "the hidden layer. A normalizer that treats channels apart changes no correlation at given "
        "weights: whatever differs has been learned. The arms are compared where their training "
        f"loss is the same: {AT_ONE_LOSS}.",
        formula="correlation without BN - correlation with BN, mean over seeds",
        protocol="The runs of covariate_shift: each seed of either arm at its own best learning "
        "rate. Beside it BN at the learning rates of the arm without it, the cosine of images, and "
        "statistics kept from the start.",
        smallest_effect=0.02,
        reason="Two hundredths are what chance alone leaves between channels of 1,024 images.",
        unit="|r|",
        treated=("batch",),
        control=("none",),
        at_best=("none", "batch"),
        measure=measure,
        imagine=imagine,
        study="covariate_shift",
    )
)
