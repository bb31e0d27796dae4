"""Batch normalization on the fully connected layer, too?"""

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


def measure(evidence: Evidence) -> Contrast:
    """Test accuracy with BN everywhere less that with BN on the convolutions alone."""
    best = evidence.best
    return make_contrast(
        best["both"] - best["conv"],
        [
            detail("conv only - none", best["conv"] - best["none"]),
            detail("fc only - none", best["fc"] - best["none"]),
            detail("both - none", best["both"] - best["none"]),
            detail("fc only - conv only", best["fc"] - best["conv"]),
        ],
        [best_lrs(evidence), *divergences(evidence)],
    )


CLAIMS.register("fc_norm")(
    Claim(
        name="fc_norm",
        statement="Batch normalization belongs on the fully connected layer as well as on the "
        "convolutions.",
        against="A network with BN on its convolutions alone that does as well or better.",
        quote=("004", "归一化操作通常出现在CNN的卷积层与激活函数之间或者是在全连接层后面。"),
        sources=(
            'document 001 has it in its code, 004 says "or after the fully connected layer"',
            "Ioffe and Szegedy 2015, arXiv:1502.03167",
        ),
        definition="Test accuracy with BN on the convolutions and the hidden fully connected "
        "layer, against BN on the convolutions alone, each at its best learning rate. The "
        "classifier is never normalized.",
        formula="accuracy(both, its best lr) - accuracy(conv, its best lr), mean over seeds",
        protocol="Two arms for the headline, convolutions only and both. Pilot seeds find for each "
        "the neighborhood of its best learning rate; every final seed then tunes for itself within "
        "it, on validation images, trains once more on all images at what was best for it, and "
        "reads the test set once. Beside them none and the hidden layer only, at their pilots' "
        "best learning rates, as exploratory arms.",
        smallest_effect=0.003,
        smallest_under=SHORT,
        reason="0.3 percentage points are about one standard deviation between seeds of this "
        "network at 20 epochs, whose hidden layer holds 92 % of the parameters.",
        unit="pp",
        treated=("both",),
        control=("conv",),
        at_best=("both", "conv"),
        measure=measure,
    )
)
