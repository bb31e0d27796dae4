"""The configurations that come with bnlab, of a checkout or as installed, by name."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FOLDER = "configs"

Kind = Literal["configuration", "preset", "study"]

_FOLDERS: dict[Kind, str] = {"configuration": "", "preset": "presets", "study": "studies"}


@dataclass(frozen=True)
class Shipped:
    """A configuration that comes with bnlab.

    Attributes:
        name: As `--config` or `study run` take it.
        kind: Who takes it.
        path: Where it lies.
        about: The first sentence of the comment that it begins with.
    """

    name: str
    kind: Kind
    path: Path
    about: str


def shipped(*parts: str) -> Path | None:
    """A file of `configs/`, of the checkout or as installed; None if it is not there."""
    package = Path(__file__).parents[1]
    for folder in (package.parent / FOLDER, package / FOLDER):
        path = folder.joinpath(*parts)
        if path.is_file():
            return path
    return None


def named(path: Path, kind: Kind = "configuration") -> Path:
    """The file that a user names: what lies at the path, or else what comes with bnlab so named.

    Returns:
        The path itself where there is no such file at all.
    """
    if path.exists() and not path.is_dir():
        return path
    return shipped_as(path, kind) or path


def shipped_as(name: Path, kind: Kind = "configuration") -> Path | None:
    """What comes with bnlab under a name: `quickstart`, `presets/quick`, `configs/seed.yaml`.

    Args:
        name: The name.
        kind: Of which kind a plain one is.
    """
    parts = name.parts[name.parts[:1] == (FOLDER,) :]
    if not parts or name.is_absolute() or ".." in parts:
        return None
    *above, last = parts
    file = last if name.suffix in {".yaml", ".yml"} else f"{last}.yaml"
    folders = dict.fromkeys(("", _FOLDERS[kind]))
    return next(filter(None, (shipped(folder, *above, file) for folder in folders)), None)


def list_shipped() -> Iterator[Shipped]:
    """Configurations, presets and studies, each in the order of their names."""
    for kind, folder in _FOLDERS.items():
        first = shipped("seed.yaml")  # any: where the others lie
        for path in sorted((first.parent / folder).glob("*.yaml")) if first else ():
            name = f"{folder}/{path.stem}" if kind == "preset" else path.stem
            yield Shipped(name, kind, path, _about(path.read_text(encoding="utf-8")))


def _about(text: str) -> str:
    comment = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    words = " ".join(comment)
    ends = (end for mark in (". ", "? ") if (end := words.find(mark)) >= 0)
    return words[: min(ends, default=len(words)) + 1]
