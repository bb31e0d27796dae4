"""Does batch normalization let deeper networks train?"""

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
    Array,
    Chart,
    Contrast,
    Detail,
    Evidence,
    Line,
    detail,
    make_contrast,
)

SHALLOW, DEEP = "4", "16"
"""Convolutions of the two networks of the headline."""

TRAINED = "train/accuracy"

SAME = ", at the lr of the network without"
"""What no learning rate of its own explains of BN's gain (Bjorck et al. 2018, section 2)."""


def gains(
    evidence: Evidence, kind: str, tag: str = TRAINED, norm: str = "batch"
) -> dict[str, Array]:
    """What BN gains at every depth, by the level of the factor `depth`."""
    none, batch = (evidence.arms("depth", norm=level, kind=kind) for level in ("none", norm))
    return {
        depth: evidence.reading(batch[depth], tag) - evidence.reading(none[depth], tag)
        for depth in none
    }


def measure(evidence: Evidence) -> Contrast:
    """What BN gains in training accuracy in a deep network less what it gains in a shallow one."""
    gained = gains(evidence, "plain")
    return make_contrast(
        gained[DEEP] - gained[SHALLOW],
        [
            *_at_each_depth("", gained),
            *_at_each_depth(SAME, gains(evidence, "plain", norm="batch_same")),
            detail("the headline in test accuracy", _tested(evidence)),
            *_residual(evidence),
        ],
        [ASKED, best_lrs(evidence), *divergences(evidence)],
        chart=Chart(
            "Training accuracy of the last epoch by depth.",
            "convolutions",
            "training accuracy, %",
            tuple(
                _line(evidence, norm, kind)
                for kind in _kinds(evidence)
                for norm in ("none", "batch")
            ),
        ),
    )


ASKED = (
    "the question is whether BN gains more in the deep network; what it gains in either stands "
    "beside it"
)


def _tested(evidence: Evidence) -> Array:
    gained = gains(evidence, "plain", "test/accuracy")
    return np.asarray(gained[DEEP] - gained[SHALLOW])


def _at_each_depth(kind: str, gained: Mapping[str, Array]) -> list[Detail]:
    return [
        detail(f"BN's gain at {depth} convolutions{kind}", values)
        for depth, values in gained.items()
    ]


def _kinds(evidence: Evidence) -> list[str]:
    return list(evidence.arms("kind"))


def _residual(evidence: Evidence) -> list[Detail]:
    if "residual" not in _kinds(evidence):
        return []
    gained = gains(evidence, "residual")
    interaction = detail("the headline in residual networks", gained[DEEP] - gained[SHALLOW])
    same = gains(evidence, "residual", norm="batch_same")
    return [
        interaction,
        *_at_each_depth(", residual", gained),
        *_at_each_depth(f", residual{SAME}", same),
    ]


def _line(evidence: Evidence, norm: str, kind: str) -> Line:
    arms = evidence.arms("depth", norm=norm, kind=kind)
    scores = np.column_stack([evidence.reading(arm, TRAINED) for arm in arms.values()])
    name = norm if kind == "plain" else f"{norm}, {kind}"
    first = next(iter(arms.values()))
    return Line(name, np.array([float(depth) for depth in arms]), scores, first)


def imagine(run: Imagined) -> Mapping[str, float | Array]:
    """Depth costs 10 points, BN brings as many; a deep network gains the effect beside."""
    deep, batch = run.levels["depth"] != SHALLOW, run.levels["norm"] != "none"
    return run.reach(0.4 - 0.1 * deep + 0.1 * batch + run.effect * (deep and batch))


CLAIMS.register("depth")(
    Claim(
        name="depth",
        statement="Batch normalization lets deeper networks train.",
        against="A deep network that gains no more from BN than a shallow one does: then BN helps "
        "training, but not depth.",
        quote=("003", "允许更深层次的网络:使得训练更深层次的网络成为可能"),
        sources=(
            "documents 002, 003 and 004 state it, 000 implies it",
            "Ioffe and Szegedy 2015, arXiv:1502.03167",
            "He et al. 2016, arXiv:1603.05027 (residual networks of 110 layers)",
            "Bjorck et al. 2018, arXiv:1806.02375 (ResNet-110: lr 0.1 with BN, 0.0001 without)",
        ),
        definition="The interaction of BN and depth in training accuracy, that of the last epoch: "
        "what BN gains in a plain network of 16 convolutions less what it gains in one of 4, each "
        "of the four networks at its best learning rate. Networks that do not train at all are "
        "counted apart, and more of them without BN support the claim by themselves.",
        formula="[training accuracy(batch, 16) - (none, 16)] - [(batch, 4) - (none, 4)], mean over "
        "seeds",
        protocol="Four networks of one width, with 4 and 16 convolutions, all from the third on "
        "at 8x8, with and without BN. Pilot seeds find for each the neighborhood of its best "
        "learning rate; every final seed then tunes for itself within it, on validation images, "
        "and trains once more on all images at what was best for it. With BN it also trains at "
        "what was best for the same seed without, as exploratory arms. Under full also 108 "
        "convolutions, and all of them with shortcuts around every convolution, where shapes "
        "allow, at their pilots' best, as exploratory arms.",
        smallest_effect=0.05,
        reason="Five percentage points of training accuracy: what would make somebody add a norm "
        "because a network got deeper.",
        unit="pp",
        treated=(f"batch_{SHALLOW}", f"batch_{DEEP}"),
        control=(f"none_{SHALLOW}", f"none_{DEEP}"),
        at_best=("none_4", "none_16", "batch_4", "batch_16"),
        measure=measure,
        about_training=True,
        imagine=imagine,
    )
)
