"""Before or after the activation?"""

from dataclasses import replace

from bnlab.claims._base import (
    CLAIMS,
    Claim,
    Verdict,
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
from bnlab.claims._rule import judge_effect

OTHERS = ("after_pool", "before_conv", "both", "none")
"""Further places, each less than before; a preset may leave out all of them."""

NETWORKS = {
    "deep": "16 convolutions",
    "tanh": "tanh for ReLU",  # where Kim et al. 2023 find after better
}
"""Further networks in which before and after are compared; likewise."""


def measure(evidence: Evidence) -> Contrast:
    """Test accuracy with BN before the activation less that with BN after it."""
    best = evidence.best
    networks = evidence.arms("network", place="before")
    return make_contrast(
        best["before"] - best["after"],
        [
            *(
                detail(f"before - after, {name}", best[networks[n]] - best[f"after_{n}"])
                for n, name in NETWORKS.items()
                if n in networks
            ),
            *(
                detail(f"before - {arm}", best["before"] - best[arm])
                for arm in OTHERS
                if arm in best
            ),
        ],
        [best_lrs(evidence), *divergences(evidence)],
    )


def measure_again(evidence: Evidence) -> Contrast:
    """The same with BN on the convolutions alone."""
    return make_contrast(evidence.best["before_no_fc"] - evidence.best["after_no_fc"])


def judge_places(claim: Claim, contrast: Contrast, smallest: float) -> Verdict:
    """The common rule; where the places turn out equivalent it says so.

    They are if both limits lie within the smallest effect of interest: two one-sided tests.
    """
    verdict = judge_effect(claim, contrast, smallest)
    equivalent = contrast.limits.low > -smallest
    if verdict.label != "REFUTED" or verdict.sublabel == "reversed" or not equivalent:
        return verdict
    least = f"{smallest * claim.scale:g} {claim.unit}"
    return replace(
        verdict,
        sublabel="no practical difference",
        why=f"{verdict.why}; both places are equivalent within {least}",
    )


PLACEMENT = Claim(
    name="placement",
    statement="Batch normalization belongs before the activation, not after it.",
    against="BN after the activation that does as well or better, be it only where the hidden "
    "fully connected layer has BN or only where it has none: then the rule is none.",
    quote=("003", "批量归一化通常作为神经网络中的一层,位于激活函数之前"),
    sources=(
        "documents 000, 002, 003 and 004 say before; 001 says after, but codes before",
        "Ioffe and Szegedy 2015, arXiv:1502.03167 (argue for before)",
        "Hasani and Khotanlou 2019, arXiv:1912.04259 (it depends on the architecture)",
    ),
    definition="Test accuracy with BN between convolution and ReLU against BN between ReLU and "
    "pooling, each at its best learning rate; once with BN on the hidden layer, too, where it "
    "moves along, and once with BN on the convolutions alone. SUPPORTED only if both are; where "
    "one supports and the other refutes, the verdict is that it depends on the hidden layer.",
    formula="accuracy(before, its best lr) - accuracy(after, its best lr), mean over seeds; the "
    "numbers shown are those with BN on the hidden layer",
    protocol="Four arms: before and after, each with BN on the hidden layer and without. Pilot "
    "seeds find for each the neighborhood of its best learning rate; every final seed then tunes "
    "for itself within it, on validation images, trains once more on all images at what was best "
    "for it, and reads the test set once. Under full also after the pool, before the convolution, "
    "before and after, and none, and before against after in a network of 16 convolutions and in "
    "one with tanh for ReLU, at their pilots' best, as exploratory contrasts.",
    smallest_effect=0.003,
    smallest_under=SHORT,
    reason="0.3 percentage points are about one standard deviation between seeds of this "
    "network at 20 epochs: a place that gains less is no reason to move a layer.",
    unit="pp",
    treated=("before",),
    control=("after",),
    at_best=("before", "after", "before_no_fc", "after_no_fc"),
    measure=measure,
    place="with BN on the hidden layer",
    depends="the hidden layer",
    judge=judge_places,
    ruled="REFUTED says so where both limits lie within the smallest effect of interest either way "
    "(no practical difference).",
)

CLAIMS.register("placement")(
    replace(
        PLACEMENT,
        again=replace(
            PLACEMENT,
            treated=("before_no_fc",),
            control=("after_no_fc",),
            measure=measure_again,
            place="with BN on the convolutions alone",
        ),
    )
)
