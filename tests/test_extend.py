"""A longer run that begins where a shorter one ended."""

import hashlib
from pathlib import Path

import pytest
from conftest import MakeConfig
from raw import raw_run
from trained_runs import assert_same_run

from bnlab.errors import RefusedError
from bnlab.records import RunDir, run_path
from bnlab.training.experiment import RunOptions, run_experiment
from bnlab.training.extend import extend

EXTENDED = RunOptions(resume="auto")


def digests(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("train.test_every=0", "model.dropout=0.2", "optim.warmup_epochs=1.5"),
        ("optim.name=adam", "probes=[layer_inputs]", "train.test_every=2"),
    ],
    ids=["plain", "tested at the end", "remembering"],
)
def test_an_extended_run_is_the_longer_one_to_the_bit(
    tmp_path: Path, tiny_config: MakeConfig, overrides: tuple[str, ...]
) -> None:
    short, long = (tiny_config(*overrides, f"train.epochs={epochs}") for epochs in (2, 4))
    whole, begun = run_path(tmp_path / "whole", long), run_path(tmp_path, short)
    run_experiment(long, whole)
    run_experiment(short, begun)
    before = digests(begun)

    root = run_path(tmp_path, long)
    extend(root, long)
    run_experiment(long, root, EXTENDED)
    assert_same_run(whole, root)
    assert digests(begun) == before
    run = raw_run(RunDir(root))
    origin = {"run": str(begun), "epochs": 2, "config_hash": short.hash}
    assert run["extended_from"] == origin
    assert len(run["attempts"]) == 2
    assert run["data_order_hash"] == raw_run(RunDir(whole))["data_order_hash"]


def test_a_run_that_was_killed_while_it_was_laid_out_resumes_all_the_same(
    tmp_path: Path, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    short, long = (tiny_config(f"train.epochs={epochs}") for epochs in (1, 2))
    run_experiment(short, run_path(tmp_path, short))
    run_experiment(long, run_path(tmp_path / "whole", long))
    with monkeypatch.context() as patched:
        patched.setattr(RunDir, "write_checkpoint", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            extend(run_path(tmp_path, long), long)
    extend(run_path(tmp_path, long), long)  # begun already: nothing more to do
    run_experiment(long, run_path(tmp_path, long), EXTENDED)
    assert_same_run(run_path(tmp_path / "whole", long), run_path(tmp_path, long))


@pytest.mark.parametrize(
    ("shorter", "longer", "why"),
    [
        (("optim.schedule=linear",), ("optim.schedule=linear",), "linear, so the rate of every"),
        (("optim.lr=0.04",), (), "no finished run in .* is this one with fewer epochs than 3"),
        (("train.epochs=4",), (), "no finished run"),
        (("optim.lr=1e30",), ("optim.lr=1e30",), "broke down"),
        (("probes=[statistics]",), ("probes=[statistics]",), "statistics looks after the last"),
        (
            ("train.test_every=0", "train.evaluate_in_train_mode=true"),
            ("train.test_every=0", "train.evaluate_in_train_mode=true"),
            "testing changed its statistics",
        ),
    ],
)
def test_what_cannot_be_extended_to_the_bit_is_refused_with_the_reason(
    tmp_path: Path,
    tiny_config: MakeConfig,
    shorter: tuple[str, ...],
    longer: tuple[str, ...],
    why: str,
) -> None:
    short, long = tiny_config("train.epochs=2", *shorter), tiny_config("train.epochs=3", *longer)
    run_experiment(short, run_path(tmp_path, short))
    with pytest.raises(RefusedError, match=why):
        extend(run_path(tmp_path, long), long)
    assert not run_path(tmp_path, long).exists()
