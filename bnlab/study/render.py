"""A study in words: the matrix, what tuning chose, what is under way, and the closing table."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from bnlab.analysis.choose import Point
from bnlab.errors import BnlabError
from bnlab.records import RunDir, epoch_of, read_metrics
from bnlab.study.cluster import WorkerView
from bnlab.study.estimate import Ahead, Estimate, budget_excess
from bnlab.study.executors import Cell
from bnlab.study.file import show_point, show_value
from bnlab.study.survey import OWN_BEST, STATES, MatrixRow, Survey

ALWAYS = ("done", "missing")


def render_plan(survey: Survey) -> str:
    """The matrix: a row per arm and point, with its cells counted by state.

    States that no cell is in have no column, beside `done` and `missing`.
    """
    keys = survey.study.keys
    states = [state for state in STATES if state in ALWAYS or survey.count(state)]
    header = ["stage", "arm", *keys, "seeds", *states]
    lines = []
    for row in survey.rows:
        values = _show_values(row.point, keys)
        if row.why and values:
            values[-1] += f" ({row.why})"
        counts = [str(row.counts.get(state, 0) or "-") for state in states]
        lines.append([row.stage, row.arm, *values, _show_seeds(row.seeds), *counts])
    totals = [str(survey.count(state) or "-") for state in states[:-1]]
    missing = survey.total - survey.count(*STATES[:-1])
    lines.append(["all", "", *[""] * len(keys), str(survey.total), *totals, str(missing or "-")])
    return render_table(header, lines)


def _show_values(point: Point | None, keys: Sequence[str]) -> list[str]:
    """A point by key; a dash for what is no alternative of its arm, `?` before it is settled."""
    if point is None:
        return ["?"] * len(keys)
    given = dict(point)
    return [show_value(given[key]) if key in given else "-" for key in keys]


def render_choices(survey: Survey) -> str:
    """What tuning chose, with a warning where the grid should be extended."""
    select, tried = survey.study.spec.select, len(survey.study.spec.tune_seeds)
    lines = []
    for arm, choice in survey.choices.items():
        each_seed = survey.study.each(arm)
        line = f"{arm}: {'the pilot has its ' * each_seed}best {show_point(choice.point)}"
        line += f" ({select} {show_metric(select, choice.score)})"
        if diverged := survey.tuning_row(arm).counts.get("diverged", 0):
            line += f"; {diverged} of its {tried} tuning runs diverged"
        if len(choice.near) > 1:
            near = ", ".join(show_point(point) for point in choice.near if point != choice.point)
            line += f"; within one standard error: {near}"
        if each_seed:
            line += f"; {_show_own(survey, arm)}"
        else:
            for key in choice.edges:
                line += f"; {key} is best at the edge of its grid: extend it"
        lines.append(line)
    return "\n".join(lines)


def _show_own(survey: Survey, arm: str) -> str:
    """Where each seed of an arm tunes itself and what they chose, or why none does."""
    pilot, seeds = survey.pilots[arm], len(survey.study.spec.seeds)
    if pilot.choice is not None and pilot.stuck:
        keys = ", ".join(pilot.choice.edges)
        return (
            f"its grid goes no further and {keys} is still best at the edge: no final seeds are "
            f"trained, so there is no verdict on {arm}; widen `tune`, or raise `extend`"
        )
    tried = ", ".join(show_point(point) for point in pilot.neighborhood)
    counts = [
        f"{len(chose)} chose {show_point(point)}" for point, chose in _chosen(survey, arm).items()
    ]
    waiting = seeds - len(survey.own[arm])
    counts += [f"{waiting} {'have' if waiting > 1 else 'has'} yet to choose"] * bool(waiting)
    lost = _chose_among_diverged(survey, arm)
    counts += [f"{lost} of them among runs that all diverged"] * bool(lost)
    return f"each seed tries {tried}: {', '.join(counts)}"


def _chose_among_diverged(survey: Survey, arm: str) -> int:
    """Seeds of which every run beside the pilot's best diverged, so that their choice is none."""
    tried = [row for row in survey.rows if (row.stage, row.arm) == ("each", arm)]
    return sum(
        all(row.results[seed].diverged for row in tried if seed in row.results)
        for seed in survey.own[arm]
    )


def _chosen(survey: Survey, arm: str) -> dict[Point, list[int]]:
    """The seeds that chose each point of an arm's neighborhood, without points nobody chose."""
    chosen: dict[Point, list[int]] = {point: [] for point in survey.pilots[arm].neighborhood}
    for seed, choice in survey.own[arm].items():
        chosen[choice.point].append(seed)
    return {point: seeds for point, seeds in chosen.items() if seeds}


def render_results(survey: Survey) -> str:
    """Per arm and point of the final stage: how many runs, and their mean."""
    report = survey.study.spec.report
    keys = survey.study.keys
    lines = []
    for result in results(survey):
        if result["values"] is None:
            values = [_show_spread(result["chosen"], key) for key in keys]
        else:
            values = _show_values(tuple(result["values"].items()), keys)
        shown = "-" if result["mean"] is None else show_metric(report, result["mean"])
        why = [result["why"]] if survey.study.tuned else []
        counts = [str(result["n"]), str(result["diverged"])]
        lines.append([result["arm"], *values, *why, *counts, shown])
    header = ["arm", *keys, *(["why"] if survey.study.tuned else []), "n", "diverged", report]
    return render_table(header, lines)


def _show_spread(chosen: Sequence[Mapping[str, Any]], key: str) -> str:
    """`0.03 (2), 0.1 (10)`: the values of a key with how many seeds chose each."""
    counts: Counter[Any] = Counter()
    for one in chosen:
        value = one["values"].get(key)
        counts["-" if value is None else show_value(value)] += len(one["seeds"])
    if set(counts) == {"-"}:
        return "-"
    return ", ".join(f"{value} ({count})" for value, count in counts.items())


def results(survey: Survey) -> list[dict[str, Any]]:
    """The final stage as plain data; a diverged run counts with the score of guessing.

    Where each seed is trained at its own best, `values` is None and `chosen` says which seeds have
    which.
    """
    groups: dict[tuple[str, str], list[MatrixRow]] = {}
    for row in survey.rows:
        if row.stage == "final" and row.point is not None:
            groups.setdefault((row.arm, row.why), []).append(row)
    found = []
    for (arm, why), rows in groups.items():
        own = why.startswith(OWN_BEST)
        scores = [
            result.score(survey.study.spec.report)
            for row in rows
            for result in row.results.values()
        ]
        chosen = [{"values": dict(row.point or ()), "seeds": list(row.seeds)} for row in rows]
        found.append(
            {
                "arm": arm,
                "values": None if own else chosen[0]["values"],
                **({"chosen": chosen} if own else {}),
                "why": why,
                "n": len(scores),
                "diverged": sum(row.counts.get("diverged", 0) for row in rows),
                "mean": fmean(scores) if scores else None,
            }
        )
    return found


def study_as_data(survey: Survey, estimate: Estimate | None = None) -> dict[str, Any]:
    """All that the commands print, for programs."""
    return {
        "study": survey.study.spec.name,
        "folder": str(survey.folder),
        "total": survey.total,
        "finished": survey.count("done", "diverged"),
        "rows": [
            {
                "stage": row.stage,
                "arm": row.arm,
                "values": None if row.point is None else dict(row.point),
                "why": row.why,
                "seeds": list(row.seeds),
                **{state.replace(" ", "_"): row.counts.get(state, 0) for state in STATES},
            }
            for row in survey.rows
        ],
        "choices": {
            arm: {
                "values": dict(choice.point),
                survey.study.spec.select: choice.score,
                "near": [dict(point) for point in choice.near],
                "on_edge": list(choice.edges),
                "diverged": survey.tuning_row(arm).counts.get("diverged", 0),
                **(_own_as_data(survey, arm) if survey.study.each(arm) else {}),
            }
            for arm, choice in survey.choices.items()
        },
        "report": survey.study.spec.report,
        "results": results(survey),
        "failures": {str(root): reason for root, reason in survey.reasons.items()},
        **(
            {}
            if estimate is None
            else {"runs_left": estimate.runs, "seconds_left": estimate.seconds}
        ),
    }


def _own_as_data(survey: Survey, arm: str) -> dict[str, Any]:
    """What the seeds of an arm chose for themselves; the other keys beside it are the pilot's."""
    pilot = survey.pilots[arm]
    return {
        "stuck": pilot.stuck,
        "neighborhood": [dict(point) for point in pilot.neighborhood],
        "chosen": [
            {"values": dict(point), "seeds": seeds} for point, seeds in _chosen(survey, arm).items()
        ],
    }


def render_estimate(survey: Survey, estimate: Estimate) -> str:
    """What is left and how long it takes; whether the budget allows it."""
    if not estimate.runs:
        return "nothing left to train"
    if estimate.seconds is None:
        time_left = "how long they take is unknown until a run of this network is finished"
    else:
        time_left = (
            f"about {_show_duration(estimate.seconds)} one after the other, going by "
            f"{estimate.basis} finished runs"
        )
    over = budget_excess(survey, estimate)
    return f"{estimate.runs} runs left: {time_left}" + (
        f"\nbeyond the budget: {over}" if over else ""
    )


def render_series(ahead: Mapping[str, Ahead], total: Estimate) -> str:
    """A line for each study of a series: its runs, and what is left that none before it trains."""
    header = ["", "runs", "done", "left", "shared", "to train", "minutes"]
    lines = [
        [
            name,
            str(one.survey.total),
            str(one.survey.count("done", "diverged") or "-"),
            str(one.estimate.runs or "-"),
            str(one.estimate.runs - one.own.runs or "-"),
            *_show_left(one.own),
        ]
        for name, one in ahead.items()
    ]
    known = sum(one.own.seconds or 0.0 for one in ahead.values())
    runs, minutes = _show_left(total)
    lines.append(["all", "", "", "", "", runs, minutes.replace("?", f">{known / 60:.0f}")])
    return (
        f"{render_table(header, lines)}\n\nshared: trained by one above; before tuning has chosen, "
        f"told by the candidates. Minutes are of runs one after the other, going by {total.basis} "
        f"finished runs; ? where none of the network is finished."
    )


def _show_left(estimate: Estimate) -> tuple[str, str]:
    if not estimate.runs:
        return "-", "-"
    return str(estimate.runs), ("?" if estimate.seconds is None else f"{estimate.seconds / 60:.0f}")


def render_under_way(survey: Survey) -> str:
    """A line per running and failed cell."""
    lines = []
    for cell, state in survey.cells.values():
        if state == "running":
            lines.append(f"running: {cell.label}: {show_progress(cell)}")
        elif state == "failed":
            lines.append(f"failed: {cell.label}: {survey.reasons.get(cell.root, 'unknown')}")
    return "\n".join(lines)


def render_workers(workers: Sequence[WorkerView]) -> str:
    """A line for each worker elsewhere; many that wait for the same share one."""
    lines = list[str]()
    alike: dict[tuple[str, str, str], list[str]] = {}
    for one in workers:
        alike.setdefault((one.state, one.where, one.said), []).append(one.name)
    for (state, where, said), names in alike.items():
        some = ", ".join(names[:4]) + f" and {len(names) - 4} more" * (len(names) > 4)
        words = f"worker{'s' * (len(names) > 1)} {some}: {state}"
        lines.append(f"{words}{f' ({where})' * bool(where)}{f': {said}' * bool(said)}")
    return "\n".join(lines)


def epochs_done(cell: Cell) -> int:
    """Epochs on record."""
    records = _metrics(cell)
    return epoch_of(records[-1]) if records else 0


def show_progress(cell: Cell) -> str:
    """How far a run is, from its metrics."""
    records = _metrics(cell)
    if not records:
        return "in its first epoch"
    last = records[-1]
    split = next((s for s in ("val", "test", "train") if f"{s}/accuracy" in last), "train")
    accuracy = show_metric("accuracy", last.get(f"{split}/accuracy") or 0.0)
    return f"epoch {last['epoch']}/{cell.config.train.epochs}, {split} accuracy {accuracy}"


def _metrics(cell: Cell) -> Sequence[Mapping[str, float | None]]:
    try:
        return read_metrics(RunDir(cell.root).files).records
    except BnlabError:
        return ()


def show_metric(name: str, value: float) -> str:
    """Accuracy in percent, loss in nats."""
    return f"{100 * value:.2f} %" if name.endswith("accuracy") else f"{value:.4f}"


def render_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart; numbers to the right."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    rows = [header, *lines]

    def pad(text: str, width: int, place: int) -> str:
        number = all(not row[place] or row[place][0] in "-0123456789" for row in lines)
        return text.rjust(width) if number else text.ljust(width)

    return "\n".join(
        "  ".join(pad(text, widths[i], i) for i, text in enumerate(row)).rstrip() for row in rows
    )


def _show_seeds(seeds: tuple[int, ...]) -> str:
    """`0-15`, or the seeds one by one."""
    if len(seeds) > 2 and seeds == tuple(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]}-{seeds[-1]}"
    return ",".join(map(str, seeds))


def _show_duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
