"""Packing runs into an archive, and saying what was left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bnlab.errors import BnlabError, ConfigError, RefusedError
from bnlab.records import files
from bnlab.records.archive import pack_runs
from bnlab.records.files import RunFiles
from bnlab.records.finding import Remark, find_runs, studies_beside
from bnlab.records.reading import load_record

SUFFIX = ".tar.xz"


@dataclass(frozen=True)
class Packed:
    """What became of some paths.

    Attributes:
        runs: How many were packed.
        size: Bytes of the archive.
        remarks: What was left out, and why.
    """

    runs: int
    size: int
    remarks: tuple[Remark, ...]


def pack(paths: Sequence[Path], out: Path) -> Packed:
    """Write the finished runs at or below some paths, and their studies, into one archive.

    Archives are packed anew: two become one. Checkpoints and event files stay behind, and so do
    unfinished runs, which without a checkpoint could not go on, and what cannot be read back.

    Args:
        paths: Runs, folders of runs, archives, or glob patterns of them.
        out: `NAME.tar.xz`.

    Raises:
        ConfigError: If a path does not exist, no finished run is there, or the name is another.
        RefusedError: If the file exists, or two different runs have one path.
        StorageError: If the disk takes no more.
    """
    if not out.name.endswith(SUFFIX):
        raise ConfigError(f"--out {out}: an archive is called NAME{SUFFIX}")
    if out.exists():
        raise RefusedError(f"{out}: is there already; choose another name, or delete it first")
    found = find_runs(paths)
    finished, remarks = [], []
    for run in found.runs:
        fault = "not finished" if not run.has(files.SUMMARY) else _fault(run)
        if fault:
            remarks.append(Remark(run.path, f"{fault}; left out"))
        else:
            finished.append(run)
    if not finished:
        raise ConfigError(f"{', '.join(map(str, paths))}: no finished runs to pack")
    size = pack_runs(finished, studies_beside(finished), out)
    return Packed(len(finished), size, (*remarks, *found.remarks))


def _fault(run: RunFiles) -> str:
    """Why a run cannot be read back; "" if it can."""
    try:
        load_record(run)
    except BnlabError as error:
        return str(error)
    return ""
