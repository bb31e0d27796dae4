"""Does batch normalization take dropout's place?"""

from bnlab.claims.base import (
    CLAIMS,
    Claim,
    Contrast,
    Evidence,
    best_lrs,
    detail,
    divergences,
    edge_guard,
    judge_effect,
    make_contrast,
)


def measure(evidence: Evidence) -> Contrast:
    """What dropout gains without BN less what it gains with BN."""
    best = evidence.best
    without = best["none_dropout"] - best["none"]
    with_bn = best["batch_dropout"] - best["batch"]
    return make_contrast(
        without - with_bn,
        [
            detail("dropout's gain without BN", without),
            detail("dropout's gain with BN", with_bn),
            detail("BN without dropout - dropout without BN", best["batch"] - best["none_dropout"]),
        ],
        [best_lrs(evidence), *divergences(evidence)],
        edge_guard(evidence, ("none", "none_dropout", "batch", "batch_dropout")),
    )


CLAIMS.register("dropout")(
    Claim(
        name="dropout",
        statement="Batch normalization regularizes, so that dropout is needed less.",
        sources=(
            "documents 000 to 004, all of them",
            "Ioffe and Szegedy 2015, arXiv:1502.03167",
            "Luo et al. 2019, arXiv:1809.00846",
        ),
        definition="The interaction: how much more test accuracy dropout with probability 0.5 on "
        "the hidden layer gains without BN than with it, each of the four networks at its best "
        "learning rate.",
        formula="[accuracy(none, p=0.5) - accuracy(none, p=0)] - [accuracy(batch, p=0.5) - "
        "accuracy(batch, p=0)], mean over seeds",
        protocol="Four arms: BN or not, dropout or not. The learning rate is tuned for each arm on "
        "one grid, on validation images; fresh seeds train on all images and read the test set "
        "once. Training images are flipped and cropped.",
        smallest_effect=0.003,
        reason="0.3 percentage points are about one standard deviation between seeds of this "
        "network at 20 epochs.",
        unit="pp",
        arms=("none", "none_dropout", "batch", "batch_dropout"),
        measure=measure,
        judge=judge_effect,
    )
)
