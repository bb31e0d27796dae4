import json
import re
from pathlib import Path

import pytest
from calibrate import KINDS, NULLS, compare_cell, is_false, stream
from markupsafe import escape
from results import (
    DRAWN,
    PICTURE,
    README,
    REFERENCE,
    calibrated_claims,
    calibrated_compare,
    documents,
    table,
)

from bnlab.claims import CLAIMS, Verdict
from bnlab.claims._calibration import World

FOUND = json.loads((REFERENCE / "calibration.json").read_text(encoding="utf-8"))

TRACKED_FILES, TRACKED_BYTES = 60, 7_000_000


def test_every_printed_figure_is_what_the_archives_say(tmp_path: Path) -> None:
    made = documents(tmp_path)
    assert {README, REFERENCE / "RESULTS.md"} < made.keys()
    for path, text in made.items():
        if path.suffix not in DRAWN:
            assert path.read_text(encoding="utf-8") == text, f"run scripts/results.py: {path.name}"


def test_the_picture_shows_every_verdict_that_there_is() -> None:
    found = json.loads((REFERENCE / "claims" / "claims.json").read_text(encoding="utf-8"))["claims"]
    drawn = PICTURE.read_text(encoding="utf-8")
    shown = {name for name in CLAIMS if re.search(rf">{name}(?::| \()", drawn)}
    assert shown == {one["claim"] for one in found if one["verdict"] != "NOT TESTED"}
    assert all(one["verdict"] in drawn for one in found if one["claim"] in shown)


def test_every_table_counts_the_seeds_behind_an_effect_alike() -> None:
    found = json.loads((REFERENCE / "claims" / "claims.json").read_text(encoding="utf-8"))["claims"]
    counted = {one["claim"]: str(one["n"]) for one in found if one["verdict"] != "NOT TESTED"}
    for page in (README, REFERENCE / "RESULTS.md"):
        rows = re.findall(
            r"^\| `(\w+)`: .* \| (\d+) \|$", page.read_text(encoding="utf-8"), re.MULTILINE
        )
        assert {name: n for name, n in rows if name in counted} == counted


def test_the_page_shows_every_number_of_both_places_of_a_claim() -> None:
    folder = REFERENCE / "claims"
    found = json.loads((folder / "claims.json").read_text(encoding="utf-8"))["claims"]
    page = (folder / "claims.html").read_text(encoding="utf-8").replace("<wbr>", "")
    results = (REFERENCE / "RESULTS.md").read_text(encoding="utf-8")
    twice = [one for one in found if one["places"]]
    assert {one["claim"] for one in twice} == {"covariate_shift", "gradients", "placement"}
    for one in twice:
        section = page[page.index(f'<section id="{one["claim"]}">') :]
        section = section[: section.index("</section>")]
        first, second = one["places"]
        assert first["details"] == one["details"]
        for place in (first, second):
            table = section[section.index(str(escape(f"Effects {place['place']}"))) :]
            table = table[: table.index("</table>")]
            for detail in place["details"]:
                assert str(escape(detail["name"])) in table
                assert f"| {detail['name']} |" in results


def test_the_reference_is_a_few_small_files() -> None:
    files = [path for path in REFERENCE.rglob("*") if path.is_file()]
    assert len(files) < TRACKED_FILES
    assert sum(path.stat().st_size for path in files) < TRACKED_BYTES


def test_a_bar_in_a_cell_is_none_of_the_table() -> None:
    assert table(["a"], [["+0.03 |r|"]]).splitlines()[-1] == r"| +0.03 \|r\| |"


def cells_of(table: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]


def test_the_calibration_is_of_all_claims_and_its_totals_add_up() -> None:
    *claims, total = cells_of(calibrated_claims(FOUND))
    assert {row[0] for row in claims} == {f"`{name}`" for name in CLAIMS}
    counts = [[int(cell.replace(",", "")) for cell in row[1:4]] for row in (*claims, total)]
    assert counts[-1] == [sum(column) for column in zip(*counts[:-1], strict=True)]
    assert counts[-1][0] == FOUND["studies"] * len(NULLS) * len(claims)
    assert not total[4].startswith("**"), "false verdicts beyond what is allowed"
    compared = cells_of(calibrated_compare(FOUND))
    assert [(int(row[1]), row[0]) for row in compared[::2]] == KINDS
    assert sum(int(row[3].replace(",", "")) for row in compared) == sum(
        cell["compared"] for cell in FOUND["compare"]
    )


def test_verdicts_that_speak_of_an_effect_are_false_where_there_is_none() -> None:
    placement, bounded = CLAIMS["placement"], CLAIMS["insensitive"]
    for sublabel in ("reversed", "real but negligible", "depends on the hidden layer"):
        assert is_false(placement, Verdict("REFUTED", sublabel))
    for fine in (Verdict("REFUTED"), Verdict("REFUTED", "no practical difference")):
        assert not is_false(placement, fine)
    assert is_false(placement, Verdict("SUPPORTED"))
    assert is_false(bounded, Verdict("REFUTED"))
    assert not is_false(bounded, Verdict("INCONCLUSIVE"))


def test_cells_share_no_draws() -> None:
    first, again, other = (
        stream("depth", World(fails=fails)).random() for fails in (0.0, 0.0, 0.1)
    )
    assert first == again != other


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_an_imagined_comparison_finds_what_was_planted(kind: tuple[int, str]) -> None:
    cell = compare_cell(*kind, World(0.1, sd=0.0002), 1)
    found = kind[1] != "once"  # which gets no verdict
    assert (cell["compared"], cell["first_higher"]) == (1, int(found))
