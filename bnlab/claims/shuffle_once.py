"""Does batch normalization need a fresh order of the images in every epoch?"""

from bnlab.claims._base import CLAIMS, Claim, best_lrs, divergences
from bnlab.claims._contrast import SHORT, Contrast, Evidence, detail, make_contrast


def measure(evidence: Evidence) -> Contrast:
    """Test accuracy with fresh orders less that with one order for all epochs."""
    best = evidence.best
    with_bn, without = (best[norm] - best[f"{norm}_once"] for norm in ("batch", "none"))
    return make_contrast(
        with_bn,
        [
            detail("fresh - one order, without BN", without),
            detail("with BN less without", with_bn - without),
        ],
        [best_lrs(evidence), *divergences(evidence)],
    )


CLAIMS.register("shuffle_once")(
    Claim(
        name="shuffle_once",
        statement="With batch normalization the images must be shuffled anew in every epoch.",
        against="A network with BN that does as well with the same batches in every epoch.",
        sources=(
            "users ask; document 001's code shuffles anew",
            "Wu, Yun and Sra 2023, arXiv:2302.12444 (one order may make training with BN diverge)",
        ),
        definition="Test accuracy with BN and an order of the training images drawn anew each "
        "epoch, against one order, and so the same batches, in all of them; augmentation is drawn "
        "anew in both.",
        formula="accuracy(fresh orders) - accuracy(one order), each at its best learning rate, "
        "mean over seeds",
        protocol="Pilot seeds find the neighborhood of each arm's best learning rate; every final "
        "seed tunes for itself within it, on validation images, trains once more on all images at "
        "what was best for it, and reads the test set once. The same without BN, at its pilot's "
        "best, stands beside it.",
        smallest_effect=0.003,
        smallest_under=SHORT,
        reason="0.3 percentage points are about one standard deviation between seeds of this "
        "network at 20 epochs.",
        unit="pp",
        treated=("batch",),
        control=("batch_once",),
        at_best=("batch", "batch_once"),
        measure=measure,
    )
)
