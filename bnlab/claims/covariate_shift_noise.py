"""Is it steady distributions by which batch normalization helps?"""

from collections.abc import Mapping

import numpy as np

from bnlab.claims._base import CLAIMS, Claim, Imagined, best_lrs, divergences
from bnlab.claims._contrast import Array, Contrast, Evidence, detail, make_contrast
from bnlab.claims._inside import TRAINING_LOSS
from bnlab.claims.covariate_shift import MEAN, reduction


def measure(evidence: Evidence) -> Contrast:
    """What it costs in training loss to shift the distributions behind BN by noise."""
    loss = {arm: evidence.reading(arm, TRAINING_LOSS) for arm in ("none", "batch", "noisy_batch")}
    best = evidence.best
    return make_contrast(
        loss["noisy_batch"] - loss["batch"],
        [
            detail("what BN gains: without - with", loss["none"] - loss["batch"], "nats"),
            detail(
                "what noisy BN gains: without - noisy", loss["none"] - loss["noisy_batch"], "nats"
            ),
            detail("test accuracy, BN - noisy BN", best["batch"] - best["noisy_batch"]),
            detail(
                "drift of layer inputs, noisy BN over BN",
                reduction(evidence, MEAN) - reduction(evidence, MEAN, "noisy_batch"),
                "octaves",
            ),
        ],
        [best_lrs(evidence), *divergences(evidence), NOISE, CAUSE],
    )


NOISE = (
    "the noise is that of noisy_batch's defaults, which has not been held against the appendix "
    "of Santurkar et al."
)


CAUSE = (
    "that noise costs training does not say by which way: no arm has the noise without BN, and "
    "whether BN steadies distributions at all is asked by covariate_shift"
)


def imagine(run: Imagined) -> Mapping[str, float | Array]:
    """Noise costs training loss by the effect."""
    loss = 1.0 + run.effect * (run.arm == "noisy_batch") - 2 * run.noise
    return {**run.reach(0.5), TRAINING_LOSS: np.linspace(2.0, loss, 5)}


CLAIMS.register("covariate_shift_noise")(
    Claim(
        name="covariate_shift_noise",
        statement="Batch normalization helps training less where noise shifts the distributions "
        "behind it.",
        against="BN whose outputs are shifted and scaled by noise that changes in every step, and "
        "that fits the training images as well.",
        quote=("002", "保证每层的输入数据分布是稳定的,从而达到加速训练的目的。"),
        sources=(
            "documents 000, 002, 003 and 004 (the reason that they give)",
            "Santurkar et al. 2018, arXiv:1805.11604, section 2.2 (noisy BN trains as well)",
        ),
        definition="Training loss of the last epoch, of BN followed by noise of a mean and a "
        "variance drawn anew each step for every channel (noisy_batch) against BN. On training "
        "images, since in testing there is no noise and the statistics are others.",
        formula="training loss(noisy BN) - training loss(BN), each at its best learning rate, mean "
        "over seeds",
        protocol="The runs of covariate_shift: each seed of either arm at its own best learning "
        "rate.",
        smallest_effect=0.05,
        reason="A twentieth of a nat: noise that costs less has left the benefit in place.",
        unit="nats",
        treated=("batch",),
        control=("noisy_batch",),
        needs=("none",),
        at_best=("batch", "noisy_batch"),
        measure=measure,
        imagine=imagine,
        study="covariate_shift",
    )
)
