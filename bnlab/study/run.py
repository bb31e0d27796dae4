"""Running a study: train what is missing, whoever else may be at it."""

import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bnlab import __version__
from bnlab.config import differences, parse_yaml, read_file
from bnlab.errors import BnlabError, ConfigError, RefusedError, StopRequestedError
from bnlab.records import LockedError, RunDir, read_facts, storage, write_text
from bnlab.study.board import Board
from bnlab.study.estimate import budget_excess, estimate_left
from bnlab.study.executors import (
    EXECUTORS,
    Executor,
    ExecutorOptions,
    StudyWatcher,
    executor_for,
    share_cores,
)
from bnlab.study.fleet import (
    Fleet,
    Hiring,
    Orders,
    code_of_all,
    hired_before,
    token_of,
    write_orders,
)
from bnlab.study.load import load_plan
from bnlab.study.plan import STORED, Study, stored_path
from bnlab.study.survey import Known, Survey, survey_study
from bnlab.training.signals import StopRequest, stop_on_signal

if TYPE_CHECKING:
    from bnlab.study.images import ImagesAtHand

WAIT_SECONDS = 1.0
"""How often to look whether other processes have finished the cells they train."""

WAIT_SURVEYS = 5
"""At least so many times as long as looking takes."""


class StudyFailedError(BnlabError):
    """Some runs of a study failed; all others are finished."""

    exit_code = 6


@dataclass(frozen=True)
class StudyOptions:
    """How to run a study, as opposed to what.

    Attributes:
        jobs: Runs at once; None for as many as suit the machine.
        device: As for a single run.
        deterministic: As for a single run.
        executor: Name in `EXECUTORS`; None for `executor_for` the device.
        force: Go beyond the study's budget.
        hiring: For an executor that starts workers elsewhere: which.
    """

    jobs: int | None = None
    device: str = "auto"
    deterministic: bool = False
    executor: str | None = None
    force: bool = False
    hiring: Hiring | None = None


@dataclass(frozen=True)
class Finished:
    """A study that has been run as far as it goes.

    Attributes:
        survey: Where it stands.
        failures: What each failed run said last, by label.
    """

    survey: Survey
    failures: Mapping[str, str]


def run_study(
    study: Study,
    runs_dir: Path,
    options: StudyOptions | None = None,
    watcher: StudyWatcher | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> Finished:
    """Train what is missing, resume what was cut off, leave alone what is finished.

    Several processes may run one study: a cell goes to whoever locks its directory first, and the
    cells of a process that died are free again.

    Args:
        study: What to run.
        runs_dir: Folder of all runs.
        options: How to run it.
        watcher: Told how it goes.
        say: Told what deserves a line before it begins.

    Raises:
        RefusedError: If the plan goes beyond its budget, finished runs would no longer be part
            of the study, or they were trained on other images than those at hand.
        StopRequestedError: On SIGTERM or Ctrl-C, with every run checkpointed.
    """
    options, watcher = options or StudyOptions(), watcher or StudyWatcher()
    executor, settings, images = prepare_study(study, runs_dir, options, say)
    known: Known = {}

    failures: dict[str, str] = {}
    running = set[Path]()
    board = Board(study, settings.logs.parent)
    with stop_on_signal() as stop, settings.fleet or nullcontext():
        while not stop():
            began = time.monotonic()
            survey = survey_study(study, runs_dir, known)
            images.refuse_others(survey)  # another process may have finished some on its own
            watcher.planned(survey.count("done", "diverged"), survey.total)
            left = [
                (cell, state) for cell, state in survey.unfinished() if cell.label not in failures
            ]
            free = [cell for cell, state in left if state != "running"]
            _release_lapsed(cell.root for cell in free if cell.root in running)
            running = {cell.root for cell, state in left if state == "running"}
            if not left:
                break
            if not free:
                watcher.waiting(len(left))
                _wait(WAIT_SURVEYS * (time.monotonic() - began), stop)
            for outcome in executor(free, settings, stop, watcher):
                if outcome.ending == "failed":
                    failures[outcome.cell.label] = outcome.reason
                watcher.ended(outcome)
                board.ended(survey, outcome)
        if stop():
            raise _stopped(survey_study(study, runs_dir, known), stop)
    board.close(survey)
    for cell, state in survey.cells.values():
        if state == "failed":  # in another process, or finished and damaged since
            failures.setdefault(cell.label, survey.reasons.get(cell.root, "unknown"))
        elif state in ("done", "diverged"):  # another process tried it again
            failures.pop(cell.label, None)
    return Finished(survey, failures)


def _wait(seconds: float, stop: StopRequest) -> None:
    """Many may wait for the last cells: they must not keep the folder's server busy by looking."""
    until = time.monotonic() + seconds
    time.sleep(WAIT_SECONDS)
    while time.monotonic() < until and not stop():
        time.sleep(WAIT_SECONDS)


def _release_lapsed(roots: Iterable[Path]) -> None:
    """Let workers have cells whose leases this process has seen lapse: they would watch anew."""
    for root in roots:
        with suppress(LockedError), RunDir(root).lock():
            pass


def prepare_study(
    study: Study, runs_dir: Path, options: StudyOptions, say: Callable[[str], None]
) -> tuple[Executor, ExecutorOptions, "ImagesAtHand"]:
    """All that is settled before anything is trained: as for `run_study`, which says the rest.

    Raises:
        ConfigError: If there is no such executor or device, or the executor starts workers and
            none are asked for.
        RefusedError: As `run_study`.
    """
    from bnlab.study.images import ImagesAtHand  # loads torch

    name = options.executor or executor_for(options.device)
    executor = EXECUTORS[name]
    if "hires" in EXECUTORS.entry(name).facts and options.hiring is None:
        raise ConfigError(f"--executor {name}: only `bnlab study run` starts workers elsewhere")
    survey, images = survey_study(study, runs_dir), ImagesAtHand()
    images.refuse_others(survey)
    _refuse_beyond_budget(survey, runs_dir, force=options.force)
    _store(study, runs_dir, say)
    settings = _settings(survey, options, name)
    if options.hiring is not None:
        settings = replace(settings, fleet=_muster(study, runs_dir, options, settings, name))
    elif survey.unfinished():
        say(_shared_out(settings, _earlier_threads(survey)))
    return executor, settings, images


def _settings(survey: Survey, options: StudyOptions, executor: str) -> ExecutorOptions:
    facts, threads = EXECUTORS.entry(executor).facts, _earlier_threads(survey)
    jobs = 1 if "one_by_one" in facts else options.jobs
    if "hires" in facts:  # what devices and cores the workers have shows there
        jobs, threads = options.jobs or 1, share_cores(1, "cpu", threads or 1)[1]
    else:
        jobs, threads = share_cores(jobs, options.device, threads)
    logs = survey.folder / "logs"
    return ExecutorOptions(jobs, threads, options.device, options.deterministic, logs)


def _muster(
    study: Study, runs_dir: Path, options: StudyOptions, settings: ExecutorOptions, executor: str
) -> Fleet:
    """Write down what workers must know before any is started."""
    assert options.hiring is not None
    folder = (runs_dir / study.spec.name).resolve()
    orders = Orders(
        token=token_of(folder),
        bnlab=__version__,
        code=code_of_all(study.configs.values()),
        study=folder / STORED,
        runs_dir=runs_dir.resolve(),
        cwd=Path.cwd(),
        device=options.device,
        deterministic=options.deterministic,
        jobs=options.jobs,
        threads=settings.threads,
        executor=executor,
        hired=hired_before(folder, executor),
    )
    write_orders(folder, orders)
    return Fleet(folder, options.hiring)


def _shared_out(settings: ExecutorOptions, earlier: int | None) -> str:
    said = f"runs at once: {settings.jobs}, CPU threads for each: {settings.threads}"
    if earlier in (None, settings.threads):
        return said
    return f"{said} (earlier runs had {earlier}: other last bits; OMP_NUM_THREADS sets them)"


def _stopped(survey: Survey, stop: StopRequest) -> StopRequestedError:
    return StopRequestedError(
        f"{survey.folder}: stopped by {stop.name or 'a signal'}; "
        f"{survey.count('done', 'diverged')} of {survey.total} runs are finished, those under way "
        "are checkpointed; the same command goes on",
        exit_code=stop.exit_code,
    )


def raise_failures(finished: Finished, command: Sequence[str]) -> None:
    """Say which runs failed and how to try them again.

    Raises:
        StudyFailedError: If any failed.
    """
    if finished.failures:
        alike: dict[str, list[str]] = {}
        for label, reason in finished.failures.items():
            alike.setdefault(reason, []).append(label)
        said = "\n".join(
            f"  {label}{f' and {len(others)} more' if others else ''}: {reason}"
            for reason, (label, *others) in alike.items()
        )
        raise StudyFailedError(
            f"{len(finished.failures)} of {finished.survey.total} runs failed; all others are "
            f"finished or wait for them:\n{said}\ntheir logs are in "
            f"{finished.survey.folder / 'logs'}; try them again with\n  {shlex.join(command)}"
        )


def _refuse_beyond_budget(survey: Survey, runs_dir: Path, *, force: bool) -> None:
    over = budget_excess(survey, estimate_left(survey, runs_dir))
    if over and not force:
        raise RefusedError(f"{over}; raise the study's budget, or use --force")


def _earlier_threads(survey: Survey) -> int | None:
    for root in survey.cells:
        try:
            threads = read_facts(RunDir(root).files).environment.threads
        except BnlabError:
            continue
        if threads:
            return threads
    return None


def _store(study: Study, runs_dir: Path, say: Callable[[str], None]) -> None:
    """Keep the study beside its runs; say what has changed since it was run last."""
    path = study.stored or stored_path(runs_dir, study.spec.name)
    if path.exists():
        before = read_file(path).tree
        changes = [
            f"  {key}: {was} -> {now}"
            for key, was, now in differences(before, parse_yaml(study.text, str(path)).tree)
        ]
        if changes:
            said = "\n".join(changes)
            lost = _no_longer_part(path, study, runs_dir)
            if lost:
                raise RefusedError(
                    f"{path}: the study has changed so that {len(lost)} finished runs are no "
                    f"longer part of it, {lost[0]} for one; leaving out runs whose outcome is "
                    f"known biases the rest, so use another --name\n{said}"
                )
            say(f"the study has changed since it was run last:\n{said}")
    if not path.exists() or path.read_text(encoding="utf-8") != study.text:
        with storage(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, study.text)


def _no_longer_part(path: Path, study: Study, runs_dir: Path) -> list[Path]:
    plan = load_plan(path)
    before = replace(study, **vars(plan)).possible_roots(runs_dir)
    now = study.possible_roots(runs_dir)
    return sorted(root for root in before - now if RunDir(root).finished)
