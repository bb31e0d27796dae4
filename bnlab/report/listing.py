"""Runs one by one: the list that `bnlab runs` prints, and the page on one run of `bnlab show`."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bnlab.analysis.listing import ListedRun, last_probed, scores_of
from bnlab.config import flatten
from bnlab.records import Beginning, RunRecord
from bnlab.report.blocks import Block, Column, Section, Table, Text
from bnlab.report.numbers import MISSING, number, ratio

SPARK = "▁▂▃▄▅▆▇█"

BLANK = "·"
"""Stands in a sparkline where nothing was measured."""


def runs_section(rows: Sequence[ListedRun], total: int) -> Section:
    """The list as a table."""
    columns = (
        Column("run", numeric=False),
        Column("status", numeric=False),
        Column("epochs"),
        Column("lr"),
        Column("test, %"),
        Column("train loss", detail=True),
        Column("seconds", detail=True),
    )
    above = _common_folder(rows)
    lines = tuple(
        (
            str(row.path.relative_to(above)),
            str(row.values.get("status")),
            _progress(row.values),
            str(row.values.get("optim.lr", MISSING)),
            _percent(row.values.get("test/accuracy")),
            number(row.values.get("train/loss")),
            number(row.values.get("train_seconds")),
        )
        for row in rows
    )
    shown = f"{len(rows)} of {total} runs" if len(rows) != total else f"{total} runs"
    shown += f" in {above}" if above.parts else ""
    problems = tuple(str(row.values["problem"]) for row in rows if "problem" in row.values)
    return Section("runs", shown, (Table("", columns, lines, problems),) if rows else ())


def _common_folder(rows: Sequence[ListedRun]) -> Path:
    """The folder that holds all of them, told once; at most that of a run's arm."""
    folders = [row.path.parent.parent.parts for row in rows]
    same = itertools.takewhile(lambda parts: len({*parts}) == 1, zip(*folders, strict=False))
    return Path(*(parts[0] for parts in same))


def _progress(values: Mapping[str, Any]) -> str:
    asked, done = values.get("train.epochs"), values.get("epochs", 0)
    return MISSING if asked is None else str(done) if done == asked else f"{done}/{asked}"


def _percent(value: Any) -> str:
    return f"{100 * value:.2f}" if isinstance(value, (int, float)) else MISSING


# --------------------------------------------------------------------------------------------- show


def sparkline(
    values: Sequence[float | None], width: int = 48, ends: tuple[float, float] | None = None
) -> str:
    """Values as one line of blocks, from the least to the greatest; a dot where there is none.

    Args:
        values: In order; more than `width` are averaged in groups.
        width: Characters at most.
        ends: Least and greatest of all lines that are to be compared, this one's by default.
    """
    size = -(-len(values) // width) if values else 1
    groups = [values[start : start + size] for start in range(0, len(values), size)]
    means = []
    for group in groups:
        finite = [v for v in group if isinstance(v, (int, float)) and math.isfinite(v)]
        means.append(sum(finite) / len(finite) if finite else None)
    known = [mean for mean in means if mean is not None]
    if not known:
        return BLANK * len(means)
    low, high = ends or (min(known), max(known))
    reach = high - low
    steps = len(SPARK) - 1
    return "".join(
        BLANK if mean is None else SPARK[round(steps * (mean - low) / reach) if reach else 0]
        for mean in means
    )


def show_section(record: RunRecord) -> Section:
    """One run on one page."""
    facts, summary, scores = record.facts, record.summary, scores_of(record)
    config = record.config
    done = summary.epochs if summary else len(record.metrics)
    seconds = summary.train_seconds if summary else None
    result = [
        ("status", record.status),
        ("arm", facts.arm),
        ("seed", config.seed),
        ("epochs", f"{done} of {config.train.epochs}"),
        *(
            (tag, f"{_percent(value)} %" if tag.endswith("accuracy") else number(value, 4))
            for tag, value in scores.items()
            if tag.partition("/")[0] in ("train", "val", "test")
        ),
        ("training", None if seconds is None else f"{number(seconds)} s"),
        ("error", facts.error),
    ]
    curves = [
        (tag, f"{sparkline(values)}  {_ends(tag, values)}")
        for tag in ("test/accuracy", "train/loss")
        if (values := [r[tag] for r in record.metrics if tag in r])
    ]
    inside = [(quantity, _by_layer(values)) for quantity, values in last_probed(record).items()]
    git, images = facts.git, facts.dataset
    origin = [
        ("config hash", _short(facts.config_hash)),
        ("git", f"{git.sha}{' with uncommitted changes' if git.dirty else ''}"),
        ("code", f"{len(facts.code)} files" if facts.code else "not recorded"),
        ("device", facts.device),
        ("runs at once", facts.runs_at_once),
        ("hardware", facts.environment.gpu or facts.environment.cpu),
        ("precision", facts.precision),
        ("torch", facts.environment.torch),
        ("data", f"{images.name} {_short(images.checksum)}"),
        ("about the data", images.note),
        ("init hash", _short(facts.init_hash)),
        ("data order hash", _short(facts.data_order_hash)),
        ("attempts", len(facts.attempts)),
        ("extended from", _beginning(facts.extended_from)),
    ]
    settings = [
        (key, yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip())
        for key, value in flatten(config.resolved()).items()
    ]
    blocks: list[Block] = (
        [_pairs("", result), _pairs("", curves)] if curves else [_pairs("", result)]
    )
    if inside:
        blocks.append(_pairs("Inside the network, by layer, when last probed", inside))
    blocks += [_pairs("Configuration", settings), _pairs("Provenance", origin)]
    blocks += [Text(remark, "warning") for remark in record.remarks]
    return Section("show", str(record.root), tuple(blocks))


def _beginning(there: Beginning | None) -> str | None:
    return f"{there.run}, {there.epochs} epochs" if there else None


def _short(digest: str | None) -> str:
    return (digest or "unknown")[:12]


def _ends(tag: str, values: Sequence[float | None]) -> str:
    show = _percent if tag.endswith("accuracy") else number
    return f"{show(values[0])} to {show(values[-1])}"


def _by_layer(values: Mapping[str, float | None]) -> str:
    """The first layer, all in between as a sparkline, the last."""
    ends = list(values.items())
    (first, low), (last, high) = ends[0], ends[-1]
    if first == last:
        return f"{first} {number(low)}"
    line = sparkline(list(values.values()), width=24)
    return f"{first} {number(low)}  {line}  {last} {number(high)} ({ratio(low, high)})"


def _pairs(title: str, pairs: Sequence[tuple[str, Any]]) -> Table:
    rows = tuple((name, str(value)) for name, value in pairs if value not in (None, ""))
    return Table(title, (Column("", numeric=False), Column("", numeric=False)), rows)


def show_data(record: RunRecord) -> dict[str, Any]:
    """One run for programs."""
    return {
        "path": str(record.root),
        "status": record.status,
        "summary": record.summary.as_data() if record.summary else None,
        "config": record.config.resolved(),
        "run": record.facts.model_dump(mode="json"),
        "metrics": list(record.metrics),
        "remarks": list(record.remarks),
    }
