"""Finished runs read back as arrays, and remarks on everything else that was met."""

import glob
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bnlab.config import LATER_KEYS, UNHASHED, flatten, resolved_hash
from bnlab.errors import BnlabError, ConfigError
from bnlab.records.rundir import RunDir, RunRecord, find_runs, load_record, walk_runs

Array: TypeAlias = NDArray[np.float64]

NOT_IN_ARMS = (*UNHASHED, "probes")
"""Keys that do not change what is trained: probes leave no trace on a run."""


@dataclass(frozen=True)
class Remark:
    """Something found wrong, and what was done about it."""

    where: str
    what: str


@dataclass(frozen=True, eq=False)
class Run:
    """One finished run, as arrays.

    Attributes:
        root: The run directory.
        path: `<study>/<arm>-<hash8>/s<seed>`, without what lies above it.
        study: The first part of it.
        label: The arm's name in run.json.
        seed: The run's seed.
        config: Flat resolved configuration, without `NOT_IN_ARMS`.
        status: `done` or `diverged`.
        curves: Values by tag, one per record (NaN where not measured), among them `epoch`.
        final: Values by tag at the end of the run.
        facts: run.json.
    """

    root: Path
    path: str
    study: str
    label: str
    seed: int
    config: Mapping[str, Any]
    status: str
    curves: Mapping[str, Array]
    final: Mapping[str, float]
    facts: Mapping[str, Any]

    @property
    def diverged(self) -> bool:
        """Whether training broke down or learned nothing."""
        return self.status == "diverged"

    @property
    def budget(self) -> int:
        """Epochs that the run was given."""
        return int(self.config.get("train.epochs") or len(self.curves["epoch"]))

    @property
    def classes(self) -> int:
        """Number of classes; 10 where run.json does not say."""
        return len(self.facts.get("dataset", {}).get("classes", ())) or 10


def load_runs(paths: Sequence[Path]) -> tuple[list[Run], list[Remark]]:
    """Read every finished run at or below some paths; a path may be a glob pattern.

    Returns:
        The runs, ordered by path, and a remark on everything else that was met.

    Raises:
        ConfigError: If a path does not exist.
    """
    runs: list[Run] = []
    remarks: list[Remark] = []
    for root in run_folders(paths):
        where = _short_path(root)
        try:
            run, found = _to_run(load_record(root), where)
        except BnlabError as error:
            remarks.append(Remark(where, f"{_without(root, str(error))}; left out"))
            continue
        remarks += [Remark(where, _without(root, text)) for text in found]
        if run is not None:
            runs.append(run)
    remarks += [Remark(_short_path(folder), what) for folder, what in _not_runs(paths)]
    return runs, remarks


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """Run directories at or below some paths, each once, ordered; a path may be a glob pattern.

    Raises:
        ConfigError: If a path does not exist.
    """
    found = {run.resolve(): run for path in _expand(paths) for run in find_runs(path)}
    return [found[key] for key in sorted(found)]


def _expand(paths: Sequence[Path]) -> list[Path]:
    expanded: list[Path] = []
    for path in paths:
        matches = [Path(match) for match in sorted(glob.glob(str(path)))]  # noqa: PTH207 - absolute patterns too
        if path.exists():
            expanded.append(path)
        elif matches:
            expanded += matches
        else:
            raise ConfigError(f"{path}: no such folder of runs; train some first (bnlab train)")
    return expanded


def _not_runs(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """Folders that look as if a run should be there."""
    found: dict[Path, str] = {}
    for path in _expand(paths):
        for folder, below, files in walk_runs(path):
            run_dir = RunDir(folder)
            if {run_dir.run.name, run_dir.config.name} & set(files):
                below.clear()
            elif {run_dir.metrics.name, run_dir.summary.name} & set(files):
                found[folder] = "neither run.json nor config.yaml: not a whole run; left out"
                below.clear()
            elif re.fullmatch(r"s\d+", folder.name) and not below:
                empty = "empty folder" if not files else "named like a run but holds none"
                found[folder] = f"{empty}; left out"
    return sorted(found.items())


def _short_path(root: Path) -> str:
    return "/".join(root.resolve().parts[-3:]).lstrip("/")


def _without(root: Path, text: str) -> str:
    """A message less the place of the run, which the remark names in its own way."""
    return text.replace(f"{root}{os.sep}", "")


def _to_run(record: RunRecord, where: str) -> tuple[Run | None, list[str]]:
    remarks = [f"{remark}" for remark in record.remarks]
    flat = {**LATER_KEYS, **flatten(record.config)}
    if record.summary is None:
        error = f" ({record.run['error']})" if record.run.get("error") else ""
        state = "not finished (no summary.json)" if record.status == "done" else record.status
        return None, [*remarks, f"{state}{error}; left out"]
    if record.run.get("config_hash") != resolved_hash(record.config):
        return None, [*remarks, "config.yaml is not the one that the run was made with; left out"]
    if record.status not in ("done", "diverged"):
        return None, [*remarks, f"unknown status {record.status!r}; left out"]
    fault = _fault(record)
    if fault:
        return None, [*remarks, f"{fault}; left out"]
    curves, gaps = _curves(record.metrics)
    # A run that diverged is counted as that; what it recorded on the way there is no fault.
    remarks += gaps if record.status != "diverged" else []
    final = {tag: values[-1] for tag, values in curves.items() if len(values)}
    final |= {
        tag: math.nan if value is None else float(value)
        for tag, value in record.summary.items()
        if "/" in tag and (value is None or isinstance(value, (int, float)))
    }
    parts = ["", "", *where.split("/")]
    run = Run(
        root=record.root,
        path=where,
        study=parts[-3],
        label=str(record.run.get("arm") or parts[-2]),
        seed=record.seed,
        config={key: value for key, value in flat.items() if key not in NOT_IN_ARMS},
        status=record.status,
        curves=curves,
        final=final,
        facts=record.run,
    )
    return run, remarks


def _fault(record: RunRecord) -> str:
    """A value of the wrong kind where code relies on it, or nothing."""
    for name in ("dataset", "git", "environment"):
        if not isinstance(record.run.get(name, {}), Mapping):
            return f"run.json: {name} is not a mapping"
    if not isinstance(record.run.get("dataset", {}).get("classes", []), list):
        return "run.json: dataset.classes is not a list"
    for key, value in (("seed", record.config.get("seed", 0)), *_whole_numbers(record)):
        if not isinstance(value, int):
            return f"config.yaml: {key} is not a whole number"
    return ""


def _whole_numbers(record: RunRecord) -> Iterable[tuple[str, Any]]:
    flat = flatten(record.config)
    return ((key, flat.get(key) or 0) for key in ("train.epochs", "dataset.val_size"))


def _curves(metrics: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Array], list[str]]:
    by_epoch = {record["epoch"]: record for record in metrics}
    remarks = []
    records = [by_epoch[epoch] for epoch in sorted(by_epoch)]
    if len(records) < len(metrics):
        remarks.append("metrics.jsonl: epochs written twice; the last record of each counts")
    tags = dict.fromkeys(tag for record in records for tag in record)
    curves: dict[str, Array] = {"epoch": np.array([], dtype=np.float64)}
    gaps = []
    for tag in tags:
        try:
            values = np.array([record.get(tag, math.nan) for record in records], dtype=np.float64)
        except (TypeError, ValueError):
            remarks.append(f"metrics.jsonl: {tag} is not a number everywhere; left out")
            continue
        measured = sum(tag in record for record in records)
        if np.isfinite(values).sum() < measured:
            gaps.append(tag)
        values[~np.isfinite(values)] = math.nan
        curves[tag] = values
    if gaps:
        listed = ", ".join(gaps[:3]) + (f" and {len(gaps) - 3} more" if len(gaps) > 3 else "")
        remarks.append(f"metrics.jsonl: values that are not finite ({listed}), shown as gaps")
    return curves, remarks
