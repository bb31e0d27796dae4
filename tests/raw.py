"""A run directory's files as plain JSON, for tests: read past bnlab's own reader."""

import json
from pathlib import Path
from typing import Any

from bnlab.records import RunDir, find_runs


def roots_of(*paths: Path) -> list[Path]:
    return [run.root for run in find_runs(paths).runs]


def raw_run(run_dir: RunDir) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(run_dir.run.read_text(encoding="utf-8"))
    return data


def raw_summary(run_dir: RunDir) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(run_dir.summary.read_text(encoding="utf-8"))
    return data


def raw_metrics(run_dir: RunDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run_dir.metrics.read_text(encoding="utf-8").splitlines()]
