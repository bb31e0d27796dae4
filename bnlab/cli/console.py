"""What a person sees of a run: while it goes, a live bar or plain lines on stderr; its result."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from bnlab.cli.output import wrapped
from bnlab.config import Config, arm_label
from bnlab.errors import shown_lines
from bnlab.study.executors import Cell, Outcome, StudyWatcher
from bnlab.study.render import epochs_done, show_progress
from bnlab.training.experiment import Watcher
from bnlab.training.loop import Position

if TYPE_CHECKING:
    from pathlib import Path

STEP_REFRESH_SECONDS = 0.2
STUDY_REFRESH_SECONDS = 0.5
LOADING_SECONDS = 2.0
"""Without a terminal, loading says a line only this often."""
TIMED_SECONDS = 2.0
TIMED_STEPS = 20
"""How long a run takes is told after so much of it, whichever comes first."""
WORTH_TELLING_SECONDS = 10.0


def stderr_console() -> Console:
    """Rich on stderr; honors NO_COLOR and never animates when not on a terminal."""
    return Console(stderr=True, highlight=False)


def epoch_line(
    record: Mapping[str, Any], epochs: int, left: float | None = None, width: int | None = None
) -> str:
    """One epoch in one line: losses, accuracies in percent, speed.

    Args:
        record: The metrics line.
        epochs: Of the run.
        left: Seconds that the rest will take.
        width: Characters that there are; what matters least goes first.
    """
    parts = {"epoch": f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}"}
    for split in ("train", "val", "test"):
        loss, accuracy = record.get(f"{split}/loss"), record.get(f"{split}/accuracy")
        if loss is not None and accuracy is not None:
            parts[split] = f"{split} loss {loss:.4f} acc {100 * accuracy:5.2f} %"
            parts[f"{split} short"] = f"{split} {loss:.4f} {100 * accuracy:5.2f} %"
    parts["lr"] = f"lr {record['optim/lr']:.3g}"
    parts["speed"] = f"{record['images_per_second']:,.0f} images/s"
    if left is not None:
        parts["left"] = f"{_duration(left)} left"
    splits = [split for split in ("train", "val", "test") if split in parts]
    whole = [name for name in parts if not name.endswith(" short")]
    short = [f"{name} short" if name in splits else name for name in whole]
    fewer = ([name for name in short if name not in gone] for gone in _LESS)
    lines = ["  ".join(parts[name] for name in names) for names in (whole, short, *fewer)]
    return next((line for line in lines if width is None or len(line) <= width), lines[-1])


_LESS = (("speed",), ("speed", "lr"), ("speed", "lr", "left"))
"""What an epoch's line is left without where it is too long, step by step."""


def _line_width(console: Console) -> int | None:
    """Where stderr goes to no terminal a line has no end, unless COLUMNS says so."""
    return console.width if console.is_terminal or os.environ.get("COLUMNS") else None


def _say(console: Console, line: str) -> None:
    """A line, on a terminal broken between words."""
    for part in shown_lines(line).split("\n"):
        lines = wrapped(part, console.width) if console.is_terminal else part
        console.print(lines, markup=False, soft_wrap=True)


def result_line(summary: Mapping[str, Any]) -> str:
    """One run's result in one line."""
    split = next(s for s in ("test", "val", "train") if f"{s}/accuracy" in summary)
    epochs = summary["epochs"]
    return (
        f"{summary['status']}: {summary['arm']}, seed {summary['seed']}, "
        f"{epochs} epoch{'' if epochs == 1 else 's'}, "
        f"{split} accuracy {100 * summary[f'{split}/accuracy']:.2f} %, "
        f"{summary['train_seconds']:.1f} s of training in {summary['precision']} "
        f"on {summary['device']} ({summary['note']})"
    )


def _live_bars(console: Console) -> Progress:
    """Bars with a description, a field `detail` and the time left, gone when done."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


class Forecast:
    """How long a run takes, from its first steps but the very first, in which buffers are made."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._first: tuple[float, int] | None = None
        self._told = False

    def after_step(self, position: Position, steps: int) -> str | None:
        """A line, once, as soon as enough steps are timed; None for a run of a few seconds."""
        if self._told:
            return None
        now, done = time.monotonic(), position.epoch * steps + position.step
        if self._first is None:
            self._first = now, done
            return None
        since, first = self._first
        timed = done - first
        if timed < 1 or (now - since < TIMED_SECONDS and timed < TIMED_STEPS):
            return None
        self._told = True
        left = (now - since) / timed * (self._epochs * steps - done)
        if left < WORTH_TELLING_SECONDS:
            return None
        ahead = self._epochs - position.epoch
        return (
            f"{ahead} epoch{'s' * (ahead > 1)} ahead: about {_duration(left)}, testing not counted "
            f"(from {timed} timed step{'s' * (timed > 1)})"
        )


class PlainWatcher(Watcher):
    """How long it will take, then one line an epoch, with the time left."""

    def __init__(self, console: Console, forecast: Forecast | None = None) -> None:
        self._console, self._forecast = console, forecast
        self._seconds: list[float] = []
        self._said = time.monotonic()

    def loading(self, what: str, done: int, total: int) -> None:
        """Say how far loading is, now and then."""
        if time.monotonic() - self._said > LOADING_SECONDS:
            self._said = time.monotonic()
            end = f" of {total:,}" if total else ""
            self._console.print(f"{what}: {done:,}{end}", markup=False, soft_wrap=True)

    def step(self, position: Position, steps: int) -> None:
        """Say once how long it will take."""
        if self._forecast and (line := self._forecast.after_step(position, steps)):
            self._console.print(line, markup=False, soft_wrap=True)

    def epoch(self, config: Config, record: Mapping[str, Any]) -> None:
        """Say how the epoch went."""
        epochs = config.train.epochs
        self._seconds.append(record["seconds"])
        left = (epochs - record["epoch"]) * sum(self._seconds) / len(self._seconds)
        line = epoch_line(record, epochs, left, _line_width(self._console))
        self._console.print(line, markup=False, soft_wrap=True)


class LiveWatcher(Watcher):
    """A bar that moves with the steps, and above it a line for each epoch."""

    def __init__(self, console: Console) -> None:
        self._progress = _live_bars(console)
        self._task: TaskID | None = None
        self._loading: TaskID | None = None
        self._config: Config | None = None
        self._forecast: Forecast | None = None
        self._refreshed = 0.0

    def loading(self, what: str, done: int, total: int) -> None:
        """Move the loading bar."""
        if self._loading is None:
            self._loading = self._progress.add_task("", total=None, detail="")
        self._progress.update(
            self._loading,
            description=escape(what),
            completed=done,
            total=total or None,  # rich pulses where the end is not known
            detail=f"{done:,}/{total:,}" if total else f"{done:,}",
        )
        if total and done >= total:
            self._progress.remove_task(self._loading)
            self._loading = None

    def starting(self, config: Config) -> None:
        """Know the length of the run that is about to start."""
        self._config, self._forecast = config, Forecast(config.train.epochs)

    def step(self, position: Position, steps: int) -> None:
        """Move the bar, at most a few times a second, and say once how long it will take."""
        if self._forecast and (line := self._forecast.after_step(position, steps)):
            self._progress.console.print(line, markup=False)
        now = time.monotonic()
        if self._config is None or now - self._refreshed < STEP_REFRESH_SECONDS:
            return
        self._refreshed = now
        total = steps * self._config.train.epochs
        if self._task is None:
            label = escape(f"{arm_label(self._config)} seed {self._config.seed}")
            self._task = self._progress.add_task(label, total=total, detail="")
        done = position.epoch * steps + position.step
        epoch = f"epoch {position.epoch + 1}/{self._config.train.epochs}"
        self._progress.update(
            self._task, completed=done, detail=f"{epoch} step {position.step}/{steps}"
        )

    def epoch(self, config: Config, record: Mapping[str, Any]) -> None:
        """Print the epoch's line above the bar."""
        console = self._progress.console
        line = epoch_line(record, config.train.epochs, width=console.width)
        console.print(line, markup=False)

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show the bar while the context lasts."""
        with self._progress:
            yield


@contextmanager
def loading_progress() -> Iterator[Callable[[str, int, int], None]]:
    """What to tell about reading data outside a run."""
    console = stderr_console()
    if not console.is_terminal:
        yield PlainWatcher(console).loading
        return
    watcher = LiveWatcher(console)
    with watcher.live():
        yield watcher.loading


@contextmanager
def watching(config: Config) -> Iterator[Watcher]:
    """A watcher that suits where stderr goes."""
    console = stderr_console()
    if not console.is_terminal:
        yield PlainWatcher(console, Forecast(config.train.epochs))
        return
    watcher = LiveWatcher(console)
    watcher.starting(config)
    with watcher.live():
        yield watcher


class PlainStudyWatcher(StudyWatcher):
    """A line for each run that ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._finished, self._total = 0, 0
        self._waited = False

    def say(self, line: str) -> None:
        """Print one line."""
        _say(self._console, line)

    def planned(self, finished: int, total: int) -> None:
        """Remember how far the study is."""
        self._finished, self._total = finished, total

    def ended(self, outcome: Outcome) -> None:
        """Say how a run ended."""
        self._finished += outcome.ending in {"done", "diverged"}
        if outcome.ending != "taken":
            self.say(f"{self._finished}/{self._total}  {outcome_line(outcome)}")

    def waiting(self, count: int) -> None:
        """Say once that others are at work."""
        if not self._waited:
            self._waited = True
            self.say(f"waiting for {count} runs that another process trains")


class LiveStudyWatcher(StudyWatcher):
    """An overall bar, under it a line per active run, and above it what has ended."""

    def __init__(self, console: Console) -> None:
        self._progress = _live_bars(console)
        self._overall = self._progress.add_task("runs", total=None, detail="")
        self._finished, self._total, self._failed = 0, 0, 0
        self._lines: dict[Path, TaskID] = {}
        self._refreshed = 0.0

    def say(self, line: str) -> None:
        """Print one line above the bars."""
        _say(self._progress.console, line)

    def planned(self, finished: int, total: int) -> None:
        """Set the length of the overall bar."""
        self._finished, self._total = finished, total
        self._show_overall(0.0)

    def running(self, cells: Sequence[Cell]) -> None:
        """Show how far each active run is, a few times a second."""
        now = time.monotonic()
        if now - self._refreshed < STUDY_REFRESH_SECONDS:
            return
        self._refreshed = now
        for root in self._lines.keys() - {cell.root for cell in cells}:
            self._progress.remove_task(self._lines.pop(root))
        parts = 0.0
        for cell in cells:
            epochs, total = epochs_done(cell), cell.config.train.epochs
            parts += epochs / total
            if cell.root not in self._lines:
                label = escape(f"  {cell.label}")
                self._lines[cell.root] = self._progress.add_task(label, total=total, detail="")
            self._progress.update(
                self._lines[cell.root], completed=epochs, detail=escape(show_progress(cell))
            )
        self._show_overall(parts)

    def ended(self, outcome: Outcome) -> None:
        """Print a run's end above the bars."""
        self._finished += outcome.ending in {"done", "diverged"}
        self._failed += outcome.ending == "failed"
        if outcome.ending != "taken":
            self.say(outcome_line(outcome))

    def waiting(self, count: int) -> None:
        """Say under the bar that others are at work."""
        self._progress.update(
            self._overall, detail=f"waiting for {count} runs that another process trains"
        )

    def _show_overall(self, parts: float) -> None:
        failed = f", {self._failed} failed" if self._failed else ""
        self._progress.update(
            self._overall,
            total=self._total,
            completed=self._finished + parts,
            detail=f"{self._finished}/{self._total} finished{failed}",
        )

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show the bars while the context lasts."""
        with self._progress:
            yield


def outcome_line(outcome: Outcome) -> str:
    """One run's end in one line."""
    what = show_progress(outcome.cell) if outcome.ending in {"done", "diverged"} else ""
    return f"{outcome.ending}: {outcome.cell.label}: {outcome.reason or what}".rstrip(": ")


@contextmanager
def watching_study() -> Iterator[tuple[StudyWatcher, Callable[[str], None]]]:
    """A watcher that suits where stderr goes, and a way to say a line there."""
    console = stderr_console()
    if not console.is_terminal:
        plain = PlainStudyWatcher(console)
        yield plain, plain.say
        return
    watcher = LiveStudyWatcher(console)
    with watcher.live():
        yield watcher, watcher.say


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
