"""Does batch normalization suffer from small batches?"""

from collections.abc import Mapping

import numpy as np

from bnlab.claims._base import (
    CLAIMS,
    Claim,
    best_lrs,
    divergences,
)
from bnlab.claims._contrast import (
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

SMALL_STEPS = (4, 16)
"""Images a step of the arms `steps_N` and `steps_N_group`; likewise."""

STATISTICS = {
    "running": "test/accuracy",
    "population": "probe/test_accuracy/population",
    "batches as trained": "probe/test_accuracy/as_trained",
    f"batches of {BATCH}": "probe/test_accuracy/batches_of_128",
}
"""Statistics that a trained network is tested by, and what a run records of each."""


def measure(evidence: Evidence) -> Contrast:
    """Test accuracy with statistics over 128 images less that with statistics over 8."""
    best = evidence.best
    ghosts = [arm for arm in GHOSTS if arm in best]
    others = [arm for arm in ghosts if arm not in ("batch", "ghost_8")]
    return make_contrast(
        best["batch"] - best["ghost_8"],
        [
            *(detail(f"batch - {arm}", best["batch"] - best[arm]) for arm in others),
            detail("group norm - ghost_8", best["group"] - best["ghost_8"]),
            detail("batch - group norm", best["batch"] - best["group"]),
            *_parts(evidence),
            *_small_steps(evidence),
        ],
        [best_lrs(evidence), *divergences(evidence), *_tested_by(evidence)],
        chart=Chart(
            "Test accuracy by the number of images behind the statistics, at one SGD batch of "
            f"{BATCH}; group norm takes none from the batch.",
            "images behind the statistics",
            "test accuracy, %",
            tuple(
                Line(name, np.array([GHOSTS[a] for a in ghosts], float), np.column_stack(scores))
                for name, scores in (
                    ("batch statistics", [best[arm] for arm in ghosts]),
                    ("group norm", [best["group"]] * len(ghosts)),
                )
            ),
        ),
    )


def _parts(evidence: Evidence) -> list[Detail]:
    """The headline split after Wu and Johnson: noise while training, and the change to testing."""
    trained = STATISTICS["batches as trained"]
    large, small = (evidence.readings.get(arm, {}) for arm in ("batch", "ghost_8"))
    if not all(_complete(arm, tag) for arm in (large, small) for tag in STATISTICS.values()):
        return []
    while_training = large[trained] - small[trained]
    headline = large["test/accuracy"] - small["test/accuracy"]
    population = small[STATISTICS["population"]]
    return [
        detail("of the headline, with statistics as trained", while_training),
        detail("of the headline, from the change to running statistics", headline - while_training),
        detail(
            "ghost_8 by population less by running statistics", population - small["test/accuracy"]
        ),
        detail(
            "ghost_8 by its own batches less by population statistics", small[trained] - population
        ),
    ]


def _small_steps(evidence: Evidence) -> list[Detail]:
    """What small SGD batches cost BN beyond what they cost group norm."""
    best, found = evidence.best, []
    for images in SMALL_STEPS:
        steps, group = f"steps_{images}", f"steps_{images}_group"
        if steps in best and group in best:
            cost = best["batch"] - best[steps]
            beside = best["group"] - best[group]
            found += [
                detail(f"SGD batch {BATCH} - {images}, batch norm", cost),
                detail(f"SGD batch {BATCH} - {images}, group norm", beside),
                detail(f"SGD batch {BATCH} - {images}, batch less group norm", cost - beside),
            ]
    return found


def _tested_by(evidence: Evidence) -> list[str]:
    """Mean test accuracy of each arm by each kind of statistics."""
    return [
        f"{arm} tested by statistics: "
        + ", ".join(f"{name} {100 * found[tag].mean():.2f} %" for name, tag in STATISTICS.items())
        for arm, found in evidence.readings.items()
        if all(_complete(found, tag) for tag in STATISTICS.values())
    ]


def _complete(found: Mapping[str, Array], tag: str) -> bool:
    return tag in found and bool(np.isfinite(found[tag]).all())


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
        protocol="Statistics over 8, 32 (full: 4, 8, 16, 32) and all 128 images of a batch; group "
        "norm, which needs no batch; and SGD batches of 16 (full: and 4) as such, with batch and "
        "with group norm, for as many epochs. The learning rate is tuned for each arm on one grid, "
        "on validation images (quick: ghost batches of 32 take that of the whole batch); fresh "
        "seeds train on all images and read the test set once, with running statistics. The same "
        "trained networks are then tested by population statistics, by those of batches as in "
        "training and of batches of 128, as exploratory readings.",
        smallest_effect=0.005,
        reason="0.5 percentage points are about two standard deviations between seeds of this "
        "network at 20 epochs: less would make nobody change the norm or the batch.",
        unit="pp",
        treated=("batch",),
        control=("ghost_8",),
        at_best=("batch", "ghost_8"),
        measure=measure,
    )
)
