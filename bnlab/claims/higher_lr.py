"""Does batch normalization permit higher learning rates?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
)

TOLERANCE = 0.03
"""A learning rate is usable if it costs at most this much accuracy: 3 pp, above what a run's noise
or a coarse grid makes of it."""

BESIDE = (0.01, 0.02, 0.03, 0.05)
"""Tolerances at which the width of the range is told."""

STABLE_SHARE = 0.8
"""A learning rate is stable if at least so many of its runs do not diverge."""


@dataclass(frozen=True)
class UsableRange:
    """Learning rates within a tolerance of the best, on an arm's mean curve.

    Attributes:
        low: log2 of the lower end.
        high: log2 of the upper end.
        open_ends: Ends of the grid at which the mean is still within the tolerance, so that the
            range may go on beyond: `low`, `high`.
    """

    low: float
    high: float
    open_ends: tuple[str, ...]

    @property
    def width(self) -> float:
        """In octaves."""
        return self.high - self.low


def usable_range(lrs: Array, mean: Array, tolerance: float = TOLERANCE) -> UsableRange:
    """Where accuracy is within the tolerance of the best, going outward from the best.

    Between two learning rates accuracy is a straight line over log2(lr).

    Args:
        lrs: Rising: (learning rates,).
        mean: Mean accuracy over seeds: (learning rates,).
        tolerance: In accuracy.
    """
    octaves, best = np.log2(lrs), int(mean.argmax())
    high = _reach(octaves, mean, best, tolerance)
    low = -_reach(-octaves[::-1], mean[::-1], len(mean) - 1 - best, tolerance)
    ends = {"low": mean[0], "high": mean[-1]}
    open_ends = tuple(end for end, value in ends.items() if value >= mean.max() - tolerance)
    return UsableRange(low, high, open_ends)


def _reach(octaves: Array, scores: Array, start: int, tolerance: float) -> float:
    """How far up accuracy stays above the threshold, from `start` on."""
    threshold = scores[start] - tolerance
    for place in range(start, len(scores) - 1):
        here, there = scores[place], scores[place + 1]
        if there < threshold:
            share = (here - threshold) / (here - there)
            return float(octaves[place] + share * (octaves[place + 1] - octaves[place]))
    return float(octaves[-1])


def mean_curve(scores: Array, diverged: Array) -> Array:
    """Mean accuracy at each learning rate of the runs that trained.

    Where half or more diverge the rate is none to use, and guessing counts.

    Args:
        scores: Of diverged runs, guesses: (seeds, ...).
        diverged: Whether a run diverged, 0 or 1: (seeds, ...).

    Returns:
        (...,).
    """
    trained = diverged == 0
    mean = np.where(trained, scores, 0).sum(axis=0) / np.maximum(trained.sum(axis=0), 1)
    return np.asarray(np.where(trained.mean(axis=0) > MOST, mean, scores.mean(axis=0)))


MOST = 0.5
"""More than this share of the runs at a learning rate must train for it to be judged by these."""


def pseudo_values(statistic: Callable[[Array], float], scores: Array, diverged: Array) -> Array:
    """The jackknife's: what each seed adds to a statistic of the mean curve of all seeds.

    n times the statistic of all seeds less n - 1 times that without the seed (Tukey 1958), moved so
    that their mean is the statistic itself; Student's interval of them has the jackknife's standard
    error. Their own mean, which corrects for bias, scatters more than that error says where a curve
    has a kink: limits around it held 99.0 % where 99.75 % were promised.

    Args:
        statistic: Of mean curves: (...,).
        scores: (seeds, ...).
        diverged: Likewise, 0 or 1.

    Returns:
        (seeds,).
    """
    n = len(scores)
    whole = statistic(mean_curve(scores, diverged))
    others = [np.arange(n) != seed for seed in range(n)]
    left_out = [statistic(mean_curve(scores[kept], diverged[kept])) for kept in others]
    values = n * whole - (n - 1) * np.array(left_out)
    return np.asarray(values + (whole - values.mean()))


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
    """Octaves by which the usable learning rates reach further up with BN than without."""
    lrs = evidence.lrs
    both = _swept(evidence, "none", "batch")
    means = dict(zip(("none", "batch"), mean_curve(*both), strict=True))

    def upper(mean: Array) -> float:
        return usable_range(lrs, mean).high

    def width(tolerance: float) -> Callable[[Array], float]:
        return lambda mean: usable_range(lrs, mean, tolerance).width

    def beyond(of: Callable[[Array], float]) -> Callable[[Array], float]:
        return lambda means: of(means[1]) - of(means[0])

    ranges = {arm: usable_range(lrs, mean) for arm, mean in means.items()}
    open_ends = [arm for arm, found in ranges.items() if "high" in found.open_ends]
    open_low = [arm for arm, found in ranges.items() if "low" in found.open_ends]
    return make_contrast(
        pseudo_values(beyond(upper), *both),
        [
            *(
                detail(
                    f"width of the range within {100 * tolerance:g} pp, with BN - without",
                    pseudo_values(beyond(width(tolerance)), *both),
                    "octaves",
                )
                for tolerance in BESIDE
            ),
            *_warmup(evidence, upper),
            *_split(evidence, ""),
            *_split(evidence, "_residual"),
        ],
        [
            *(
                f"usable learning rates within {100 * TOLERANCE:g} pp, {arm}: "
                f"{2**found.low:.3g} to {2**found.high:.3g}"
                for arm, found in ranges.items()
            ),
            *[f"below the grid they may go on in {', '.join(open_low)}"] * bool(open_low),
            best_lrs(evidence),
            *(
                _stability(arm, lrs, diverged)
                for arm, diverged in evidence.sweep_diverged.items()
                if arm in means
            ),
            *divergences(evidence),
        ],
        f"usable learning rates reach the upper end of the grid in {', '.join(open_ends)}: they "
        "may go on"
        if open_ends
        else "",
    )


def _swept(evidence: Evidence, *arms: str) -> tuple[Array, Array]:
    """Scores and failures of some arms: two of (seeds, arms, learning rates)."""
    failed = evidence.sweep_diverged
    scores = np.stack([evidence.sweep[arm] for arm in arms], axis=1)
    diverged = [failed.get(arm, np.zeros_like(evidence.sweep[arm])) for arm in arms]
    return scores, np.stack(diverged, axis=1)


def tuning_failures(evidence: Evidence) -> dict[str, Array]:
    """Whether a seed's run diverged anywhere on the grid, by arm, 0 or 1: (tuning seeds,)."""
    return {arm: failed.max(axis=1) for arm, failed in evidence.sweep_diverged.items()}


def _split(evidence: Evidence, kind: str) -> list[Detail]:
    """BN's gain, and the parts of it that its learning rate makes, after Bjorck et al."""
    if f"batch{kind}" not in evidence.best:
        return []
    none, batch, same = (evidence.best[f"{arm}{kind}"] for arm in ("none", "batch", "batch_same"))
    told = kind.replace("_", ", ")
    return [
        detail(f"BN's gain, each at its best lr{told}", batch - none),
        detail(f"of it, BN at the best lr of the arm without{told}", same - none),
        detail(f"of it, what its own best lr adds to BN{told}", batch - same),
    ]


def _warmup(evidence: Evidence, upper: Callable[[Array], float]) -> list[Detail]:
    """Whether a warm-up does for the network without BN what BN does."""
    if "none_warmup" not in evidence.sweep:
        return []
    both = _swept(evidence, "none", "none_warmup")
    further = pseudo_values(lambda means: upper(means[1]) - upper(means[0]), *both)
    return [detail("upper end without BN, with warm-up - without", further, "octaves")]


def imagine(run: Imagined) -> Mapping[str, float | Array]:
    """Accuracy falls to either side of a plateau, which BN moves up by the effect."""
    shift = run.effect if run.arm == "batch" else 0.0
    away = np.log2(run.config.optim.lr / 0.1) - shift
    lost = 0.02 * max(0.0, abs(away) - 1.0)
    return dict.fromkeys(
        ("train/accuracy", "val/accuracy", "test/accuracy"), 0.7 - lost + run.noise
    )


CLAIMS.register("higher_lr")(
    Claim(
        name="higher_lr",
        statement="Batch normalization permits higher learning rates.",
        against="Usable learning rates that end as far up without BN: a best learning rate that is "
        "higher, or runs that survive a high one, would not count.",
        quote=("004", "允许我们使用较大的学习率,而不至于导致网络训练崩溃。"),
        sources=(
            "documents 000, 003 and 004",
            "Ioffe and Szegedy 2015, arXiv:1502.03167",
            "Bjorck et al. 2018, arXiv:1806.02375 (and this is the cause of its other gains)",
        ),
        definition="The upper end of the usable range: the largest learning rate up to which the "
        f"arm's mean validation accuracy stays within {100 * TOLERANCE:g} percentage points of its "
        "best, with BN less without, in octaves (factors of two). Not the largest rate that does "
        "not diverge: weights in front of BN grow and cool themselves down, so that this one is "
        "nearly free.",
        formula="log2(upper end with BN / upper end without), on the mean curves of all seeds, "
        "with the jackknife's standard error over seeds",
        protocol="Two arms, each trained at every learning rate of one grid that reaches beyond "
        "both usable ranges, with all seeds of the verdict, on validation images. The width of "
        f"the range is told at {', '.join(f'{100 * t:g}' for t in BESIDE)} percentage points. "
        "Final runs on fresh seeds split BN's gain in accuracy, after Bjorck et al.: BN at the "
        "best lr of the arm without (who expect next to nothing), and what its own best lr adds "
        "(who expect nearly all); under full in a residual network of 16 convolutions, too, and "
        "a further arm without BN that warms up for an epoch. Where half of the runs at a "
        "learning rate diverge, or more, they count as guesses, elsewhere those that trained "
        "count. Between learning rates accuracy is a straight line over log2(lr), which is "
        "followed outward from the best.",
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
        imagine=imagine,
    )
)
