"""Runs read back: every file through its schema, once; what does not fit is named, with its place.

Nothing behind this module checks a record again.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from bnlab.config import Config, read_resolved, resolved_hash
from bnlab.errors import BnlabError
from bnlab.records import files
from bnlab.records.files import RunFiles
from bnlab.records.schema import SCHEMA_VERSION, Record, RunFacts, Summary, Value

RecordT = TypeVar("RecordT", bound=Record)

_LINES: TypeAdapter[list[dict[str, Value]]] = TypeAdapter(list[dict[str, Value]])
_LINE: TypeAdapter[dict[str, Value]] = TypeAdapter(dict[str, Value])

MAX_EPOCH = 2**31


@dataclass(frozen=True)
class Metrics:
    """metrics.jsonl.

    Attributes:
        records: One mapping a line, from tag to value, None where it was not a finite number;
            `epoch` is always there, a whole number.
        remarks: What was left out.
    """

    records: tuple[Mapping[str, Value], ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class RunRecord:
    """What one run says, read back.

    Attributes:
        files: Where it was read.
        config: The resolved configuration.
        facts: run.json.
        metrics: The lines of metrics.jsonl, in order.
        summary: summary.json, or None while the run is unfinished.
        remarks: What was found wrong and what was done about it.
    """

    files: RunFiles
    config: Config
    facts: RunFacts
    metrics: Sequence[Mapping[str, Value]]
    summary: Summary | None
    remarks: tuple[str, ...] = ()

    @property
    def root(self) -> Path:
        """The run directory, or its place in an archive."""
        return self.files.root

    @property
    def status(self) -> str:
        """Of the summary where the run is finished, else of run.json."""
        return (self.summary or self.facts).status


def load_record(run: RunFiles) -> RunRecord:
    """Read one run.

    Raises:
        BnlabError: If it is not a run of bnlab, or of a newer schema, or a file in it does not fit,
            or belongs to another run; the message says which and why.
    """
    facts, config, metrics = read_facts(run), read_config(run), read_metrics(run)
    summary = read_summary(run) if run.has(files.SUMMARY) else None
    if summary is not None:
        _refuse_foreign(run, config, facts, summary)
        # A kill right after the summary leaves "running" in run.json: the summary counts.
        facts = facts.model_copy(update={"status": summary.status})
    return RunRecord(run, config, facts, metrics.records, summary, metrics.remarks)


def _refuse_foreign(run: RunFiles, config: Config, facts: RunFacts, summary: Summary) -> None:
    """Files of different runs are nobody's result."""
    own = resolved_hash(config.resolved())
    if facts.config_hash != own:
        raise BnlabError(
            f"{run.root / files.CONFIG}: config.yaml is not the one that the run was made with"
        )
    if summary.config_hash not in (None, own) or summary.seed not in (None, config.seed):
        raise BnlabError(f"{run.root / files.SUMMARY}: the summary of another run")


def read_facts(run: RunFiles) -> RunFacts:
    """run.json.

    Raises:
        BnlabError: If it is missing, not what bnlab writes, or of a newer bnlab.
    """
    path = run.root / files.RUN
    data = _read_json(run, files.RUN)
    version = data.get("schema_version")
    if not isinstance(version, int):
        raise BnlabError(f"{path}: no schema_version; not a run of bnlab")
    if version > SCHEMA_VERSION:
        raise BnlabError(
            f"{path}: schema version {version} is newer than the {SCHEMA_VERSION} that this "
            "bnlab reads; upgrade bnlab"
        )
    return _fit(RunFacts, data, path)


def read_summary(run: RunFiles) -> Summary:
    """summary.json; raises as `read_facts`."""
    return _fit(Summary, _read_json(run, files.SUMMARY), run.root / files.SUMMARY)


def read_config(run: RunFiles) -> Config:
    """The resolved configuration.

    Raises:
        BnlabError: If it is missing, or is no configuration.
    """
    return read_resolved(_read_text(run, files.CONFIG), str(run.root / files.CONFIG))


def read_metrics(run: RunFiles) -> Metrics:
    """The whole lines of metrics.jsonl; a last line that was cut off is left out.

    Raises:
        BnlabError: If another line is not a record, naming it and what does not fit.
    """
    path = run.root / files.METRICS
    try:
        text = run.read(files.METRICS)
    except FileNotFoundError:
        return Metrics((), (f"{path}: missing",))
    except OSError as error:
        raise BnlabError(f"{path}: unreadable: {error.strerror or error}") from None
    *lines, rest = text.split(b"\n")
    whole = b",".join(line for line in lines if line.strip())
    try:
        records = _LINES.validate_json(b"[%b]" % whole)
    except ValidationError:
        records = [_line(line, f"{path}:{n}") for n, line in enumerate(lines, 1) if line.strip()]
    remarks = []
    if rest.strip():
        number = len(lines) + 1
        try:
            records.append(_line(rest, f"{path}:{number}"))
        except BnlabError:
            remarks.append(f"{path}:{number}: cut-off last line left out")
    for record in records:
        record["epoch"] = _epoch(record.get("epoch"), path)
    return Metrics(tuple(records), tuple(remarks))


def epoch_of(record: Mapping[str, Value]) -> int:
    """The epoch after which a metrics record was written, from 1."""
    return int(record["epoch"] or 0)


def _line(line: bytes, place: str) -> dict[str, Value]:
    try:
        # Other programs may write NaN and Infinity, which JSON lacks; bnlab writes null.
        record = _LINE.validate_python(json.loads(line, parse_constant=lambda _name: None))
    except ValidationError as error:
        raise BnlabError(f"{place}: not a metrics record: {_first_fault(error)}") from None
    except (ValueError, RecursionError):
        raise BnlabError(f"{place}: not a metrics record: not JSON") from None
    _epoch(record.get("epoch"), place)
    return record


def _epoch(value: Value, place: object) -> int:
    if value is None or not math.isfinite(value) or value != int(value):
        raise BnlabError(f"{place}: not a metrics record: epoch: expected a whole number")
    if not 0 < value < MAX_EPOCH:
        raise BnlabError(f"{place}: not a metrics record: epoch: {value:g} is none")
    return int(value)


def _read_text(run: RunFiles, name: str) -> str:
    path = run.root / name
    try:
        return run.read(name).decode("utf-8")
    except FileNotFoundError:
        raise BnlabError(f"{path}: missing") from None
    except UnicodeDecodeError:
        raise BnlabError(f"{path}: unreadable: not UTF-8 text") from None
    except OSError as error:
        raise BnlabError(f"{path}: unreadable: {error.strerror or error}") from None


def _read_json(run: RunFiles, name: str) -> dict[str, Any]:
    text = _read_text(run, name)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BnlabError(f"{run.root / name}: unreadable: {said}") from None
    if not isinstance(data, dict):
        raise BnlabError(f"{run.root / name}: expected a JSON object")
    return data


def _fit(kind: type[RecordT], data: Mapping[str, Any], path: Path) -> RecordT:
    try:
        # As JSON: lists stand for tuples there.
        return kind.model_validate_json(json.dumps(data))
    except (ValidationError, ValueError, RecursionError) as error:
        said = _first_fault(error) if isinstance(error, ValidationError) else str(error)
        raise BnlabError(f"{path}: not what bnlab writes: {said}") from None


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in fault["loc"])
    shown = repr(fault["input"])
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return f"{where}: {fault['msg'].lower()}, got {shown}" if where else fault["msg"]
