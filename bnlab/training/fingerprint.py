"""Fingerprints of the sources that a run's training goes through and that can change its numbers.

From the loop and the building of its parts every import inside `training/` is followed, and of each
family only the chosen plug-ins' files, those of the recorded probes too; what leaves no trace on a
record is passed over. So a new probe or norm voids no record, and no file that matters can be
forgotten. The schema's defaults need no fingerprint: the resolved configuration spells them out,
and its hash covers them.

A source counts as its syntax tree without comments, docstrings and formatting; the text of the tree
is bnlab's own, for Python's differs from version to version.
"""

import ast
import hashlib
import sys
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from bnlab.config import Config
from bnlab.registry import DATASETS, MODELS, NORMS, PROBES

PACKAGE = Path(__file__).resolve().parents[1]
TRAINING = "bnlab.training"

ROOTS = (f"{TRAINING}.task", f"{TRAINING}.loop", f"{TRAINING}.checkpoint")

TRACELESS = frozenset(
    f"{TRAINING}.{name}"
    for name in (
        "crew",
        "evaluation",
        "experiment",
        "export",
        "extend",
        "fingerprint",
        "folding",
        "lane",
        "layers",
        "pictures",
        "provenance",
        "recorder",
        "resume",
        "signals",
        "trained",
        "workers",
    )
)
"""Modules of training that change no number."""


def code_of(config: Config) -> dict[str, str]:
    """By source file, the fingerprint of what a configuration's training goes through.

    Files of bnlab are named by their path in the package, those of others by their module.
    """
    plugins = (
        DATASETS[config.dataset.name],
        MODELS[config.model.name],
        NORMS[config.model.norm.name],
        *(PROBES[name] for name in config.probes),
    )
    waiting = [*ROOTS, *(plugin.__module__ for plugin in plugins)]
    found: dict[str, str] = {}
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        path = _source(module)
        if module in seen or path is None:
            continue
        seen.add(module)
        inside = path.is_relative_to(PACKAGE)
        name = path.relative_to(PACKAGE).as_posix() if inside else module
        found[name] = fingerprint(path)
        waiting += (other for other in _imports(path) if _counts(other))
    return dict(sorted(found.items()))


def _counts(module: str) -> bool:
    parts = module.split(".")
    above = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    return TRAINING in above and not above & TRACELESS


def _source(module: str) -> Path | None:
    """The file of a module: one of bnlab's by its place, another's by what Python loaded."""
    below = PACKAGE.parent.joinpath(*module.split("."))
    for path in (below.with_suffix(".py"), below / "__init__.py"):
        if module.startswith("bnlab.") and path.is_file():
            return path
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file) if file and not module.startswith("bnlab.") else None


@cache
def _imports(path: Path) -> tuple[str, ...]:
    """Modules that a file imports, and those that the names it imports might be."""

    def named() -> Iterator[str]:
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)

    return tuple(dict.fromkeys(named()))


@cache
def fingerprint(path: Path) -> str:
    """Of one source file: 16 hexadecimal digits."""
    tree = _Bare().visit(_tree(path))
    return hashlib.sha256(_text(tree).encode()).hexdigest()[:16]


_PARSING = threading.Lock()
"""Python 3.11 counts the depth of a tree for all threads in one place: two that parse at a time end
in a SystemError."""


def _tree(path: Path) -> ast.Module:
    with _PARSING:
        return ast.parse(path.read_text(encoding="utf-8"))


class _Bare(ast.NodeTransformer):
    """Takes away strings that stand alone: docstrings, and those below attributes."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        alone = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if alone else self.generic_visit(node)


def _text(value: object) -> str:
    """A tree as text; fields that are absent or empty are left out, for versions differ in them."""
    if isinstance(value, ast.AST):
        fields = ((name, getattr(value, name, None)) for name in value._fields)
        told = (f"{name}={_text(field)}" for name, field in fields if field not in (None, []))
        return f"{type(value).__name__}({','.join(told)})"
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return repr(value)
