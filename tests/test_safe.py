"""Names and words of someone else's runs reach every output as text, and as nothing else."""

import csv
import html
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import make_run
from matplotlib.figure import Figure
from rich.console import Console

from bnlab.analysis import Options, compare
from bnlab.analysis.runs import load_runs
from bnlab.errors import shown_json, shown_lines
from bnlab.report import to_json, write_report
from bnlab.report.blocks import Bullets, Column, Plot, Section, Table, Text
from bnlab.report.events import write_events
from bnlab.report.page import render_html, render_markdown
from bnlab.report.plots.canvas import make_axes, svg
from bnlab.report.safe import cell, folder_name, identifier, markdown, plain
from bnlab.report.terminal import print_sections, stdout_console
from bnlab.report.terms import Explainer

MARKUP = '"><img src=x onerror=alert(1)>'
ATTACKS = (
    MARKUP,
    "\x1b]0;x\x07\x1b[31m",
    "a\n# b",
    "![i](http://x.y)",
    r"$\frac$",
    "a\0b",
    "\udc80",
)


def section(text: str) -> Section:
    table = Table(text, (Column(text),), ((text,),), (text,))
    return Section(text, text, (Text(text), Bullets((text,)), table))


def test_markup_in_a_metric_s_name_stays_out_of_the_page_and_of_files_names(tmp_path: Path) -> None:
    for seed, norm in ((0, "batch"), (1, "batch"), (0, "none"), (1, "none")):
        sets = {"name": "study", "model.norm.name": norm}
        make_run(tmp_path, seed=seed, sets=sets, probes=(MARKUP, r"$\frac$", "a\0b"))
    runs, remarks = load_runs([tmp_path])
    comparison = compare(runs, Options(), remarks)
    written = write_report(comparison, tmp_path / "report")
    assert "<img" not in (tmp_path / "report" / "report.html").read_text()
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+\.[a-z]+", path.name) for path in written)
    drawn = [path for path in written if path.suffix == ".svg"]
    assert sum(path.name.startswith("probe-") for path in drawn) == 4
    for path in drawn:
        ids = {e.get("id", "-") for e in ET.parse(path).iter()}  # noqa: S314 - made by bnlab
        ids = {one.replace("matplotlib.axis", "axis") for one in ids}  # matplotlib's own word
        assert [one for one in ids if not re.fullmatch(r"[A-Za-z0-9_-]+", one)] == []
    folders = [path.name for path in write_events(comparison, tmp_path / "report").iterdir()]
    assert min(folders) == "batch-before_activation"


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_output_holds_more_than_the_text_of_a_name(attack: str) -> None:
    there = [section(attack)]
    page = render_html(attack, there, {})
    typed = io.StringIO()
    print_sections(there, Console(file=typed, width=200))
    for text in (page, render_markdown(attack, there), typed.getvalue(), shown_lines(attack)):
        assert not re.search("[\0-\x09\x0b-\x1f\ud800-\udfff]", text)
    assert "<img" not in page
    assert "\n# b" not in render_markdown(attack, there)
    assert "\\n# b" in typed.getvalue() or "\n" not in attack


def test_a_terminal_gets_no_escape_sequence_by_way_of_a_warning_or_an_error() -> None:
    script = (
        "import logging, sys; from bnlab import cli; from bnlab.errors import BnlabError\n"
        "def app():\n"
        "    logging.getLogger('bnlab').warning('%s: damaged', '\x1b[31mred')\n"
        "    raise BnlabError('\x1b]0;title\x07: unreadable')\n"
        "cli.app = app; cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr == ("bnlab: \\x1b[31mred: damaged\nbnlab: \\x1b]0;title\\x07: unreadable\n")


@pytest.mark.parametrize(
    ("columns", "width"), [("80", 80), ("x", 120), ("0", 120), ("-5", 120), ("9" * 30, 10_000)]
)
def test_a_width_that_is_no_number_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, columns: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert stdout_console().width == width


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_figure_with_such_names_is_xml_and_shows_them(attack: str) -> None:
    def draw() -> Figure:
        figure, axes = make_axes(1.0)
        axes.set_title(attack)
        axes.set_xlabel(attack)
        axes.set_xscale("log")
        return figure

    text = svg(Plot(attack, attack, draw).name, draw, attack)
    root = ET.fromstring(text)  # noqa: S314 - made by bnlab
    shown = {element.text for element in root.iter() if element.tag.endswith("text")}
    assert shown_lines(attack).replace("\n", "\\n") in shown
    assert not [words for words in shown if "mathdefault" in str(words)]  # an axis has its powers


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("# a", r"\# a"),
        ("- a", r"\- a"),
        ("1. a", r"1\. a"),
        ("![i](u)", r"!\[i\](u)"),
        ("see http://x.y", r"see http\://x.y"),
        ("www.x.y", r"www\.x.y"),
        ("$x$", r"\$x\$"),
        ("-0.5", r"\-0.5"),
        ("batch: 1.5 %", "batch: 1.5 %"),
    ],
)
def test_nothing_in_markdown_begins_more_than_a_word(text: str, escaped: str) -> None:
    assert markdown(text) == escaped


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_a_spreadsheet_takes_no_cell_for_a_formula(start: str) -> None:
    assert cell(f"{start}cmd|' /C calc'!A0") == f"'{start}cmd|' /C calc'!A0"
    assert cell("-1.5e-3") == "-1.5e-3"
    assert cell(-1.5) == -1.5
    assert cell("arm") == "arm"


@given(st.text())
def test_a_term_is_explained_in_any_text_without_changing_it(text: str) -> None:
    marked = str(Explainer().explain(f"{text} pp {text}"))
    without = re.sub(r'<a class="term" href="#term-[a-z-]+">|</a>', "", marked)
    assert html.unescape(without) == plain(f"{text} pp {text}")
    assert not re.search("[<>]", without)


@pytest.mark.parametrize("attack", ["javascript:alert(1)", '"><script>a b#c?d'])
def test_a_folder_s_name_makes_no_link_but_to_itself(attack: str, tmp_path: Path) -> None:
    for seed, norm in ((0, "batch"), (1, "batch"), (0, "none"), (1, "none")):
        make_run(tmp_path, seed=seed, sets={"name": "study", "model.norm.name": norm})
    (tmp_path / "study").rename(tmp_path / attack)
    runs, remarks = load_runs([tmp_path])
    write_report(compare(runs, Options(), remarks), tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert text.count("<script") == 1
    links = set(re.findall(r'href="([^#"][^"]*)"', text))
    assert len(links) == 4
    for link in links:
        assert re.fullmatch(r"[A-Za-z0-9._~/%-]+", link)
        assert (tmp_path / unquote(link)).is_dir()


@given(st.text(), st.text())
def test_names_of_files_are_safe_short_and_apart(one: str, other: str) -> None:
    for name, allowed in ((identifier, r"[A-Za-z0-9_-]+"), (folder_name, r"[^/\\\0]+")):
        assert re.fullmatch(allowed, name(one))
        assert 0 < len(name(one)) <= 100
        assert not name(one).startswith(".")
        assert (name(one) == name(other)) == (one == other)


@given(st.text())
def test_json_for_a_terminal_means_the_same_and_shows_all(text: str) -> None:
    for ascii_only in (True, False):
        safe = shown_json(json.dumps({text: [text]}, indent=1, ensure_ascii=ascii_only))
        assert json.loads(safe) == {text: [text]}
        assert shown_lines(safe) == safe


def test_json_of_a_comparison_stays_json_whatever_a_run_is_called(tmp_path: Path) -> None:
    device = "\x9b31m \x7f\xa0\u2028\u202e\U000e0001 批"
    for seed in (0, 1):
        for norm in ("batch", "none"):
            sets = {"model.norm.name": norm}
            make_run(tmp_path, seed=seed, sets=sets, run={"device": device})
    runs, remarks = load_runs([tmp_path])
    text = to_json(compare(runs, Options(), remarks))
    assert shown_lines(text) == text
    assert {run["device"] for run in json.loads(text)["runs"]} == {device}


def test_formulas_reach_csv_as_text(tmp_path: Path) -> None:
    for seed in (0, 1):
        for norm in ("batch", "none"):
            sets = {"name": "study", "model.norm.name": norm}
            made = make_run(tmp_path, seed=seed, sets=sets, run={"device": "=cmd|'/C calc'!A0"})
            facts = json.loads(made.run.read_text())
            assert facts["device"].startswith("=")
    runs, remarks = load_runs([tmp_path])
    write_report(compare(runs, Options(), remarks), tmp_path / "report")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "report" / "runs.csv").read_text())))
    assert {row["device"] for row in rows} == {"'=cmd|'/C calc'!A0"}


def test_a_place_that_may_not_be_read_is_named_in_one_line() -> None:
    program = (
        "import errno, sys, types\n"
        "from bnlab import cli\n"
        "def refuse():\n"
        "    raise PermissionError(errno.EACCES, 'Permission denied', 'runs/theirs/run.json')\n"
        "cli.app = refuse\n"
        "cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("bnlab: runs/theirs/run.json: Permission denied; ")
    assert "Traceback" not in done.stderr
