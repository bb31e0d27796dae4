"""Kills and signals at random times: whatever is left goes on to the bits of a run left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from bnlab.training.signals import EXIT_CODES
from torture_parts import Part, hold
from torture_parts.made import hold_clean, hold_same_runs, setting_words, write_study
from torture_parts.zygote import Command, Ended, Zygote, environment

STUDY = ("study", "run", "study.yaml", "--jobs", "2", "--executor")
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "train": (
        *("train", "--resume", "auto", "--if-exists", "skip", "--name", "made"),
        *setting_words(train__epochs=8),
    ),
    **{name: (*STUDY, name) for name in ("inline", "threads", "processes", "lanes")},
}
EARLY = 0.7
"""Within so many seconds of its start a command has not begun to work."""


def children_of(pid: int) -> list[int]:
    """The processes that one has started, at any depth."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        found = [int(word) for task in tasks for word in (task / "children").read_text().split()]
    except OSError:
        return []
    return found + [below for child in found for below in children_of(child)]


def kill_it(command: Command, _draw: random.Random) -> set[int]:
    """As the kernel does when memory is short."""
    command.kill(signal.SIGKILL)
    return {-9}


def kill_a_worker(command: Command, draw: random.Random) -> set[int]:
    """One of what it has started, if that is anything."""
    there = children_of(command.pid)
    if there:
        kill(draw.choice(there))
    return {6}


def kill_all(command: Command, _draw: random.Random) -> set[int]:
    """As a machine that is switched off."""
    for pid in [command.pid, *children_of(command.pid)]:
        kill(pid)
    return {-9}


def stop_it(command: Command, draw: random.Random) -> set[int]:
    """As a scheduler, or Ctrl-C in a script."""
    number = draw.choice(list(EXIT_CODES))
    command.kill(number)
    return {EXIT_CODES[number]}


def stop_it_twice(command: Command, draw: random.Random) -> set[int]:
    """As somebody who does not want to wait."""
    command.kill(signal.SIGINT)
    time.sleep(draw.uniform(0, 0.1))
    command.kill(signal.SIGINT)
    return {130}


def kill(pid: int) -> None:
    """One process, if it is still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


HOWS: tuple[Callable[[Command, random.Random], set[int]], ...] = (
    kill_it,
    kill_a_worker,
    kill_all,
    stop_it,
    stop_it_twice,
)


class Kills(Part):
    """See above."""

    full = 10_000

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed)
        self._zygote = Zygote(folder / "streams")
        self._seconds: dict[str, float] = {}

    def trial(self, number: int, draw: random.Random, folder: Path) -> str:
        """Kill a command once or twice, then let it finish."""
        kinds = [*COMMANDS, "early"]
        kind = kinds[number % len(kinds)]
        if kind == "early":
            return self._early(draw, folder)
        self._undisturbed(kind)
        write_study(folder / "study.yaml", seeds=1, epochs=6)
        told = []
        for _ in range(draw.randint(1, 2)):
            how, after = draw.choice(HOWS), draw.uniform(0, 1.2) * self._seconds[kind]
            told.append(f"{how.__name__} after {after:.3f} s")
            command = self._zygote.start(COMMANDS[kind], folder)
            time.sleep(after)
            codes = how(command, draw)
            what, silent = f"{kind}: {', '.join(told)}", how is stop_it_twice
            hold_clean(command.wait(120), {0, 3, *codes}, what, silent=silent)
        again = self._zygote.run(COMMANDS[kind], folder, 120)
        what = f"{kind}: {', '.join(told)}; then again"
        hold_clean(again, {0, 3}, what)
        hold_same_runs(self.folder / kind, folder)
        return what

    def _undisturbed(self, kind: str) -> None:
        if kind in self._seconds:
            return
        there = self.folder / kind
        there.mkdir()
        write_study(there / "study.yaml", seeds=1, epochs=6)
        ended = self._zygote.run(COMMANDS[kind], there, 120)
        hold_clean(ended, {0, 3}, f"{kind}, undisturbed,")
        self._seconds[kind] = ended.seconds

    def _early(self, draw: random.Random, folder: Path) -> str:
        """Signal a command while it starts."""
        number, after = draw.choice(list(EXIT_CODES)), draw.uniform(0, EARLY)
        what = f"{signal.Signals(number).name} {1000 * after:.0f} ms after the start"
        begun = time.monotonic()
        with subprocess.Popen(
            [sys.executable, "-m", "bnlab", *COMMANDS["train"]],
            cwd=folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            time.sleep(after)
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        if "bnlab/" not in err:
            err = err.replace("Traceback", "Python's traceback")  # before the first line of bnlab
        ended = Ended(process.returncode, out, err, time.monotonic() - begun, 0, late=False)
        hold("Traceback" not in err, f"{what} {ended}")
        # Before bnlab's first line a signal means what it means to every program.
        codes = {EXIT_CODES[number], -number} | ({1} if "Python's traceback" in err else set())
        hold(ended.code in codes, f"{what} {ended}")
        hold(not any(folder.rglob("summary.json")), f"{what}: finished all the same")
        return what

    def close(self) -> None:
        """End what starts commands."""
        self._zygote.close()
