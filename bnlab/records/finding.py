"""Where runs lie: folders and archives at or below the paths that a user names."""

import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bnlab.errors import BnlabError, ConfigError
from bnlab.records import files
from bnlab.records.archive import is_archive, read_archive, runs_in
from bnlab.records.files import RunFiles

REFERENCE = "reference"
"""Folder of the runs folder for records that came with bnlab."""


NAMED = 6
"""The most runs that a message lists."""


@dataclass(frozen=True)
class Remark:
    """Something found wrong, and what was done about it."""

    where: str
    what: str


@dataclass(frozen=True)
class Found:
    """What lies at or below some paths.

    Attributes:
        runs: Ordered by place, each once.
        remarks: On folders that look as if a run should be there, and on archives that cannot be
            read.
    """

    runs: tuple[RunFiles, ...]
    remarks: tuple[Remark, ...] = ()


def find_runs(paths: Sequence[Path]) -> Found:
    """Runs at or below some paths: runs, folders, archives, places in archives, glob patterns.

    Raises:
        ConfigError: If a path does not exist.
        BnlabError: If an archive that was named cannot be read.
    """
    runs: dict[Path, RunFiles] = {}
    remarks: list[Remark] = []
    for path in _expand(paths):
        if archive := archive_of(path):
            inside = (run for run in runs_in(archive) if path in (run.root, *run.root.parents))
            runs.update({run.root.resolve(): run for run in inside})
            continue
        for folder, below, names in _walk(path):
            for name in names:
                if is_archive(folder / name):
                    try:
                        runs.update({run.root.resolve(): run for run in runs_in(folder / name)})
                    except BnlabError as error:
                        remarks.append(Remark(str(folder / name), f"{error}; left out"))
            if {files.RUN, files.CONFIG} & set(names):
                runs[folder.resolve()] = RunFiles(folder)
                below.clear()
            elif what := _no_run(folder, below, names):
                remarks.append(Remark(RunFiles(folder).path, what))
                if {files.METRICS, files.SUMMARY} & set(names):
                    below.clear()
    return Found(tuple(runs[key] for key in sorted(runs)), tuple(sorted(remarks, key=str)))


def find_run(path: Path) -> RunFiles:
    """The run at a path, or the only one below it.

    Raises:
        ConfigError: If there is none, or there are several.
    """
    found = find_runs([path]).runs
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(f"{path}: no run here; bnlab runs lists what there is")
    places = [run.root.resolve().relative_to(path.resolve()) for run in found[:NAMED]]
    more = f" and {len(found) - NAMED} more (bnlab runs {path})" if len(found) > NAMED else ""
    raise ConfigError(
        f"{path}: {len(found)} runs below it; name one of them: "
        f"{', '.join(str(path / place) for place in places)}{more}"
    )


def _expand(paths: Sequence[Path]) -> list[Path]:
    expanded: list[Path] = []
    for path in paths:
        matches = [Path(match) for match in sorted(glob.glob(str(path)))]  # noqa: PTH207 - absolute patterns too
        if path.exists():
            expanded.append(path)
        elif matches:
            expanded += matches
        elif archive := archive_of(path):
            places = [place for run in runs_in(archive) for place in (run.root, *run.root.parents)]
            inside = [place for place in dict.fromkeys(places) if place.match(str(path))]
            if not inside:
                raise ConfigError(f"{path}: no such run in the archive (bnlab runs {archive})")
            expanded += inside
        else:
            raise ConfigError(f"{path}: no such folder of runs; train some first (bnlab train)")
    return expanded


def archive_of(path: Path) -> Path | None:
    """The archive that a path is, or lies in."""
    return next((above for above in (path, *path.parents) if is_archive(above)), None)


def _walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """`os.walk` over a runs folder, without the records that came with bnlab.

    They lie in a folder `reference` right below it, and must not mix with the user's runs; who asks
    for that folder by name gets them. Links to folders (runs kept on another disk) are followed,
    each folder once.
    """
    seen: set[Path] = set()
    for name, below, names in os.walk(root, followlinks=True):
        folder = Path(name)
        real = folder.resolve()
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below.sort()  # whichever of two ways to a folder comes first, it is the same every time
        if folder == root and REFERENCE in below:
            below.remove(REFERENCE)
        yield folder, below, names


def _no_run(folder: Path, below: Sequence[str], names: Sequence[str]) -> str:
    """Why a folder that looks like a run is none; "" if it does not look like one."""
    if {files.METRICS, files.SUMMARY} & set(names):
        return "neither run.json nor config.yaml: not a whole run; left out"
    if re.fullmatch(r"s\d+", folder.name) and not below:
        empty = "named like a run but holds none" if names else "empty folder"
        return f"{empty}; left out"
    return ""


class StoredStudies:
    """The studies of a runs folder as they were run: there, and in the archives below it."""

    def __init__(self, runs_dir: Path) -> None:
        self._runs_dir = runs_dir
        self._contents: dict[Path, Mapping[str, bytes]] = {}

    def read(self, name: str) -> tuple[str, str] | None:
        """The text of one, and where it stands; None if it never was run.

        An archive among the runs that cannot be read holds none; who reads the runs says so.

        Args:
            name: `claims/accuracy-quick.yaml`, `STUDY/study.yaml`: below the folder, or in an
                archive.

        Raises:
            BnlabError: If it cannot be read.
        """
        path = self._runs_dir / name
        try:
            if path.exists():
                return path.read_text(encoding="utf-8"), str(path)
            for archive in self._archives:
                if archive not in self._contents:
                    self._contents[archive] = self._contents_of(archive)
                content = self._contents[archive].get(name)
                if content is not None:
                    return content.decode("utf-8"), str(archive / name)
        except (OSError, UnicodeDecodeError) as error:
            raise BnlabError(f"{path}: unreadable: {error}") from None
        return None

    def _contents_of(self, archive: Path) -> Mapping[str, bytes]:
        try:
            return read_archive(archive)
        except BnlabError:
            if archive == self._runs_dir:
                raise
            return {}

    @cached_property
    def _archives(self) -> list[Path]:
        """Looked for once: a folder of runs is large."""
        if is_archive(self._runs_dir):
            return [self._runs_dir]
        if not self._runs_dir.is_dir():
            return []
        return sorted(
            folder / name
            for folder, _, names in _walk(self._runs_dir)
            for name in names
            if is_archive(folder / name)
        )


def studies_beside(runs: Sequence[RunFiles]) -> dict[str, bytes]:
    """The study files in the folders that hold some runs, by `STUDY/FILE`."""
    found: dict[str, bytes] = {}
    for folder in dict.fromkeys(run.root.parent.parent for run in runs if run.packed is None):
        for path in sorted(folder.glob("*.yaml")):
            found[f"{folder.resolve().name}/{path.name}"] = path.read_bytes()
    packed = (run.root for run in runs if run.packed is not None)
    for folder in dict.fromkeys(root.parent.parent for root in packed):
        archive = archive_of(folder)
        assert archive is not None
        inside = folder.relative_to(archive).as_posix()
        for name, content in read_archive(archive).items():
            above, _, file = name.rpartition("/")
            if above == inside and file.endswith(".yaml"):
                found[f"{folder.name}/{file}"] = content
    return found
