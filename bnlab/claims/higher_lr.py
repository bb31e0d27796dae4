"""Does batch normalization permit higher learning rates?"""

from dataclasses import dataclass

import numpy as np

from bnlab.claims._base import (
    CLAIMS,
    Claim,
    best_lrs,
    divergences,
)
from bnlab.claims._contrast import (
    NAMING,
    Array,
    Contrast,
    Detail,
    Evidence,
    detail,
    make_contrast,
)

TOLERANCE = 0.01
"""A learning rate is usable if it costs at most this much accuracy: 1 pp."""

STABLE_SHARE = 0.8
"""A learning rate is stable if at least so many of its runs do not diverge."""


@dataclass(frozen=True, eq=False)
class UsableRange:
    """Learning rates within `TOLERANCE` of an arm's best, one range a seed.

    Attributes:
        low: log2 of the lower end: (seeds - NAMING,).
        high: log2 of the upper end: (seeds - NAMING,).
        open_ends: Ends of the grid at which the arm's mean is still within the tolerance, so that
            its range may go on beyond: `low`, `high`.
    """

    low: Array
    high: Array
    open_ends: tuple[str, ...]

    @property
    def width(self) -> Array:
        """Octaves: (seeds - NAMING,)."""
        return self.high - self.low


def usable_range(lrs: Array, scores: Array) -> UsableRange:
    """Where accuracy is within the tolerance of the best, going outward from the best.

    The medians of the first `NAMING` seeds name the best learning rate, and the others measure: a
    seed's own maximum would be lucky, and the luckier the noisier the arm. Between two learning
    rates accuracy is a straight line over log2(lr).

    Args:
        lrs: Rising: (learning rates,).
        scores: (seeds, learning rates), more than `NAMING` seeds.
    """
    octaves, measured = np.log2(lrs), scores[NAMING:]
    best = int(np.median(scores[:NAMING], axis=0).argmax())
    high = [_reach(octaves, row, best) for row in measured]
    low = [-_reach(-octaves[::-1], row[::-1], len(row) - 1 - best) for row in measured]
    mean = scores.mean(axis=0)
    ends = {"low": mean[0], "high": mean[-1]}
    open_ends = tuple(end for end, value in ends.items() if value >= mean.max() - TOLERANCE)
    return UsableRange(np.array(low), np.array(high), open_ends)


def _reach(octaves: Array, scores: Array, start: int) -> float:
    """How far up accuracy stays above the threshold, from `start` on."""
    threshold = scores[start] - TOLERANCE
    for place in range(start, len(scores) - 1):
        here, there = scores[place], scores[place + 1]
        if there < threshold:
            share = (here - threshold) / (here - there)
            return float(octaves[place] + share * (octaves[place + 1] - octaves[place]))
    return float(octaves[-1])


def largest_stable(lrs: Array, diverged: Array) -> float | None:
    """The largest learning rate up to which enough runs do not diverge; None if there is none.

    Args:
        lrs: Rising: (learning rates,).
        diverged: Whether a run diverged, 0 or 1: (seeds, learning rates).
    """
    stable = 1 - diverged.mean(axis=0) >= STABLE_SHARE
    failing = np.flatnonzero(~stable)
    steady = lrs[: failing[0]] if len(failing) else lrs
    return float(steady[-1]) if len(steady) else None


def _stability(arm: str, lrs: Array, diverged: Array) -> str:
    """In words, with how many runs the next rate lost."""
    top = largest_stable(lrs, diverged)
    least = f"at least {100 * STABLE_SHARE:.0f} % of runs do not diverge"
    said = f"largest stable lr ({least}), {arm}: "
    if top is None:
        return f"{said}below {lrs[0]:g}"
    if top == lrs[-1]:
        return f"{said}at least {top:g}, the largest tried"
    place = int(np.flatnonzero(lrs == top)[0]) + 1
    lost = f"{int(diverged[:, place].sum())} of {len(diverged)}"
    return f"{said}{top:g} (at {lrs[place]:g}, {lost} diverge)"


def measure(evidence: Evidence) -> Contrast:
    """Octaves of usable learning rates with BN less those without."""
    ranges = {arm: usable_range(evidence.lrs, evidence.sweep[arm]) for arm in ("none", "batch")}
    none, batch = ranges["none"], ranges["batch"]
    best, same = evidence.best, evidence.same
    open_ends = [f"{arm} ({end})" for arm, found in ranges.items() for end in found.open_ends]
    return make_contrast(
        batch.width - none.width,
        [
            detail("usable range without BN", none.width, "octaves"),
            detail("usable range with BN", batch.width, "octaves"),
            detail("upper end, with BN - without", batch.high - none.high, "octaves"),
            *_warmup(evidence, none),
            detail("BN's gain, each at its best lr", best["batch"] - best["none"]),
            detail("of it, BN at the best lr of the arm without", same["batch"] - same["none"]),
            detail("of it, what its own best lr adds to BN", best["batch"] - same["batch"]),
        ],
        [
            best_lrs(evidence),
            *(
                _stability(arm, evidence.lrs, diverged)
                for arm, diverged in evidence.sweep_diverged.items()
            ),
            *divergences(evidence),
        ],
        f"usable learning rates reach the end of the grid in {', '.join(open_ends)}: they may go on"
        if open_ends
        else "",
    )


def tuning_failures(evidence: Evidence) -> dict[str, Array]:
    """Whether a seed's run diverged anywhere on the grid, by arm, 0 or 1: (tuning seeds,)."""
    return {arm: failed.max(axis=1) for arm, failed in evidence.sweep_diverged.items()}


def _warmup(evidence: Evidence, none: UsableRange) -> list[Detail]:
    """Whether a warm-up does for the network without BN what BN does."""
    if "none_warmup" not in evidence.sweep:
        return []
    warm = usable_range(evidence.lrs, evidence.sweep["none_warmup"])
    return [
        detail("usable range without BN, with warm-up", warm.width, "octaves"),
        detail("upper end without BN, with warm-up - without", warm.high - none.high, "octaves"),
    ]


CLAIMS.register("higher_lr")(
    Claim(
        name="higher_lr",
        statement="Batch normalization permits higher learning rates.",
        sources=(
            "documents 000, 003 and 004",
            "Ioffe and Szegedy 2015, arXiv:1502.03167",
            "Bjorck et al. 2018, arXiv:1806.02375 (and this is the cause of its other gains)",
        ),
        definition="The usable range: octaves (factors of two) of the learning rate within 1 "
        "percentage point of the arm's best validation accuracy, with BN less without. Three seeds "
        "name the best learning rate of an arm, each other measures its own range around it. Not "
        "the largest rate that does not diverge: weights in front of BN grow and cool themselves "
        "down, so that this one is nearly free.",
        formula="width(batch) - width(none), in octaves, mean over seeds",
        protocol="Two arms, each trained at every learning rate of one grid that reaches beyond "
        "both usable ranges, with all seeds of the verdict, on validation images. Final runs on "
        "fresh seeds split BN's gain in accuracy, after Bjorck et al.: BN at the best lr of the "
        "arm without (who expect next to nothing), and what its own best lr adds (who expect "
        "nearly all). The largest stable learning rate is told as far as the grid tells it. Under "
        "full a third arm, without BN, warms up for an epoch.",
        smallest_effect=1.0,
        reason="One octave, a factor of two, is the coarsest step in which learning rates are "
        "usually tried.",
        unit="octaves",
        treated=("batch",),
        control=("none",),
        measure=measure,
        about_training=True,
        scores_failures=True,
        failures=tuning_failures,
    )
)
