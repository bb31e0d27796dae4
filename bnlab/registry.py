"""Named tables of plug-ins: a registry is a dict and a decorator, a plug-in is a function.

A registry also says which configuration fields a plug-in reads, so that fields which mean nothing
for it (the momentum of a group norm, the placement of no norm) never reach the resolved
configuration and its hash.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from bnlab.errors import ConfigError, did_you_mean

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered plug-in.

    Attributes:
        value: The registered function or class.
        reads: Configuration fields of its section that it reads; all others mean nothing for it.
        facts: Words that the rest of the code may ask for (`"batch_statistics"`, say).
    """

    value: T
    reads: frozenset[str]
    facts: frozenset[str]


class Registry(Generic[T]):
    """A table from names to plug-ins.

    Args:
        kind: What is registered, in the words of an error message ("norm", "dataset").
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry[T]] = {}

    def register(
        self, name: str, *, reads: Iterable[str] = (), facts: Iterable[str] = ()
    ) -> Callable[[T], T]:
        """Decorate a plug-in to make it known as `name`.

        Raises:
            ValueError: If the name is taken; two plug-ins of one name are a programming error.
        """

        def add(value: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = Entry(value, frozenset(reads), frozenset(facts))
            return value

        return add

    def entry(self, name: str) -> Entry[T]:
        """The entry of `name`.

        Raises:
            ConfigError: If there is none; the message lists the known names.
        """
        try:
            return self._entries[name]
        except KeyError:
            raise ConfigError(
                f"unknown {self.kind} {name!r}{did_you_mean(name, self._entries)}"
            ) from None

    def __getitem__(self, name: str) -> T:
        return self.entry(name).value

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def idle_fields(self, name: str) -> frozenset[str]:
        """Fields that some entry of this registry reads and `name` does not."""
        spoken_for = frozenset[str]().union(*(entry.reads for entry in self._entries.values()))
        return spoken_for - self.entry(name).reads
