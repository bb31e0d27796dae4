"""Does batch normalization keep weights small?"""

from collections.abc import Mapping

import numpy as np

from bnlab.claims._base import CLAIMS, Claim, Imagined, best_lrs, divergences
from bnlab.claims._contrast import Array, Contrast, Evidence, detail, make_contrast
from bnlab.claims._inside import layers_of, mean_over_layers, unrecorded

GROWTH = "weight_growth"


def growth(evidence: Evidence, arm: str) -> Array:
    """log2 of the last norm over the first, mean over all layers but the classifier: (seeds,)."""
    layers = layers_of(evidence, arm, GROWTH)[:-1]
    return mean_over_layers(evidence, arm, GROWTH, layers)[:, -1]


def measure(evidence: Evidence) -> Contrast:
    """How much less the weights grow with BN where no decay holds them."""
    differences = growth(evidence, "none_no_decay") - growth(evidence, "batch_no_decay")
    return make_contrast(
        differences,
        [
            detail("growth without BN", growth(evidence, "none_no_decay"), "octaves"),
            detail("growth with BN", growth(evidence, "batch_no_decay"), "octaves"),
            detail(
                "the headline with decay",
                growth(evidence, "none") - growth(evidence, "batch"),
                "octaves",
            ),
        ],
        [best_lrs(evidence), *divergences(evidence)],
        unrecorded(evidence, differences, GROWTH),
    )


def imagine(run: Imagined) -> Mapping[str, float | Array]:
    """With BN weights grow less by the effect."""
    less = run.effect * (run.levels["norm"] == "batch")
    values = np.linspace(0.2, 1.0 - less + 20 * run.noise, 5)
    return {
        **run.reach(0.4),
        **{f"probe/{GROWTH}/{name}": values for name in ("conv1", "fc1", "fc2")},
    }


CLAIMS.register("weights")(
    Claim(
        name="weights",
        statement="Batch normalization constrains the distribution of the parameters.",
        against="Weights that grow as much with BN, or more: behind a normalizer their scale does "
        "not matter, the gradient is orthogonal to them, and by plain gradient descent they can "
        "only grow.",
        quote=("004", "通过限制网络中各层的参数分布,可以降低模型复杂度"),
        sources=(
            "document 004 states it",
            "van Laarhoven 2017, arXiv:1706.05350",
            "Luo et al. 2019, arXiv:1809.00846 (BN acts like a decay of gamma)",
        ),
        definition="By how many octaves the norm of a layer's weights grows over training without "
        "weight decay, mean over the convolutions and the hidden layer.",
        formula="growth without BN - growth with BN, in octaves, mean over seeds",
        protocol="2,000 images, 25 epochs, neither flips nor crops (full: 10,000 images, 50 "
        "epochs). Pilot seeds find for each arm, with decay and without, the neighborhood of its "
        "best learning rate; every final seed tunes for itself within it, on validation images, "
        "and trains once more on all images at what was best for it.",
        smallest_effect=0.32,
        reason="0.32 octaves are a fifth less (log2 1.25).",
        unit="octaves",
        treated=("batch_no_decay",),
        control=("none_no_decay",),
        needs=("none", "batch"),
        at_best=("none_no_decay", "batch_no_decay"),
        measure=measure,
        imagine=imagine,
    )
)
