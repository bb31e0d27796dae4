"""Should gamma and beta be spared from weight decay?"""

from bnlab.claims._base import CLAIMS, Claim, best_lrs, divergences
from bnlab.claims._contrast import SHORT, Contrast, Evidence, make_contrast


def measure(evidence: Evidence) -> Contrast:
    """Test accuracy with gamma, beta and biases spared less that with all decayed."""
    return make_contrast(
        evidence.best["batch"] - evidence.best["decayed"],
        (),
        [best_lrs(evidence), *divergences(evidence)],
    )


CLAIMS.register("decay_norm")(
    Claim(
        name="decay_norm",
        statement="Weight decay should spare batch normalization's gamma and beta.",
        against="A network all of whose parameters are decayed and that does as well or better.",
        sources=(
            "document 001's code decays everything; users ask",
            "He et al. 2019, arXiv:1812.01187 (no bias decay)",
        ),
        definition="Test accuracy with a decay of convolutions and linear layers alone, against "
        "one of all parameters, gamma, beta and biases included; each at its best learning rate.",
        formula="accuracy(spared) - accuracy(decayed), mean over seeds",
        protocol="Pilot seeds find the neighborhood of each arm's best learning rate; every final "
        "seed tunes for itself within it, on validation images, trains once more on all images at "
        "what was best for it, and reads the test set once.",
        smallest_effect=0.003,
        smallest_under=SHORT,
        reason="0.3 percentage points are about one standard deviation between seeds of this "
        "network at 20 epochs.",
        unit="pp",
        treated=("batch",),
        control=("decayed",),
        at_best=("batch", "decayed"),
        measure=measure,
    )
)
