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

OTHERS = ("after", "after_pool", "before_conv", "both", "none")

AGAIN = {"no_fc": "BN on convolutions alone", "deep": "16 convolutions"}
"""Suffixes of further pairs of arms, in which the headline is measured again; a preset may leave
out some."""


def measure(evidence: Evidence) -> Contrast:
    """Test accuracy with BN before the activation less that with BN after it."""
    best = evidence.best
    return make_contrast(
        best["before"] - best["after"],
        [
            *(detail(f"before - {arm}", best["before"] - best[arm]) for arm in OTHERS),
            *(
                detail(f"before - after, {name}", best[f"before_{again}"] - best[f"after_{again}"])
                for again, name in AGAIN.items()
                if f"before_{again}" in best
            ),
        ],
        [best_lrs(evidence), *divergences(evidence)],
    )


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


CLAIMS.register("placement")(
    Claim(
        name="placement",
        statement="Batch normalization belongs before the activation, not after it.",
        sources=(
            "documents 000, 002, 003 and 004 say before; 001 says after, but codes before",
            "Ioffe and Szegedy 2015, arXiv:1502.03167 (argue for before)",
            "Hasani and Khotanlou 2019, arXiv:1912.04259 (it depends on the architecture)",
        ),
        definition="Test accuracy with BN between convolution and ReLU against BN between ReLU and "
        "pooling, each at its best learning rate; BN on the hidden layer moves along.",
        formula="accuracy(before, its best lr) - accuracy(after, its best lr), mean over seeds",
        protocol="Six arms: before, after, after the pool, before the convolution, before and "
        "after, none. The learning rate is tuned for each arm on one grid, on validation images; "
        "fresh seeds train on all images and read the test set once. All places but after are "
        "compared with before as exploratory contrasts. Before and after are compared once more "
        "with BN on the convolutions alone, and under full in a network of 16 convolutions.",
        smallest_effect=0.003,
        smallest_under=SHORT,
        reason="0.3 percentage points are about one standard deviation between seeds of this "
        "network at 20 epochs: a place that gains less is no reason to move a layer.",
        unit="pp",
        treated=("before",),
        control=("after",),
        at_best=("before", "after"),
        measure=measure,
        judge=judge_places,
    )
)
