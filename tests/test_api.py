import re
from pathlib import Path

import pytest
import torch
from conftest import MakeConfig
from made_runs import make_run

import bnlab
from bnlab.docs import FOLDER
from bnlab.errors import ConfigError, RefusedError
from bnlab.records import RunDir, pack
from bnlab.registry import NORMS
from bnlab.training.datasets import load_splits

PAGE = (FOLDER / "en" / "python.md").read_text(encoding="utf-8")


def test_the_package_gives_what_it_names() -> None:
    assert all(callable(getattr(bnlab, name)) for name in bnlab.__all__)
    assert set(bnlab.__all__) <= set(dir(bnlab))
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        bnlab.trian  # noqa: B018


def test_the_example_that_is_printed_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [example] = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "python.md", "exec"), {})  # noqa: S102 - what users are told to type
    assert "batch-before_activation" in capsys.readouterr().out


@pytest.mark.parametrize("norm", list(NORMS))
def test_a_loaded_network_scores_what_the_run_recorded(
    tiny_config: MakeConfig, tmp_path: Path, norm: str
) -> None:
    config = tiny_config(f"model.norm.name={norm}", "dataset.normalize=zscore", "train.epochs=1")
    run = bnlab.train(config, tmp_path, device="cpu")
    network = bnlab.load_model(run)
    test = load_splits(config.dataset).test
    with torch.no_grad():
        correct = network(test.images).argmax(dim=1) == test.labels
    assert not network.training
    assert len(network.classes) == 10
    assert correct.float().mean().item() == pytest.approx(run.final["test/accuracy"], abs=1e-6)


def test_training_again_reads_the_finished_run(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tiny_config("train.epochs=1")
    first = bnlab.train(config, tmp_path)
    before = RunDir(first.root).summary.stat().st_mtime_ns
    assert bnlab.train(config, tmp_path).final == first.final
    assert RunDir(first.root).summary.stat().st_mtime_ns == before


def test_a_run_without_weights_says_where_they_would_be(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", seed=0)
    with pytest.raises(RefusedError, match="archives leave behind"):
        bnlab.load_model(run.root)
    pack([tmp_path / "runs"], tmp_path / "x.tar.xz")
    [packed] = bnlab.load_runs(tmp_path / "x.tar.xz")
    with pytest.raises(RefusedError, match="archives leave behind"):
        bnlab.load_model(packed)


def test_one_run_is_loaded_and_an_unfinished_one_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, seed=3)
    assert bnlab.load_run(tmp_path).seed == 3
    make_run(tmp_path, seed=4)
    with pytest.raises(ConfigError, match="2 runs below it"):
        bnlab.load_run(tmp_path)
    unfinished = make_run(tmp_path, seed=5, status="preempted")
    with pytest.raises(ConfigError, match="preempted; left out"):
        bnlab.load_run(unfinished.root)
    assert bnlab.load_run(run.root).final["test/accuracy"] == pytest.approx(0.7)


def test_claims_are_judged_by_name(tmp_path: Path) -> None:
    findings = bnlab.judge(tmp_path / "none")
    assert findings["placement"].verdict.label == "NOT TESTED"
