import gzip
import io
import json
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from made_runs import make_run
from typer.testing import CliRunner

from bnlab.analysis import Options, compare, load_runs
from bnlab.cli import app
from bnlab.errors import BnlabError, ConfigError, RefusedError
from bnlab.records import StoredStudies, find_runs, load_record, pack
from bnlab.records import archive as module
from bnlab.report.data import to_json
from bnlab.study.plan import load_study

NONE = {"model.norm.name": "none"}


def made(runs: Path, seeds: int = 3) -> Path:
    for seed in range(seeds):
        make_run(runs, seed=seed, sets=NONE, accuracy=0.5 + seed / 100)
        make_run(runs, seed=seed, accuracy=0.6 + seed / 100)
    (runs / "made" / "study.yaml").write_text("name: made\n")
    return runs


def test_the_same_runs_give_the_same_bytes_wherever_they_lie(tmp_path: Path) -> None:
    shutil.copytree(made(tmp_path / "a"), tmp_path / "b" / "c")
    for place in ("a", "b"):
        pack([tmp_path / place], tmp_path / f"{place}.tar.xz")
    assert (tmp_path / "a.tar.xz").read_bytes() == (tmp_path / "b.tar.xz").read_bytes()


def test_an_archive_says_what_its_folder_says(tmp_path: Path) -> None:
    runs = made(tmp_path / "runs")
    packed = pack([runs], tmp_path / "x.tar.xz")
    assert (packed.runs, packed.remarks) == (6, ())
    reports = [
        to_json(compare(load_runs([path])[0], Options(), load_runs([path])[1]))
        for path in (runs, tmp_path / "x.tar.xz")
    ]
    assert reports[0] == reports[1]


def test_checkpoints_and_events_stay_behind_and_equal_contents_are_stored_once(
    tmp_path: Path,
) -> None:
    runs = made(tmp_path / "runs")
    run = make_run(runs, seed=9)
    run.checkpoint.write_bytes(b"weights")
    run.tensorboard.mkdir()
    (run.tensorboard / "events").write_bytes(b"events")
    pack([runs], tmp_path / "x.tar.xz")
    with tarfile.open(tmp_path / "x.tar.xz") as archive:
        members = archive.getmembers()
    assert {Path(m.name).name for m in members} == {
        "config.yaml",
        "run.json",
        "metrics.jsonl",
        "summary.json",
        "env.txt",
        "study.yaml",
    }
    environments = [m for m in members if m.name.endswith("env.txt")]
    assert len(environments) == 7
    assert sum(m.isreg() for m in environments) == 1
    assert [m.name for m in members] == sorted(m.name for m in members)
    assert {(m.mtime, m.uid, m.gid, m.uname) for m in members} == {(0, 0, 0, "")}


def test_ordinary_tools_unpack_what_was_packed(tmp_path: Path) -> None:
    runs = made(tmp_path / "runs")
    pack([runs], tmp_path / "x.tar.xz")
    with tarfile.open(tmp_path / "x.tar.xz") as archive:
        archive.extractall(tmp_path / "out", filter="data")
    for file in runs.rglob("*.*"):
        if file.is_file():
            assert (tmp_path / "out" / file.relative_to(runs)).read_bytes() == file.read_bytes()


def test_archives_below_a_folder_count_beside_its_runs(tmp_path: Path) -> None:
    pack([made(tmp_path / "other")], tmp_path / "runs.tar.xz")
    runs = tmp_path / "runs"
    make_run(runs, seed=7)
    (tmp_path / "runs.tar.xz").rename(runs / "x.tar.xz")
    assert len(find_runs([runs]).runs) == 7
    assert StoredStudies(runs).read("made/study.yaml") == (
        "name: made\n",
        str(runs / "x.tar.xz" / "made/study.yaml"),
    )


def test_two_archives_become_one(tmp_path: Path) -> None:
    pack([made(tmp_path / "a")], tmp_path / "a.tar.xz")
    make_run(tmp_path / "b", seed=9)
    pack([tmp_path / "b"], tmp_path / "b.tar.xz")
    both = pack([tmp_path / "a.tar.xz", tmp_path / "b.tar.xz"], tmp_path / "both.tar.xz")
    assert both.runs == 7
    assert StoredStudies(tmp_path / "both.tar.xz").read("made/study.yaml") is not None


def test_unfinished_runs_are_named_and_left_out(tmp_path: Path) -> None:
    made(tmp_path / "runs")
    make_run(tmp_path / "runs", seed=8, status="preempted")
    packed = pack([tmp_path / "runs"], tmp_path / "x.tar.xz")
    assert packed.runs == 6
    [left] = packed.remarks
    assert left.where.endswith("/s8")
    assert left.what == "not finished; left out"


def test_what_cannot_be_read_back_is_named_and_left_out(tmp_path: Path) -> None:
    made(tmp_path / "runs", seeds=1)
    make_run(tmp_path / "runs", seed=8).config.unlink()
    packed = pack([tmp_path / "runs"], tmp_path / "x.tar.xz")
    assert packed.runs == 2
    [left] = packed.remarks
    assert left.where.endswith("/s8")
    assert left.what.endswith("config.yaml: missing; left out")


def test_a_study_is_not_trained_into_an_archive(tmp_path: Path) -> None:
    pack([made(tmp_path / "runs")], tmp_path / "x.tar.xz")
    study = Path(__file__).parent.parent / "configs" / "studies" / "quick.yaml"
    with pytest.raises(ConfigError, match=r"x\.tar\.xz: an archive; a study trains into a folder"):
        load_study(study, runs_dir=tmp_path / "x.tar.xz")


def test_different_runs_of_one_path_are_refused(tmp_path: Path) -> None:
    for place, accuracy in (("a", 0.5), ("b", 0.6)):
        make_run(tmp_path / place, seed=0, accuracy=accuracy)
    with pytest.raises(RefusedError, match="another run of the path made/"):
        pack([tmp_path / "a", tmp_path / "b"], tmp_path / "x.tar.xz")
    assert not (tmp_path / "x.tar.xz").exists()


def test_packing_says_what_it_cannot_do(tmp_path: Path) -> None:
    made(tmp_path / "runs")
    with pytest.raises(ConfigError, match=r"an archive is called NAME\.tar\.xz"):
        pack([tmp_path / "runs"], tmp_path / "x.zip")
    (tmp_path / "x.tar.xz").touch()
    with pytest.raises(RefusedError, match="is there already"):
        pack([tmp_path / "runs"], tmp_path / "x.tar.xz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no finished runs to pack"):
        pack([tmp_path / "empty"], tmp_path / "y.tar.xz")


def test_a_place_in_an_archive_is_named_like_one_on_the_disk(tmp_path: Path) -> None:
    pack([made(tmp_path / "runs")], tmp_path / "x.tar.xz")
    [study] = {run.root.parent.parent for run in find_runs([tmp_path / "x.tar.xz"]).runs}
    assert len(find_runs([study]).runs) == 6
    assert len(find_runs([study / "none-*"]).runs) == 3
    one = find_runs([tmp_path / "x.tar.xz"]).runs[0]
    assert [run.path for run in find_runs([one.root]).runs] == [one.path]
    assert load_record(one).status == "done"
    with pytest.raises(ConfigError, match="no such run in the archive"):
        find_runs([study / "nothing"])


def damaged(path: Path, how: str) -> None:
    data = path.read_bytes()
    contents = {"cut": data[: len(data) // 2], "empty": b"", "text": b"no archive\n"}
    path.write_bytes(contents[how])


@pytest.mark.parametrize("how", ["cut", "empty", "text"])
def test_a_damaged_archive_is_named_and_the_rest_is_read(tmp_path: Path, how: str) -> None:
    runs = made(tmp_path / "runs")
    pack([runs], runs / "x.tar.xz")
    damaged(runs / "x.tar.xz", how)
    with pytest.raises(BnlabError, match=r"x\.tar\.xz: not a whole archive of runs"):
        find_runs([runs / "x.tar.xz"])
    found = find_runs([runs])
    assert len(found.runs) == 6
    assert ["not a whole archive" in remark.what for remark in found.remarks] == [True]


def holds(tar: bytes, compressed: bytes) -> bool:
    """Zeros repeated from another distance are the same zeros: not every flip is damage."""
    try:
        return gzip.decompress(compressed) == tar
    except (OSError, EOFError, zlib.error):
        return False


def test_an_archive_of_gzip_is_read_and_one_that_is_damaged_is_named(tmp_path: Path) -> None:
    pack([made(tmp_path / "runs", seeds=1)], tmp_path / "x.tar.xz")
    tar = lzma.decompress((tmp_path / "x.tar.xz").read_bytes())
    data = gzip.compress(tar)
    path = tmp_path / "x.tar.gz"
    path.write_bytes(data)
    assert len(find_runs([path]).runs) == 2
    for place in range(12, len(data), 17):
        flipped = data[:place] + bytes([data[place] ^ 0x5A]) + data[place + 1 :]
        if not holds(tar, flipped):
            path.write_bytes(flipped)
            with pytest.raises(BnlabError, match="not a whole archive"):
                find_runs([path])


def test_an_archive_that_changed_within_a_tick_of_the_clock_is_read_again(tmp_path: Path) -> None:
    pack([made(tmp_path / "runs", seeds=1)], tmp_path / "x.tar.xz")
    path, whole = tmp_path / "x.tar.xz", (tmp_path / "x.tar.xz").read_bytes()
    assert len(find_runs([path]).runs) == 2
    dates = path.stat()
    path.write_bytes(whole[:-9] + b"\0" + whole[-8:])
    os.utime(path, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    with pytest.raises(BnlabError, match="not a whole archive"):
        find_runs([path])


def hostile(path: Path, members: Mapping[str, bytes | str]) -> None:
    """An archive of these members; a text is the target of a link."""
    with tarfile.open(path, "w:xz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def test_nothing_outside_an_archive_is_read_or_written(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("{}")
    path = tmp_path / "x.tar.xz"
    hostile(path, {"../../escaped": b"x", "a/b/s0/run.json": str(secret)})
    assert find_runs([path]).runs == ()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["secret", "x.tar.xz"]


def test_an_archive_that_grows_without_bound_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 10_000)
    path = tmp_path / "x.tar.xz"
    hostile(path, {"a/b/s0/metrics.jsonl": b"0" * 20_000})
    assert path.stat().st_size < 1_000
    with pytest.raises(BnlabError, match="holds over 10,000 bytes"):
        find_runs([path])
    assert lzma.decompress(path.read_bytes())


@pytest.mark.parametrize("headers", [{}, {"comment": "x" * 300_000}])
def test_an_archive_of_headers_without_bound_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 200_000)
    path = tmp_path / "x.tar.xz"
    with tarfile.open(path, "w:xz", format=tarfile.PAX_FORMAT) as archive:
        for number in range(200):
            member = tarfile.TarInfo(f"{number}")
            member.pax_headers = headers
            archive.addfile(member)
    with pytest.raises(BnlabError, match="holds over 200,000 bytes"):
        find_runs([path])


def test_every_command_that_takes_runs_takes_archives(tmp_path: Path) -> None:
    pack([made(tmp_path / "runs")], tmp_path / "x.tar.xz")
    archive, run = str(tmp_path / "x.tar.xz"), find_runs([tmp_path / "x.tar.xz"]).runs[0].root
    other = find_runs([tmp_path / "x.tar.xz"]).runs[-1].root
    for words in (
        ["runs", archive],
        ["show", str(run)],
        ["compare", archive, "--out", str(tmp_path / "report")],
        ["audit", archive],
        ["claims", "--runs-dir", archive],
        ["pack", archive, "--out", str(tmp_path / "again.tar.xz")],
        ["diff", str(run), str(other)],
    ):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (words, done.output, done.exception)
    listed = CliRunner().invoke(app, ["runs", archive, "--json"])
    assert len(json.loads(listed.stdout)["runs"]) == 6
