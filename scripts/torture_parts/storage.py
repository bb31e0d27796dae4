"""Each storage operation of each command that writes is killed or refused, then tried again."""

import random
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from made_runs import make_run
from PIL import Image

from bnlab.analysis.listing import list_runs
from torture_parts import Part, hold
from torture_parts.faults import TAKES_SPACE, WAYS
from torture_parts.made import hold_clean, hold_same_runs, setting_words, texts_below, write_study
from torture_parts.zygote import Ended, Zygote

TRAIN = ["train", "--resume", "auto", "--if-exists", "skip", "--name", "made"]
COMMANDS: Mapping[str, list[str]] = {
    "train": [*TRAIN, *setting_words(probes=["gradients"])],
    "images": [
        *TRAIN,
        *setting_words(
            dataset__name="folder",
            dataset__root="images",
            dataset__train_size=None,
            dataset__test_size=None,
        ),
    ],
    "study": ["study", "run", "study.yaml", "--executor", "inline"],
    "pack": ["pack", "runs", "--out", "runs.tar.xz"],
    "compare": ["compare", "runs", "--tensorboard"],
    "claims": ["claims", "--out", "report"],
}


@dataclass(frozen=True)
class Operation:
    """One operation of a command, and how it fails."""

    command: str
    at: int
    what: str
    way: str

    def __str__(self) -> str:
        return f"{self.command}, operation {self.at} ({self.what}), {self.way}"


class Storage(Part):
    """See above."""

    full = 10_000
    commands: Collection[str] = tuple(COMMANDS)
    """Which to try."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed)
        self._zygote = Zygote(folder / "streams")
        self._operations: list[Operation] = []
        for name in self.commands:
            place = folder / name
            prepare(name, folder / "found" / name)
            shutil.copytree(folder / "found" / name, place)
            ended = self._run(name, place)
            hold_clean(ended, {0, 3}, f"{name}, undisturbed,")
            done = (place.with_suffix(".log")).read_text().splitlines()
            alike: dict[str, list[int]] = {}
            for at, what in enumerate(done):
                alike.setdefault(re.sub(r"\d+|\S+\.svg", "", what), []).append(at)
            self._operations += [
                Operation(name, at, done[at], way)
                for places in alike.values()
                for at in sorted({places[0], places[-1]})
                for way in WAYS
                if _says_something(done[at].split()[0], way)
            ]
        random.Random(seed).shuffle(self._operations)
        self.full = len(self._operations)

    def _run(self, name: str, place: Path, **fault: object) -> Ended:
        log = place.with_suffix(".log")
        faults = {"below": str(place.resolve()), "log": str(log), **fault}
        env = {"BNLAB_CACHE": str(place / "cache")}
        return self._zygote.run(COMMANDS[name], place, faults=faults, env=env)

    def trial(self, number: int, draw: random.Random, folder: Path) -> str:
        """Fail at one, then try the same command again."""
        one = self._operations[number]
        place, there = folder / one.command, self.folder / one.command
        shutil.copytree(self.folder / "found" / one.command, place)
        failed = self._run(one.command, place, at=one.at, way=one.way)
        codes = {-9} if one.way.startswith("kill") else {0, 1, 3, 6}
        hold_clean(failed, codes, f"{one}:")
        list_runs([place])  # what is half there is told of, or passed over
        again = self._run(one.command, place)
        if one.command == "pack" and (place / "runs.tar.xz").exists():
            hold_clean(again, {0, 5}, f"{one}: again")
        else:
            hold_clean(again, {0, 3}, f"{one}: again")
        if one.command in ("train", "images", "study"):
            hold_same_runs(there, place)
        written = [dict(texts_below(root)) for root in (there, place)]
        for name, data in written[0].items():
            if _follows(name):
                hold(written[1].get(name) == data, f"{one}: {name} is another")
        return str(one)

    def close(self) -> None:
        """End what starts commands."""
        self._zygote.close()


def _says_something(kind: str, way: str) -> bool:
    if way == "kill within":
        return kind == "write"
    return way != "full" or kind in TAKES_SPACE


def _follows(name: str) -> bool:
    """Whether a file's name and bytes follow from what the command found."""
    if "/events." in name or name.startswith("cache/"):
        return False
    return "/report/" in name or not name.startswith("runs/made/")


def prepare(command: str, place: Path) -> None:
    """What a command finds."""
    place.mkdir(parents=True)
    if command == "study":
        write_study(place / "study.yaml", seeds=1, epochs=1)
    if command in ("pack", "compare", "claims"):
        for seed in range(2):
            make_run(place / "runs", seed=seed, sets={"model.norm.name": "none"})
            make_run(place / "runs", seed=seed)
    if command == "images":
        draw = random.Random(0)
        for split, label, number in product(("train", "test"), "ab", range(20)):
            path = place / "images" / split / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.frombytes("RGB", (32, 32), draw.randbytes(3072)).save(path)
