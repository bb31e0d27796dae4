import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from raw import raw_metrics, roots_of

from bnlab.analysis.listing import list_runs
from bnlab.errors import BnlabError, RefusedError
from bnlab.records import (
    LockedError,
    RunDir,
    StorageError,
    load_record,
    read_summary,
    write_text,
)


def created(root: Path) -> RunDir:
    run_dir = RunDir(root)
    run_dir.create("name: x\nseed: 3\n", "torch==2.13.0\n", None)
    run_dir.write_run({"status": "running"})
    return run_dir


def test_a_run_is_finished_exactly_when_its_summary_is_there(tmp_path: Path) -> None:
    run_dir = created(tmp_path / "s0")
    assert run_dir.started
    assert not run_dir.finished
    run_dir.write_summary({"status": "done"})
    assert run_dir.finished
    assert read_summary(run_dir.files).status == "done"


def test_metrics_come_back_as_they_were_written(tmp_path: Path) -> None:
    run_dir = created(tmp_path / "s0")
    records = [{"epoch": 1, "train/loss": 0.1 + 0.2}, {"epoch": 2, "train/loss": 1e-300}]
    for record in records:
        run_dir.append_metrics(record)
    assert raw_metrics(run_dir) == records


def test_a_number_that_is_not_finite_is_stored_as_null(tmp_path: Path) -> None:
    run_dir = created(tmp_path / "s0")
    run_dir.append_metrics({"epoch": 1, "train/loss": math.nan, "list": [math.inf, 1.0]})
    assert json.loads(run_dir.metrics.read_text()) == {
        "epoch": 1,
        "train/loss": None,
        "list": [None, 1.0],
    }


def test_a_cut_off_last_line_is_left_out_and_remarked(tmp_path: Path) -> None:
    run_dir = created(tmp_path / "s0")
    run_dir.append_metrics({"epoch": 1})
    with run_dir.metrics.open("a") as file:
        file.write('{"epoch": 2, "train/lo')
    record = load_record(run_dir.files)
    assert record.metrics == ({"epoch": 1},)
    assert "cut-off last line" in record.remarks[0]


def test_a_damaged_line_before_the_last_is_an_error_with_its_number(tmp_path: Path) -> None:
    run_dir = created(tmp_path / "s0")
    run_dir.metrics.write_text('{"epoch": 1}\n{"epo\n{"epoch": 3}\n')
    with pytest.raises(BnlabError, match=r"metrics\.jsonl:2"):
        load_record(run_dir.files)


def test_keeping_metrics_drops_the_epochs_that_will_be_trained_again(tmp_path: Path) -> None:
    run_dir = created(tmp_path / "s0")
    for epoch in (1, 2, 3):
        run_dir.append_metrics({"epoch": epoch})
    with run_dir.metrics.open("a") as file:
        file.write('{"epoch": 4')
    run_dir.keep_metrics(2)
    assert run_dir.metrics.read_text() == '{"epoch": 1}\n{"epoch": 2}\n'


def test_keeping_no_metrics_drops_a_first_line_that_was_cut_off(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.metrics.write_text('{"epoch": 1, "tra')
    run_dir.keep_metrics(0)
    run_dir.append_metrics({"epoch": 1})
    assert raw_metrics(run_dir) == [{"epoch": 1}]


def test_a_newer_schema_is_refused_by_name(tmp_path: Path) -> None:
    run_dir = created(tmp_path / "s0")
    run_dir.run.write_text('{"schema_version": 99, "status": "done"}')
    with pytest.raises(BnlabError, match=r"schema version 99 is newer"):
        load_record(run_dir.files)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"status": "done"}', "\x00\x01"])
def test_a_foreign_or_damaged_run_json_is_an_error_that_names_it(
    tmp_path: Path, content: str
) -> None:
    run_dir = created(tmp_path / "s0")
    run_dir.run.write_text(content)
    with pytest.raises(BnlabError, match=r"run\.json"):
        load_record(run_dir.files)


def test_a_damaged_checkpoint_is_recognized(tmp_path: Path) -> None:
    run_dir = created(tmp_path / "s0")
    run_dir.write_checkpoint(b"0123456789" * 100)
    assert run_dir.read_checkpoint() == b"0123456789" * 100
    whole = run_dir.checkpoint.read_bytes()
    for broken in (whole[:-1], whole[:500], b"", whole[:300] + b"X" + whole[301:]):
        run_dir.checkpoint.write_bytes(broken)
        with pytest.raises(RefusedError, match="damaged"):
            run_dir.read_checkpoint()


def test_a_full_disk_leaves_the_old_file_whole_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    write_text(path, "old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"No space left on device; free some space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_a_line_that_the_disk_does_not_take_leaves_no_part_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.append_metrics({"epoch": 1})

    def fails(_handle: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        with pytest.raises(StorageError, match="cannot be written"):
            run_dir.append_metrics({"epoch": 2})
    run_dir.append_metrics({"epoch": 2})
    assert raw_metrics(run_dir) == [{"epoch": 1}, {"epoch": 2}]


def test_a_path_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="--runs-dir"):
        RunDir(tmp_path / "file" / "s0").create("", "", None)


def test_only_one_process_holds_a_run_and_death_releases_it(tmp_path: Path) -> None:
    run_dir = created(tmp_path / "s0")
    code = (
        "import sys, pathlib; from bnlab.records import RunDir\n"
        "with RunDir(pathlib.Path(sys.argv[1])).lock(): print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(run_dir.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(LockedError, match="another process"), run_dir.lock():
            pass
        assert run_dir.locked
        other.kill()
    assert not run_dir.locked
    with run_dir.lock():
        pass


def test_looking_for_a_lock_neither_takes_it_nor_writes(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "s0")
    assert not run_dir.locked
    assert not run_dir.root.exists()
    with run_dir.lock():
        assert run_dir.locked
        assert run_dir.locked
    assert not run_dir.locked


def test_runs_are_found_at_any_depth_and_nothing_inside_them(tmp_path: Path) -> None:
    for name in ("a/x-1/s0", "a/x-1/s1", "b/s0"):
        created(tmp_path / name)
    (tmp_path / "a" / "notes").mkdir()
    inside = tmp_path / "b" / "s0" / "deeper"
    inside.mkdir()
    (inside / "run.json").write_text("{}")
    assert roots_of(tmp_path) == [tmp_path / n for n in ("a/x-1/s0", "a/x-1/s1", "b/s0")]
    assert roots_of(tmp_path / "b" / "s0") == [tmp_path / "b" / "s0"]


def test_records_that_came_with_bnlab_are_found_only_when_asked_for(tmp_path: Path) -> None:
    created(tmp_path / "mine" / "s0")
    created(tmp_path / "reference" / "quick" / "s0")
    created(tmp_path / "mine2" / "reference" / "s0")
    assert roots_of(tmp_path) == [tmp_path / "mine" / "s0", tmp_path / "mine2/reference/s0"]
    assert roots_of(tmp_path / "reference") == [tmp_path / "reference" / "quick" / "s0"]


def test_runs_behind_a_link_to_a_folder_are_found_once(tmp_path: Path) -> None:
    created(tmp_path / "disk" / "x-1" / "s0")
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "claims").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "back").symlink_to(runs)
    assert roots_of(runs) == [runs / "claims" / "x-1" / "s0"]
    (runs / "again").symlink_to(tmp_path / "disk")
    assert roots_of(runs) == [runs / "again" / "x-1" / "s0"]


def test_status_and_seed_are_read_from_the_record(tmp_path: Path) -> None:
    run_dir = created(tmp_path / "s0")
    record = load_record(run_dir.files)
    assert (record.status, record.config.seed, record.summary) == ("running", 3, None)
    run_dir.write_run({"status": "running", "config_hash": record.config.hash})
    summary: dict[str, Any] = {"status": "diverged"}
    run_dir.write_summary(summary)
    assert load_record(run_dir.files).status == "diverged"


@pytest.mark.parametrize("content", ["{}", '{"status": "soon"}', "[]", ""])
def test_a_summary_that_bnlab_did_not_write_is_an_error_that_names_it(
    tmp_path: Path, content: str
) -> None:
    run_dir = created(tmp_path / "s0")
    run_dir.summary.write_text(content)
    with pytest.raises(BnlabError, match=r"summary\.json"):
        read_summary(run_dir.files)


def test_a_run_that_nobody_trains_any_more_is_listed_as_cut_off(tmp_path: Path) -> None:
    run_dir = created(tmp_path / "made" / "x-1" / "s0")
    with run_dir.lock():
        assert [run.values["status"] for run in list_runs([tmp_path])] == ["running"]
    assert [run.values["status"] for run in list_runs([tmp_path])] == ["cut off"]
