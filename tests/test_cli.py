import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TINY
from made_runs import make_run

from bnlab import cli
from bnlab.cli import train
from bnlab.errors import ConfigError
from bnlab.records import RunDir

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "120"}


def bnlab(*words: str, cwd: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bnlab.cli", *words],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def tiny(*more: str) -> list[str]:
    return [word for setting in (*TINY, *more) for word in ("--set", setting)]


LEARNS = ("dataset.train_size=800", "train.batch_size=16", "train.epochs=3", "optim.lr=0.03")


def test_train_prints_a_result_and_last_the_run_directory(tmp_path: Path) -> None:
    done = bnlab("train", *tiny(*LEARNS), "--seed", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *result, root = done.stdout.splitlines()
    assert re.fullmatch(r"runs/tiny/batch-before_activation-[0-9a-f]{8}/s3", root)
    assert (tmp_path / root / "summary.json").exists()
    assert "test accuracy" in " ".join(result)
    assert "not CIFAR-10" in " ".join(result)
    epochs = [line for line in done.stderr.splitlines() if line.startswith("epoch")]
    assert len(epochs) == 3
    assert "images/s" in epochs[0]
    assert "left" in epochs[0]

    again = bnlab("train", *tiny(*LEARNS), "--seed", "3", cwd=tmp_path)
    assert again.returncode == 5
    assert "finished" in again.stderr
    skipped = bnlab(
        "train", *tiny(*LEARNS), "--seed", "3", "--if-exists", "skip", "--json", cwd=tmp_path
    )
    assert skipped.returncode == 0
    assert json.loads(skipped.stdout)["seed"] == 3

    other = bnlab("train", *tiny(*LEARNS, "model.norm=none"), cwd=tmp_path)
    assert other.returncode in {0, 3}
    shown = bnlab("diff", root, other.stdout.splitlines()[-1], cwd=tmp_path)
    assert "model.norm.name: batch -> none" in shown.stdout
    assert "seed: 3 -> 0" in shown.stdout


@pytest.mark.parametrize("given", ["2>/dev/full", "2>&-", "2>&- <&-"])
def test_progress_that_nobody_takes_ends_no_run(given: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "bnlab.cli", "train", *tiny(*LEARNS)]
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {given}', *words],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0
    root = tmp_path / done.stdout.splitlines()[-1]
    assert json.loads((root / "summary.json").read_text())["status"] == "done"
    assert len((root / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_folder_whose_name_is_no_text_holds_runs_like_another(tmp_path: Path) -> None:
    done = bnlab("train", *tiny(*LEARNS), "--runs-dir", "x\udcff", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    listed = bnlab("runs", "x\udcff", "--json", cwd=tmp_path)
    assert [run["status"] for run in json.loads(listed.stdout)["runs"]] == ["done"]


def test_without_a_home_a_command_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unknown(_uid: int) -> None:
        raise KeyError("getpwuid(): uid not found")

    for split in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / "images" / split / label).mkdir(parents=True)
            (tmp_path / "images" / split / label / "0.png").touch()
    for name in ("HOME", "XDG_CACHE_HOME", "BNLAB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    images = ("dataset.name=folder", f"dataset.root={tmp_path / 'images'}")
    monkeypatch.setattr(sys, "argv", ["bnlab", "train", *tiny(*images)])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "set HOME (BNLAB_CACHE for decoded images)" in capsys.readouterr().err


def test_a_diverged_run_exits_with_3_and_is_kept(tmp_path: Path) -> None:
    done = bnlab("train", *tiny("optim.lr=1e30", "model.norm=none"), cwd=tmp_path)
    assert done.returncode == 3
    root = tmp_path / done.stdout.splitlines()[-1]
    assert json.loads((root / "summary.json").read_text())["status"] == "diverged"


def test_sigterm_checkpoints_and_exits_with_75_and_resume_finishes(tmp_path: Path) -> None:
    words = ["train", *tiny("train.epochs=400"), "--resume", "auto"]
    command = [sys.executable, "-m", "bnlab.cli", *words]
    with subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + 60
        while not any(tmp_path.rglob("metrics.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 75
    assert b"--resume auto" in errors
    (root,) = (path.parent for path in tmp_path.rglob("run.json"))
    assert json.loads((root / "run.json").read_text())["status"] == "preempted"
    assert (root / "checkpoints" / "last.pt").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["train", "--set", "train.leraning_rate=1"], 2, "train.leraning_rate: unknown key"),
        (["train", "--set", "model.norm.name=bacth"], 2, "did you mean 'batch'"),
        (["train", "--config", "absent.yaml"], 2, "no such configuration file"),
        (["train", "--device", "tpu"], 2, "expected auto, cpu, cuda or cuda:N"),
        (["train", "--no-such-flag"], 2, "No such option"),
        (["train", *tiny("train.batch_size=1")], 2, "holds one image"),
        (["train", *tiny("dataset.name=folder", "dataset.root=absent")], 2, "absent"),
        (["train", *tiny("dataset.train_size=5")], 2, "dataset.train_size"),
        (["train", *tiny(), "--resume", "must"], 5, "no run here"),
        (["train", *tiny(), "--extend"], 2, "give it with --resume auto"),
        (["train", *tiny(), "--resume", "auto", "--extend"], 5, "fewer epochs than 2"),
        (["check", "absent.yaml"], 2, "no such configuration file"),
        (["diff", "absent.yaml", "absent.yaml"], 2, "absent.yaml"),
        (["train", *tiny("name=reference")], 5, "use another --name"),
        (["train", *tiny(), "--runs-dir", "runs/reference"], 5, "use another --runs-dir"),
        (
            ["claims", "run", "accuracy", "--runs-dir", "runs/reference", "--dry-run"],
            5,
            "nothing is trained into it",
        ),
        (["train", *tiny("dataset.name=folder", "dataset.root=~nosuchuser/x")], 2, "without ~"),
        (["train", *tiny(), "--runs-dir", "a" * 300], 2, "File name too long"),
        (["runs", "a" * 300], 2, "File name too long"),
        (["tensorboard", "absent"], 2, "no such folder"),
        (["study", "run", "absent.yaml", "--jobs", "0"], 2, "--jobs 0: expected a number from 1"),
        (["study", "run", "absent.yaml", "--jobs", "²"], 2, "expected a number from 1, or auto"),
        (["claims", "plcement"], 2, "did you mean 'placement'"),
        (["claims", "rnu", "depth"], 2, "did you mean 'run'"),
        (["claims", "run"], 2, "name claims"),
        (["claims", "run", "depth", "--all"], 2, "name claims"),
        (["claims", "run", "depth", "--jobs", "9" * 5000], 2, "expected a number from 1, or auto"),
    ],
)
def test_a_mistake_gets_one_message_the_right_code_and_no_traceback(
    tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    done = bnlab(*words, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not any(tmp_path.rglob("run.json"))


def test_a_runs_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = bnlab("train", *tiny(), "--runs-dir", "file/runs", cwd=tmp_path)
    assert done.returncode == 1
    assert "file/runs" in done.stderr
    assert "--runs-dir" in done.stderr
    assert "Traceback" not in done.stderr


def test_dry_run_shows_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    done = bnlab("train", *tiny(), "--dry-run", cwd=tmp_path)
    assert done.returncode == 0
    assert "batch_size: 32" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("runs/tiny/")
    assert list(tmp_path.iterdir()) == []


def test_check_prints_a_resolved_configuration_that_checks_again(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model: {norm: none}\noptim: {lr: 1e-3}\n")
    shown = bnlab("check", "a.yaml", "--print", cwd=tmp_path)
    assert shown.returncode == 0
    (tmp_path / "b.yaml").write_text(shown.stdout)
    assert bnlab("diff", "a.yaml", "b.yaml", cwd=tmp_path).stdout == "no differences\n"
    bad = bnlab("check", "a.yaml", "--set", "train.batch_size=1", cwd=tmp_path)
    assert bad.returncode == 0  # no norm, no statistics to take
    worse = bnlab(
        "check", "a.yaml", "--set", "train.batch_size=1", "--set", "model.norm=batch", cwd=tmp_path
    )
    assert worse.returncode == 2


def test_data_says_that_nothing_is_there(tmp_path: Path) -> None:
    done = bnlab("data", "--json", cwd=tmp_path)
    assert done.returncode == 0
    assert json.loads(done.stdout)["cifar10"] == "missing"
    (tmp_path / "data/mine/train").mkdir(parents=True)
    (tmp_path / "data/mine/test").mkdir()
    assert "dataset.root=data/mine" in bnlab("data", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    "error",
    [MemoryError("8 EiB"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 EiB\nat")],
)
def test_a_machine_without_enough_memory_gets_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    message = capsys.readouterr().err
    assert "not enough memory" in message
    assert "8 EiB" in message
    assert message.count("\n") == 1


def test_a_memory_error_that_says_nothing_is_told_as_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise MemoryError

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith("bnlab: not enough memory; lower dataset sizes")


def test_diff_of_a_folder_that_is_no_run_is_a_mistake_of_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run here"):
        train.diff(tmp_path, tmp_path)


def test_help_loads_neither_torch_nor_anything_else_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; import bnlab.cli\n"
        "print([m for m in ('torch', 'torchvision', 'scipy', 'matplotlib', 'pydantic', 'yaml') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    shown = bnlab("--help", cwd=tmp_path)
    assert shown.returncode == 0
    for command in ("train", "check", "diff", "data", "tensorboard"):
        assert command in shown.stdout
    assert bnlab("--version", cwd=tmp_path).stdout.startswith("bnlab ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a Linux device")
@pytest.mark.parametrize("words", [["--help"], ["claims", "--json"]])
def test_output_that_finds_no_space_is_told_in_a_line(words: list[str], tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "bnlab.cli", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr.startswith("bnlab: the output is incomplete: No space left on device")
    assert "Traceback" not in ended.stderr
    assert "Exception" not in ended.stderr


def test_help_shows_no_type_beside_flags_and_offers_completion(tmp_path: Path) -> None:
    shown = bnlab("--help", cwd=tmp_path).stdout + bnlab("compare", "-h", cwd=tmp_path).stdout
    assert "--allow-mixed" in shown
    assert "bool" not in shown
    assert "--install-completion" in shown


@pytest.mark.parametrize(
    ("line", "whole"),
    [
        ("bnlab cla", "claims"),
        ("bnlab claims run pla", "placement"),
        ("bnlab claims explain pla", "placement"),
        ("bnlab explain insta", "installation"),
        ("bnlab explain higher", "higher_lr"),
    ],
)
def test_the_shell_completes_commands_claims_and_topics(line: str, whole: str) -> None:
    count = str(len(line.split()) - 1)
    asked = {"_BNLAB_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": count}
    code = "import sys; sys.argv[0] = 'bnlab'; from bnlab.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**ENVIRONMENT, **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [whole], done.stderr


def test_a_second_identical_train_is_told_who_trains_the_run_and_since_when(
    tmp_path: Path,
) -> None:
    *config, place = bnlab("train", *tiny(), "--dry-run", cwd=tmp_path).stdout.splitlines()
    root = tmp_path / place
    with RunDir(root).lock():
        RunDir(root).create("\n".join(config), "", None)
        for resume in ("never", "auto"):
            done = bnlab("train", *tiny(), "--resume", resume, cwd=tmp_path)
            assert done.returncode == 5
            assert f"process {os.getpid()} on {platform.node()}, since 20" in done.stderr
            assert "right now" in done.stderr
            assert "delete" not in done.stderr
    assert "an unfinished run is here" in bnlab("train", *tiny(), cwd=tmp_path).stderr


def test_an_arm_s_folder_stands_for_its_run_and_several_seeds_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs").root
    shown = bnlab("show", str(run.parent), "--json", cwd=tmp_path)
    assert json.loads(shown.stdout)["path"] == str(run)
    assert bnlab("diff", str(run.parent), str(run), cwd=tmp_path).stdout == "no differences\n"
    make_run(tmp_path / "runs", seed=1)
    for words in (["show", str(run.parent)], ["diff", str(run), str(run.parent)]):
        done = bnlab(*words, cwd=tmp_path)
        assert done.returncode == 2
        assert f"{run.parent}/s0, {run.parent}/s1" in done.stderr


def test_a_claim_is_shown_by_its_name_alone_and_all_are_listed(tmp_path: Path) -> None:
    named = bnlab("claims", "placement", "--json", cwd=tmp_path)
    assert [one["claim"] for one in json.loads(named.stdout)["claims"]] == ["placement"]
    listed = bnlab("claims", "explain", cwd=tmp_path).stdout
    whole = bnlab("claims", "--json", cwd=tmp_path)
    claims = json.loads(whole.stdout)["claims"]
    assert all(re.search(rf"^{one['claim']} ", listed, re.MULTILINE) for one in claims)
    every = bnlab("claims", "run", "--all", "--dry-run", "--json", cwd=tmp_path)
    assert set(json.loads(every.stdout)) == {one["claim"] for one in claims}


def study_of(tmp_path: Path) -> Path:
    """Two arms of two seeds in `runs/made`; one of the runs."""
    for seed in (0, 1):
        make_run(tmp_path / "runs", seed=seed, sets={"model.norm.name": "none"})
        made = make_run(tmp_path / "runs", seed=seed)
    return made.root


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_what_stdout_cannot_encode_is_printed_as_a_question_mark(
    tmp_path: Path, encoding: str
) -> None:
    run = study_of(tmp_path)
    for words in (["show", str(run)], ["compare"], ["claims"]):
        done = subprocess.run(
            [sys.executable, "-m", "bnlab.cli", *words],
            cwd=tmp_path,
            env={**ENVIRONMENT, "PYTHONIOENCODING": encoding},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "?" in done.stdout.decode(encoding), words


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["compare"], 0),
        (["compare", "--json"], 0),
        (["compare", "--out", "out", "--check", "earlier.json"], 4),
        (["claims", "--out", "out"], 0),
        (["claims", "--out", "out", "--strict"], 4),
        (["claims", "--out", "out", "--strict", "--json"], 4),
        (["runs"], 0),
        (["--version"], 0),
    ],
)
def test_a_reader_that_leaves_changes_neither_the_files_nor_the_exit_code(
    tmp_path: Path, words: list[str], code: int
) -> None:
    study_of(tmp_path)
    if "--check" in words:
        bnlab("compare", "--out", "before", cwd=tmp_path)
        earlier = (tmp_path / "before/report.json").read_text()
        changed = re.sub(r'"verdict": "[^"]*"', '"verdict": "another"', earlier)
        (tmp_path / "earlier.json").write_text(changed)
    with subprocess.Popen(
        [sys.executable, "-m", "bnlab.cli", *words],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # before anything is printed
        errors = process.stderr.read()
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert "Exception" not in errors
    if words[0] in {"compare", "claims"}:
        assert any(tmp_path.rglob("*.html"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("check", "configs/studies/quick.yaml"), "bnlab study plan shows it"),
        (("study", "plan", "quickstart"), "a configuration of one run, not a study of many"),
        (("study", "plan", "configs/claims/depth.yaml"), "bnlab claims run depth"),
        (("layers", "net.py:Net"), "--set model.file=net.py:Net"),
        (("layers", "."), "of a run give its config.yaml"),
        (("doctor", "net.py"), "as in net.py:Net"),
    ],
)
def test_a_file_of_another_kind_is_told_which_command_reads_it(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    done = bnlab(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
