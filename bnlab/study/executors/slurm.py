"""Workers as jobs of Slurm: an array, each on one node, which pulls cells until none is left.

SIGTERM means the same everywhere: save, exit with 75. Slurm sends it when it preempts a job, some
time before a job's time is over (`--signal`), and to a job that is cancelled. A job that Slurm
itself puts back into the queue needs nothing more; one that still counts as running puts itself
there; one that was cancelled stays away.
"""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bnlab.errors import BnlabError, ConfigError, StopRequestedError, did_you_mean, shown
from bnlab.study.executors import (
    EXECUTORS,
    Cell,
    ExecutorOptions,
    Outcome,
    StudyWatcher,
    usable_cores,
)
from bnlab.study.executors._follow import Alive, follow
from bnlab.study.fleet import Fleet, last_words
from bnlab.training.signals import StoppedError, StopRequest, exit_on_signal, raise_on_signal

ASKED_OF_SBATCH = frozenset(
    (
        "account",
        "comment",
        "constraint",
        "cpus_per_gpu",
        "cpus_per_task",
        "dependency",
        "exclude",
        "exclusive",
        "gpus",
        "gpus_per_node",
        "gpus_per_task",
        "gres",
        "licenses",
        "mail_type",
        "mail_user",
        "mem",
        "mem_per_cpu",
        "mem_per_gpu",
        "nice",
        "nodelist",
        "partition",
        "qos",
        "reservation",
        "time",
        "wckey",
    )
)
"""Settings that are options of sbatch and go there as they are."""

OWN = frozenset(("array_parallelism", "setup", "signal_delay_s"))
"""Settings with submitit's names: the most workers at a time, shell commands before a worker, and
seconds between SIGTERM and the end of a job's time."""

SETTLED = {
    "array": "--workers says how many",
    "job_name": "it is the study's name",
    "output": "logs lie beside the study's runs",
    "error": "logs lie beside the study's runs",
    "requeue": "workers are always put back into the queue",
    "signal": "signal_delay_s says how early",
    "nodes": "a worker has one",
    "ntasks": "a worker is one task",
    "ntasks_per_node": "a worker is one task",
}
"""Options of sbatch that are not for the user, and why."""

SIGNAL_DELAY_SECONDS = 90
"""By default: to finish a step, write a checkpoint and ask for another place in the queue."""

ANSWER_SECONDS = 60
"""The longest to wait for a command of Slurm's."""

NO_LOG = "0:53"
"""Exit code and signal of a job whose log could not be opened."""


@EXECUTORS.register("slurm", facts=("hires",))
def run_on_slurm(
    cells: Sequence[Cell], options: ExecutorOptions, stop: StopRequest, watcher: StudyWatcher
) -> Iterator[Outcome]:
    """Jobs train the cells; this process watches them."""
    assert options.fleet is not None
    yield from follow(cells, options, stop, watcher, make_starter)


def read_settings(assignments: Sequence[str]) -> dict[str, str]:
    """`--slurm KEY=VALUE`, checked; commands of `setup` add up.

    Raises:
        ConfigError: For what sbatch does not have, or bnlab sets itself.
    """
    found = dict[str, str]()
    for text in assignments:
        key, equals, value = text.partition("=")
        name = key.strip().removeprefix("--").removeprefix("slurm_").replace("-", "_")
        place = f"--slurm {shown(text)}"
        if name in SETTLED:
            raise ConfigError(f"{place}: not to be set: {SETTLED[name]}")
        if name not in ASKED_OF_SBATCH | OWN:
            known = did_you_mean(name, ASKED_OF_SBATCH | OWN)
            raise ConfigError(f"{place}: unknown setting {shown(repr(key))}{known}")
        if (not equals or not value.strip()) and name != "exclusive":
            raise ConfigError(f"{place}: expected KEY=VALUE, as in --slurm time=4:00:00")
        if "\n" in value or "\r" in value:
            raise ConfigError(f"{place}: expected one line")
        if name in ("array_parallelism", "signal_delay_s") and not re.fullmatch(
            "[1-9][0-9]*", value
        ):
            raise ConfigError(f"{place}: expected a number from 1")
        before = f"{found[name]}\n" if name == "setup" and name in found else ""
        found[name] = before + value.strip()
    return found


def refuse_without_slurm(*, submitit: bool = True) -> None:
    """Say early what is not installed.

    Raises:
        BnlabError: Naming it, and what to install or do.
    """
    if submitit and find_spec("submitit") is None:
        raise BnlabError(
            "--executor slurm needs submitit: pip install 'bnlab[slurm]' (--print does without)"
        )
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise BnlabError(
            "--executor slurm: no sbatch and srun on PATH; run it where jobs of a Slurm cluster "
            "can be submitted, or print a script with --print and take it there"
        )


# ------------------------------------------------------------------------------ the jobs


def _asked_of_sbatch(fleet: Fleet) -> dict[str, Any]:
    """Options of sbatch, named with `_`; True for one without a value."""
    settings = fleet.hiring.settings
    delay = settings.get("signal_delay_s", SIGNAL_DELAY_SECONDS)
    given: dict[str, Any] = {key: settings[key] for key in settings if key in ASKED_OF_SBATCH}
    if given.get("exclusive", "").lower() in ("", "true", "yes", "1"):
        given.update({"exclusive": True} if "exclusive" in given else {})
    return {
        "job_name": fleet.folder.name,
        "requeue": True,
        # To the worker and its processes alike: SIGTERM is the one that all of them understand.
        "signal": f"TERM@{delay}",
        "open-mode": "append",
        **given,
    }


def _asked_of_srun(fleet: Fleet) -> list[str]:
    # Since 22.05 srun no longer takes this over from sbatch.
    cores = fleet.hiring.settings.get("cpus_per_task")
    return ["--unbuffered", *([f"--cpus-per-task={cores}"] if cores else [])]


def sbatch_script(fleet: Fleet) -> str:
    """What submits the same workers by hand: `sbatch FILE`."""
    settings = fleet.hiring.settings
    most = settings.get("array_parallelism")
    asked = {
        **_asked_of_sbatch(fleet),
        "array": f"0-{fleet.hiring.workers - 1}{f'%{most}' if most else ''}",
        "output": f"{str(fleet.workers).replace('%', '%%')}/%A_%a.log",
    }
    lines = ["#!/bin/bash"]
    for key, value in sorted(asked.items()):
        tail = "" if value is True else f"={shlex.quote(str(value))}"
        lines.append(f"#SBATCH --{key.replace('_', '-')}{tail}")
    command = [sys.executable, "-m", "bnlab", "study", "work", str(fleet.folder)]
    worker = shlex.join(["srun", *_asked_of_srun(fleet), *command, "--token", fleet.orders.token])
    cwd = f"cd {shlex.quote(str(fleet.orders.cwd))}"
    return "\n".join([*lines, "", cwd, *settings.get("setup", "").splitlines(), worker])


class Jobs:
    """Starts workers through submitit and asks Slurm's own commands about them."""

    detaches = True

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._seen: Mapping[str, Alive] = {}

    def hire(self, count: int) -> list[str]:
        """Submit them as an array; names are the jobs' ids.

        Raises:
            BnlabError: With Slurm's own words, if it refuses.
        """
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        settings = self._fleet.hiring.settings
        executor = SlurmExecutor(self._fleet.workers)
        executor.update_parameters(
            time=None,  # submitit's own default is five minutes; the partition has one
            wckey=None,
            setup=settings.get("setup", "").splitlines() or None,
            array_parallelism=int(settings.get("array_parallelism", count)),
            srun_args=_asked_of_srun(self._fleet)[1:],
            additional_parameters=_asked_of_sbatch(self._fleet),
        )
        worker = Job(str(self._fleet.folder), self._fleet.orders.token)
        try:
            with redirect_stderr(io.StringIO()):  # it would print what it also raises
                jobs = executor.map_array(worker, range(count))
        except (FailedJobError, FailedSubmissionError) as error:
            raise BnlabError(f"Slurm refuses the workers: {_one_line(str(error))}") from error
        return [str(job.job_id) for job in jobs]

    def alive(self, names: Sequence[str]) -> Mapping[str, Alive]:
        """As the queue shows them; as last seen while nobody answers."""
        found = ask_queue(names)
        if found is not None:
            self._seen = found
        return {name: one for name, one in self._seen.items() if name in names}

    def cancel(self, names: Sequence[str]) -> None:
        """Cancel their jobs: SIGTERM, and SIGKILL after the cluster's KillWait."""
        if names:
            _ask("scancel", *names)

    def last_words(self, name: str) -> str:
        """What it said, or else how Slurm says that it ended."""
        return last_words(self._fleet.folder, name) or _ending(name)

    def advice(self, names: Sequence[str]) -> str:
        """The command that cancels them."""
        return f"scancel {' '.join(dict.fromkeys(name.partition('_')[0] for name in names))}"


make_starter = Jobs
"""What starts workers; tests put submitit's local executor here."""


def ask_queue(names: Sequence[str]) -> dict[str, Alive] | None:
    """Those of these jobs that wait or run; None if nobody says."""
    arrays = dict.fromkeys(name.partition("_")[0] for name in names if name[:1].isdigit())
    if not arrays:
        return {}
    done = _ask(
        "squeue", "--noheader", "--array", "--format=%i|%T|%R", f"--jobs={','.join(arrays)}"
    )
    if done is None:
        return None
    if done.returncode != 0:  # of jobs that are long over, Slurm knows nothing
        return {} if "Invalid job id" in done.stderr else None
    found = dict[str, Alive]()
    for line in done.stdout.splitlines():
        name, state, where = [*line.split("|", 2), "", ""][:3]
        if name in names:
            found[name] = Alive(state.lower().replace("_", " "), where.strip("()"))
    return found


def _ending(name: str) -> str:
    done = _ask("scontrol", "--oneliner", "show", "job", name)
    facts = _facts(done.stdout) if done is not None else {}
    if facts.get("ExitCode") == NO_LOG:
        return (
            f"its node {facts.get('NodeList', '')} could not open a log in the study's folder: "
            "--runs-dir must lie on a file system that all machines share"
        )
    if "JobState" not in facts:
        return ""
    return f"{facts['JobState']}, exit code {facts.get('ExitCode', '?')}"


def _facts(line: str) -> dict[str, str]:
    """`KEY=VALUE` pairs of a line of scontrol."""
    return dict(re.findall(r"(\w+)=(\S*)", line))


def _ask(*command: str) -> "subprocess.CompletedProcess[str] | None":
    """Run one of Slurm's commands; None if it is not there or does not answer."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=ANSWER_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def _one_line(said: str) -> str:
    lines = [line.strip().removeprefix("sbatch: error: ") for line in said.splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line)) or "it does not say why"


# ----------------------------------------------------------------------------- in a job


@dataclass(frozen=True)
class Job:
    """What a job of submitit's calls: a worker, with exit codes as of any command.

    Args:
        folder: The study's.
        token: See `work_as_job`.
    """

    folder: str
    token: str

    def __call__(self, _number: int) -> None:
        """Work; what is wrong goes to the job's log in one line."""
        raise_on_signal()  # submitit's own handler would have SIGTERM forgotten
        try:
            work_as_job(Path(self.folder), self.token)
        except (BnlabError, StoppedError) as error:
            exit_on_signal()
            sys.stderr.write(f"bnlab: {error}\n")
            sys.exit(error.exit_code)


def work_as_job(folder: Path, token: str) -> None:
    """A worker in a job of Slurm's, or without one.

    Args:
        folder: The study's, as whoever hires sees it.
        token: What tells that it is the same here.

    Raises:
        BnlabError, StoppedError: As `work`.
    """
    from bnlab.study.worker import work

    name = _own_name()
    given = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE") or ""
    # A cluster without cgroups lets a job see more cores than it was given.
    cores = min(usable_cores(), int(given)) if given.isdigit() and int(given) > 0 else None
    try:
        work(folder, token, name, cores)
    except (StopRequestedError, StoppedError):
        exit_on_signal()  # another signal comes with being put back
        _go_back_into_the_queue(name)
        raise


def _own_name() -> str:
    there = os.environ.get
    if array := there("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{there('SLURM_ARRAY_TASK_ID')}"
    local = there("SUBMITIT_LOCAL_JOB_ID") or f"by-hand-{os.getpid()}"
    return there("SLURM_JOB_ID") or local


def _go_back_into_the_queue(name: str) -> None:
    """Ask for another place if Slurm thinks that this job goes on: its time is nearly over."""
    if "SLURM_JOB_ID" not in os.environ:
        return
    done = _ask("scontrol", "--oneliner", "show", "job", name)
    if done is None or _facts(done.stdout).get("JobState") != "RUNNING":
        return  # cancelled, or already put back
    again = _ask("scontrol", "requeue", name)
    if again is not None and again.returncode:
        sys.stderr.write(f"bnlab: Slurm does not requeue this job: {_one_line(again.stderr)}\n")
