"""Named tables of plug-ins: a family is a folder, a plug-in a file, its name the file's stem.

Names are known without importing anything, so that a configuration is checked and hashed where no
torch is. A plug-in is imported when it is asked for; its decorator then registers it. Packages
beside bnlab add plug-ins by entry points (`[bnlab.norms]`, `name = package.module`).
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any, Generic, TypeVar

from bnlab.errors import ConfigError, did_you_mean, shown

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered plug-in.

    Attributes:
        value: The registered function, class or value.
        facts: Words that the rest of the code may ask for (`"batch_statistics"`, say).
    """

    value: T
    facts: frozenset[str]


class Registry(Generic[T]):
    """A table from names to plug-ins.

    Args:
        kind: What is registered, in the words of an error message ("norm", "dataset").
        package: The family's folder as a module name; files whose stem begins with `_` are parts
            that its plug-ins share. Without one, and without `group`, the table holds what is
            registered and nothing else.
        group: Entry points of other packages.
    """

    def __init__(self, kind: str, package: str = "", group: str = "") -> None:
        self.kind, self.package, self.group = kind, package, group
        self._entries: dict[str, Entry[T]] = {}
        self._loaded = set[str]()

    def register(self, name: str, *, facts: Iterable[str] = ()) -> Callable[[T], T]:
        """Decorate a plug-in to make it known as `name`.

        Raises:
            ValueError: If the name is taken; two plug-ins of one name are a programming error.
        """

        def add(value: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = Entry(value, frozenset(facts))
            return value

        return add

    def entry(self, name: str) -> Entry[T]:
        """The entry of `name`, whose file is imported on first use.

        Raises:
            ConfigError: If there is none, if several packages have it, or if the plug-in of
                another package does not load.
        """
        fault = self.fault(name)
        if fault:
            raise ConfigError(fault)
        # That it is registered is not enough: another thread may be halfway through its file.
        if name not in self._loaded and name in self._sources:
            (source,) = self._sources[name]
            source.load(self.kind, name)
            if name not in self._entries:
                raise ConfigError(
                    f"{self.kind} {name!r}: {source} registers nothing under this name; decorate "
                    f'the plug-in with @{self.kind.upper()}S.register("{name}")'
                )
            self._loaded.add(name)
        return self._entries[name]

    def fault(self, name: str) -> str:
        """Why there is no one plug-in of this name, in words; "" if there is. Imports nothing."""
        if name not in self:
            return f"unknown {self.kind} {shown(repr(name))}{did_you_mean(name, self._names())}"
        sources = self._sources.get(name, [])
        if len(sources) > 1:
            places = " and ".join(map(str, sources))
            return f"{self.kind} {name!r} is in {places}; uninstall all but one"
        return ""

    def __getitem__(self, name: str) -> T:
        return self.entry(name).value

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    def __iter__(self) -> Iterator[str]:
        """The names, bnlab's own first.

        Raises:
            ConfigError: If several packages have one of them.
        """
        for name in self._names():
            fault = self.fault(name)
            if fault:
                raise ConfigError(fault)
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def _names(self) -> dict[str, None]:
        """Where plug-ins are, and what a session registered by hand."""
        return dict.fromkeys([*self._sources, *self._entries])

    @cached_property
    def _sources(self) -> "dict[str, list[_File | _Installed]]":
        """By name, where a plug-in of that name is; one place, if all is well."""
        spec = find_spec(self.package) if self.package else None
        folders = spec.submodule_search_locations if spec is not None else None
        found: dict[str, list[_File | _Installed]] = {
            module.name: [_File(f"{self.package}.{module.name}")]
            for module in pkgutil.iter_modules(folders or ())
            if not module.name.startswith("_")
        }
        for point in sorted(entry_points(group=self.group), key=lambda point: point.name):
            found.setdefault(point.name, []).append(_Installed(point))
        return found


@dataclass(frozen=True)
class _File:
    """A plug-in of bnlab itself."""

    module: str

    def __str__(self) -> str:
        return f"bnlab ({self.module})"

    def load(self, _kind: str, _name: str) -> None:
        importlib.import_module(self.module)


@dataclass(frozen=True)
class _Installed:
    """A plug-in of another package."""

    point: EntryPoint

    def __str__(self) -> str:
        package = self.point.dist.name if self.point.dist is not None else "another package"
        return f"{package} ({self.point.value})"

    def load(self, kind: str, name: str) -> None:
        try:
            self.point.load()
        except Exception as error:  # whatever a foreign package does wrong, it is said to be its
            raise ConfigError(
                f"{kind} {name!r}: {self} does not load: {type(error).__name__}: {error}"
            ) from error


CLAIMS: Registry[Any] = Registry("claim", "bnlab.claims", "bnlab.claims")
DATASETS: Registry[Any] = Registry("dataset", "bnlab.training.datasets", "bnlab.datasets")
EXECUTORS: Registry[Any] = Registry("executor", "bnlab.study.executors", "bnlab.executors")
MODELS: Registry[Any] = Registry("model", "bnlab.training.models", "bnlab.models")
NORMS: Registry[Any] = Registry("norm", "bnlab.training.norms", "bnlab.norms")
PROBES: Registry[Any] = Registry("probe", "bnlab.training.probes", "bnlab.probes")
# Each family's folder has its table again, with the type of its plug-ins.
