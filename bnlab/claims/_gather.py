"""From run directories to what a claim can be judged by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bnlab.analysis import Run
from bnlab.analysis.choose import Choice
from bnlab.claims._cells import Cells, RunIndex, best_points, same_points
from bnlab.claims._contrast import Evidence
from bnlab.claims._evidence import lr_of, make_evidence
from bnlab.claims._network import DOCUMENTS, OWN, Network
from bnlab.config import Config
from bnlab.study.file import Plan

SMOKE_GUARD = "the preset smoke only proves that everything works; it never gives a verdict"


@dataclass(frozen=True, eq=False)
class Gathered:
    """What is at hand for one claim under one preset.

    Attributes:
        preset: Its name.
        finished: Runs of the study that are finished.
        total: Runs that the study needs, as far as known.
        evidence: None until every run is finished.
        runs: The finished runs, in the study's order.
        records: These, and further records of the same runs.
        choices: What tuning chose, by arm; where each seed tunes for itself, what the pilot chose.
        scope: For what a verdict would hold, in words.
        guard: Why no verdict may be built on these runs; "" if nothing stands against one.
        network: What network this is about, as tables call it.
        void: Why the claim means nothing on that network; "" if it does.
        own: By arm and final seed, what that seed chose, where each seed tunes for itself.
        stuck: Arms that are then not trained, as their best lies at the edge of the grid.
        failed: Arms all of whose tuning runs diverged.
        final: By arm and seed, the finished final runs.
    """

    preset: str
    finished: int
    total: int
    evidence: Evidence | None
    runs: tuple[Run, ...]
    records: tuple[Run, ...]
    choices: Mapping[str, Choice]
    scope: str
    guard: str
    own: Mapping[str, Mapping[int, Choice]] = field(default_factory=dict)
    stuck: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    network: Network = OWN
    void: str = ""
    final: Mapping[str, Mapping[int, Run]] = field(default_factory=dict)

    def own_lrs(self, arm: str) -> dict[int, float]:
        """The learning rate that each final seed chose; nothing where one stands for all."""
        return {seed: lr_of(choice.point) for seed, choice in self.own.get(arm, {}).items()}


def gather(
    plan: Plan, preset: str, index: RunIndex, network: Network = OWN, void: str = ""
) -> Gathered:
    """Find the runs of a claim's study.

    Args:
        plan: The study.
        preset: The preset that it stands under.
        index: All runs at hand.
        network: The network that it is asked of.
        void: Why the claim means nothing there.
    """
    cells = Cells(plan, index)
    pilots = {arm: cells.pilot(arm) for arm in plan.tuned_arms}
    stuck = tuple(arm for arm, one in pilots.items() if plan.each(arm) and one.stuck)
    own = {arm: cells.own(arm, one) for arm, one in pilots.items() if plan.each(arm)}
    own |= {arm: own[leader] for arm, leader in plan.spec.follow.items() if leader in own}
    best, waiting = best_points(plan, pilots, own)
    same, unsettled = same_points(plan, pilots)
    for arm, points in (*best.items(), *same.items()):
        cells.final(arm, points)
    runs = tuple(run for run in cells.asked.values() if run is not None)
    total = len(cells.asked) + cells.unsettled + waiting + unsettled
    whole = len(runs) == total and not stuck and not void
    return Gathered(
        preset,
        len(runs),
        total,
        make_evidence(plan, preset, cells, best, same, pilots, own) if whole else None,
        runs,
        index.all_like(runs),
        {arm: one.choice for arm, one in pilots.items() if one.choice is not None},
        _scope(plan, preset, runs),
        SMOKE_GUARD if preset == "smoke" else "",
        own,
        stuck,
        tuple(arm for arm, one in pilots.items() if cells.failed(arm, one)),
        network,
        void,
        {arm: cells.final(arm, points) for arm, points in best.items()},
    )


def _scope(plan: Plan, preset: str, runs: Sequence[Run]) -> str:
    arm, grid = next(iter(plan.grids.items()))
    config = plan.configs["final", arm, grid.points[0]]
    size = config.dataset.train_size
    images = f"{size:,} training images" if size else "all training images"
    notes = sorted({str(run.facts.dataset.note) for run in runs} - {""})
    machines = sorted({f"{run.facts.device} {run.facts.precision}" for run in runs})
    parts = [
        f"preset {preset}",
        f"{config.dataset.name}" + (f" ({'; '.join(notes)})" if notes else ""),
        images,
        _network_of(config),
        f"{config.train.epochs} epoch{'s' * (config.train.epochs > 1)}",
        f"{len(plan.spec.seeds)} final seeds",
        *([f"{len(plan.spec.tune_seeds)} tuning seeds"] if plan.tuned else []),
        *(["each final seed tuned for itself"] if plan.spec.each_seed else []),
        *machines,
    ]
    return ", ".join(parts)


def _network_of(config: Config) -> str:
    model = config.model
    if model.name == DOCUMENTS:
        hidden = "-".join(map(str, model.hidden)) or "no"
        return f"{'-'.join(map(str, model.widths))} conv, {hidden} hidden"
    if model.file is not None:
        return f"{Path(model.file).name} (source {model.source[:8]})"
    sized = "width" in model.model_fields_set
    return f"{model.name}{f' of width {model.width}' if sized else ''}"
