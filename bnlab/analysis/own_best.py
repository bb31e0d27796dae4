"""Final runs of seeds that tuned for themselves, told from the runs alone.

In such a study every final seed was first trained with images held out, at its arm's best value and
those beside it, and then on all images at what did best for itself. Nothing is compared at one
value then: a pair is one seed, under two procedures that each tune.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from bnlab.analysis.arms import setting_of
from bnlab.analysis.choose import Point, choose
from bnlab.analysis.results import Arm, Metric, images_of, make_metric, score_of
from bnlab.analysis.runs import Run

Own: TypeAlias = Mapping[str, Mapping[int, Run]]
"""By arm and seed, the final run at what did best for that seed; arms of that kind only."""


def find_own_best(arms: Sequence[Arm], tuned: str) -> dict[str, dict[int, Run]]:
    """Arms whose seeds each tuned for themselves, and arms trained at what these chose."""
    own = {arm.name: runs for arm in arms if (runs := _own_best(arm, tuned))}
    followed = {
        arm.name: runs
        for arm in arms
        if not arm.tuning and (runs := _followed(arm, tuned, list(own.values())))
    }
    return own | followed


def pilot_runs(arm: Arm, own: Mapping[int, Run]) -> tuple[Run, ...]:
    """The runs that tuned an arm as a whole: of other seeds than the final ones, if there are."""
    return tuple(run for run in arm.tuning if run.seed not in own) or arm.tuning


def show_own(runs: Mapping[int, Run], tuned: str) -> str:
    """`2 at 0.03, 10 at 0.1`."""
    values = [value for run in runs.values() if (value := setting_of(run, tuned)) is not None]
    return ", ".join(f"{count} at {value:g}" for value, count in sorted(Counter(values).items()))


def _own_best(arm: Arm, tuned: str) -> dict[int, Run]:
    """By seed, its final run at its own best; nothing unless that holds for every final seed.

    A seed with held-out runs at one value only did not tune; a seed without a final run at its own
    best was tuned otherwise.
    """
    final = {(run.seed, setting_of(run, tuned)): run for run in arm.runs}
    held: dict[int, list[Run]] = defaultdict(list)
    for run in arm.tuning:
        held[run.seed].append(run)
    for name in ("val/accuracy", "val/loss"):
        judge = make_metric(name)
        chosen = {run.seed: _best_of(held[run.seed], tuned, judge) for run in arm.runs}
        found = {seed: final.get((seed, best)) for seed, best in chosen.items() if best is not None}
        own = {seed: run for seed, run in found.items() if run is not None}
        if own and len(own) == len(chosen):
            return own
    return {}


def _best_of(runs: Sequence[Run], tuned: str, judge: Metric) -> float | None:
    """What did best for one seed; None if it was not tried at several values."""
    scores: dict[Point, list[float]] = {}
    for run in runs:
        score = score_of(run, judge)
        if score is not None:
            scores[(tuned, setting_of(run, tuned)),] = [score]
    if len(scores) < 2:
        return None
    images, higher = images_of(runs, judge), judge.higher_is_better
    choice = choose(scores, images=images, higher_is_better=higher)
    [(_, value)] = choice.point
    return float(value)


def _followed(arm: Arm, tuned: str, leaders: Sequence[Mapping[int, Run]]) -> dict[int, Run]:
    """The runs of an arm that was not tuned, if its seeds stand where those of another arm do."""
    final = {(run.seed, setting_of(run, tuned)): run for run in arm.runs}
    seeds = {run.seed for run in arm.runs}
    for leader in leaders:
        values = {seed: setting_of(run, tuned) for seed, run in leader.items()}
        # One value for all seeds is followed by any arm that happens to have it.
        several = len(set(values.values())) > 1
        if several and all((seed, values.get(seed)) in final for seed in seeds):
            return {seed: final[seed, values[seed]] for seed in seeds}
    return {}
