"""Does batch normalization keep the distributions of layer inputs where they are?"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from bnlab.claims._base import CLAIMS, Claim, Imagined, best_lrs, divergences
from bnlab.claims._contrast import Array, Contrast, Detail, Evidence, detail, make_median_contrast
from bnlab.claims._inside import (
    AT_ONE_LOSS,
    as_bounds,
    at_matched_loss,
    mean_over_epochs,
    over_layers,
    unrecorded,
)

MEAN, SD = "drift_mean_epoch", "drift_sd_epoch"
STEP = "drift_mean_step"


def _readings(evidence: Evidence, quantity: str, treated: str) -> dict[str, Array]:
    return {
        arm: over_layers(evidence, arm, quantity, among=("none", treated))
        for arm in ("none", treated)
    }


def reduction(evidence: Evidence, quantity: str, treated: str = "batch") -> Array:
    """By how many octaves a drift is smaller than without BN, at one training loss: (seeds,)."""
    found = at_matched_loss(evidence, _readings(evidence, quantity, treated))
    return found["none"] - found[treated]


def by_epochs(evidence: Evidence, quantity: str, treated: str = "batch") -> Array:
    """The same epoch by epoch, mean over epochs: (seeds,)."""
    found = _readings(evidence, quantity, treated)
    return mean_over_epochs(found["none"] - found[treated])


def _beside(evidence: Evidence, less: Callable[..., Array]) -> list[Detail]:
    return [
        detail("drift of the standard deviations", less(evidence, SD), "octaves"),
        detail("drift within a step", less(evidence, STEP), "octaves"),
        detail(
            "at the learning rates of the arm without BN",
            less(evidence, MEAN, "batch_same"),
            "octaves",
        ),
    ]


def measure(evidence: Evidence) -> Contrast:
    """By how many octaves the means of layer inputs drift less with BN."""
    differences = reduction(evidence, MEAN)
    return make_median_contrast(
        *as_bounds(differences),
        [
            *_beside(evidence, reduction),
            *(
                detail(f"{arm}, too", reduction(evidence, MEAN, arm), "octaves")
                for arm in ("noisy_batch", "frozen_init")
                if arm in evidence.best
            ),
        ],
        [best_lrs(evidence), *divergences(evidence), UNFAIR],
        unrecorded(evidence, differences, MEAN),
    )


UNFAIR = (
    "neither place is fair alone: at one training loss the slower arm stands at the end of its "
    "schedule, where little moves, and epoch by epoch the faster one is further on"
)


def measure_again(evidence: Evidence) -> Contrast:
    """The same in each epoch, when learning rates have decayed alike."""
    differences = by_epochs(evidence, MEAN)
    return make_median_contrast(
        *as_bounds(differences),
        _beside(evidence, by_epochs),
        guard=unrecorded(evidence, differences, MEAN),
    )


def imagine(run: Imagined) -> Mapping[str, float | Array]:
    """All lose alike; with BN inputs drift less by the effect."""
    less = run.effect * (run.arm.startswith("batch"))
    drift = 2.0 ** (np.linspace(-1.0, -3.0, 5) - less + 20 * run.noise)
    return {
        **run.reach(0.5),
        "train/loss": np.linspace(2.0, 1.0, 5),
        **{f"probe/{quantity}/conv2": drift for quantity in (MEAN, SD, STEP)},
    }


COVARIATE_SHIFT = Claim(
    name="covariate_shift",
    statement="Batch normalization reduces internal covariate shift: the distributions of "
    "layer inputs stay where they are while the network trains.",
    against="Inputs of layers that drift as much with BN, or more, be it only where both networks "
    "have come down to the same training loss, or only epoch by epoch: then it depends on that.",
    quote=("003", "批量归一化减少了内部协变量偏移。"),
    sources=(
        "documents 000, 003 and 004 state it; 002 describes it without the name",
        "Ioffe and Szegedy 2015, arXiv:1502.03167, section 1 (the definition meant here)",
        (
            "Santurkar et al. 2018, arXiv:1805.11604 (define it otherwise: "
            "covariate_shift_gradients)"
        ),
    ),
    definition="How far the mean of a channel of a layer's input moves within an epoch, in "
    "standard deviations of that channel before it; the median over channels, on 1,024 "
    "training images, of every convolution and linear layer but the first. Inputs are taken "
    "behind the ReLU, where the next layer sees them: right behind a normalizer the first two "
    "moments stand still by construction. Compared twice, for neither is fair alone. Where the "
    f"training loss is the same ({AT_ONE_LOSS}): but drift goes with the learning rate, which "
    "decays, so that the slower arm, at the end of its schedule, moves little for that alone. And "
    "epoch by epoch, mean over epochs: but the faster arm is further on. SUPPORTED only if both "
    "are. A layer counts if both arms recorded it, and a drift of 0 does not.",
    formula="log2(drift without BN / drift with BN), geometric mean over layers; the median "
    "over seeds, by the sign test; the numbers shown are those at one training loss",
    protocol="Three convolutions of 16 channels (full: document 001's network). Pilot seeds "
    "find the neighborhood of each arm's best learning rate; every final seed tunes for itself "
    "within it, on validation images, and trains once more on all images with the probes. "
    "Beside it BN at the learning rates of the arm without it, the drift of standard "
    "deviations, that within one step, noisy BN, and statistics kept from the start, as "
    "exploratory arms.",
    smallest_effect=0.32,
    reason="0.32 octaves are a fifth less (log2 1.25).",
    unit="octaves",
    treated=("batch",),
    control=("none",),
    at_best=("none", "batch"),
    measure=measure,
    imagine=imagine,
    place="at one training loss",
    depends="where the arms are compared",
)

CLAIMS.register("covariate_shift")(
    replace(
        COVARIATE_SHIFT,
        again=replace(COVARIATE_SHIFT, measure=measure_again, place="epoch by epoch"),
    )
)
