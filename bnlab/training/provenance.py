"""Where a run came from: commit, versions, hardware, packages."""

import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bnlab.training.device import cpuinfo

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

    A new module that git does not know yet makes it dirty as well, though no diff shows it.
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
        return GitState(None, False, None)
    sha, diff = git("rev-parse", "HEAD"), git("diff", "HEAD")
    unknown = git("ls-files", "--others", "--exclude-standard", "*.py")
    return GitState(sha.strip() if sha else None, bool(diff or unknown), diff)


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
