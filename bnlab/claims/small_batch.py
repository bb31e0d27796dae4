"""Does batch normalization suffer from small batches?"""

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

GHOSTS = ("ghost_4", "ghost_16", "ghost_32")


def measure(evidence: Evidence) -> Contrast:
    """Test accuracy with statistics over 128 images less that with statistics over 8."""
    best = evidence.best
    return make_contrast(
        best["batch"] - best["ghost_8"],
        [
            *(detail(f"batch - {arm}", best["batch"] - best[arm]) for arm in GHOSTS),
            detail("group norm - ghost_8", best["group"] - best["ghost_8"]),
            detail("batch - group norm", best["batch"] - best["group"]),
        ],
        [best_lrs(evidence), *divergences(evidence)],
        edge_guard(evidence, ("batch", "ghost_8")),
    )


CLAIMS.register("small_batch")(
    Claim(
        name="small_batch",
        statement="Batch normalization depends on the batch size: too small a batch makes its "
        "means and variances unreliable.",
        sources=(
            "document 003",
            "Wu and He 2018, arXiv:1803.08494",
            "Wu and Johnson 2021, arXiv:2105.07576 (statistics over fewer images than a step)",
        ),
        definition="Test accuracy with statistics over the whole batch of 128 against statistics "
        "over ghost batches of 8, at one SGD batch of 128: the step stays the same, only the "
        "statistics get fewer images. Each at its best learning rate.",
        formula="accuracy(batch of 128) - accuracy(ghost batches of 8), mean over seeds",
        protocol="Six arms: statistics over 4, 8, 16, 32 and all 128 images of a batch, and group "
        "norm, which needs no batch. The learning rate is tuned for each arm on one grid, on "
        "validation images; fresh seeds train on all images and read the test set once, with "
        "running statistics. Small SGD batches as such are not part of it.",
        smallest_effect=0.005,
        reason="0.5 percentage points are about two standard deviations between seeds of this "
        "network at 20 epochs: less would make nobody change the norm or the batch.",
        unit="pp",
        arms=("batch", "ghost_8"),
        measure=measure,
        judge=judge_effect,
    )
)
