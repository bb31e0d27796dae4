"""Does batch normalization take dropout's place?"""

import math
from collections.abc import Mapping

import numpy as np

from bnlab.claims._base import (
    CLAIMS,
    Claim,
    Imagined,
    best_lrs,
    divergences,
)
from bnlab.claims._contrast import (
    SHORT,
    Array,
    Contrast,
    Evidence,
    detail,
    make_contrast,
)
from bnlab.claims._inside import where_first

FITTED, TESTED = "probe/eval_loss/train", "test/loss"
"""Loss on training images as at test time, and on test images."""

CHANCE_LOSS = math.log(10)
"""Of guessing among ten classes: where every network starts, with no gap."""

FURTHER = {"batch_dropout_first": "dropout in front of BN - behind it"}
"""Further arms, less dropout where it usually is; a preset may leave out all of them."""

HELPS: Mapping[str, float] = {"full": 0.003, **SHORT}
"""Least gain in accuracy, by preset, by which dropout must help the network without BN: where it
helps nobody there is nothing to take the place of."""


def gap_at(fitted: Array, tested: Array, level: float) -> float:
    """Test loss less training loss where one run's training loss first comes down to a level.

    Between two epochs both losses are straight lines; before the first both start at that of
    guessing.

    Args:
        fitted: Loss on training images as at test time: (epochs,).
        tested: Loss on test images; NaN after an epoch that did not read it: (epochs,).
        level: Loss, in nats.

    Returns:
        In nats; NaN if the run never comes down so far.
    """
    read = np.isfinite(tested)
    train, test = (np.concatenate([[CHANCE_LOSS], found[read]]) for found in (fitted, tested))
    return where_first(train, test, level) - level if train[0] > level else math.nan


def gaps(evidence: Evidence, arms: tuple[str, ...]) -> dict[str, Array]:
    """Every arm's gap on each seed, at the least training loss that all of them reach on it.

    At one epoch an arm that trains faster fits more and shows a wider gap for that alone. NaN on a
    seed on which an arm broke down, or recorded no losses: (seeds,).
    """
    seeds = len(evidence.best[arms[0]])
    found = {arm: np.full(seeds, math.nan) for arm in arms}
    recorded = {arm: evidence.curves.get(arm, {}) for arm in arms}
    if not all({FITTED, TESTED} <= tags.keys() for tags in recorded.values()):
        return found
    curves = {arm: (tags[FITTED], tags[TESTED]) for arm, tags in recorded.items()}
    for seed in range(seeds):
        fitted = {
            arm: fit[seed][np.isfinite(tested[seed])] for arm, (fit, tested) in curves.items()
        }
        if not all(len(losses) and np.isfinite(losses).all() for losses in fitted.values()):
            continue
        level = max(losses.min() for losses in fitted.values())
        for arm, (fit, tested) in curves.items():
            found[arm][seed] = gap_at(fit[seed], tested[seed], level)
    return found


def measure(evidence: Evidence) -> Contrast:
    """How much of the generalization gap BN closes, at one training loss."""
    best = evidence.best
    found = gaps(evidence, ("none", "batch"))
    by_dropout = gaps(evidence, ("none", "none_dropout"))
    closed = found["none"] - found["batch"]
    without, with_bn = (best[f"{norm}_dropout"] - best[norm] for norm in ("none", "batch"))
    details = [
        detail("dropout's gain without BN", without),
        detail("dropout's gain with BN", with_bn),
        detail("dropout's gain without BN - with BN", without - with_bn),
        detail("BN without dropout - dropout without BN", best["batch"] - best["none_dropout"]),
        detail("gap that dropout closes", by_dropout["none"] - by_dropout["none_dropout"], "nats"),
        *(
            detail(name, best[arm] - best["batch_dropout"])
            for arm, name in FURTHER.items()
            if arm in best
        ),
    ]
    if "none_dropout_0.5" in best:
        more = [best[f"{norm}_dropout_0.5"] - best[norm] for norm in ("none", "batch")]
        details.append(detail("the same with p = 0.5", more[0] - more[1]))
    return make_contrast(
        closed,
        details,
        [best_lrs(evidence), *divergences(evidence)],
        _gate(without, HELPS[evidence.preset]) or _lost(evidence, closed),
    )


def _gate(gain: Array, least: float) -> str:
    found = detail("", gain).interval
    if found.estimate >= least and found.low > 0:
        return ""
    return (
        f"dropout gains {100 * found.estimate:+.2f} pp without BN (95 % limits: "
        f"{100 * found.low:+.2f} to {100 * found.high:+.2f}), so there is nothing that BN could "
        f"take the place of: it must help by {100 * least:g} pp"
    )


def _lost(evidence: Evidence, closed: Array) -> str:
    """Runs that trained without recording the losses that the gap is made of."""
    trained = (evidence.diverged["none"] == 0) & (evidence.diverged["batch"] == 0)
    lost = int((trained & ~np.isfinite(closed)).sum())
    return f"on {lost} seeds no gap was recorded (probe fit, train.test_every)" if lost else ""


def imagine(run: Imagined) -> Mapping[str, float | Array]:
    """All fit alike; BN closes the gap by the effect, and dropout gains accuracy without BN."""
    dropout, batch = run.levels["dropout"] != "p0", run.levels["norm"] == "batch"
    fitted = np.linspace(2.0, 0.5, 6)
    gap = np.linspace(0.1, 0.8, 6) - run.effect * batch - 10 * run.noise
    accuracies = run.reach(0.4 + 0.05 * (dropout and not batch))
    return {**accuracies, FITTED: fitted, TESTED: fitted + gap}


CLAIMS.register("dropout")(
    Claim(
        name="dropout",
        statement="Batch normalization regularizes, so that dropout is needed less.",
        against="A network with BN that, having fitted its training images equally well, does no "
        "better on test images than one without BN.",
        quote=("001", "Batch Normalization还可以减少对其他正则化技术的需求,如Dropout。"),
        sources=(
            "documents 000 to 004, all of them",
            "Ioffe and Szegedy 2015, arXiv:1502.03167",
            "Luo et al. 2019, arXiv:1809.00846",
        ),
        definition="How much of the generalization gap BN closes where there is one to close: "
        "few images, no augmentation, many epochs. The gap is test loss less the loss on 1,024 "
        "training images as at test time, taken where both arms have come down to the same "
        "training loss, since at one epoch an arm that trains faster fits more and shows a wider "
        "gap for that alone: the least that both reach, read on straight lines between the "
        "epochs at which the test loss was read, from guessing without a gap at the start. A "
        "gate comes before: dropout must help the network without BN, by at least 1 percentage "
        "point (full: 0.3) and with its 95 % limits above 0; where dropout helps nobody, the "
        "claim is not tested.",
        formula="gap(none) - gap(batch), in nats at one training loss, mean over seeds",
        protocol="2,000 images, 25 epochs, neither flips nor crops (full: 10,000 images, 50 "
        "epochs). Pilot seeds find for the arms without dropout the neighborhood of their best "
        "learning rate; every final seed tunes for itself within it, on validation images, and "
        "trains once more on all images at what was best for it. Arms with dropout on the hidden "
        "layer, p = 0.2 (full: and 0.5, and in front of BN), are trained where the same network "
        "without dropout is. What dropout gains with BN and without, and the difference of the "
        "two, stand beside the headline. Test loss is read along the way for the gap alone.",
        smallest_effect=0.05,
        reason="A twentieth of a nat of test loss: about what a percentage point of accuracy costs "
        "in this regime.",
        unit="nats",
        treated=("batch",),
        control=("none",),
        needs=("none_dropout", "batch_dropout"),
        at_best=("none", "batch"),
        measure=measure,
        imagine=imagine,
    )
)
