"""Workers elsewhere: started, followed, refused, lost and let go."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import slurm_cluster
import yaml
from conftest import TINY
from trained_runs import assert_same_run
from typer.testing import CliRunner

from bnlab.cli import app
from bnlab.cli.hiring import hire
from bnlab.errors import BnlabError, ConfigError, RefusedError, StopRequestedError
from bnlab.records import RunDir
from bnlab.study import run as running
from bnlab.study.cluster import look_at_workers
from bnlab.study.executors import Outcome, StudyWatcher, slurm
from bnlab.study.executors._follow import Alive, NoWorkersError
from bnlab.study.executors.ray import read_settings as read_ray_settings
from bnlab.study.fleet import (
    Fleet,
    Hiring,
    OnInterrupt,
    WorkerNote,
    last_words,
    read_notes,
    read_orders,
    write_note,
    write_orders,
)
from bnlab.study.plan import load_study
from bnlab.study.render import render_workers
from bnlab.study.run import Finished, StudyOptions, prepare_study, run_study
from bnlab.study.survey import survey_study
from bnlab.study.worker import work
from bnlab.training.signals import StopRequest

needs_slurm = pytest.mark.skipif(bool(slurm_cluster.missing()), reason=slurm_cluster.missing())
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")

TUNED: Mapping[str, Any] = {"tune": {"optim.lr": [0.01, 0.05]}, "tune_seeds": 1}


def write_study(folder: Path, *settings: str, **changes: Any) -> Path:
    """A study of two arms and two seeds."""
    pairs = [text.partition("=") for text in (*TINY, "dataset.val_size=40", *settings)]
    study = {
        "name": "tiny",
        "set": {
            key: yaml.safe_load(value)
            for key, _, value in pairs
            if key != "name" and key not in changes.get("tune", ())
        },
        "arms": {"none": {"model.norm": "none"}, "batch": {"model.norm.name": "batch"}},
        "seeds": 2,
        **changes,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


class Hears(StudyWatcher):
    def __init__(self) -> None:
        self.said, self.outcomes = list[str](), list[Outcome]()

    def say(self, line: str) -> None:
        self.said.append(line)

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


def run_with_workers(
    file: Path,
    workers: int = 1,
    watcher: StudyWatcher | None = None,
    *,
    runs: str = "runs",
    on_interrupt: OnInterrupt = "detach",
) -> Finished:
    options = StudyOptions(1, "cpu", executor="slurm", hiring=Hiring(workers, {}, on_interrupt))
    runs_dir = file.parent / runs
    return run_study(load_study(file, runs_dir=runs_dir), runs_dir, options, watcher)


def run_here(file: Path, runs: str = "local") -> Finished:
    runs_dir = file.parent / runs
    options = StudyOptions(1, "cpu", executor="inline")
    return run_study(load_study(file, runs_dir=runs_dir), runs_dir, options)


def assert_same_study(one: Path, two: Path, runs: int) -> None:
    found = sorted(path.parent.relative_to(one) for path in one.glob("*/*/summary.json"))
    assert len(found) == runs
    assert found == sorted(path.parent.relative_to(two) for path in two.glob("*/*/summary.json"))
    for root in found:
        assert_same_run(one / root, two / root)


# ------------------------------------------------------------------- workers in this process


class Hands:
    """Workers that do all their work in this process, at the moment they are asked for."""

    detaches = True
    asked = 0
    from_before: Sequence[str] = ()

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    def hire(self, count: int) -> list[str]:
        type(self).asked += count
        names = [f"hand-{number}" for number in range(count)]
        for name in names:
            self.act(name)
        return names

    def act(self, name: str) -> None:
        try:
            work(self.fleet.folder, self.token, name)
        except BnlabError:
            assert read_notes(self.fleet.folder)[name].state in ("refused", "failed", "ended")

    @property
    def token(self) -> str:
        return self.fleet.orders.token

    def alive(self, names: Sequence[str]) -> Mapping[str, Alive]:
        return {name: Alive("running", "here") for name in self.from_before}

    def cancel(self, names: Sequence[str]) -> None:
        type(self).from_before = ()

    def last_words(self, name: str) -> str:
        return last_words(self.fleet.folder, name)

    def advice(self, names: Sequence[str]) -> str:
        return "scancel 1"


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> type[Hands]:
    class Fresh(Hands):
        pass

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(slurm, "make_starter", Fresh)
    monkeypatch.setattr(running, "executor_for", lambda _device: "inline")
    monkeypatch.setattr("bnlab.study.executors._follow.LOOK_SECONDS", 0.01)
    monkeypatch.setattr("bnlab.study.executors._follow.ASK_SECONDS", 0.0)
    return Fresh


def test_workers_train_a_study_through_all_its_stages_to_the_bits_of_a_local_one(
    tmp_path: Path, hands: type[Hands]
) -> None:
    file = write_study(tmp_path, "train.epochs=1", **TUNED, seeds=1)
    watcher = Hears()
    assert run_with_workers(file, 1, watcher).failures == {}
    assert run_here(file).failures == {}
    assert_same_study(tmp_path / "runs" / "tiny", tmp_path / "local" / "tiny", 6)
    assert {outcome.ending for outcome in watcher.outcomes} <= {"done", "diverged"}
    assert hands.asked == 1
    (worker,) = look_at_workers(tmp_path / "runs" / "tiny")
    assert (worker.name, worker.state) == ("hand-0", "ended")


def test_a_run_that_fails_with_a_worker_is_told_as_one_that_fails_here(
    tmp_path: Path, hands: type[Hands]
) -> None:
    file = write_study(tmp_path)
    arms = {"batch": {"model.norm.name": "batch"}, "refused": {"train.batch_size": 1}}
    changed = yaml.safe_load(file.read_text()) | {"arms": arms}
    file.write_text(yaml.safe_dump(changed))
    there, here = run_with_workers(file), run_here(file)
    assert there.failures == here.failures
    assert len(there.failures) == 2


def test_what_failed_with_workers_that_are_ahead_of_who_watches_is_told_too(
    tmp_path: Path, hands: type[Hands]
) -> None:
    arms = {"batch": {"model.norm.name": "batch"}, "refused": {"train.batch_size": 1}}
    study = load_study(write_study(tmp_path, arms=arms, seeds=1), runs_dir=tmp_path / "runs")
    options = StudyOptions(1, "cpu", executor="slurm", hiring=Hiring(1, {}, "detach"))
    executor, settings, _ = prepare_study(study, tmp_path / "runs", options, print)
    cells = [cell for cell, _ in survey_study(study, tmp_path / "runs").unfinished()]
    endings = [
        outcome.ending
        for stage in (cells[:1], cells[1:])
        for outcome in executor(stage, settings, StopRequest(), StudyWatcher())
    ]
    assert endings[1:] == ["failed"]
    assert hands.asked == 1


def test_no_more_workers_are_asked_for_than_are_missing(tmp_path: Path, hands: type[Hands]) -> None:
    hands.from_before = ("1_0", "1_1")
    watcher = Hears()
    run_with_workers(write_study(tmp_path), 3, watcher)
    assert hands.asked == 1
    assert "workers of this study that are alive: 1_0, 1_1" in watcher.said
    assert set(read_orders(tmp_path / "runs" / "tiny").hired) == {"1_0", "1_1", "hand-0"}


def test_a_study_that_loses_its_last_worker_says_what_that_said(
    tmp_path: Path, hands: type[Hands], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: Hands, name: str) -> None:
        write_note(self.fleet.folder, WorkerNote(name=name, host="h", pid=1, state="working"))
        (self.fleet.workers / f"{name}_0_log.err").write_text("begins\nslurmstepd: oom-kill\n")

    monkeypatch.setattr(hands, "act", die)
    with pytest.raises(NoWorkersError, match=r"4 runs are not finished.*\n.*hand-0: .*oom-kill"):
        run_with_workers(write_study(tmp_path))


def other_version(folder: Path) -> None:
    write_orders(folder, read_orders(folder).model_copy(update={"bnlab": "0.0.1"}))


def other_code(folder: Path) -> None:
    orders = read_orders(folder)
    code = {**orders.code, "training/loop.py": "0" * 16}
    write_orders(folder, orders.model_copy(update={"code": code}))


def other_place(folder: Path) -> None:
    write_orders(folder, read_orders(folder).model_copy(update={"cwd": folder / "nowhere"}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_version, "written by bnlab 0.0.1, this is bnlab "),
        (other_code, "its code is not that of whoever hires: training/loop.py differ"),
        (other_place, "nowhere: No such file or directory"),
    ],
)
def test_a_worker_that_differs_trains_nothing_and_whoever_hired_it_shows_why(
    tmp_path: Path,
    hands: type[Hands],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    said: str,
) -> None:
    def act(self: Hands, name: str) -> None:
        before, token = self.fleet.orders, self.token
        change(self.fleet.folder)
        with pytest.raises(RefusedError, match=said):
            work(self.fleet.folder, token, name)
        write_orders(self.fleet.folder, before)

    monkeypatch.setattr(hands, "act", act)
    with pytest.raises(RefusedError, match=f"hand-0: refused: .*{said}"):
        run_with_workers(write_study(tmp_path))
    assert not list((tmp_path / "runs").rglob("metrics.jsonl"))
    assert f"worker hand-0: refused ({os.uname().nodename})" in render_workers(
        look_at_workers(tmp_path / "runs" / "tiny")
    )


def test_a_worker_that_sees_another_folder_of_that_name_leaves_it_alone(
    tmp_path: Path, hands: type[Hands]
) -> None:
    file = write_study(tmp_path, seeds=1)
    run_with_workers(file)
    folder = tmp_path / "runs" / "tiny"
    notes = read_notes(folder)
    with pytest.raises(RefusedError, match="another folder than the one the study was run in"):
        work(folder, "0" * 32, "stray")
    assert read_notes(folder) == notes
    with pytest.raises(RefusedError, match=r"not there, or without workers/orders\.json"):
        work(tmp_path / "elsewhere", "0" * 32, "stray")


@pytest.mark.parametrize("wish", ["detach", "cancel"])
def test_ctrl_c_leaves_workers_alone_or_stops_them(
    tmp_path: Path, hands: type[Hands], wish: OnInterrupt
) -> None:
    hands.from_before = ("1_0",)
    file = write_study(tmp_path)
    runs_dir = tmp_path / "runs"
    study = load_study(file, runs_dir=runs_dir)
    options = StudyOptions(1, "cpu", executor="slurm", hiring=Hiring(1, {}, wish))
    executor, settings, _ = prepare_study(study, runs_dir, options, print)
    cells = [cell for cell, _ in survey_study(study, runs_dir).unfinished()]
    outcomes, stop = list[Outcome](), StopRequest("SIGINT", 130)
    with RunDir(cells[0].root).lock() if cells[0].root.exists() else _locked(cells[0].root):
        ending = executor(cells, settings, stop, StudyWatcher())
        if wish == "detach":
            with pytest.raises(StopRequestedError, match=r"1 workers go on: 1_0; .*`scancel 1`"):
                outcomes.extend(ending)
            assert list(hands.from_before) == ["1_0"]
        else:
            outcomes.extend(ending)
            assert not hands.from_before
            assert [(end.cell.root, end.ending) for end in outcomes] == [(cells[0].root, "stopped")]
    assert hands.asked == 0


def _locked(root: Path) -> Any:
    root.mkdir(parents=True)
    return RunDir(root).lock()


# ---------------------------------------------------------------------- what may be asked of them


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partitoin=gpu", "unknown setting 'partitoin'; did you mean 'partition'"),
        ("array=0-3", "not to be set: --workers says how many"),
        ("--signal=USR1@60", "not to be set: signal_delay_s says how early"),
        ("time", "expected KEY=VALUE"),
        ("mem=", "expected KEY=VALUE"),
        ("comment=a\n#SBATCH --uid=0", "expected one line"),
        ("signal_delay_s=soon", "expected a number from 1"),
    ],
)
def test_what_sbatch_does_not_have_or_bnlab_settles_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        slurm.read_settings([text])


def test_settings_are_read_as_submitit_or_sbatch_spell_them() -> None:
    words = [
        "slurm_partition=a=b",
        "gpus-per-node=1",
        "exclusive",
        "setup=module load x",
        "setup=y",
    ]
    assert slurm.read_settings(words) == {
        "partition": "a=b",
        "gpus_per_node": "1",
        "exclusive": "",
        "setup": "module load x\ny",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpus=1", "unknown setting 'gpus'; did you mean 'num_gpus'"),
        ("num_gpus=1.5", "expected a number, or a part of one GPU"),
        ("num_gpus=nan", "expected a number, or a part of one GPU"),
        ("num_cpus=0", "expected a number from 1"),
    ],
)
def test_what_ray_does_not_count_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_ray_settings([text])
    assert read_ray_settings(["num_gpus=0.25"]) == {"num_cpus": "1", "num_gpus": "0.25"}


def test_options_for_workers_belong_to_executors_that_have_some() -> None:
    def ask(executor: str | None, workers: int | None = None, **more: Any) -> Hiring | None:
        options = {"slurm": None, "ray": None, "ray_address": None, "on_interrupt": None}
        return hire(executor, workers, **{**options, "script": False, **more})

    assert ask(None) is None
    for more in ({"workers": 2}, {"slurm": ["time=1"]}, {"script": True}):
        with pytest.raises(ConfigError, match="belongs to --executor slurm"):
            ask("processes", **more)
    with pytest.raises(ConfigError, match="--slurm belongs to --executor slurm"):
        ask("ray", 2, slurm=["time=1"])
    with pytest.raises(ConfigError, match="needs --workers N"):
        ask("slurm")
    with pytest.raises(ConfigError, match="expected detach or cancel"):
        ask("slurm", 1, on_interrupt="ask")
    with pytest.raises(ConfigError, match="workers on Ray end with whoever started them"):
        ask("ray", 1, on_interrupt="detach")


def test_what_is_not_installed_is_named_with_what_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(BnlabError, match="no sbatch and srun on PATH"):
        slurm.refuse_without_slurm()
    monkeypatch.setattr(slurm, "find_spec", lambda _name: None)
    with pytest.raises(BnlabError, match=r"pip install 'bnlab\[slurm\]'"):
        slurm.refuse_without_slurm()
    monkeypatch.setattr("bnlab.study.executors.ray.find_spec", lambda _name: None)
    with pytest.raises(BnlabError, match=r"pip install 'bnlab\[ray\]'"):
        hire("ray", 1, None, None, None, None, script=False)


def test_claims_start_no_workers(tmp_path: Path) -> None:
    runs_dir = tmp_path / "runs"
    study = load_study(write_study(tmp_path), runs_dir=runs_dir)
    with pytest.raises(ConfigError, match="only `bnlab study run` starts workers elsewhere"):
        run_study(study, runs_dir, StudyOptions(executor="slurm"))


def test_print_gives_a_script_for_sbatch_without_submitit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    monkeypatch.setenv("PATH", "/nonexistent")
    runs = tmp_path / "100% runs"
    words = ["study", "run", str(write_study(tmp_path)), "--runs-dir", str(runs)]
    words += ["--executor", "slurm", "--workers", "3", "--print"]
    for setting in ("gres=gpu:1", "setup=module load cuda", "cpus_per_task=4", "exclusive="):
        words += ["--slurm", setting]
    printed = CliRunner().invoke(app, words)
    assert printed.exit_code == 0, printed.output
    lines = printed.stdout.splitlines()
    assert lines[0] == "#!/bin/bash"
    for line in ("array=0-2", "gres=gpu:1", "requeue", "signal=TERM@90", "exclusive"):
        assert f"#SBATCH --{line}" in lines
    assert f"#SBATCH --output='{tmp_path}/100%% runs/tiny/workers/%A_%a.log'" in lines
    assert lines[-2] == "module load cuda"
    folder = runs / "tiny"
    assert lines[-1] == (
        f"srun --unbuffered --cpus-per-task=4 {sys.executable} -m bnlab study work '{folder}' "
        f"--token {read_orders(folder).token}"
    )


# ------------------------------------------------------------------------- what Slurm answers


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Lets a command of Slurm's answer; what it is called with is kept in the file it gives."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def make(command: str, stdout: str = "", stderr: str = "", code: int = 0) -> Path:
        calls, program = tmp_path / f"{command}.calls", tmp_path / command
        program.write_text(
            f'#!/bin/sh\necho "$*" >> "{calls}"\ncat <<"EOF"\n{stdout}\nEOF\n'
            f'[ -z "{stderr}" ] || echo "{stderr}" >&2\nexit {code}\n'
        )
        program.chmod(0o755)
        return calls

    return make


def test_the_queue_is_read_as_squeue_tells_it(answer: Callable[..., Path]) -> None:
    answer("squeue", "7_0|RUNNING|node1\n7_1|PENDING|(Priority)\n9|RUNNING|node2")
    assert slurm.ask_queue(["7_0", "7_1", "7_2", "ray-1"]) == {
        "7_0": Alive("running", "node1"),
        "7_1": Alive("pending", "Priority"),
    }
    answer("squeue", "", "slurm_load_jobs error: Invalid job id specified", 1)
    assert slurm.ask_queue(["7_0"]) == {}


def test_a_controller_that_does_not_answer_takes_no_worker_for_dead(
    tmp_path: Path, answer: Callable[..., Path]
) -> None:
    jobs = slurm.Jobs(Fleet(tmp_path, Hiring(1, {}, "detach")))
    answer("squeue", "7|RUNNING|node1")
    assert list(jobs.alive(["7"])) == ["7"]
    answer("squeue", "", "slurm_load_jobs error: Unable to contact slurm controller", 1)
    assert list(jobs.alive(["7"])) == ["7"]


@pytest.mark.parametrize(
    ("state", "again"), [("RUNNING", True), ("CANCELLED", False), ("PENDING", False)]
)
def test_a_worker_goes_back_into_the_queue_unless_it_was_cancelled_or_is_there_already(
    answer: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, state: str, again: bool
) -> None:
    def work(*_: Any) -> None:
        raise StopRequestedError("stopped by SIGTERM", 75)

    calls = answer("scontrol", f"JobId=8 ArrayJobId=7 JobState={state} Reason=None")
    monkeypatch.setattr("bnlab.study.worker.work", work)
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    with pytest.raises(StopRequestedError):
        slurm.work_as_job(Path("study"), "token")
    assert ("requeue 7_1" in calls.read_text().splitlines()) is again


# ------------------------------------------------------------------------- workers that are real


class LocalJobs(Hands):
    """Workers by submitit's local executor, in Slurm's place."""

    lost: Callable[["LocalJobs"], None] = staticmethod(lambda _self: None)
    jobs: dict[str, Any]

    def hire(self, count: int) -> list[str]:
        from submitit import LocalExecutor

        executor = LocalExecutor(self.fleet.workers)
        executor.update_parameters(timeout_min=5)
        jobs = executor.map_array(slurm.Job(str(self.fleet.folder), self.token), range(count))
        self.jobs = {str(job.job_id): job for job in jobs}
        return list(self.jobs)

    def alive(self, names: Sequence[str]) -> Mapping[str, Alive]:
        type(self).lost(self)
        jobs = {name: self.jobs[name] for name in names if name in self.jobs}
        return {name: Alive("running") for name, job in jobs.items() if job.state == "RUNNING"}


@pytest.fixture
def local_jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[LocalJobs]]:
    made = list[LocalJobs]()

    class Fresh(LocalJobs):
        def __init__(self, fleet: Fleet) -> None:
            super().__init__(fleet)
            made.append(self)

    # Not "error": a worker is another process, which has the warnings of its own packages.
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(slurm, "make_starter", Fresh)
    monkeypatch.setattr("bnlab.study.executors._follow.ASK_SECONDS", 0.2)
    monkeypatch.setattr("bnlab.study.executors._follow.LOOK_SECONDS", 0.2)
    yield Fresh
    for one in made:
        for job in one.jobs.values():
            job._process.wait(60)


def test_a_job_of_submitit_that_is_no_part_of_the_study_says_so_in_its_log(
    tmp_path: Path, local_jobs: type[LocalJobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_jobs, "token", "0" * 32)
    said = r"worker \d+: bnlab: worker on .*: another folder than the one the study was run in"
    with pytest.raises(NoWorkersError, match=said):
        run_with_workers(write_study(tmp_path))


@pytest.mark.slow
def test_jobs_of_submitit_of_which_one_is_killed_leave_the_bits_of_a_local_study(
    tmp_path: Path, local_jobs: type[LocalJobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = list[int]()

    def lost(self: LocalJobs) -> None:
        working = [note for note in read_notes(self.fleet.folder).values() if note.pid]
        if len(working) == 2 and not killed and list(self.fleet.folder.rglob("metrics.jsonl")):
            killed.append(working[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(local_jobs, "lost", lost)
    file = write_study(tmp_path, "train.epochs=100")
    assert run_with_workers(file, 2).failures == {}
    assert killed
    run_here(file)
    assert_same_study(tmp_path / "runs" / "tiny", tmp_path / "local" / "tiny", 4)


def bnlab(*words: str, cwd: Path, **variables: str) -> "subprocess.Popen[str]":
    root = Path(running.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        [sys.executable, "-m", "bnlab", *words],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def working(folder: Path, count: int) -> dict[str, WorkerNote]:
    """So many workers, as soon as there are that many at work, with an epoch on record."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        notes = {n: note for n, note in read_notes(folder).items() if note.state == "working"}
        if len(notes) >= count and list(folder.rglob("metrics.jsonl")):
            return notes
        time.sleep(0.2)
    raise AssertionError(f"{folder}: {read_notes(folder)}")


LONG = ("train.epochs=60", "dataset.train_size=320")
"""A cell of a second or two."""


@pytest.mark.slow
@pytest.mark.slurm
@needs_slurm
def test_a_study_on_slurm_of_which_one_worker_is_killed_and_one_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    file = write_study(tmp_path, *LONG, seeds=4)
    words = ["study", "run", "tiny.yaml", "--jobs", "1", "--device", "cpu"]
    slurm_words = [*words, "--executor", "slurm", "--workers", "2", "--slurm", "cpus_per_task=1"]
    with slurm_cluster.slurm_cluster(tmp_path / "slurm") as configuration:
        conf = {"SLURM_CONF": str(configuration)}
        wrong = bnlab(*slurm_words, "--slurm", "partition=nosuch", cwd=tmp_path, **conf)
        assert "Slurm refuses the workers: invalid partition" in wrong.communicate()[0]
        assert wrong.returncode == 1
        watching = bnlab(*slurm_words, cwd=tmp_path, **conf)
        folder = tmp_path / "runs" / "tiny"
        (killed, note), (put_back, _) = working(folder, 2).items()
        os.kill(note.pid, signal.SIGKILL)
        time.sleep(3)
        status = bnlab("study", "status", "tiny.yaml", "--json", cwd=tmp_path, **conf)
        workers = json.loads(status.communicate()[0])["workers"]
        assert {worker["name"]: worker["state"] for worker in workers} == {
            killed: "gone",
            put_back: "running",
        }
        environment = {**os.environ, **conf}
        subprocess.run(["scontrol", "requeue", put_back], env=environment, check=True)
        said = watching.communicate(timeout=600)[0]
        assert watching.returncode == 0, said
        assert f"worker {killed} is gone" in said
        assert "1 pending" in said
    run_here(file)
    assert_same_study(folder, tmp_path / "local" / "tiny", 8)


def attempts(folder: Path) -> list[Any]:
    """At the first cell, so far."""
    for path in folder.glob("none-*/s0/run.json"):
        return list(json.loads(path.read_text())["attempts"])
    return []


@pytest.mark.slow
@pytest.mark.slurm
@needs_slurm
def test_a_worker_whose_time_is_over_goes_on_later_and_ctrl_c_cancels_it(tmp_path: Path) -> None:
    write_study(tmp_path, "train.epochs=3000", "dataset.train_size=320", seeds=1)
    words = ["study", "run", "tiny.yaml", "--jobs", "1", "--device", "cpu", "--executor", "slurm"]
    words += ["--workers", "1", "--slurm", "time=1", "--slurm", "signal_delay_s=45"]
    words += ["--on-interrupt", "cancel"]
    with slurm_cluster.slurm_cluster(tmp_path / "slurm") as configuration:
        conf = {"SLURM_CONF": str(configuration)}
        watching = bnlab(*words, cwd=tmp_path, **conf)
        folder = tmp_path / "runs" / "tiny"
        until = time.monotonic() + 300
        while len(attempts(folder)) < 2:
            assert time.monotonic() < until
            time.sleep(0.5)
        watching.send_signal(signal.SIGINT)
        said = watching.communicate(timeout=120)[0]
        assert watching.returncode == 130, said
        assert "stopping 1 workers" in said
        assert [note.state for note in read_notes(folder).values()] == ["stopped"]
    assert "preempted" in next(folder.glob("none-*/s0/run.json")).read_text()


@pytest.mark.slow
@pytest.mark.ray
@needs_ray
def test_a_study_on_ray_of_which_two_workers_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    file = write_study(tmp_path, *LONG, seeds=4)
    words = ["study", "run", "tiny.yaml", "--device", "cpu", "--executor", "ray", "--workers", "2"]
    watching = bnlab(*words, cwd=tmp_path, RAY_ADDRESS="")
    folder = tmp_path / "runs" / "tiny"
    dead = set[int]()
    for _ in range(2):
        until = time.monotonic() + 120
        while not (fresh := {n.pid for n in working(folder, 2).values()} - dead):
            assert time.monotonic() < until
        victim = random.choice(sorted(fresh))
        os.kill(victim, signal.SIGKILL)
        dead.add(victim)
        time.sleep(5)
    said = watching.communicate(timeout=600)[0]
    assert watching.returncode == 0, said
    run_here(file)
    assert_same_study(folder, tmp_path / "local" / "tiny", 8)


@pytest.mark.slow
@pytest.mark.ray
@needs_ray
def test_sigterm_to_a_study_on_ray_checkpoints_its_runs(tmp_path: Path) -> None:
    write_study(tmp_path, "train.epochs=3000", seeds=1)
    words = ["study", "run", "tiny.yaml", "--device", "cpu", "--executor", "ray", "--workers", "2"]
    dead = bnlab(*words, "--ray-address", "127.0.0.1:1", cwd=tmp_path)
    assert "no cluster at 127.0.0.1:1: " in dead.communicate(timeout=60)[0]
    watching = bnlab(*words, cwd=tmp_path, RAY_ADDRESS="")
    folder = tmp_path / "runs" / "tiny"
    working(folder, 2)
    time.sleep(3)
    watching.terminate()
    said = watching.communicate(timeout=120)[0]
    assert watching.returncode == 75, said
    states = [json.loads(path.read_text())["status"] for path in folder.rglob("run.json")]
    assert states == ["preempted"] * 2
