import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeConfig
from raw import raw_run

from bnlab.config import Config
from bnlab.records import RunDir, RunFacts
from bnlab.registry import DATASETS, MODELS, NORMS, PROBES
from bnlab.training import fingerprint as module
from bnlab.training.experiment import RunOptions, run_experiment
from bnlab.training.fingerprint import code_of, fingerprint
from bnlab.training.provenance import describe_attempt

CODE = '''
"""A module."""

WIDTH = 3
"""In pixels."""


def area(width: int, height: int) -> int:
    """Their product."""
    return width * height  # nothing more
'''


def written(folder: Path, text: str) -> Path:
    folder.mkdir()
    path = folder / "module.py"
    path.write_text(textwrap.dedent(text))
    return path


@pytest.mark.parametrize(
    "change",
    [
        ("# nothing more", "# all of it"),
        ('"""Their product."""', '"""What they enclose."""'),
        ('"""In pixels."""', '"""Pixels."""'),
        ('"""A module."""', ""),
        ("(width: int, height: int)", "(\n    width: int,\n    height: int,\n)"),
        ("width * height", "(width * height)"),
    ],
)
def test_comments_docstrings_and_formatting_change_no_fingerprint(
    tmp_path: Path, change: tuple[str, str]
) -> None:
    assert change[0] in CODE
    one, other = written(tmp_path / "a", CODE), written(tmp_path / "b", CODE.replace(*change))
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(
    "change", [("WIDTH = 3", "WIDTH = 4"), ("width * height", "width + height"), ("area", "size")]
)
def test_what_a_file_does_changes_its_fingerprint(tmp_path: Path, change: tuple[str, str]) -> None:
    one, other = written(tmp_path / "a", CODE), written(tmp_path / "b", CODE.replace(*change))
    assert fingerprint(one) != fingerprint(other)


def with_norm(tiny_config: MakeConfig, name: str) -> Config:
    return tiny_config(f"model.norm.name={name}")


def test_a_run_goes_through_the_loop_its_parts_and_the_plug_ins_that_it_chose(
    tiny_config: MakeConfig,
) -> None:
    code = code_of(with_norm(tiny_config, "ghost"))
    for name in ("loop", "task", "batches", "streams", "optim", "accelerate", "checkpoint"):
        assert f"training/{name}.py" in code
    for chosen in ("norms/ghost", "norms/_affine", "datasets/synthetic", "models/convnet"):
        assert f"training/{chosen}.py" in code
    others = [f"training/norms/{name}.py" for name in NORMS if name != "ghost"]
    not_asked = [f"training/probes/{name}.py" for name in PROBES]
    traceless = [f"training/{name}.py" for name in ("recorder", "experiment", "provenance")]
    assert not code.keys() & {*others, *not_asked, *traceless, "training/datasets/folder.py"}


def test_every_module_of_training_counts_or_is_known_to_leave_no_trace(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    known = {"training/__init__.py", *(f"training/datasets/{name}.py" for name in DATASETS)}
    for name in NORMS:
        known |= code_of(with_norm(tiny_config, name)).keys()
    mine = tmp_path / "mine.py"
    mine.write_text("class Net: ...\n")
    for network in (f"name={name}" for name in MODELS if name != "file"):
        known |= code_of(tiny_config(f"model.{network}")).keys()
    known |= code_of(tiny_config(f"model.file={mine}:Net")).keys()
    known |= code_of(tiny_config(f"probes=[{','.join(PROBES)}]")).keys()
    for path in (module.PACKAGE / "training").rglob("*.py"):
        place = path.relative_to(module.PACKAGE).as_posix()
        parts = ["bnlab", *place.removesuffix(".py").split("/")]
        above = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
        assert place in known or above & module.TRACELESS, place


def test_arms_share_every_file_but_their_norm(tiny_config: MakeConfig) -> None:
    one, two = (code_of(with_norm(tiny_config, name)) for name in ("none", "batch"))
    differing = one.keys() ^ two.keys()
    assert differing == {"training/norms/none.py", "training/norms/batch.py"}
    assert all(one[file] == two[file] for file in one.keys() & two.keys())


def test_threads_may_ask_at_the_same_time(tiny_config: MakeConfig) -> None:
    config = tiny_config()
    expected = code_of(config)
    for _ in range(5):
        fingerprint.cache_clear()
        module._imports.cache_clear()
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda _: code_of(config), range(8)))
        assert found == [expected] * 8


def test_the_probes_whose_values_are_recorded_count_and_change_no_other_fingerprint(
    tiny_config: MakeConfig,
) -> None:
    without, with_one = code_of(tiny_config()), code_of(tiny_config("probes=[weights]"))
    assert without.items() <= with_one.items()
    probing = {f"training/probes/{name}.py" for name in ("__init__", "_base", "_running")}
    added = with_one.keys() - without.keys()
    assert {"training/probes/weights.py", *probing} <= added
    assert "training/probes/shift.py" not in added


def test_the_record_of_a_run_holds_its_fingerprints(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    config = tiny_config("train.epochs=1")
    run_experiment(config, tmp_path / "s0", RunOptions(device="cpu"))
    assert raw_run(RunDir(tmp_path / "s0"))["code"] == code_of(config)


HERE = {"threads": 1, "torch": "2.13.0"}


def facts(**values: Any) -> RunFacts:
    return RunFacts(schema_version=1, status="preempted", **values)


def test_a_run_resumed_under_other_code_agrees_with_neither() -> None:
    code = {"training/loop.py": "new", "training/optim.py": "same"}
    earlier = facts(code={"training/loop.py": "old", "training/optim.py": "same"})
    assert describe_attempt(code, HERE, 1, earlier)["code"] == {
        "training/loop.py": "old+new",
        "training/optim.py": "same",
    }
    renamed = facts(code={"training/train.py": "old"})
    assert describe_attempt(code, HERE, 1, renamed)["code"] == {
        "training/loop.py": "absent+new",
        "training/optim.py": "absent+same",
        "training/train.py": "old+absent",
    }


def test_a_run_begun_before_fingerprints_were_recorded_stays_unknown() -> None:
    assert describe_attempt({"training/loop.py": "new"}, HERE, 1, facts())["code"] == {}
    assert describe_attempt({"training/loop.py": "new"}, HERE, 1, None)["code"] != {}
