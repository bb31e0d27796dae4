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
    """Test accuracy with BN less that without, each at its best."""
    best, same = evidence.best, evidence.same
    return make_contrast(
        best["batch"] - best["none"],
        [
            detail("both at the best lr of the arm without BN", same["batch"] - same["none"]),
            *(
                detail("BN - without, trained for longer", best["batch"] - scores)
                for arm, scores in best.items()
                if arm == "none_longer"
            ),
            *(
                detail(f"{name} - without", best[arm] - best["none"])
                for arm, name in CONTROLS.items()
                if arm in best
            ),
        ],
        [best_lrs(evidence), *_price(evidence), *divergences(evidence)],
    )


def _price(evidence: Evidence) -> list[str]:
    """How many epochs `none_longer` has, beside how much longer an epoch with BN takes."""
    if not {"none", "none_longer", "batch"} <= evidence.seconds.keys():
        return []
    epochs = evidence.epochs["none_longer"], evidence.epochs["none"]
    slower = evidence.seconds["batch"] / evidence.seconds["none"]
    longer = f"trained for longer: {epochs[0]:g} epochs instead of {epochs[1]:g}, at the same best"
    price = (
        f"an epoch with BN took {slower:.2f} times as long, runs at once on one machine included"
    )
    return [f"{longer}; {price}"]


CLAIMS.register("accuracy")(
    Claim(
        name="accuracy",
        statement="Batch normalization raises the accuracy of the network.",
        against="A network without BN that, given the same care in choosing its learning rate and "
        "its initialization, comes as far, or less than the smallest effect of interest behind.",
        quote=("001", "Batch Normalization的主要优点是可以加速训练过程并提高模型的准确性。"),
        sources=(
            "documents 001, 003 and 004 state it, 000 and 002 imply it",
            "Ioffe and Szegedy 2015, arXiv:1502.03167",
            "Bjorck et al. 2018, arXiv:1806.02375 (the learning rate as the cause)",
        ),
        definition="Test accuracy after training, with and without BN, each as good as it gets: "
        "the learning rate that is best for it on validation images and, without BN, the better of "
        "two initializations, He's and 0.3 times He's (with BN the scale of the weights matters "
        "little).",
        formula="accuracy(batch, its best) - accuracy(none, its best), mean over seeds",
        protocol="Two arms that differ in the norm. Pilot seeds find for each the neighborhood of "
        "its best learning rate; every final seed then tunes for itself within it, on validation "
        "images (without BN over both initializations), trains once more on all images at what "
        "was best for it, and reads the test set once. Beside the headline: both at the best lr of "
        "the arm without, as the pilot has it, and the arm without BN trained for 1.4 times as "
        "many epochs, about what the seconds of BN's epochs would buy. Under full four further "
        "arms have parts of what BN does, at their pilots' best: BN without scale and shift, scale "
        "and shift alone, the statistics of the start kept as constants, and group norm.",
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
