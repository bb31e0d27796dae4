"""Runs one by one: the list that `bnlab runs` prints, and the page on one run of `bnlab show`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bnlab.config import flatten, parse_override
from bnlab.errors import BnlabError, ConfigError, did_you_mean
from bnlab.records import RunFiles, RunRecord, find_run, find_runs, load_record
from bnlab.report.blocks import Block, Column, Section, Table, Text
from bnlab.report.numbers import MISSING, number

SPARK = "▁▂▃▄▅▆▇█"

BLANK = "·"
"""Stands in a sparkline where nothing was measured."""


@dataclass(frozen=True)
class Row:
    """One run of the list.

    Attributes:
        path: The run directory, as it was reached.
        values: What can be shown, filtered and sorted by: `status`, `arm`, `seed`, `epochs`,
            every score and every configuration key. Holds `problem` where the run cannot be read.
    """

    path: Path
    values: Mapping[str, Any]


def list_runs(paths: Sequence[Path]) -> list[Row]:
    """Every run at or below some paths, readable or not.

    Raises:
        ConfigError: If a path does not exist.
    """
    return [_row(run) for run in find_runs(paths).runs]


def _row(run: RunFiles) -> Row:
    study = {"study": run.path.split("/")[-3] if run.path.count("/") > 1 else ""}
    try:
        record = load_record(run)
    except BnlabError as error:
        return Row(run.root, {**study, "status": "unreadable", "problem": str(error)})
    facts, last = record.facts, record.metrics[-1] if record.metrics else {}
    status = "unfinished" if record.status == "done" and not record.summary else record.status
    return Row(
        run.root,
        {
            **study,
            "arm": facts.arm,
            "status": status,
            "epochs": record.summary.epochs if record.summary else last.get("epoch", 0),
            "device": facts.device,
            "precision": facts.precision,
            **scores_of(record),
            "train_seconds": record.summary.train_seconds if record.summary else None,
            **flatten(record.config.resolved()),
        },
    )


def scores_of(record: RunRecord) -> Mapping[str, float | None]:
    """Values by tag at the end of a run, or after its last epoch so far."""
    if record.summary is not None:
        return record.summary.scores
    last = record.metrics[-1] if record.metrics else {}
    return {tag: value for tag, value in last.items() if "/" in tag}


def choose(rows: Sequence[Row], where: Sequence[str], status: str | None) -> list[Row]:
    """The rows whose values are as asked for.

    Args:
        rows: All of them.
        where: `key=value` conditions, all of which must hold; a key may be short (`lr`).
        status: Like `where`'s `status=...`.

    Raises:
        ConfigError: If a condition is malformed or its key is in no row.
    """
    conditions = [*where, *([f"status={status}"] if status else [])]
    kept = list(rows)
    for condition in conditions:
        key, equals, text = condition.partition("=")
        if not equals:
            raise ConfigError(f"--where {condition}: expected KEY=VALUE, as in optim.lr=0.1")
        full = full_key(key.strip(), rows, "--where")
        wanted = text.strip()
        try:
            meant = parse_override(f"value={wanted}", "--where").tree["value"]
        except ConfigError:
            meant = wanted
        kept = [row for row in kept if _equal(row.values.get(full), wanted, meant)]
    return kept


def _equal(value: Any, text: str, meant: Any) -> bool:
    """Whether a value is what was asked for, as it was typed or as YAML reads it."""
    return str(value) == text or (
        isinstance(value, bool) is isinstance(meant, bool) and value == meant
    )


def full_key(key: str, rows: Sequence[Row], flag: str) -> str:
    """The whole name of a key that may be short: `lr` is `optim.lr` where nothing else ends so.

    Raises:
        ConfigError: If no row has it, or several keys end so.
    """
    known = dict.fromkeys(name for row in rows for name in row.values)
    if key in known or not rows:
        return key
    endings = [name for name in known if name.endswith((f".{key}", f".{key}.name"))]
    if len(endings) == 1:
        return endings[0]
    if endings:
        raise ConfigError(f"{flag} {key}: several keys end so: {', '.join(endings)}")
    raise ConfigError(f"{flag}: unknown key {key!r}{did_you_mean(key, known)}")


def ordered(rows: Sequence[Row], sort: str | None) -> list[Row]:
    """Rows by a key, falling with a leading `-`; rows without it come last."""
    if not sort:
        return list(rows)
    key = full_key(sort.removeprefix("-"), rows, "--sort")
    have = [row for row in rows if row.values.get(key) is not None]
    lack = [row for row in rows if row.values.get(key) is None]
    have.sort(key=lambda row: _sortable(row.values[key]), reverse=sort.startswith("-"))
    return have + lack


def _sortable(value: Any) -> tuple[int, float, str]:
    if isinstance(value, (int, float)):
        return (0, float(value), "")
    return (1, 0.0, str(value))


def runs_section(rows: Sequence[Row], total: int) -> Section:
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
    lines = tuple(
        (
            str(row.path),
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
    problems = tuple(str(row.values["problem"]) for row in rows if "problem" in row.values)
    return Section("runs", shown, (Table("", columns, lines, problems),) if rows else ())


def _progress(values: Mapping[str, Any]) -> str:
    asked, done = values.get("train.epochs"), values.get("epochs", 0)
    return MISSING if asked is None else str(done) if done == asked else f"{done}/{asked}"


def _percent(value: Any) -> str:
    return f"{100 * value:.2f}" if isinstance(value, (int, float)) else MISSING


# --------------------------------------------------------------------------------------------- show


def load_run(path: Path) -> RunRecord:
    """The run at a path, or the only one below it.

    Raises:
        ConfigError: If there is none, or there are several.
        BnlabError: If it cannot be read.
    """
    return load_record(find_run(path))


def sparkline(values: Sequence[float | None], width: int = 48) -> str:
    """Values as one line of blocks, from the least to the greatest; a dot where there is none.

    Args:
        values: In order; more than `width` are averaged in groups.
        width: Characters at most.
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
    low, reach = min(known), max(known) - min(known)
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
    ]
    settings = [
        (key, yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip())
        for key, value in flatten(config.resolved()).items()
    ]
    blocks: list[Block] = (
        [_pairs("", result), _pairs("", curves)] if curves else [_pairs("", result)]
    )
    blocks += [_pairs("Configuration", settings), _pairs("Provenance", origin)]
    blocks += [Text(remark, "warning") for remark in record.remarks]
    return Section("show", str(record.root), tuple(blocks))


def _short(digest: str | None) -> str:
    return (digest or "unknown")[:12]


def _ends(tag: str, values: Sequence[float | None]) -> str:
    show = _percent if tag.endswith("accuracy") else number
    return f"{show(values[0])} to {show(values[-1])}"


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
