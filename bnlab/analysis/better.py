"""Of two sets of runs, is the second better? The rule of a comparison, as one answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bnlab.analysis.audit import Audited, Subject, audit
from bnlab.analysis.effects import judge_table, make_effect
from bnlab.analysis.provenance import refuse_mixed
from bnlab.analysis.results import ALPHA, Arm, Effect, Metric, score_of
from bnlab.analysis.runs import Run
from bnlab.errors import ConfigError, RefusedError

Better = Literal["better", "not better", "undecided"]


@dataclass(frozen=True, eq=False)
class Judged:
    """The answer and what it rests on.

    Attributes:
        answer: `better`, `not better`, or `undecided`: too few seeds, or too much noise.
        why: In words.
        effect: B less A, in storage units, over the seeds on which both trained; `estimate` and
            limits as recorded, so that of a loss the negative is better.
        metric: What is compared.
        smallest: The least that counts as better, in storage units.
        failures: Runs that diverged, and runs, of A and of B.
        audit: What every check says of the runs.
    """

    answer: Better
    why: str
    effect: Effect
    metric: Metric
    smallest: float
    failures: tuple[tuple[int, int], tuple[int, int]]
    audit: tuple[Audited, ...]

    def as_data(self) -> dict[str, Any]:
        """For programs; in storage units, accuracies as fractions."""
        effect, limits = self.effect, self.effect.interval
        (failed_a, of_a), (failed_b, of_b) = self.failures
        return {
            "answer": self.answer,
            "why": self.why,
            "metric": self.metric.name,
            "higher_is_better": self.metric.higher_is_better,
            "effect": effect.estimate,
            "low": limits.low if limits else None,
            "high": limits.high if limits else None,
            "level": limits.level if limits else None,
            "p": effect.p,
            "min_effect": self.smallest,
            "n": effect.n,
            "seeds_needed": max(effect.verdict_n, effect.required_n or 0),
            "paired": effect.method == "paired",
            "pairing": list(effect.audit),
            "differs_in": list(effect.factors),
            "diverged": {"a": failed_a, "b": failed_b},
            "runs": {"a": of_a, "b": of_b},
        }


def is_better(
    a: Sequence[Run],
    b: Sequence[Run],
    metric: Metric,
    smallest: float,
    *,
    allow_mixed: bool = False,
) -> Judged:
    """Whether B is better than A by at least the smallest amount of interest.

    Paired by seed where data order and initial weights agree by hash, else independent samples.
    Better: the exact test reaches 5 %, the 95 % limits exclude zero, the estimate is at least
    `smallest`, and B diverges on no more seeds than A. Not better: the upper limit lies below
    `smallest`, or B diverges more often by Fisher's exact test at 5 %. All else is undecided.

    Args:
        a: What is there; runs of one configuration, of which each seed may have tuned one key.
        b: What would take its place, likewise.
        metric: What is compared.
        smallest: In storage units; positive.
        allow_mixed: Judge runs of different code, device, precision or data all the same.

    Raises:
        ConfigError: If a side has no run with that metric.
        RefusedError: If a side holds several configurations or a seed twice, a run is on both
            sides, or the runs do not belong together.
    """
    sides = _side("A", a, metric), _side("B", b, metric)
    if shared := {run.root.resolve() for run in sides[0].runs} & {r.root.resolve() for r in b}:
        raise RefusedError(f"{min(map(str, shared))}: this run is in A and in B")
    runs = [*sides[0].runs, *sides[1].runs]
    audited = audit(Subject("comparison", runs))
    if not allow_mixed:
        refuse_mixed(runs, audited)
    trained = [_trained(side, other) for side, other in (sides, sides[::-1])]
    none, nothing = (None, None), min(map(len, trained)) == 0
    groups = [side.runs for side in sides] if nothing else trained
    effect = make_effect(sides[1], groups[1], sides[0], groups[0], metric, None, none)
    (effect,) = judge_table([effect])
    whole = make_effect(sides[1], sides[1].runs, sides[0], sides[0].runs, metric, None, none)
    failed = tuple((sum(run.diverged for run in side.runs), len(side.runs)) for side in sides)
    answer, why = _answer(effect, metric, smallest, failed[0], failed[1], whole.failures_p, nothing)
    return Judged(answer, why, effect, metric, smallest, (failed[0], failed[1]), audited)


def _side(name: str, runs: Sequence[Run], metric: Metric) -> Arm:
    """The runs of one side that have the metric, as an arm."""
    kept = [run for run in runs if score_of(run, metric) is not None]
    if not kept:
        raise ConfigError(f"{name}: no finished run there recorded {metric.name}")
    keys = sorted({key for run in kept for key in run.config} - {"seed"})
    differing = [key for key in keys if len({repr(run.config.get(key)) for run in kept}) > 1]
    if len(differing) > 1 or (differing and len({run.label for run in kept}) > 1):
        raise RefusedError(
            f"{name} holds runs of several configurations, which differ in {', '.join(differing)}; "
            "name one arm (bnlab runs lists them), or compare them all with bnlab compare"
        )
    seeds = [run.seed for run in kept]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        at = f" at several values of {differing[0]}" if differing else ""
        raise RefusedError(
            f"{name} holds seed {twice[0]} {seeds.count(twice[0])} times{at}; name the runs that "
            "count, one a seed"
        )
    config = {key: value for key, value in kept[0].config.items() if key not in differing}
    return Arm(name, config, tuple(sorted(kept, key=lambda run: run.seed)), ())


def _trained(side: Arm, other: Arm) -> tuple[Run, ...]:
    """Its runs that trained, without seeds on which the other side's did not."""
    failed = {run.seed for run in other.runs if run.diverged}
    return tuple(run for run in side.runs if not run.diverged and run.seed not in failed)


def _answer(
    effect: Effect,
    metric: Metric,
    smallest: float,
    a: tuple[int, int],
    b: tuple[int, int],
    failures_p: float | None,
    nothing: bool,
) -> tuple[Better, str]:
    """The answer, and why it is that one; failures first."""
    more = b[0] / b[1] > a[0] / a[1]
    if more and failures_p is not None and failures_p <= ALPHA:
        return "not better", "B diverges more often"
    if nothing:
        return "undecided", "no seed trained on both sides"
    answer, why = _of_those_that_trained(effect, metric, smallest)
    if answer == "better" and more:
        return "undecided", "better where both train, but B diverged on more seeds"
    return answer, why


def _of_those_that_trained(effect: Effect, metric: Metric, smallest: float) -> tuple[Better, str]:
    limits = effect.interval
    if limits is None or effect.verdict == "no verdict":
        needs = effect.verdict_n
        return "undecided", f"{effect.n} seeds; a verdict needs at least {needs} on each side"
    sign, wanted = (1, "higher") if metric.higher_is_better else (-1, "lower")
    most = max(sign * limits.low, sign * limits.high)
    if most < smallest:
        below = "worse" if most < 0 else "less than the smallest effect of interest"
        return "not better", f"the limits say {below}"
    if effect.verdict == wanted and sign * effect.estimate >= smallest:
        return "better", "the limits exclude zero, and the effect is large enough"
    needed = f"; {effect.required_n} seeds would find an effect of the size seen"
    told = needed if effect.required_n and effect.required_n > effect.n else ""
    return "undecided", f"the limits hold both answers{told}"
