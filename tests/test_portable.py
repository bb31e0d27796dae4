"""What only reads runs works where Python has no POSIX parts, as on Windows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_runs import make_run

WITHOUT_POSIX = """
import os, signal, subprocess, sys
import numpy  # as subprocess, it asks which platform this is before it uses what Windows lacks

for name in ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"):
    sys.modules[name] = None
for name in ("SIGHUP", "SIGKILL", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGPIPE"):
    delattr(signal, name)
for name in (
    "chown", "fchmod", "fork", "forkpty", "getegid", "geteuid", "getgid", "getloadavg", "getpgid",
    "getuid", "killpg", "mkfifo", "nice", "posix_spawn", "register_at_fork", "sched_getaffinity",
    "sched_setaffinity", "setpgid", "setsid", "statvfs", "sysconf", "uname", "wait3", "wait4",
    "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "WNOHANG",
):
    if hasattr(os, name):  # macOS has no sched_getaffinity
        delattr(os, name)

from bnlab.cli import main

main()
"""
"""A Python without what Windows lacks, as far as a program may look for it; it runs bnlab."""


@pytest.mark.parametrize(
    "words",
    [
        ["compare", "runs", "--out", "report"],
        ["compare", "runs", "--out", "report", "--json"],
        ["claims", "--out", "report"],
        ["runs"],
        ["show", "RUN"],
        ["diff", "RUN", "OTHER"],
    ],
)
def test_runs_made_elsewhere_are_read_without_posix(tmp_path: Path, words: list[str]) -> None:
    for seed in (0, 1):
        other = make_run(tmp_path / "runs", seed=seed, sets={"model.norm.name": "none"})
        made = make_run(tmp_path / "runs", seed=seed)
    places = {"RUN": str(made.root), "OTHER": str(other.root)}
    assert_works_without_posix(tmp_path, [places.get(word, word) for word in words])


def test_help_and_version_work_without_posix(tmp_path: Path) -> None:
    assert_works_without_posix(tmp_path, ["--help"])
    assert_works_without_posix(tmp_path, ["compare", "--help"])
    assert_works_without_posix(tmp_path, ["--version"])


def assert_works_without_posix(folder: Path, words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX, *words],
        cwd=folder,
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
