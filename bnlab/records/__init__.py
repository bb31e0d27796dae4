"""Run directories and archives: the contract between what produces runs and what judges them.

The only place that knows the names of a run's files. `rundir` writes, `reading` reads back through
`schema`, `finding` looks for runs, `archive` packs them.
"""

from bnlab.records.archive import pack_runs
from bnlab.records.files import RunFiles
from bnlab.records.finding import (
    REFERENCE,
    Found,
    Remark,
    find_runs,
    read_study,
    studies_beside,
)
from bnlab.records.reading import (
    RunRecord,
    epoch_of,
    load_record,
    read_config,
    read_facts,
    read_metrics,
    read_summary,
)
from bnlab.records.rundir import LockedError, RunDir, run_path
from bnlab.records.schema import RunFacts, Status, Summary
from bnlab.records.storage import StorageError, storage, write_text

__all__ = [
    "REFERENCE",
    "Found",
    "LockedError",
    "Remark",
    "RunDir",
    "RunFacts",
    "RunFiles",
    "RunRecord",
    "Status",
    "StorageError",
    "Summary",
    "epoch_of",
    "find_runs",
    "load_record",
    "pack_runs",
    "read_config",
    "read_facts",
    "read_metrics",
    "read_study",
    "read_summary",
    "run_path",
    "storage",
    "studies_beside",
    "write_text",
]
