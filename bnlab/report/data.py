"""The numbers of a report for programs: JSON and CSV, and the check against an earlier report."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bnlab.analysis import Comparison, Response, Run
from bnlab.analysis.audit import Audited, audit_as_data
from bnlab.analysis.choose import Choice
from bnlab.errors import ConfigError, shown_json
from bnlab.report.safe import cell

SCHEMA_VERSION = 1


def to_data(comparison: Comparison) -> dict[str, Any]:
    """Every number of a comparison as plain data; what is not finite becomes None."""
    data = _plain(comparison)
    assert isinstance(data, dict)
    data["audit"] = audit_as_data(comparison.audit)
    data["responses"] = [_response(response) for response in comparison.responses]
    data["runs"] = [_run(run) for run in comparison.runs]
    data["arms"] = [
        {
            "name": arm.name,
            "config": _plain(arm.config),
            "runs": [run.path for run in arm.runs],
            "tuning_runs": [run.path for run in arm.tuning],
        }
        for arm in comparison.arms
    ]
    return {"schema_version": SCHEMA_VERSION, **data}


def to_json(comparison: Comparison) -> str:
    """report.json."""
    text = json.dumps(to_data(comparison), indent=1, allow_nan=False, ensure_ascii=False)
    return shown_json(text) + "\n"


def _response(response: Response) -> dict[str, Any]:
    near = [float(value) for point in response.choice.near for _, value in point]
    return {
        "arm": response.arm,
        "metric": response.metric,
        "points": _plain(response.points),
        "best": response.best,
        "near": near,
        "edge": response.edge,
    }


def _run(run: Run) -> dict[str, Any]:
    names = ("init_hash", "data_order_hash", "device", "precision", "git", "dataset", "parameters")
    facts = run.facts.model_dump(mode="json")
    return {
        "path": run.path,
        "study": run.study,
        "label": run.label,
        "seed": run.seed,
        "status": run.status,
        "final": _plain(run.final),
        **{name: facts.get(name) for name in names},
    }


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {
            field.name: _plain(getattr(value, field.name))
            for field in fields(value)
            if not isinstance(getattr(value, field.name), (Run, Audited, Choice))
        }
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value if not isinstance(item, (Run, Audited))]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def runs_csv(comparison: Comparison) -> str:
    """One line a run: identity, result, provenance."""
    tags = sorted({tag for run in comparison.runs for tag in run.final if _is_result(tag)})
    arms = {
        run.path: (arm.name, stage)
        for arm in comparison.arms
        for stage, runs in (("final", arm.runs), ("tuning", arm.tuning))
        for run in runs
    }
    tuned = comparison.tuned
    header = ["run", "study", "arm", "stage", *([tuned] if tuned else []), "seed", "status"]
    header += ["epochs", *tags, "parameters", "device", "precision", "git_sha"]
    header += ["init_hash", "data_order_hash"]
    rows = [
        [
            run.path,
            run.study,
            *arms.get(run.path, ("", "left out")),
            *([run.config.get(tuned)] if tuned else []),
            run.seed,
            run.status,
            len(run.curves["epoch"]),
            *(_cell(run.final.get(tag)) for tag in tags),
            run.facts.parameters,
            run.facts.device,
            run.facts.precision,
            run.facts.git.sha,
            run.facts.init_hash,
            run.facts.data_order_hash,
        ]
        for run in comparison.runs
    ]
    return _csv(header, rows)


def _is_result(tag: str) -> bool:
    return tag.partition("/")[0] in ("train", "val", "test") and "/" in tag


def curves_csv(comparison: Comparison) -> str:
    """One line a point of a mean curve."""
    rows = (
        [curve.arm, curve.tag, f"{epoch:g}", *map(_cell, (seconds, n, mean, low, high))]
        for curve in comparison.curves
        for epoch, seconds, n, mean, low, high in zip(
            curve.epochs.tolist(), curve.seconds.tolist(), curve.n.tolist(), curve.mean.tolist(),
            curve.low.tolist(), curve.high.tolist(), strict=True,
        )
    )  # fmt: skip
    return _csv(["arm", "tag", "epoch", "seconds", "n", "mean", "low", "high"], rows)


def _cell(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else value


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(cell, header))
    writer.writerows(map(cell, row) for row in rows)
    return file.getvalue()


# -------------------------------------------------------------------------------------------- check


def read_report(path: Path) -> dict[str, Any]:
    """An earlier report.json.

    Raises:
        ConfigError: If it is none, or of a newer schema.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version = data["schema_version"]
        _verdicts(data)
    except OSError as error:
        raise ConfigError(f"--check {path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"--check {path}: not a report.json of bnlab compare") from None
    if version > SCHEMA_VERSION:
        raise ConfigError(
            f"--check {path}: schema version {version} is newer than the {SCHEMA_VERSION} that "
            "this bnlab reads; upgrade bnlab"
        )
    assert isinstance(data, dict)
    return data


def _verdicts(data: Mapping[str, Any]) -> dict[tuple[str, str, str], str]:
    return {
        (view["key"], effect["arm"], effect["baseline"]): effect["verdict"]
        for view in data["views"]
        for effect in view["effects"]
    }


def changed_verdicts(earlier: Mapping[str, Any], comparison: Comparison) -> list[str]:
    """One line for each verdict that is not what an earlier report says; new effects do not count.

    Args:
        earlier: What `read_report` gave.
        comparison: As it stands now.
    """
    now = _verdicts(to_data(comparison))
    return [
        f"{arm} against {baseline} ({key}): was {verdict}, is {now.get(place, 'gone')}"
        for place, verdict in _verdicts(earlier).items()
        for key, arm, baseline in [place]
        if now.get(place) != verdict
    ]
