"""Does batch normalization let deeper networks train?"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

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
    Evidence,
    Line,
    make_median_contrast,
)

TRAINS: Mapping[str, float] = {"full": 0.6, "quick": 0.3, "smoke": 0.3}
"""Training accuracy of the last epoch from which on a network counts as one that trains, by preset.
`full` takes 5 epochs over all images: most of the way to what a shallow network reaches. `quick`
takes a fifth of the steps with an eighth of the width: three times chance."""

LEARNED = 0.15
"""Validation accuracy above which a network that does not train has still learned something, so
that a learning rate beyond the grid might do more: one and a half times chance."""

UNKNOWN_SHARE = 0.2
"""Largest share of seeds on which nothing limits the effect from below."""

KINDS = ("", "residual_")


@dataclass(frozen=True, eq=False)
class Ladder:
    """Networks of one kind over a ladder of depths.

    Attributes:
        depths: Convolutions, rising: (depths,).
        trains: Whether each run trained: (seeds, depths).
    """

    depths: Array
    trains: Array

    def deepest(self) -> Array:
        """The deepest network that trains, in log2 of convolutions; minus infinity for none."""
        octaves = np.where(self.trains > 0, np.log2(self.depths), -math.inf)
        return np.asarray(octaves.max(axis=1))


def read_ladder(evidence: Evidence, norm: str, kind: str = "") -> Ladder | None:
    """The arms `none_4`, `none_8`, ...; or `none_residual_4`, ...; None where there are none."""
    prefix = f"{norm}_{kind}"
    depths = sorted(int(d) for a in evidence.best if (d := a.removeprefix(prefix)).isdecimal())
    if not depths:
        return None
    accuracy = [evidence.readings[f"{prefix}{depth}"]["train/accuracy"] for depth in depths]
    trains = np.column_stack(accuracy) >= TRAINS[evidence.preset]  # false where it is NaN
    return Ladder(np.array(depths, dtype=np.float64), trains.astype(np.float64))


def octaves_deeper(none: Ladder, batch: Ladder) -> tuple[Array, Array]:
    """Least and greatest log2 of how much deeper networks train with BN: two of (seeds,).

    A network that trains at the deepest rung might train below it; where not even the shallowest
    rung trains, a shallower one might.
    """
    first, last = np.log2(none.depths[0]), np.log2(none.depths[-1])
    without, with_bn = none.deepest(), batch.deepest()
    difference = np.maximum(with_bn, first) - np.maximum(without, first)
    low = np.where((without >= last) | np.isneginf(with_bn), -math.inf, difference)
    high = np.where((with_bn >= last) | np.isneginf(without), math.inf, difference)
    return low, high


def measure(evidence: Evidence) -> Contrast:
    """Octaves of depth that train with BN and not without."""
    ladders = {
        f"{norm} {kind}".strip(" _"): ladder
        for kind in KINDS
        for norm in ("none", "batch")
        if (ladder := read_ladder(evidence, norm, kind)) is not None
    }
    low, high = octaves_deeper(ladders["none"], ladders["batch"])
    remarks = [_counts(name, ladder) for name, ladder in ladders.items()]
    if np.isposinf(high).any():
        remarks.append(
            f"on {int(np.isposinf(high).sum())} of {len(high)} seeds the ladder ends before BN's "
            "reach does: at least"
        )
    return make_median_contrast(
        low,
        high,
        remarks=[*remarks, best_lrs(evidence), *divergences(evidence)],
        guard=_unknown(low) or _edge(evidence, ladders),
        chart=Chart(
            "Share of seeds on which a network of that depth trains.",
            "convolutions",
            "networks that train, %",
            tuple(Line(name, ladder.depths, ladder.trains) for name, ladder in ladders.items()),
        ),
    )


def _counts(name: str, ladder: Ladder) -> str:
    seeds = len(ladder.trains)
    counts = ", ".join(
        f"{depth:g}: {int(count)} of {seeds}"
        for depth, count in zip(ladder.depths, ladder.trains.sum(axis=0), strict=True)
    )
    return f"networks that train, by convolutions, {name}: {counts}"


def _unknown(low: Array) -> str:
    unknown = int(np.isneginf(low).sum())
    if unknown <= UNKNOWN_SHARE * len(low):
        return ""
    return (
        f"on {unknown} of {len(low)} seeds the deepest network trains without BN, or the "
        "shallowest does not with it: the ladder of depths shows no limit"
    )


def _edge(evidence: Evidence, ladders: Mapping[str, Ladder]) -> str:
    """The shallowest network of an arm that mostly fails, if a lr beyond the grid might help it."""
    found = []
    for norm in ("none", "batch"):
        ladder = ladders[norm]
        failing = np.flatnonzero(ladder.trains.mean(axis=0) < 0.5)
        arm = f"{norm}_{ladder.depths[failing[0]]:g}" if len(failing) else ""
        if arm in evidence.edges and evidence.sweep[arm].mean(axis=0).max() > LEARNED:
            found.append(f"{arm} ({evidence.chosen[arm]:g})")
    if not found:
        return ""
    return (
        f"the best lr of a network that fails to train lies at the edge of the grid in "
        f"{', '.join(found)}: with another it might train"
    )


CLAIMS.register("depth")(
    Claim(
        name="depth",
        statement="Batch normalization lets deeper networks train.",
        sources=(
            "documents 002, 003 and 004 state it, 000 implies it",
            "Ioffe and Szegedy 2015, arXiv:1502.03167",
            "He et al. 2016, arXiv:1603.05027 (residual networks of 110 layers)",
        ),
        definition="The deepest plain network that trains, with BN against without, on a ladder of "
        "depths of which each is twice the one before. A network trains if its training accuracy "
        f"in the last epoch reaches {100 * TRAINS['full']:.0f} % (preset full: 5 epochs over all "
        f"images) or {100 * TRAINS['quick']:.0f} % (quick). The effect is the median over seeds; "
        "beyond either end of the ladder a seed gives a bound only.",
        formula="log2(deepest that trains with BN / deepest that trains without), median over "
        "seeds",
        protocol="Networks of one width with 4, 8, 16 and 32 (full: also 64) convolutions, all "
        "from the third on at 8x8, with and without BN; under full also with shortcuts "
        "around every convolution, where shapes allow. The learning rate is tuned for "
        "each network on one grid, on validation images; fresh seeds train on all images."
        " A best learning rate at the grid's edge bars a verdict only in the first "
        "network that fails.",
        smallest_effect=1.0,
        reason="One octave: a network of twice the depth is the least that is called deeper here, "
        "and one rung of the ladder.",
        unit="octaves",
        treated=tuple(f"batch_{depth}" for depth in (4, 8, 16)),
        control=tuple(f"none_{depth}" for depth in (4, 8, 16)),
        measure=measure,
        about_training=True,
        scores_failures=True,
    )
)
