from pathlib import Path

from results import README, REFERENCE, documents

TRACKED_FILES, TRACKED_BYTES = 60, 3_000_000


def test_every_printed_figure_is_what_the_archives_say(tmp_path: Path) -> None:
    made = documents(tmp_path)
    assert {README, REFERENCE / "RESULTS.md"} < made.keys()
    for path, text in made.items():
        if path.suffix != ".html":  # plots may differ by the version of matplotlib
            assert path.read_text(encoding="utf-8") == text, f"run scripts/results.py: {path.name}"


def test_the_reference_is_a_few_small_files() -> None:
    files = [path for path in REFERENCE.rglob("*") if path.is_file()]
    assert len(files) < TRACKED_FILES
    assert sum(path.stat().st_size for path in files) < TRACKED_BYTES
