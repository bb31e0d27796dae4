"""The list of runs, finished or not, and its query language: `--where`, `--sort`, short keys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from bnlab.config import flatten, parse_override
from bnlab.errors import BnlabError, ConfigError, did_you_mean
from bnlab.records import RunDir, RunFiles, RunRecord, Status, find_runs, load_record

STATUSES = (*get_args(Status), "unfinished", "cut off", "unreadable")


@dataclass(frozen=True)
class ListedRun:
    """One run of the list.

    Attributes:
        path: The run directory, as it was reached.
        values: What can be shown, filtered and sorted by: `status`, `arm`, `seed`, `epochs`,
            every score and every configuration key. Holds `problem` where the run cannot be read.
    """

    path: Path
    values: Mapping[str, Any]


def probe_of(tag: str) -> tuple[str, str] | None:
    """Quantity and layer of a probe's tag; None for another tag."""
    kind, _, rest = tag.partition("/")
    quantity, _, layer = rest.partition("/")
    return (quantity, layer) if kind == "probe" else None


def last_probed(record: RunRecord) -> dict[str, dict[str, float | None]]:
    """Every probed quantity by layer, after the last epoch in which it was measured."""
    found: dict[str, dict[str, float | None]] = {}
    for line in record.metrics:
        of_epoch: dict[str, dict[str, float | None]] = {}
        for tag, value in line.items():
            if (probe := probe_of(tag)) is not None:
                of_epoch.setdefault(probe[0], {})[probe[1]] = value
        found |= of_epoch
    return found


def list_runs(paths: Sequence[Path]) -> list[ListedRun]:
    """Every run at or below some paths, readable or not.

    Raises:
        ConfigError: If a path does not exist.
    """
    return [_listed(run) for run in find_runs(paths).runs]


def _listed(run: RunFiles) -> ListedRun:
    study = {"study": run.path.split("/")[-3] if run.path.count("/") > 1 else ""}
    try:
        record = load_record(run)
    except BnlabError as error:
        return ListedRun(run.root, {**study, "status": "unreadable", "problem": str(error)})
    facts, last = record.facts, record.metrics[-1] if record.metrics else {}
    status = "unfinished" if record.status == "done" and not record.summary else record.status
    if status == "running" and not (run.packed is None and RunDir(run.root).locked):
        status = "cut off"  # whoever trained it died without a word
    return ListedRun(
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


def filter_runs(
    runs: Sequence[ListedRun], where: Sequence[str], status: str | None
) -> list[ListedRun]:
    """The runs whose values are as asked for.

    Args:
        runs: All of them.
        where: `key=value` conditions, all of which must hold; a key may be short (`lr`).
        status: Like `where`'s `status=...`.

    Raises:
        ConfigError: If a condition is malformed, its key is in no run or its status is none.
    """
    conditions = [*where, *([f"status={status}"] if status else [])]
    kept = list(runs)
    for condition in conditions:
        key, equals, text = condition.partition("=")
        if not equals:
            raise ConfigError(f"--where {condition}: expected KEY=VALUE, as in optim.lr=0.1")
        full = full_key(key.strip(), runs, "--where")
        wanted = text.strip()
        if full == "status" and wanted not in STATUSES:
            raise ConfigError(f"unknown status {wanted!r}{did_you_mean(wanted, STATUSES)}")
        try:
            meant = parse_override(f"value={wanted}", "--where").tree["value"]
        except ConfigError:
            meant = wanted
        kept = [run for run in kept if _equal(run.values.get(full), wanted, meant)]
    return kept


def _equal(value: Any, text: str, meant: Any) -> bool:
    """Whether a value is what was asked for, as it was typed or as YAML reads it."""
    return str(value) == text or (
        isinstance(value, bool) is isinstance(meant, bool) and value == meant
    )


def full_key(key: str, runs: Sequence[ListedRun], flag: str) -> str:
    """The whole name of a key that may be short: `lr` is `optim.lr` where nothing else ends so.

    Raises:
        ConfigError: If no run has it, or several keys end so.
    """
    known = dict.fromkeys(name for run in runs for name in run.values)
    if key in known or not runs:
        return key
    endings = [name for name in known if name.endswith((f".{key}", f".{key}.name"))]
    if len(endings) == 1:
        return endings[0]
    if endings:
        raise ConfigError(f"{flag} {key}: several keys end so: {', '.join(endings)}")
    raise ConfigError(f"{flag}: unknown key {key!r}{did_you_mean(key, known)}")


def sort_runs(runs: Sequence[ListedRun], sort: str | None) -> list[ListedRun]:
    """Rows by a key, falling with a leading `-`; runs without it come last."""
    if not sort:
        return list(runs)
    key = full_key(sort.removeprefix("-"), runs, "--sort")
    have = [run for run in runs if run.values.get(key) is not None]
    lack = [run for run in runs if run.values.get(key) is None]
    have.sort(key=lambda run: _sortable(run.values[key]), reverse=sort.startswith("-"))
    return have + lack


def _sortable(value: Any) -> tuple[int, float, str]:
    if isinstance(value, (int, float)):
        return (0, float(value), "")
    return (1, 0.0, str(value))
