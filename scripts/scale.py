#!/usr/bin/env python3
"""What a study of many cells costs beside its training: surveys, claims, `study status`, `compare`.

Usage: scripts/scale.py [--cells 10000] [--arms 10] [--workers 64] [--locks lease] [--folder DIR]

Real workers run a real study (`run_study`: survey, lock, record, survey again), each a process; but
nothing is trained: whoever has a cell's lock leaves the record of a finished run of five epochs.
All workers share this machine's cores, so what they take together is what counts: a worker's
processor seconds. Needs Linux, about 35 kB on the disk for each cell, and 200 MB of memory for each
worker that is at it at once (`--at-once`; the others follow).
"""

import argparse
import importlib
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import yaml
from made_runs import make_run

from bnlab.records import LockedError, RunDir
from bnlab.study import run as running
from bnlab.study.executors import EXECUTORS, Cell, ExecutorOptions, Outcome, StudyWatcher
from bnlab.study.plan import load_study
from bnlab.study.survey import Survey, survey_study
from bnlab.training.signals import StopRequest

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent


class Costs:
    """What one process has spent, by what it was spent on."""

    def __init__(self) -> None:
        self.times, self.seconds = dict[str, int](), dict[str, float]()

    def of(self, what: str, function: Callable[..., T]) -> Callable[..., T]:
        """The function, timed from now on."""

        def timed(*given: Any, **named: Any) -> T:
            began = time.process_time()
            try:
                return function(*given, **named)
            finally:
                self.times[what] = self.times.get(what, 0) + 1
                self.seconds[what] = self.seconds.get(what, 0.0) + time.process_time() - began

        return timed


COSTS = Costs()


def claim(cell: Cell) -> RunDir | None:
    """Lock a cell and let it go, as training does; None if another process has it."""
    run = RunDir(cell.root)
    if run.finished or run.locked:
        return None
    with ExitStack() as stack:
        try:
            held = stack.enter_context(run.lock())
        except LockedError:
            return None
        if run.finished:
            return None
        COSTS.of("record", _record)(cell)
        return held


def _record(cell: Cell) -> None:
    config = cell.config
    accuracy = 0.5 + 0.01 * len(cell.arm) + 0.0001 * (config.seed % 97)
    made = make_run(
        cell.root.parent.parent.parent,
        seed=config.seed,
        arm=cell.arm,
        accuracy=accuracy,
        config=config.resolved(),
    )
    assert made.root == cell.root


@EXECUTORS.register("made")
def run_made(
    cells: Sequence[Cell], _options: ExecutorOptions, stop: StopRequest, watcher: StudyWatcher
) -> Iterator[Outcome]:
    """Leaves a record in each cell that is to be had."""
    timed = COSTS.of("claim", claim)
    for cell in cells:
        if stop():
            return
        watcher.started(cell)
        yield Outcome(cell, "taken" if timed(cell) is None else "done")


def work(study_file: Path, runs: Path) -> dict[str, Any]:
    """What one worker does, and what that cost."""
    began, processor = time.perf_counter(), time.process_time()
    running.survey_study = COSTS.of("survey", survey_study)  # type: ignore[attr-defined]
    done = 0

    class Counting(StudyWatcher):
        def ended(self, outcome: Outcome) -> None:
            nonlocal done
            done += outcome.ending == "done"

    study = COSTS.of("plan", load_study)(study_file, runs_dir=runs)
    options = running.StudyOptions(jobs=1, device="cpu", executor="made", force=True)
    finished = running.run_study(study, runs, options, Counting())
    assert finished.survey.count("done") == finished.survey.total
    return {
        "done": done,
        "seconds": time.perf_counter() - began,
        "processor": time.process_time() - processor,
        "mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "times": COSTS.times,
        "spent": COSTS.seconds,
    }


MEASURE = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
if done.returncode:
    sys.exit(done.stderr[-2000:])
seconds, processor = time.perf_counter() - began, used.ru_utime + used.ru_stime
print(json.dumps(dict(seconds=seconds, processor=processor, mebibytes=used.ru_maxrss / 1024)))
"""
"""Started from this process, a command would be charged with the memory that this one has."""


def command(words: Sequence[str]) -> dict[str, float]:
    """A command of bnlab: its seconds, those of a processor, and its memory at most."""
    line = [sys.executable, "-m", "bnlab", *words]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *line],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr}")
    used: dict[str, float] = json.loads(done.stdout)
    return used


def write_study(folder: Path, cells: int, arms: int) -> Path:
    """A study of arms that differ in width, without tuning."""
    study = {
        "name": "scale",
        "set": {"dataset.name": "synthetic", "train.epochs": 5},
        "arms": {f"w{width}": {"model.widths": [8 + width, 16]} for width in range(arms)},
        "seeds": list(range(cells // arms)),
    }
    file = folder / "scale.yaml"
    file.write_text(yaml.safe_dump(study, sort_keys=False))
    return file


def measure(folder: Path, cells: int, arms: int, workers: int, at_once: int) -> dict[str, Any]:
    """Run the study in a folder, then look at it."""
    file, runs = write_study(folder, cells, arms), folder / "runs"
    began = time.process_time()
    study = load_study(file, runs_dir=runs)
    planned = time.process_time() - began
    found: dict[str, Any] = {"cells": cells, "arms": arms, "workers": workers, "plan": planned}
    found["empty survey"] = _timed(lambda: survey_study(study, runs))
    began = time.perf_counter()
    importlib.import_module("bnlab.study.images")  # loads torch, once for all workers
    forks = multiprocessing.get_context("fork")
    with forks.Pool(min(at_once, workers), maxtasksperchild=1) as pool:
        told = pool.starmap(work, [(file, runs)] * workers, chunksize=1)
    found["seconds"] = time.perf_counter() - began
    if sum(one["done"] for one in told) != cells:
        raise SystemExit(f"{sum(one['done'] for one in told)} cells were trained, not {cells}")
    found["workers told"] = told
    found["whole survey"] = _timed(lambda: survey_study(study, runs))
    found["study status"] = command(["study", "status", str(file), "--runs-dir", str(runs)])
    found["compare"] = command(
        ["compare", str(runs), "--baseline", "w0", "--out", str(folder / "report")]
    )
    return found


def _timed(look: Callable[[], Survey]) -> float:
    began = time.process_time()
    look()
    return time.process_time() - began


def show(found: Mapping[str, Any]) -> str:
    """A table: what, in all, for each cell."""
    cells, told = found["cells"], found["workers told"]

    def spent(what: str) -> tuple[int, float]:
        return (
            sum(one["times"].get(what, 0) for one in told),
            sum(one["spent"].get(what, 0.0) for one in told),
        )

    def row(what: str, times: int, seconds: float) -> str:
        each = 1e6 * seconds / max(1, times)
        return f"{what:<44}{times:>9}{seconds:>10.2f}{each:>12.0f}"

    surveys, surveying = spent("survey")
    claims, claiming = spent("claim")
    records, recording = spent("record")
    most = max(one["mebibytes"] for one in told)
    lines = [
        f"{cells} cells, {found['arms']} arms, {found['workers']} workers, {os.cpu_count()} cores",
        f"{'processor time':<44}{'times':>9}{'s':>10}{'us for each':>12}",
        row("plan, by cell", cells, found["plan"]),
        row("survey of nothing, by cell", cells, found["empty survey"]),
        row("survey of all finished, by cell", cells, found["whole survey"]),
        row(f"{surveys} surveys by the workers, by cell", surveys * cells, surveying),
        row("tries to claim, without the record", claims, claiming - recording),
        row("made records", records, recording),
        row("in all, by cell", cells, sum(one["processor"] for one in told)),
        f"workers: {found['seconds']:.1f} s together, {most:.0f} MiB each at most",
    ]
    lines += [
        f"bnlab {name}: {found[name]['processor']:.1f} s of a processor, "
        f"{found[name]['seconds']:.1f} s on the clock, {found[name]['mebibytes']:.0f} MiB"
        for name in ("study status", "compare")
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure, print, and clear away."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--arms", type=int, default=10)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--at-once", type=int, default=64, help="workers, as far as memory goes")
    parser.add_argument("--locks", choices=("flock", "lease"), help="by default as the folder has")
    parser.add_argument("--folder", type=Path, help="where to work; what is made is deleted")
    parser.add_argument("--out", type=Path, help="all figures, as JSON")
    given = parser.parse_args()
    if min(given.arms, given.workers, given.at_once) < 1 or given.cells < given.arms:
        parser.error("at least one arm, one worker, and a cell for each arm")
    if given.cells % given.arms:
        parser.error(f"--cells {given.cells}: must be a multiple of --arms {given.arms}")
    if given.locks:
        os.environ["BNLAB_LOCKS"] = given.locks
    with tempfile.TemporaryDirectory(prefix="bnlab-scale-", dir=given.folder) as folder:
        found = measure(Path(folder), given.cells, given.arms, given.workers, given.at_once)
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n")
    print(show(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
