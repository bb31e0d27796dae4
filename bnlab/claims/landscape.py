"""Does batch normalization make the loss smoother?"""

from collections.abc import Mapping

import numpy as np

from bnlab.claims._base import CLAIMS, Claim, Imagined, best_lrs, divergences
from bnlab.claims._contrast import Array, Contrast, Evidence, detail, make_contrast
from bnlab.claims._inside import AT_ONE_LOSS, at_matched_loss, mean_over_epochs, unrecorded


def _curve(evidence: Evidence, arm: str, tag: str) -> Array:
    """log2 of what a run recorded after every epoch: (seeds, epochs)."""
    values = evidence.curves.get(arm, {}).get(f"probe/{tag}")
    if values is None:
        return np.full((len(evidence.best[arm]), 1), np.nan)
    return np.log2(np.where(values > 0, values, np.nan))


def less(evidence: Evidence, tag: str, treated: str = "batch") -> Array:
    """By how many octaves a quantity is smaller than without BN, at matched loss: (seeds,)."""
    found = at_matched_loss(
        evidence, {arm: _curve(evidence, arm, tag) for arm in ("none", treated)}
    )
    return found["none"] - found[treated]


def measure(evidence: Evidence) -> Contrast:
    """By how many octaves the gradient changes less along itself with BN, free of scales."""
    differences = less(evidence, "smoothness/scale_free")
    last = mean_over_epochs(_curve(evidence, "none", "smoothness/scale_free")) - mean_over_epochs(
        _curve(evidence, "batch", "smoothness/scale_free")
    )
    return make_contrast(
        differences,
        [
            detail("raw, as Santurkar et al. have it", less(evidence, "smoothness/raw"), "octaves"),
            detail(
                "greatest change of the gradient, scale-free",
                less(evidence, "gradient_change/scale_free_most"),
                "octaves",
            ),
            detail(
                "greatest change of the gradient, raw",
                less(evidence, "gradient_change/raw_most"),
                "octaves",
            ),
            detail(
                "highest loss along the gradient, raw",
                less(evidence, "landscape_loss/raw_most"),
                "octaves",
            ),
            detail("mean over epochs, whatever the loss", last, "octaves"),
            detail(
                "at the learning rates of the arm without BN",
                less(evidence, "smoothness/scale_free", "batch_same"),
                "octaves",
            ),
        ],
        [best_lrs(evidence), *divergences(evidence)],
        unrecorded(evidence, differences, "smoothness"),
    )


def imagine(run: Imagined) -> Mapping[str, float | Array]:
    """With BN everything changes less by the effect."""
    smaller = run.effect * (run.arm.startswith("batch"))
    values = 2.0 ** (np.linspace(3.0, 2.0, 5) - smaller + 60 * run.noise)
    tags = (
        "smoothness/scale_free",
        "smoothness/raw",
        "gradient_change/scale_free_most",
        "gradient_change/raw_most",
        "landscape_loss/raw_most",
    )
    return {
        **run.reach(0.5),
        "train/loss": np.linspace(2.0, 1.0, 5),
        **{f"probe/{tag}": values for tag in tags},
    }


CLAIMS.register("landscape")(
    Claim(
        name="landscape",
        statement="Batch normalization makes the loss smoother, so that gradients stay true over "
        "longer steps.",
        against="A gradient that changes as much on the way along itself with BN as without, once "
        "steps are measured by the size of the weights.",
        quote=("004", "归一化层的引入使得梯度传播更加稳定,避免了梯度过大或过小的问题。"),
        sources=(
            "documents 003 and 004 (steadier gradients, a smoother optimization)",
            "Santurkar et al. 2018, arXiv:1805.11604, section 3 and figure 4",
            "Bjorck et al. 2018, arXiv:1806.02375 (without BN losses explode along the gradient)",
        ),
        definition="From the same weights and on the same batch, the network is moved along the "
        "gradient by five lengths. Measured is the greatest distance of the gradient there from "
        "the one here, over the length of the step (effective smoothness), with steps and "
        "gradients relative to the weights: raw ones depend on the weights' scale, which in front "
        "of a normalizer means nothing, so raw numbers stand beside it. The arms are compared "
        f"where their training loss is the same: {AT_ONE_LOSS}.",
        formula="log2(smoothness without BN / smoothness with BN), greater is rougher, mean over "
        "seeds",
        protocol="The runs of covariate_shift: each seed of either arm at its own best learning "
        "rate. Beside it the greatest change of the gradient and the highest loss on the way.",
        smallest_effect=1.0,
        reason="A factor of 2: Bjorck et al. and Santurkar et al. report one to two orders of "
        "magnitude.",
        unit="octaves",
        treated=("batch",),
        control=("none",),
        at_best=("none", "batch"),
        measure=measure,
        imagine=imagine,
        study="covariate_shift",
    )
)
