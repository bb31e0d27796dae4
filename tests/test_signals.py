"""A signal at any moment of a command ends it with the code that says which, and soon."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY, MakeConfig

from bnlab.errors import StopRequestedError
from bnlab.training.datasets import synthetic
from bnlab.training.experiment import Watcher, run_experiment

SIGNALS = pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)

MAIN = """
import os, signal, sys
from bnlab import cli
from bnlab.cli import train
def hit(*_): os.kill(os.getpid(), NUMBER)
class AtImport:
    def find_spec(self, name, path, target=None):
        if name == "torch": hit()
PLACE
sys.argv = ["bnlab", "train", *sys.argv[1:]]
cli.main()
"""
PLACES = {
    "imports": "sys.meta_path.insert(0, AtImport())",
    "result": "train.print_line = hit",
    "exit": "import atexit; atexit.register(hit)",
}


@SIGNALS
@pytest.mark.parametrize("place", PLACES)
def test_a_signal_before_and_after_training_has_its_exit_code(
    place: str, number: int, code: int, tmp_path: Path
) -> None:
    script = MAIN.replace("NUMBER", str(int(number))).replace("PLACE", PLACES[place])
    words = [word for setting in TINY for word in ("--set", setting)]
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert (place == "imports") != any(tmp_path.rglob("summary.json"))


@SIGNALS
def test_a_signal_while_the_command_line_is_loaded_has_its_exit_code(
    number: int, code: int
) -> None:
    script = (
        "import os, sys\nclass AtImport:\n def find_spec(self, name, path, target=None):\n"
        f"  if name == 'typer': os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, AtImport())\nfrom bnlab.__main__ import main\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (code, "")


@SIGNALS
def test_a_signal_while_images_are_read_ends_the_reading(
    number: int, code: int, tmp_path: Path, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hit(Watcher):
        def loading(self, what: str, done: int, total: int) -> None:
            os.kill(os.getpid(), number)

    drawn, draw = list[int](), synthetic.draw_block

    def draw_block(name: str, block: int) -> torch.Tensor:
        drawn.append(block)
        return draw(name, block)

    monkeypatch.setattr(synthetic, "draw_block", draw_block)
    with pytest.raises(StopRequestedError, match="while drawing train images") as caught:
        run_experiment(tiny_config("dataset.train_size=2500"), tmp_path / "run", watcher=Hit())
    assert caught.value.exit_code == code
    assert len(drawn) == 1
    assert not (tmp_path / "run").exists()
