"""Does batch normalization take dropout's place?"""

import math

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
    Contrast,
    Detail,
    Evidence,
    detail,
    make_contrast,
)

FITTED, TESTED = "probe/eval_loss/train", "test/loss"
"""Loss on training images as at test time, and on test images; both after every epoch."""

CHANCE_LOSS = math.log(10)
"""Of guessing among ten classes: where every network starts, with no gap."""


def gap_at(fitted: Array, tested: Array, level: float) -> float:
    """Test loss less training loss where one run's training loss first comes down to a level.

    Between two epochs both losses are straight lines; before the first both start at that of
    guessing.

    Args:
        fitted: Loss on training images as at test time: (epochs,).
        tested: Loss on test images: (epochs,).
        level: Loss, in nats.

    Returns:
        In nats; NaN if the run never comes down so far.
    """
    train, test = (np.concatenate([[CHANCE_LOSS], losses]) for losses in (fitted, tested))
    there = np.flatnonzero(train <= level)
    if len(there) == 0 or there[0] == 0:
        return math.nan
    after = int(there[0])
    before = after - 1
    share = (train[before] - level) / (train[before] - train[after])
    return float(test[before] + share * (test[after] - test[before]) - level)


def gaps(evidence: Evidence, arms: tuple[str, ...]) -> dict[str, Array]:
    """Every arm's gap on each seed, at the least training loss that all of them reach on it.

    At one epoch an arm that trains faster fits more and shows a wider gap for that alone.
    """
    curves = {arm: evidence.curves.get(arm, {}) for arm in arms}
    if not all({FITTED, TESTED} <= found.keys() for found in curves.values()):
        return {}
    fitted = {arm: found[FITTED] for arm, found in curves.items()}
    if not all(np.isfinite(losses).all() for losses in fitted.values()):
        return {}  # a run broke down: it reaches no loss that others could be met at
    levels = np.max([losses.min(axis=1) for losses in fitted.values()], axis=0)
    found = {
        arm: np.array(
            [
                gap_at(train, test, level)
                for train, test, level in zip(fitted[arm], curves[arm][TESTED], levels, strict=True)
            ]
        )
        for arm in arms
    }
    return found if all(np.isfinite(values).all() for values in found.values()) else {}


def measure(evidence: Evidence) -> Contrast:
    """What dropout gains without BN less what it gains with BN."""
    best = evidence.best

    def gain(arm: str, kind: str = "dropout") -> Array:
        return best[f"{arm}_{kind}"] - best[arm]

    without, with_bn = gain("none"), gain("batch")
    details = [
        detail("dropout's gain without BN", without),
        detail("dropout's gain with BN", with_bn),
        detail("BN without dropout - dropout without BN", best["batch"] - best["none_dropout"]),
    ]
    if {"none_dropout_0.2", "batch_dropout_0.2"} <= best.keys():
        details += [
            detail("gain of p = 0.2 without BN", gain("none", "dropout_0.2")),
            detail("gain of p = 0.2 with BN", gain("batch", "dropout_0.2")),
        ]
    if {"none_plain", "batch_plain"} <= best.keys():
        plain = gain("none_plain") - gain("batch_plain")
        details.append(detail("the headline without flips and crops", plain))
    return make_contrast(
        without - with_bn,
        [*details, *_gaps(evidence)],
        [best_lrs(evidence), *divergences(evidence)],
    )


def _gaps(evidence: Evidence) -> list[Detail]:
    """Generalization gaps at matched training loss."""
    details = []
    pairs = (("none", "batch", "BN"), ("none", "none_dropout", "dropout"))
    for base, treated, name in pairs:
        found = gaps(evidence, (base, treated))
        if found:
            narrowed = found[base] - found[treated]
            details.append(detail(f"gap at one training loss that {name} closes", narrowed, "nats"))
    return details


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
        protocol="Six arms: BN or not, dropout 0, 0.2 or 0.5. The learning rate is tuned for each "
        "arm on one grid, on validation images; fresh seeds train on all images, flipped and "
        "cropped; under full the headline is measured again without flips and crops. Test accuracy "
        "counts after the last epoch. Test loss is read after every epoch, for nothing but the "
        "generalization gap: test loss less the loss on 1,024 training images as at test time, "
        "where both arms of a pair have come down to the same training loss.",
        smallest_effect=0.003,
        smallest_under=SHORT,
        reason="0.3 percentage points are about one standard deviation between seeds of this "
        "network at 20 epochs.",
        unit="pp",
        treated=("batch", "batch_dropout"),
        control=("none", "none_dropout"),
        at_best=("none", "none_dropout", "batch", "batch_dropout"),
        measure=measure,
    )
)
