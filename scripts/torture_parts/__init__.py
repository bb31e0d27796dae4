"""What a campaign is made of: parts that try one thing after another, each from seed and number."""

import random
import shutil
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


class BrokeError(Exception):
    """bnlab did what it must not."""


class Part:
    """One part of the campaign.

    Args:
        folder: For what all trials share.
        seed: Of the campaign.
    """

    full: int
    """Trials at full size."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed

    def trial(self, number: int, draw: random.Random, folder: Path) -> str:
        """Try one thing in an empty folder.

        Returns:
            What it was, in a few words.

        Raises:
            BrokeError: If bnlab broke.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is tried any more."""


@dataclass
class Tally:
    """What came of a part."""

    part: str
    seed: int
    held: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def tried(self) -> int:
        """Trials that came to an end."""
        return self.held + len(self.failures)


def hold(that: object, what: str) -> None:
    """As `assert`, which an optimizing Python leaves out.

    Raises:
        BrokeError: If it does not hold.
    """
    if not that:
        raise BrokeError(what)


def campaign(
    part: type[Part], folder: Path, seed: int, numbers: Iterable[int], seconds: float
) -> Tally:
    """Try so many things, or for so long."""
    name = part.__module__.rpartition(".")[2]
    tally, begun = Tally(name, seed), time.monotonic()
    shared = folder / name
    shared.mkdir(parents=True)
    one = part(shared, seed)
    try:
        for number in numbers:
            if number >= one.full or time.monotonic() - begun > seconds:
                break
            place = folder / f"{name}-{number}"
            place.mkdir()
            try:
                one.trial(number, random.Random(f"{seed} {number}"), place)
            except BrokeError as error:
                tally.failures.append(f"--part {name} --seed {seed} --only {number}: {error}")
            except Exception:  # noqa: BLE001 - a trial that cannot be judged has not held
                told = traceback.format_exc(limit=-3)
                tally.failures.append(f"--part {name} --seed {seed} --only {number}: {told}")
            else:
                tally.held += 1
            shutil.rmtree(place, ignore_errors=True)
    finally:
        one.close()
    tally.seconds = time.monotonic() - begun
    return tally
