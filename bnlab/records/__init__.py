"""Run directories and archives: the contract between what produces runs and what judges them.

The only place that knows the names of a run's files. `rundir` writes, and `locks` lets one process
at a time; `reading` reads back through `schema`, `finding` looks for runs, `archive` and `packing`
make one file of many.
"""

from bnlab.records.divergence import has_diverged
from bnlab.records.files import RunFiles
from bnlab.records.finding import (
    REFERENCE,
    Found,
    Remark,
    StoredStudies,
    archive_of,
    find_run,
    find_runs,
)
from bnlab.records.locks import LockedError, LockLostError
from bnlab.records.packing import Packed, pack
from bnlab.records.reading import (
    RunRecord,
    epoch_of,
    load_record,
    read_config,
    read_facts,
    read_metrics,
    read_summary,
)
from bnlab.records.rundir import RunDir, run_path
from bnlab.records.schema import Beginning, RunFacts, Status, Summary
from bnlab.records.storage import StorageError, storage, write_text

__all__ = [
    "REFERENCE",
    "Beginning",
    "Found",
    "LockLostError",
    "LockedError",
    "Packed",
    "Remark",
    "RunDir",
    "RunFacts",
    "RunFiles",
    "RunRecord",
    "Status",
    "StorageError",
    "StoredStudies",
    "Summary",
    "archive_of",
    "epoch_of",
    "find_run",
    "find_runs",
    "has_diverged",
    "load_record",
    "pack",
    "read_config",
    "read_facts",
    "read_metrics",
    "read_summary",
    "run_path",
    "storage",
    "write_text",
]
