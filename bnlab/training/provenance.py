"""Where a run came from: commit, versions, hardware, packages."""

import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bnlab.records import RunFacts
from bnlab.records.schema import Attempt
from bnlab.training.batches import data_order_hash
from bnlab.training.datasets import Splits
from bnlab.training.device import cpuinfo
from bnlab.training.loop import Task
from bnlab.training.models import init_hash, parameter_count

PACKAGE = Path(__file__).resolve().parents[1]
"""Folder of the code that runs."""


@dataclass(frozen=True)
class GitState:
    """The code that ran. `sha` and `diff` are None outside a git checkout."""

    sha: str | None
    dirty: bool
    diff: str | None


def git_state() -> GitState:
    """Commit and uncommitted changes of the checkout that bnlab is imported from.

    A new module that git does not know yet makes it dirty as well, though no diff shows it. Of a
    copy without git, `BNLAB_GIT_SHA` may say which commit it is.
    """

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(PACKAGE), *words], capture_output=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.decode(errors="replace")

    # An installed copy may lie inside somebody else's repository: only a tracked file counts.
    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return GitState(os.environ.get("BNLAB_GIT_SHA") or None, False, None)
    sha, diff = git("rev-parse", "HEAD"), git("diff", "HEAD")
    unknown = git("ls-files", "--others", "--exclude-standard", "*.py")
    return GitState(sha.strip() if sha else None, bool(diff or unknown), diff)


def describe_run(task: Task, data: Splits, git: GitState) -> dict[str, Any]:
    """What run.json says of a run's identity, data, hardware and origin."""
    config = task.config
    return {
        "config_hash": config.hash,
        "seeds": {"run": config.seed},
        "init_hash": init_hash(task.model),
        "data_order_hash": data_order_hash(
            config.seed,
            config.train.epochs,
            len(data.train),
            once=config.train.shuffle == "once",
        ),
        "parameters": parameter_count(task.model),
        "dataset": {
            "name": config.dataset.name,
            "checksum": data.checksum,
            "classes": list(data.classes),
            "train_images": len(data.train),
            "val_images": len(data.val) if data.val else 0,
            "test_images": len(data.test),
            "val_indices_hash": data.val_indices_hash,
            "note": data.note,
        },
        "device": str(task.device),
        "precision": task.precision,
        "acceleration": task.acceleration,
        "git": {"sha": git.sha, "dirty": git.dirty},
        "environment": environment(task.device),
    }


def describe_attempt(
    code: Mapping[str, str],
    environment: Mapping[str, Any],
    runs_at_once: int,
    earlier: RunFacts | None,
) -> dict[str, Any]:
    """What run.json says of this attempt and those before it: a run is the sum of all.

    A file that another attempt had in another version is neither; its fingerprint names both, so
    that the run agrees with none.

    Args:
        code: Fingerprints of the files that training goes through now.
        environment: Versions and hardware now.
        runs_at_once: Runs on the device now.
        earlier: What earlier attempts recorded.
    """
    beginning = earlier.extended_from if earlier else None
    before = code if earlier is None else earlier.code  # empty where none was recorded
    files = sorted(before.keys() | code.keys()) if before else ()
    versions = {
        file: dict.fromkeys((before.get(file, "absent"), code.get(file, "absent")))
        for file in files
    }
    return {
        "code": {file: "+".join(found) for file, found in versions.items()},
        "runs_at_once": max(runs_at_once, (earlier.runs_at_once if earlier else None) or 1),
        "attempts": [
            *(attempt.model_dump() for attempt in (attempts_of(earlier) if earlier else ())),
            {"started": now(), "threads": environment["threads"], "torch": environment["torch"]},
        ],
        **({"extended_from": beginning.model_dump()} if beginning else {}),
    }


def attempts_of(facts: RunFacts) -> tuple[Attempt, ...]:
    """The attempts at a run; of older records, `environment` tells of the last one alone."""
    if not facts.attempts:
        return ()
    *before, last = facts.attempts
    there = facts.environment
    known = {"threads": last.threads or there.threads, "torch": last.torch or there.torch}
    return (*before, last.model_copy(update=known))


def describe_change(
    environment: Mapping[str, Any], device: torch.device, earlier: RunFacts | None
) -> str:
    """What makes this attempt round otherwise than those before; "" if nothing is known to.

    Args:
        environment: Versions and hardware now.
        device: Where training goes on; CPU threads add up only on a CPU.
        earlier: What earlier attempts recorded.
    """
    changes = []
    for name, words in (("threads", "CPU threads"), ("torch", "torch")):
        found = [getattr(attempt, name) for attempt in (attempts_of(earlier) if earlier else ())]
        known = dict.fromkeys(str(value) for value in found if value is not None)
        now_is = str(environment[name])
        if known and list(known) != [now_is] and (name != "threads" or device.type == "cpu"):
            changes.append(f"{words}: {', '.join(known)} -> {now_is}")
    return "; ".join(changes)


def now() -> str:
    """The time of day in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and hardware, as plain data for run.json."""
    on_gpu = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
    }


def installed_packages() -> str:
    """Every installed distribution as `name==version`, one a line, sorted."""
    found = {
        f"{dist.metadata['Name']}=={dist.version}"
        for dist in metadata.distributions()
        if dist.metadata["Name"]
    }
    return "\n".join(sorted(found, key=str.lower)) + "\n"


def _cpu_name() -> str:
    return cpuinfo("model name") or platform.processor()
