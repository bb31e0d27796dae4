"""Does batch normalization make weight decay unnecessary?"""

from bnlab.claims._base import CLAIMS, Claim, best_lrs, divergences
from bnlab.claims._contrast import Contrast, Evidence, detail, make_contrast


def measure(evidence: Evidence) -> Contrast:
    """What weight decay gains in test accuracy with BN."""
    best = evidence.best
    with_bn, without = (best[norm] - best[f"{norm}_no_decay"] for norm in ("batch", "none"))
    return make_contrast(
        with_bn,
        [
            detail("what decay gains without BN", without),
            detail("the same less that with BN", without - with_bn),
            detail("BN without decay - decay without BN", best["batch_no_decay"] - best["none"]),
        ],
        [best_lrs(evidence), *divergences(evidence)],
    )


CLAIMS.register("no_decay")(
    Claim(
        name="no_decay",
        statement="With batch normalization a network does not depend on a regularization term: "
        "weight decay is not needed.",
        against="Weight decay that gains a network with BN at least the smallest effect of "
        "interest.",
        quote=("004", "而不依赖于正则化项,这有助于提高模型的泛化能力。"),
        sources=(
            "document 004 states it",
            "van Laarhoven 2017, arXiv:1706.05350 (with BN decay acts through the learning rate)",
            "Ioffe and Szegedy 2015, arXiv:1502.03167 (reduce it by a factor of 5)",
        ),
        definition="What a weight decay of 5e-4 gains in test accuracy with BN, where images are "
        "few and there is something to regularize; each with its own best learning rate.",
        formula="accuracy(BN, decay) - accuracy(BN, no decay), mean over seeds; below the smallest "
        "effect of interest for the claim",
        protocol="The runs of weights: 2,000 images, 25 epochs, neither flips nor crops (full: "
        "10,000 images, 50 epochs); each seed of either arm at its own best learning rate. What "
        "decay gains without BN stands beside it.",
        smallest_effect=0.01,
        reason="A percentage point, by which decay would earn its place.",
        unit="pp",
        treated=("batch",),
        control=("batch_no_decay",),
        needs=("none", "none_no_decay"),
        at_best=("batch", "batch_no_decay"),
        measure=measure,
        bounded=True,
        study="weights",
    )
)
