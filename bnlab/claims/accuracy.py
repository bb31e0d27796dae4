"""Does batch normalization raise accuracy?"""

from bnlab.claims._base import (
    CLAIMS,
    Claim,
    best_lrs,
    divergences,
)
from bnlab.claims._contrast import (
    SHORT,
    Contrast,
    Evidence,
    detail,
    make_contrast,
)

CONTROLS = {
    "batch_no_affine": "batch norm without scale and shift",
    "affine_only": "scale and shift alone",
    "frozen_init": "statistics of the start, kept",
    "group": "group norm",
}
"""Further arms, each with a part of what BN does; a preset may leave out all of them."""


def measure(evidence: Evidence) -> Contrast:
    """Test accuracy with BN less that without, each at its best learning rate."""
    return make_contrast(
        evidence.best["batch"] - evidence.best["none"],
        [
            detail(
                "both at the best lr of the arm without BN",
                evidence.same["batch"] - evidence.same["none"],
            ),
            *(
                detail(f"{name} - without", evidence.best[arm] - evidence.best["none"])
                for arm, name in CONTROLS.items()
                if arm in evidence.best
            ),
        ],
        [best_lrs(evidence), *divergences(evidence)],
    )


CLAIMS.register("accuracy")(
    Claim(
        name="accuracy",
        statement="Batch normalization raises the accuracy of the network.",
        sources=(
            "documents 001, 003 and 004 state it, 000 and 002 imply it",
            "Ioffe and Szegedy 2015, arXiv:1502.03167",
            "Bjorck et al. 2018, arXiv:1806.02375 (the learning rate as the cause)",
        ),
        definition="Test accuracy after training, with and without BN, each at the learning rate "
        "that is best for it on validation images.",
        formula="accuracy(batch, its best lr) - accuracy(none, its best lr), mean over seeds",
        protocol="Two arms that differ in the norm only. The learning rate is tuned for each arm "
        "on one grid, on validation images; fresh seeds train on all images and read the test set "
        "once. BN is also trained at the best lr of the arm without. Under full four further arms "
        "have parts of what BN does: BN without scale and shift, scale and shift alone, the "
        "statistics of the start kept as constants, and group norm.",
        smallest_effect=0.003,
        smallest_under=SHORT,
        reason="0.3 percentage points are about one standard deviation between seeds of this "
        "network at 20 epochs: whoever trains once cannot see less.",
        unit="pp",
        treated=("batch",),
        control=("none",),
        at_best=("none", "batch"),
        measure=measure,
    )
)
