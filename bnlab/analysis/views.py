"""The arms under one rule for the tuned key: as configured, at their best, all at the same."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np

from bnlab.analysis.arms import runs_at, settings_of
from bnlab.analysis.choose import Point, choose
from bnlab.analysis.effects import judge_pairs, judge_table, make_effect
from bnlab.analysis.own_best import Own, show_own
from bnlab.analysis.results import (
    LEVEL,
    MOST_PAIRED,
    Arm,
    Effect,
    Metric,
    Response,
    Result,
    View,
    images_of,
    make_metric,
    score_of,
)
from bnlab.analysis.runs import Run
from bnlab.analysis.stats import mean_interval, within
from bnlab.errors import ConfigError


def make_result(arm: str, setting: float | None, runs: Sequence[Run], metric: Metric) -> Result:
    """One arm's scores at one value of the tuned key; runs without the metric do not count."""
    scored = {run.seed: score for run in runs if (score := score_of(run, metric)) is not None}
    diverged = tuple(run.seed for run in runs if run.diverged and run.seed in scored)
    values = list(scored.values())
    survivors = [scored[seed] for seed in scored if seed not in diverged]
    several = len(values) > 1
    return Result(
        arm=arm,
        setting=setting,
        scores=scored,
        diverged=diverged,
        mean=float(np.mean(values)) if values else math.nan,
        sd=float(np.std(values, ddof=1)) if several else None,
        interval=within(mean_interval(values, LEVEL), *metric.bounds) if several else None,
        survivors_mean=float(np.mean(survivors)) if survivors else None,
        runs={run.seed: run.path for run in runs if run.seed in scored},
    )


def respond(arm: Arm, tuned: str, metric: Metric) -> Response:
    """Judged on validation images where every run of the arm has them, else on the metric."""
    runs = arm.tuning or arm.runs
    on_val = make_metric("val/accuracy")
    judge = on_val if all(score_of(run, on_val) is not None for run in runs) else metric
    settings = settings_of(runs, tuned)
    points = tuple(
        make_result(arm.name, value, runs_at(runs, tuned, value), judge) for value in settings
    )
    scores: dict[Point, list[float]] = {
        ((tuned, point.setting),): list(point.scores.values()) for point in points
    }
    choice = choose(
        scores,
        images=images_of(runs, judge),
        higher_is_better=judge.higher_is_better,
    )
    return Response(arm.name, judge.name, points, choice)


CHOSEN_ONCE = "one value was chosen for all seeds; each seed must choose its own (each_seed: true)"
"""Why arms tuned once get no verdict: where a few seeds choose for all, arms alike are told apart
in up to 24 % of tables, and no interval over the other seeds knows of it."""

Cells: TypeAlias = list[tuple[Arm, float | None, tuple[Run, ...]]]


def make_views(
    arms: Sequence[Arm],
    tuned: str | None,
    metric: Metric,
    responses: Sequence[Response],
    own: Own,
    margin: float | None,
) -> tuple[tuple[View, ...], Cells]:
    """The ways of comparing, the primary one first, and the runs of the primary one."""
    if tuned is None:
        cells: Cells = [(arm, None, arm.runs) for arm in arms if arm.runs]
        return (_make_view("only", "All arms as configured", (), cells, metric, margin),), cells
    short = tuned.rpartition(".")[2]
    by_arm = {response.arm: response for response in responses}
    best, notes = _best_cells(arms, tuned, by_arm, own)
    notes = [*_choice_notes(arms, responses, own, short), *notes]
    each = all(arm.name in own for arm, _, _ in best)
    title = f"Each seed at its own best {short}" if each else f"Each arm at its best {short}"
    once = {r.arm for r in responses if r.arm not in own and len(r.points) > 1}
    key: Literal["each", "best"] = "each" if each else "best"
    view = _make_view(key, title, tuple(notes), best, metric, margin, once)
    if not own and len({setting for _, setting, _ in best}) == 1:
        same = f"the best {short} is the same in every arm"
        return (replace(view, notes=(*view.notes, same)) if len(best) > 1 else view,), best
    if arms[0].name not in by_arm:
        return (view,), best
    shared = _same_cells(arms, tuned, responses[0].best, own)
    if shared is None:
        return (view,), best
    cells, notes = shared
    if any(score_of(run, metric) is None for _, _, runs in cells for run in runs):
        # Tuning runs never look at the test set.
        metric = make_metric("val/accuracy")
    title = f"All arms at the same {short}, {responses[0].best:g}"
    pilot = ", in its pilot runs" * (arms[0].name in own)
    reason = f"{responses[0].best:g} is the best of {arms[0].name}, the baseline{pilot}"
    return (view, _make_view("same", title, (reason, *notes), cells, metric, margin)), best


def _best_cells(
    arms: Sequence[Arm], tuned: str, responses: Mapping[str, Response], own: Own
) -> tuple[Cells, list[str]]:
    """Each arm's final runs at its best value, or at the nearest to it in merit that has some."""
    short = tuned.rpartition(".")[2]
    cells: Cells = []
    notes = []
    for arm in arms:
        if arm.name in own:
            runs = own[arm.name]
            cells.append((arm, None, tuple(runs.values())))
            notes.append(f"{arm.name}, each seed at its own best {short}: {show_own(runs, tuned)}")
            continue
        response = responses[arm.name]
        present = settings_of(arm.runs, tuned)
        if not present:
            notes.append(f"{arm.name} has tuning runs only and is left out")
            continue
        chosen = response.best
        if chosen not in present:
            among = [point for point in response.points if point.setting in present]
            means = response.choice.means
            near = max(among, key=lambda point: means[(tuned, point.setting),], default=None)
            chosen = present[0] if near is None else float(near.setting or 0)
            notes.append(
                f"{arm.name}: its best {short} {response.best:g} has no final runs; "
                f"{chosen:g} is shown"
            )
        cells.append((arm, chosen, runs_at(arm.runs, tuned, chosen)))
    if cells[0][0] is not arms[0]:
        raise ConfigError(
            f"--baseline {arms[0].name}: has tuning runs only; finish its final runs, or choose "
            f"one of {_listed(arm.name for arm, _, _ in cells)}"
        )
    return cells, notes


def _choice_notes(
    arms: Sequence[Arm], responses: Sequence[Response], own: Own, short: str
) -> list[str]:
    fixed = [response for response in responses if response.arm not in own]
    metrics = sorted({response.metric for response in fixed})
    notes = []
    for name in metrics:
        whose = (
            ""
            if len(metrics) == 1 and len(fixed) == len(arms)
            else f" in {_listed(r.arm for r in fixed if r.metric == name)}"
        )
        if name.startswith("test/"):
            notes.append(
                f"the best {short} was chosen on {name}{whose}, on the very runs shown: these "
                "results are optimistic; hold out dataset.val_size images to choose on"
            )
        elif all(arm.tuning for arm in arms):
            notes.append(f"the best {short} was chosen on {name} in runs of their own{whose}")
        else:
            notes.append(f"the best {short} was chosen on {name}{whose}")
    chosen_once = [r for r in fixed if r.metric.startswith("val/") and len(r.points) > 1]
    if chosen_once:
        notes.append(
            f"one {short} stands for all seeds{_whose(chosen_once, arms)}: the intervals leave out "
            "that tuning might have chosen another"
        )
    edges = [r for r in responses if r.edge in ("low", "high")]
    if edges:
        notes.append(
            f"the best {short} lies on the edge of the values tried in "
            f"{_listed(f'{r.arm} ({r.best:g})' for r in edges)}: a better one may lie beyond"
        )
    tried = {tuple(p.setting for p in r.points) for r in responses}
    if len(tried) > 1:
        notes.append(f"the arms were not tried at the same values of {short}")
    return notes


def _whose(responses: Sequence[Response], arms: Sequence[Arm]) -> str:
    named = _listed(response.arm for response in responses)
    return f" of {named}" if len(responses) < len(arms) else ""


def _same_cells(
    arms: Sequence[Arm], tuned: str, setting: float, own: Own
) -> tuple[Cells, list[str]] | None:
    """All arms at one value, among final runs or else tuning runs, where more arms have it."""
    final: Cells = [(arm, setting, _final_at(arm, tuned, setting, own)) for arm in arms]
    tuning: Cells = [(arm, setting, runs_at(arm.tuning, tuned, setting)) for arm in arms]
    counts = [sum(bool(runs) for _, _, runs in cells) for cells in (final, tuning)]
    chosen = final if counts[0] >= counts[1] else tuning
    cells = [cell for cell in chosen if cell[2]]
    if len(cells) < 2 or cells[0][0] is not arms[0]:
        return None
    notes = ["from tuning runs, with images held out"] if chosen is tuning else []
    missing = [arm.name for arm, _, runs in chosen if not runs]
    if missing:
        notes.append(f"{_listed(missing)}: no runs at {setting:g}")
    return cells, notes


def _final_at(arm: Arm, tuned: str, setting: float, own: Own) -> tuple[Run, ...]:
    """An arm's final runs at a value; none where they are only those of seeds that chose it."""
    runs = runs_at(arm.runs, tuned, setting)
    return runs if len(runs) >= len(own.get(arm.name, ())) else ()


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _make_view(
    key: Literal["only", "best", "each", "same"],
    title: str,
    notes: tuple[str, ...],
    cells: Cells,
    metric: Metric,
    margin: float | None,
    chosen_once: Collection[str] = (),
) -> View:
    results = tuple(make_result(arm.name, setting, runs, metric) for arm, setting, runs in cells)

    def made(treated: int, control: int) -> Effect:
        (arm, setting, runs), (base, base_setting, base_runs) = cells[treated], cells[control]
        settings = setting, base_setting
        effect = make_effect(arm, runs, base, base_runs, metric, margin, settings)
        once = {arm.name, base.name} & {*chosen_once}
        return replace(effect, barred=CHOSEN_ONCE) if once else effect

    effects = [made(place, 0) for place in range(1, len(cells))]
    pairs: list[Effect] = []
    if 2 < len(cells) <= MOST_PAIRED:
        others = [made(a, b) for a in range(2, len(cells)) for b in range(1, a)]
        pairs = judge_pairs([*effects, *others])
    return View(key, title, notes, metric, results, tuple(judge_table(effects)), tuple(pairs))
