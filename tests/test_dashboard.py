import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import pytest
from typer.testing import CliRunner

from bnlab.cli import app
from bnlab.errors import ConfigError
from bnlab.records import RunDir
from bnlab.report.dashboard import link_runs, run_names, serve


def config(seed: int = 0, **norm: Any) -> dict[str, Any]:
    return {"name": "x", "seed": seed, "model": {"norm": norm or {"name": "none"}}}


def run(root: Path, seed: int = 0, norm: str = "none") -> Path:
    import yaml

    made = RunDir(root)
    made.create(yaml.safe_dump(config(seed, name=norm)), "", None)
    made.tensorboard.mkdir()
    return root


def test_runs_are_named_by_what_differs_between_them() -> None:
    names = run_names(
        {
            Path("a"): config(name="batch", placement="both", eps=1e-5),
            Path("b"): config(name="batch", placement="after_pool", eps=1e-5),
            Path("c"): config(),
        }
    )
    assert names == {
        Path("a"): "norm=batch, placement=both",
        Path("b"): "norm=batch, placement=after_pool",
        Path("c"): "norm=none",
    }


def test_runs_that_differ_in_nothing_are_told_apart_by_their_path() -> None:
    names = run_names({Path("runs/a/s0"): config(), Path("runs/b/s0"): config()})
    assert set(names.values()) == {"runs-a-s0", "runs-b-s0"}
    assert run_names({Path("runs/a/s0"): config()}) == {Path("runs/a/s0"): "runs-a-s0"}


def test_links_follow_the_runs_that_are_there(tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    run(tmp_path / "runs" / "a" / "s0")
    run(tmp_path / "runs" / "a" / "s1", seed=1)
    assert link_runs([tmp_path / "runs"], links) == ["seed=0", "seed=1"]
    assert (links / "seed=1").resolve() == tmp_path / "runs" / "a" / "s1" / "tensorboard"
    run(tmp_path / "runs" / "b" / "s0", norm="batch")
    names = link_runs([tmp_path / "runs"], links)
    assert names == ["norm=batch, seed=0", "norm=none, seed=0", "norm=none, seed=1"]
    assert sorted(path.name for path in links.iterdir()) == names


def test_names_of_links_are_cut_to_what_a_disk_takes(tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    run(tmp_path / "runs" / "a" / "s0", norm="batch" * 80)
    run(tmp_path / "runs" / "b" / "s0", norm="group" * 80)
    names = link_runs([tmp_path / "runs"], links)
    assert [len(name) for name in names] == [100, 100]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_takes_the_server_and_its_folder_along(tmp_path: Path, number: int) -> None:
    run(tmp_path / "runs" / "a" / "s0")
    server = tmp_path / "tensorboard"
    server.mkdir()
    (server / "__init__.py").write_text("")
    code = "import os, time, pathlib; pathlib.Path('pid').write_text(str(os.getpid())); "
    (server / "main.py").write_text(f"{code}time.sleep(60)\n")
    command = "from bnlab.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", command, "tensorboard", "runs"],
        cwd=tmp_path,  # where `python -m tensorboard.main` looks first
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
    ) as process:
        pid, deadline = tmp_path / "pid", time.monotonic() + 60
        while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, b"Traceback" in errors) == (0, False)
    assert list(tmp_path.glob("bnlab-*")) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_the_dashboard_is_for_this_machine_alone_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    class Popen:
        def __init__(self, command: list[str]) -> None:
            started.append(command)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def wait(self, _seconds: float) -> int:
            return 0

        def kill(self) -> None:
            pass

    monkeypatch.setattr(subprocess, "Popen", Popen)
    for more in ([], ["--host", "0.0.0.0"]):  # noqa: S104 - as somebody may ask for
        CliRunner().invoke(app, ["tensorboard", str(tmp_path), *more], catch_exceptions=False)
    hosts = [command[command.index("--host") + 1] for command in started]
    assert hosts == ["localhost", "0.0.0.0"]  # noqa: S104
    assert not any("--bind_all" in command for command in started)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        serve([tmp_path / "absent"], host="localhost", port=1)
