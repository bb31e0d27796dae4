"""Archives of runs: one file that travels, holds no checkpoint, and is read without unpacking.

An archive is a tar file, compressed by xz, of run directories and of the study files beside them.
Its bytes depend on the runs alone. A file whose content stands in an earlier one (the packages of a
thousand runs) is a hard link to that, so ordinary tools unpack it to what was packed.
"""

import gzip
import hashlib
import io
import lzma
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, cast

from bnlab.errors import BnlabError, RefusedError
from bnlab.records import files
from bnlab.records.files import RunFiles
from bnlab.records.storage import write_bytes

SUFFIXES = (".tar.xz", ".txz", ".tar.gz", ".tgz", ".tar")

MAX_BYTES = 2**31
"""Most that an archive may hold: a few hundred thousand runs. More is an attack or a mistake."""

MEMBER_BYTES = 1000
"""What a member counts for beside its content."""


def is_archive(path: Path) -> bool:
    """Whether a path is named like an archive and is a file."""
    return path.name.endswith(SUFFIXES) and path.is_file()


def read_archive(path: Path) -> Mapping[str, bytes]:
    """The files of an archive by name, in memory; nothing is written.

    Raises:
        BnlabError: If it cannot be read, or holds more than `MAX_BYTES`.
    """
    try:
        with path.open("rb") as file:
            # Not its date: two writings within a tick of the clock have the same.
            digest = hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise BnlabError(f"{path}: unreadable: {error.strerror}") from None
    return _read(path, digest)


@lru_cache(maxsize=8)
def _read(path: Path, _digest: bytes) -> Mapping[str, bytes]:
    contents: dict[str, bytes] = {}
    try:
        with _decompressed(path) as file:
            stream = _Bounded(file, path)
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                while member := archive.next():
                    # It would keep them all.
                    archive.members.clear()  # type: ignore[attr-defined]
                    stream.charge(MEMBER_BYTES)
                    # A link means an earlier member; nothing outside the archive can be named.
                    if member.islnk() and member.linkname in contents:
                        contents[member.name] = contents[member.linkname]
                    elif member.isreg() and (content := archive.extractfile(member)):
                        contents[member.name] = content.read()
            while stream.read(2**20):  # to the end, where its checksum stands
                pass
    except (OSError, EOFError, tarfile.TarError, lzma.LZMAError, zlib.error, ValueError) as error:
        raise BnlabError(f"{path}: not a whole archive of runs: {error}") from None
    return MappingProxyType(contents)


def _decompressed(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        magic = file.read(6)
    if magic.startswith(b"\xfd7zXZ"):
        return cast("BinaryIO", lzma.open(path))
    if magic.startswith(b"\x1f\x8b"):
        return cast("BinaryIO", gzip.open(path))
    return path.open("rb")


class _Bounded(io.RawIOBase):
    """What comes of a small file may be without end: contents, headers, or members alone."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path, self._left = file, path, MAX_BYTES

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self.charge(len(data))
        return data

    def charge(self, size: int) -> None:
        """Count bytes, those that an entry takes in memory included."""
        self._left -= size
        if self._left < 0:
            raise BnlabError(f"{self._path}: holds over {MAX_BYTES:,} bytes; not read")


def runs_in(path: Path) -> list[RunFiles]:
    """The runs of an archive, by path."""
    by_folder: dict[str, dict[str, bytes]] = defaultdict(dict)
    for name, content in read_archive(path).items():
        folder, _, file = name.rpartition("/")
        by_folder[folder][file] = content
    return [
        RunFiles(path / folder, contents)
        for folder, contents in sorted(by_folder.items())
        if files.RUN in contents or (files.CONFIG in contents and files.METRICS in contents)
    ]


def pack_runs(runs: Sequence[RunFiles], studies: Mapping[str, bytes], out: Path) -> int:
    """Write an archive; the same runs give the same bytes.

    Args:
        runs: Which; each is stored under its `path`.
        studies: Further files by name: the studies that the runs were made for.
        out: The archive, `NAME.tar.xz`.

    Returns:
        How many bytes it has.

    Raises:
        RefusedError: If two different runs have one path.
        StorageError: If the disk takes no more; an archive of that name is then untouched.
    """
    contents: dict[str, bytes] = dict(studies)
    for run in runs:
        for name in files.KEPT:
            if not run.has(name):
                continue
            place, content = f"{run.path}/{name}", run.read(name)
            if contents.setdefault(place, content) != content:
                raise RefusedError(
                    f"{run.root}: another run of the path {run.path} is packed as well, with "
                    f"another {name}; pack them into two archives, or rename a study's folder"
                )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz", format=tarfile.PAX_FORMAT, preset=9) as archive:
        first: dict[bytes, str] = {}
        for place in sorted(contents):
            content = contents[place]
            member = tarfile.TarInfo(place)  # mode 0644, no owner, no date
            earlier = first.setdefault(hashlib.sha256(content).digest(), place)
            if earlier == place:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = tarfile.LNKTYPE, earlier
                archive.addfile(member)
    data = buffer.getvalue()
    write_bytes(out, data)
    return len(data)
