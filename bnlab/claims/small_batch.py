"""Does batch normalization suffer from statistics over few images?"""

from collections.abc import Mapping

import numpy as np

from bnlab.claims._base import (
    CLAIMS,
    Claim,
    best_lrs,
    divergences,
)
from bnlab.claims._contrast import (
    SHORT,
    Array,
    Chart,
    Contrast,
    Detail,
    Evidence,
    Line,
    detail,
    make_contrast,
)

BATCH = 128
"""Images a step, and behind the statistics of the arm `batch`."""

GHOSTS = {"ghost_4": 4, "ghost_8": 8, "ghost_16": 16, "ghost_32": 32, "batch": BATCH}
"""Images behind the statistics of an arm; a preset may leave out some."""

POPULATION = "probe/test_accuracy/population"

STATISTICS = {
    "running": "test/accuracy",
    "population": POPULATION,
    "batches as trained": "probe/test_accuracy/as_trained",
    f"batches of {BATCH}": "probe/test_accuracy/batches_of_128",
}
"""Statistics that a trained network is tested by, and what a run records of each."""


def measure(evidence: Evidence) -> Contrast:
    """Test accuracy after training with statistics over 128 images less that after 8."""
    best = evidence.best
    ghosts = [arm for arm in GHOSTS if arm in best]
    tested = {arm: evidence.reading(arm, POPULATION) for arm in ghosts}
    others = [arm for arm in ghosts if arm not in ("batch", "ghost_8")]
    return make_contrast(
        tested["batch"] - tested["ghost_8"],
        [
            detail("the headline by running statistics", best["batch"] - best["ghost_8"]),
            *(detail(f"batch - {arm}", tested["batch"] - tested[arm]) for arm in others),
            detail("group norm - ghost_8", best["group"] - tested["ghost_8"]),
            detail("batch - group norm", tested["batch"] - best["group"]),
            *_parts(evidence),
        ],
        [best_lrs(evidence), *divergences(evidence), *_tested_by(evidence)],
        _untested(evidence, tested),
        Chart(
            "Test accuracy by the number of images behind the statistics, at one SGD batch of "
            f"{BATCH}, tested by population statistics; group norm takes none from the batch.",
            "images behind the statistics",
            "test accuracy, %",
            tuple(
                Line(
                    name, np.array([GHOSTS[a] for a in ghosts], float), np.column_stack(scores), of
                )
                for name, scores, of in (
                    ("batch statistics", [tested[arm] for arm in ghosts], "batch"),
                    ("group norm", [best["group"]] * len(ghosts), "group"),
                )
            ),
        ),
    )


def _untested(evidence: Evidence, tested: Mapping[str, Array]) -> str:
    """Runs that trained and were not tested by population statistics."""
    lost = sum(
        int(((evidence.diverged[arm] == 0) & ~np.isfinite(tested[arm])).sum())
        for arm in ("batch", "ghost_8")
        if arm in evidence.diverged
    )
    return (
        f"{lost} runs were not tested by population statistics (probe statistics)" if lost else ""
    )


def _parts(evidence: Evidence) -> list[Detail]:
    """What running statistics cost, after Wu and Johnson: training apart from testing."""
    trained, running = STATISTICS["batches as trained"], "test/accuracy"
    small = {tag: evidence.reading("ghost_8", tag) for tag in STATISTICS.values()}
    large = evidence.reading("batch", trained)
    if not np.isfinite(np.concatenate([*small.values(), large])).any():
        return []
    return [
        detail("the headline by statistics as trained", large - small[trained]),
        detail(
            "ghost_8 by population less by running statistics", small[POPULATION] - small[running]
        ),
        detail(
            "ghost_8 by its own batches less by population statistics",
            small[trained] - small[POPULATION],
        ),
    ]


def _tested_by(evidence: Evidence) -> list[str]:
    """Mean test accuracy of each arm by each kind of statistics."""
    return [
        f"{arm} tested by statistics: "
        + ", ".join(f"{name} {100 * found[tag].mean():.2f} %" for name, tag in STATISTICS.items())
        for arm, found in evidence.readings.items()
        if all(tag in found and np.isfinite(found[tag]).all() for tag in STATISTICS.values())
    ]


CLAIMS.register("small_batch")(
    Claim(
        name="small_batch",
        statement="Batch normalization depends on the batch size: too small a batch makes its "
        "means and variances unreliable.",
        against="Networks trained with statistics over 8 images that are as good as with 128, once "
        "they are tested by statistics over many images.",
        quote=("003", "太小的批量可能导致估计的均值和方差不稳定。"),
        sources=(
            "document 003",
            "Wu and He 2018, arXiv:1803.08494",
            "Wu and Johnson 2021, arXiv:2105.07576 (statistics over fewer images than a step)",
        ),
        definition="Test accuracy after training with statistics over the whole batch of 128 "
        "against statistics over ghost batches of 8, at one SGD batch of 128: the step stays the "
        "same, only the statistics get fewer images. Both are tested by population statistics, so "
        "that what running averages lose is not counted. Each at its best learning rate. What "
        "small SGD batches do is a claim of its own, `small_steps`.",
        formula="accuracy(batch of 128) - accuracy(ghost batches of 8), mean over seeds",
        protocol="Two arms for the headline. Pilot seeds find for each the neighborhood of its "
        "best learning rate; every final seed then tunes for itself within it, on validation "
        "images, trains once more on all images at what was best for it, and is tested once. "
        "Beside them ghost batches of 32 (full: 4, 16 and 32), trained where the whole batch is, "
        "and group norm, which needs no batch, at its pilot's best. The same trained networks are "
        "also tested by running statistics, by those of batches as in training and of batches of "
        "128, as exploratory readings.",
        smallest_effect=0.005,
        smallest_under=SHORT,
        reason="0.5 percentage points are about two standard deviations between seeds of this "
        "network at 20 epochs: less would make nobody change the norm or the batch.",
        unit="pp",
        treated=("batch",),
        control=("ghost_8",),
        at_best=("batch", "ghost_8"),
        measure=measure,
    )
)
