"""The files of a run, by name, wherever they lie: in a folder or in an archive."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CONFIG = "config.yaml"
RUN = "run.json"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
PACKAGES = "env.txt"
DIFF = "git.diff"
SOURCE = "model.py"
LOCK = "lock"

KEPT = (CONFIG, RUN, METRICS, SUMMARY, PACKAGES, DIFF, SOURCE)
"""What an archive keeps of a run: all but the checkpoint and the event files."""


@dataclass(frozen=True, eq=False)
class RunFiles:
    """Where one run is read.

    Attributes:
        root: The run directory; in an archive its place there, as `x.tar.xz/STUDY/ARM/s0`.
        packed: Contents by file name, where they come from an archive.
    """

    root: Path
    packed: Mapping[str, bytes] | None = None

    @property
    def path(self) -> str:
        """`<study>/<arm>-<hash8>/s<seed>`, without what lies above it."""
        return "/".join(self.root.resolve().parts[-3:]).lstrip("/")

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.root / name).exists() if self.packed is None else name in self.packed

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """What is another once a file was replaced; None if there is no such file."""
        if self.packed is not None:
            return (len(self.packed[name]),) if name in self.packed else None
        try:
            found = (self.root / name).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            OSError: If it cannot be read.
        """
        if self.packed is None:
            return (self.root / name).read_bytes()
        try:
            return self.packed[name]
        except KeyError:
            raise FileNotFoundError(name) from None
