"""Do running averages test as well as the statistics of the training set?"""

from collections.abc import Mapping

import numpy as np

from bnlab.claims._base import CLAIMS, Claim, Imagined, best_lrs, divergences
from bnlab.claims._contrast import Array, Contrast, Evidence, detail, make_contrast

TAG = "probe/test_accuracy/"
RUNNING = "test/accuracy"

STATISTICS = {
    "pooled": "pooled over all values - running",
    "pooled_plain": "pooled, of images that are not augmented - running",
    "batches_of_128": "the batch's own, of 128 - running",
    "batches_of_8": "the batch's own, of 8 - running",
    "sorted_batches": "the batch's own, of one class - running",
    "polluted": "running, after a test in training mode - running",
}
"""Further statistics, in words."""


def measure(evidence: Evidence) -> Contrast:
    """What document 002's population statistics gain over running averages, on one network."""
    running = evidence.best["batch"]
    gained = evidence.reading("batch", f"{TAG}document_002") - running
    return make_contrast(
        gained,
        [
            *(
                detail(told, evidence.reading("batch", TAG + name) - running)
                for name, told in STATISTICS.items()
            ),
            detail("the headline after the first epoch", _after_first(evidence)),
        ],
        [best_lrs(evidence), *divergences(evidence)],
        "" if np.isfinite(gained).any() else "the probe inference recorded nothing",
    )


def _after_first(evidence: Evidence) -> Array:
    curves = evidence.curves.get("batch", {})
    missing = np.full((len(evidence.best["batch"]), 1), np.nan)
    found, running = (curves.get(tag, missing)[:, 0] for tag in (f"{TAG}document_002", RUNNING))
    return np.asarray(found - running)


def imagine(run: Imagined) -> Mapping[str, float | Array]:
    """Every other statistic is better than the running ones by the effect."""
    found = run.reach(0.5)
    value = 0.5 + run.lost + run.effect + 1.1 * run.noise
    names = ("document_002", *STATISTICS)
    curve = np.full(2, value)
    return {
        **{key: np.full(2, number) for key, number in found.items()},
        **{TAG + name: curve for name in names},
    }


CLAIMS.register("inference_statistics")(
    Claim(
        name="inference_statistics",
        statement="For testing, running averages are as good as the statistics of the whole "
        "training set.",
        against="One and the same network that is at least the smallest effect of interest more "
        "accurate, or less, with statistics taken over the training set.",
        quote=(
            "002",
            "平均值为所有mini-batch的平均值的平均值",
        ),
        sources=(
            (
                "document 000 has running averages; 002 has means over all mini-batches, with an "
                "unbiased variance"
            ),
            "Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 2 (means over mini-batches)",
            "Wu and Johnson 2021, arXiv:2105.07576, section 3 (precise statistics)",
        ),
        definition="Test accuracy of a trained network with BN, by the mean over training batches "
        "of their means and unbiased variances (document 002's formula), less that of the same "
        "network by its running averages. Nothing is trained twice, so that the two differ by the "
        "statistics alone.",
        formula="accuracy(document 002's statistics) - accuracy(running averages), mean over "
        "seeds; within the smallest effect of interest on either side for the claim",
        protocol="Pilot seeds find the neighborhood of BN's best learning rate; every final seed "
        "tunes for itself within it, on validation images, and trains once more on all images. "
        "Statistics are taken from up to 10,000 augmented training images after every epoch. "
        "Beside it pooled ones, those of test batches, and running averages that a test in "
        "training mode has polluted, as document 001's code leaves them.",
        smallest_effect=0.002,
        reason="0.2 percentage points: 20 of 10,000 test images.",
        unit="pp",
        treated=("batch",),
        control=("batch",),
        at_best=("batch",),
        measure=measure,
        bounded=True,
        either_way=True,
        tests=2,
        imagine=imagine,
    )
)
