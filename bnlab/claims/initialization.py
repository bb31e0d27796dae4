"""Does batch normalization make the initialization matter less?"""

from collections.abc import Mapping, Sequence

import numpy as np

from bnlab.claims._base import (
    CLAIMS,
    Claim,
    Imagined,
    best_lrs,
    divergences,
)
from bnlab.claims._contrast import (
    Array,
    Contrast,
    Detail,
    Evidence,
    detail,
    make_contrast,
    named_range,
)

WAYS = ("he", "gain_0.3", "gain_2", "torch_default")
"""Initializations of the headline: tuned each, and with a learning rate at which they train."""

CAREFUL = ("xavier_normal", "orthogonal")
"""Schemes made to keep variances, as He's; at their pilots' best, under full only."""

CARELESS = ("gain_0.1", "gain_10", "normal_small")
"""Those that mostly do not train without BN; at the learning rate of He's, under full only."""

TREATED = ("batch", "batch_gain_0.3", "batch_gain_2", "batch_torch_default")
CONTROL = ("none", "none_gain_0.3", "none_gain_2", "none_torch_default")


def spread(evidence: Evidence, norm: str, ways: Sequence[str] = WAYS) -> Array:
    """How far initializations spread an arm's accuracy, named by its pilot: (seeds,)."""
    arms = [arm for way, arm in evidence.arms("init", norm=norm).items() if way in ways]
    scores = np.column_stack([evidence.best[arm] for arm in arms])
    return named_range(scores, np.array([evidence.pilot[arm] for arm in arms]))


def beside(evidence: Evidence) -> list[Detail]:
    """What BN gains from each initialization."""
    none, batch = (evidence.arms("init", norm=norm) for norm in ("none", "batch"))
    found = [
        detail(
            f"BN's gain from {way}" + f", at the lr of {WAYS[0]}" * (way in CARELESS),
            evidence.best[batch[way]] - evidence.best[none[way]],
        )
        for way in none
    ]
    if set(CAREFUL) <= none.keys():
        ways = (*WAYS, *CAREFUL)
        reduced = spread(evidence, "none", ways) - spread(evidence, "batch", ways)
        found.append(detail("reduction over all that are tuned", reduced))
    return found


def measure(evidence: Evidence) -> Contrast:
    """How far initializations spread accuracy without BN less how far with BN."""
    without, with_bn = spread(evidence, "none"), spread(evidence, "batch")
    return make_contrast(
        without - with_bn,
        [
            detail("range without BN", without),
            detail("range with BN", with_bn),
            *beside(evidence),
        ],
        [best_lrs(evidence), *divergences(evidence)],
    )


def imagine(run: Imagined) -> Mapping[str, float | Array]:
    """A gain of 2 costs every arm 5 points, and that without BN as many more as the effect."""
    worst, none = run.levels["init"] == "gain_2", run.levels["norm"] == "none"
    return run.reach(0.5 - worst * (0.05 + run.effect * none))


CLAIMS.register("initialization")(
    Claim(
        name="initialization",
        statement="With batch normalization the network is less sensitive to how its weights are "
        "initialized.",
        against="Initializations that, each at its own best learning rate, spread accuracy as far "
        "with BN as without, and fail to train as often.",
        quote=("002", "放宽了网络初始化的条件"),
        sources=(
            "documents 000, 002 and 004",
            "Ioffe and Szegedy 2015, arXiv:1502.03167",
        ),
        definition="The range of test accuracy over four initializations (He's with gains 0.3, 1 "
        "and 2, and PyTorch's default), each at its own best learning rate, without BN less with "
        "BN. The pilot seeds name the best and the worst, by mean validation accuracy at each "
        "arm's best, the final seeds measure, so that noise "
        "does not widen a range. That the network is not sensitive at all is a claim of its own, "
        "`insensitive`.",
        formula="range(none) - range(batch); range on seed s: accuracy(best initialization by the "
        "pilot, s) - accuracy(worst initialization by the pilot, s)",
        protocol="Eight arms, four initializations with and without BN. Pilot seeds find for each "
        "the neighborhood of its best learning rate; every final seed then tunes for itself within "
        "it, on validation images, trains once more on all images at what was best for it, and "
        "reads the test set once. Under full also Xavier and orthogonal, at their pilots' best, "
        "and gains 0.1 and 10 and N(0, 0.01^2) at the learning rate of He's, as by a user who "
        "changes nothing else.",
        smallest_effect=0.02,
        reason="Two percentage points are several times what seeds differ by, and what a change of "
        "learning rate within its usual range costs.",
        unit="pp",
        treated=TREATED,
        control=CONTROL,
        at_best=TREATED + CONTROL,
        measure=measure,
        about_training=True,
        imagine=imagine,
    )
)
