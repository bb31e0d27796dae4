"""Places that bnlab was not made for: what it cannot do there, it says in a line."""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torture_parts import Part
from torture_parts.made import hold_clean, hold_same_runs, setting_words, write_study
from torture_parts.zygote import Ended, Zygote, environment

NOBODY = 65534

WORK: Mapping[str, tuple[str, ...]] = {
    "train": (
        *("train", "--resume", "auto", "--if-exists", "skip", "--name", "made"),
        *setting_words(train__epochs=3, probes=["gradients"]),
    ),
    "study": ("study", "run", "study.yaml", "--executor", "inline"),
    "processes": ("study", "run", "study.yaml", "--executor", "processes", "--jobs", "2"),
}
READ: Sequence[tuple[str, ...]] = (
    ("runs", "runs"),
    ("compare", "runs", "--out", "report"),
    ("pack", "runs", "-o", "x.tar.xz"),
    ("audit", "runs"),
    ("claims",),
)
STREAMS = ("<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", "| head -1")


class Surroundings(Part):
    """See above."""

    full = 10_000

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed)
        self._zygote = Zygote(folder / "streams")
        for kind, words in WORK.items():
            place = folder / kind
            place.mkdir()
            write_study(place / "study.yaml", seeds=1)
            hold_clean(self._zygote.run(words, place, 120), {0, 3}, f"{kind}, undisturbed,")

    def trial(self, number: int, draw: random.Random, folder: Path) -> str:
        """One place after another."""
        tries: list[Callable[[random.Random, Path], str]] = [
            self._limited,
            self._elsewhen,
            self._without_variables,
            self._streams,
        ]
        if os.getuid() == 0:
            tries += [self._full, self._read_only, self._of_another]
        return tries[number % len(tries)](draw, folder)

    def _limited(self, draw: random.Random, folder: Path) -> str:
        """No file may be larger than this."""
        kind = draw.choice(("train", "study"))
        limit = int(10 ** draw.uniform(0, 5.5))
        return self._then_again(
            kind, folder, f"files of {limit} bytes", limits={"RLIMIT_FSIZE": limit}
        )

    def _full(self, draw: random.Random, folder: Path) -> str:
        """A disk with little room, or few files."""
        kind = draw.choice(("train", "study"))
        few = draw.choice(
            (f"size={4 * draw.randint(1, 200)}k", f"size=9m,nr_inodes={draw.randint(4, 60)}")
        )
        with _Mounted(folder / "disk", few) as disk:
            try:
                (disk / "runs").mkdir()
            except OSError:
                return "too small to begin"
            what = f"{kind} on a disk of {few}"
            words = [*WORK[kind], "--runs-dir", str(disk / "runs")]
            ended = self._zygote.run(words, self._place(folder), 120)
            hold_clean(ended, {0, 1, 3, 6}, what)
            _mount("remount,size=64m,nr_inodes=9999", disk)
            again = self._zygote.run(words, self._place(folder), 120)
            hold_clean(again, {0, 3}, f"{what}, with room:")
            hold_same_runs(self.folder / kind / "runs", disk / "runs")
        return what

    def _read_only(self, draw: random.Random, folder: Path) -> str:
        with _Mounted(folder / "disk", "size=64m") as disk:
            shutil.copytree(self.folder / "train" / "runs", disk / "runs")
            _mount("remount,ro", disk)
            words = draw.choice([*WORK.values(), *READ])
            ended = self._zygote.run(words, disk, 120)
            hold_clean(ended, {0, 1, 2, 3, 5}, f"{words[:3]} on a read-only disk")
        return "a read-only disk"

    def _of_another(self, draw: random.Random, folder: Path) -> str:
        """Runs that may be read, or not even that."""
        place = self._place(folder)
        shutil.copytree(self.folder / "train" / "runs", place / "runs")
        if draw.random() < 0.5:
            (draw.choice([path for path in place.rglob("*") if path.is_file()])).chmod(0o600)
        if draw.random() < 0.2:
            (draw.choice([path for path in place.rglob("*") if path.is_dir()])).chmod(0o700)
        for path in (folder, *folder.parents):
            if path.stat().st_uid == os.getuid() and path.is_relative_to("/tmp/"):  # noqa: S108
                path.chmod(0o755)
        words = draw.choice([*list(WORK.values())[:2], *READ])
        ended = self._zygote.run(words, place, 120, uid=NOBODY)
        hold_clean(ended, {0, 1, 2, 3, 5, 6}, f"{words[:3]} in another's folder")
        return "another's folder"

    def _elsewhen(self, draw: random.Random, folder: Path) -> str:
        """A clock that goes back, or far ahead, while a run waits to go on."""
        clock = draw.choice((-86400.0 * 365 * 30, -3600.0, 3600.0, 86400.0 * 365 * 50))
        place = self._place(folder)
        command = self._zygote.start(WORK["train"], place, clock=draw.choice((0.0, clock)))
        time.sleep(draw.uniform(0.1, 1.0))
        command.kill(15)
        hold_clean(command.wait(60), {75, -15, 0, 3}, "stopped")
        return self._then_again("train", folder, f"a clock wrong by {clock:.0f} s", clock=clock)

    def _without_variables(self, draw: random.Random, folder: Path) -> str:
        """Variables that are missing, empty or lead nowhere."""
        place = self._place(folder)
        odd = {
            name: draw.choice((None, "", "/nowhere", "/dev/null"))
            for name in draw.sample(("TMPDIR", "HOME", "PATH", "BNLAB_CACHE", "XDG_CACHE_HOME"), 3)
        }
        odd |= draw.choice(({}, {"LANG": "C", "LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}))
        odd |= draw.choice(({}, {"COLUMNS": draw.choice(("0", "x", "-5", "1"))}, {"TERM": "dumb"}))
        kind = draw.choice(("train", "processes"))
        ended = self._really(WORK[kind], place, odd)
        hold_clean(ended, {0, 3}, f"{kind} with {odd}")
        hold_same_runs(self.folder / kind, place)
        for words in (READ[0], READ[1]):
            hold_clean(self._really(words, place, odd), {0, 1, 5}, f"{words} with {odd}")
        return f"{kind} with {odd}"

    def _streams(self, draw: random.Random, folder: Path) -> str:
        """Streams that are closed, or take nothing."""
        place = self._place(folder)
        given = draw.choice(STREAMS)
        kind = draw.choice(("train", "processes"))
        ended = self._really(WORK[kind], place, {}, given)
        hold_clean(ended, {0, 1, 3}, f"{kind} {given}")
        hold_same_runs(self.folder / kind, place)
        words = draw.choice(READ)
        hold_clean(self._really(words, place, {}, given), {0, 1, 2, 5}, f"{words} {given}")
        return f"{kind} {given}"

    def _place(self, folder: Path) -> Path:
        place = folder / "place"
        if not place.exists():
            place.mkdir()
            write_study(place / "study.yaml", seeds=1)
        return place

    def _then_again(self, kind: str, folder: Path, what: str, **odd: object) -> str:
        place = self._place(folder)
        ended = self._zygote.run(WORK[kind], place, 120, **odd)
        hold_clean(ended, {0, 1, 3, 5, 6}, f"{kind} with {what}")
        again = self._zygote.run(WORK[kind], place, 120)
        hold_clean(again, {0, 3}, f"{kind} after {what}")
        hold_same_runs(self.folder / kind, place)
        return f"{kind} with {what}"

    def _really(
        self, words: Sequence[str], place: Path, odd: Mapping[str, str | None], given: str = ""
    ) -> Ended:
        """In a new interpreter."""
        env = environment()
        for name, value in odd.items():
            if value is None:
                env.pop(name, None)
            else:
                env[name] = value
        begun = time.monotonic()
        command = ["/bin/sh", "-c", f'"$0" "$@" {given}', sys.executable, "-m", "bnlab", *words]
        done = subprocess.run(
            command, cwd=place, env=env, capture_output=True, timeout=120, check=False
        )
        out, err = (stream.decode(errors="replace") for stream in (done.stdout, done.stderr))
        if done.returncode and "2>" in given:
            err = err or "(its stderr takes nothing)"
        return Ended(done.returncode, out, err, time.monotonic() - begun, 0, late=False)

    def close(self) -> None:
        """End what starts commands."""
        self._zygote.close()


class _Mounted:
    """A disk in memory while the context lasts."""

    def __init__(self, place: Path, options: str) -> None:
        self._place, self._options = place, options

    def __enter__(self) -> Path:
        self._place.mkdir()
        _mount(self._options, self._place)
        return self._place

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "-l", str(self._place)], check=True)


def _mount(options: str, place: Path) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "bnlab-torture", str(place)]
    subprocess.run(command, check=True, capture_output=True)
