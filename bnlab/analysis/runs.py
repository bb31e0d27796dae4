"""Finished runs as arrays, and remarks on everything else that was met."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bnlab.config import LATER_KEYS, UNHASHED, flatten
from bnlab.errors import BnlabError
from bnlab.records import Remark, RunFacts, RunFiles, find_runs, has_diverged, load_record

Array: TypeAlias = NDArray[np.float64]

NOT_IN_ARMS = (*UNHASHED, "probes")
"""Keys that do not change what is trained: probes leave no trace on a run."""


@dataclass(frozen=True, eq=False)
class Run:
    """One finished run, as arrays.

    Attributes:
        root: The run directory, or its place in an archive.
        path: `<study>/<arm>-<hash8>/s<seed>`, without what lies above it.
        study: The first part of it.
        label: The arm's name in run.json.
        seed: The run's seed.
        hash: Of its whole configuration but seed, name and paths; see `Config.hash`.
        config: Flat resolved configuration, without `NOT_IN_ARMS`.
        status: `done` or `diverged`, as it was recorded; `diverged` judges anew.
        curves: Values by tag, one per record (NaN where not measured), among them `epoch`.
        final: Values by tag at the end of the run.
        facts: run.json.
        summary: What summary.json itself says: values by tag, and `epochs` where it has them.
    """

    root: Path
    path: str
    study: str
    label: str
    seed: int
    hash: str
    config: Mapping[str, Any]
    status: str
    curves: Mapping[str, Array]
    final: Mapping[str, float]
    facts: RunFacts
    summary: Mapping[str, float] = field(default_factory=dict)

    @property
    def diverged(self) -> bool:
        """Whether training broke down or learned nothing."""
        return has_diverged(self.final, self.classes)

    @property
    def budget(self) -> int:
        """Epochs that the run was given."""
        return int(self.config.get("train.epochs") or len(self.curves["epoch"]))

    @property
    def classes(self) -> int:
        """Number of classes; 10 where run.json does not say."""
        return len(self.facts.dataset.classes) or 10


def load_runs(paths: Sequence[Path]) -> tuple[list[Run], list[Remark]]:
    """Read every finished run at or below some paths: folders, archives, glob patterns.

    Returns:
        The runs, ordered by path, and a remark on everything else that was met.

    Raises:
        ConfigError: If a path does not exist.
        BnlabError: If an archive that was named cannot be read.
    """
    found = find_runs(paths)
    runs: list[Run] = []
    remarks: list[Remark] = []
    for files in found.runs:
        try:
            run, said = read_run(files)
        except BnlabError as error:
            run, said = None, [f"{error}; left out"]
        remarks += [Remark(files.path, _without(files.root, text)) for text in said]
        if run is not None:
            runs.append(run)
    return runs, [*remarks, *found.remarks]


def _without(root: Path, text: str) -> str:
    """A message less the place of the run, which the remark names in its own way."""
    return text.replace(f"{root}{os.sep}", "")


def read_run(files: RunFiles) -> tuple[Run | None, list[str]]:
    """One run, None if it is not finished, and what there is to remark on it.

    Raises:
        BnlabError: As `load_record`.
    """
    record = load_record(files)
    remarks = list(record.remarks)
    if record.summary is None:
        error = f" ({record.facts.error})" if record.facts.error else ""
        state = "not finished (no summary.json)" if record.status == "done" else record.status
        return None, [*remarks, f"{state}{error}; left out"]
    curves, gaps = _curves(record.metrics)
    final = {tag: values[-1] for tag, values in curves.items() if len(values)}
    scores = {
        tag: math.nan if value is None else value for tag, value in record.summary.scores.items()
    }
    told = "epochs" in record.summary.model_fields_set
    parts = ["", "", *record.files.path.split("/")]
    flat = {**LATER_KEYS, **flatten(record.config.resolved())}
    run = Run(
        root=record.root,
        path=record.files.path,
        study=parts[-3],
        label=record.facts.arm or parts[-2],
        seed=record.config.seed,
        hash=record.config.hash,
        config={key: value for key, value in flat.items() if key not in NOT_IN_ARMS},
        status=record.status,
        curves=curves,
        final={**final, **scores},
        facts=record.facts,
        summary={**scores, **({"epochs": record.summary.epochs} if told else {})},
    )
    # A run that diverged is counted as that; what it recorded on the way there is no fault.
    return run, [*remarks, *([] if run.diverged else gaps)]


def _curves(metrics: Sequence[Mapping[str, float | None]]) -> tuple[dict[str, Array], list[str]]:
    by_epoch = {record["epoch"]: record for record in metrics}
    remarks = []
    records = [by_epoch[epoch] for epoch in sorted(by_epoch, key=float)]  # type: ignore[arg-type]
    if len(records) < len(metrics):
        remarks.append("metrics.jsonl: epochs written twice; the last record of each counts")
    tags = dict.fromkeys(tag for record in records for tag in record)
    curves: dict[str, Array] = {"epoch": np.array([], dtype=np.float64)}
    gaps = []
    for tag in tags:
        values = np.array([record.get(tag, math.nan) for record in records], dtype=np.float64)
        measured = sum(tag in record for record in records)
        if np.isfinite(values).sum() < measured:
            gaps.append(tag)
        values[~np.isfinite(values)] = math.nan
        curves[tag] = values
    if gaps:
        listed = ", ".join(gaps[:3]) + (f" and {len(gaps) - 3} more" if len(gaps) > 3 else "")
        remarks.append(f"metrics.jsonl: values that are not finite ({listed}), shown as gaps")
    return curves, remarks
