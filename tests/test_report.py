import base64
import csv
import hashlib
import io
import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from made_runs import make_run

from bnlab.analysis import Comparison, Options, compare, load_runs
from bnlab.analysis.stats import TimeToTarget
from bnlab.cli import main
from bnlab.records import pack
from bnlab.report import default_folder, is_reference, write_report
from bnlab.report.blocks import Bullets, Plot, Section, Table, Text
from bnlab.report.listing import sparkline
from bnlab.report.numbers import difference, number, p_value, score, time
from bnlab.report.sections import SECTIONS
from bnlab.report.sections.comparison import pairs
from bnlab.report.sections.verdicts import answer, findings

NONE = {"model.norm.name": "none"}
LONG = {"model.norm.placement": "after_activation"}


def make_study(root: Path, seeds: int = 7, name: str = "study", **more: Any) -> Path:
    """Two arms, BN 4 pp better than none, one of whose runs diverges where there are several."""
    for sets, level in ((NONE, 0.70), (LONG, 0.74)):
        for seed in range(seeds):
            make_run(
                root,
                seed=seed,
                sets={**sets, "name": name},
                accuracy=level + 0.001 * (seed % 3) + (0.0005 * seed if sets is LONG else 0),
                **more,
            )
    return root / name


def compared(root: Path, **options: Any) -> Comparison:
    runs, remarks = load_runs([root])
    return compare(runs, Options(**options), remarks)


def words(section: Section) -> str:
    texts = [b.text for b in section.blocks if isinstance(b, Text)]
    return " ".join(
        [*texts, *(i for b in section.blocks if isinstance(b, Bullets) for i in b.items)]
    )


Answer = tuple[int, str, str]


class Terminal:
    """Runs the command line in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: object, columns: int = 120) -> Answer:
        """Exit code, stdout and stderr."""
        self._monkeypatch.setenv("COLUMNS", str(columns))
        self._monkeypatch.setattr(sys, "argv", ["bnlab", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self._capsys.readouterr()
        return int(ended.value.code or 0), out, err


@dataclass(frozen=True)
class Written:
    """A report and what it is about."""

    comparison: Comparison
    folder: Path
    files: list[Path]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    root = tmp_path_factory.mktemp("written")
    comparison = compared(make_study(root, probes=("dead",)))
    return Written(comparison, root / "r", write_report(comparison, root / "r"))


@pytest.fixture
def bnlab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(monkeypatch, capsys)


# ------------------------------------------------------------------------------------------- files


def test_the_same_runs_give_the_same_bytes_wherever_they_lie(
    tmp_path: Path, written: Written
) -> None:
    again = write_report(compared(make_study(tmp_path, probes=("dead",))), tmp_path / "elsewhere")
    assert [path.name for path in again] == [path.name for path in written.files]
    for one, other in zip(again, written.files, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
        assert str(tmp_path).encode() not in one.read_bytes()
        assert b"2026-" not in one.read_bytes()


def test_a_report_has_every_promised_file_and_plot(written: Written) -> None:
    names = {path.name for path in written.files}
    assert {"report.html", "report.md", "report.json", "runs.csv", "curves.csv"} <= names
    assert {"effects-only.svg", "seeds-only.svg", "probe-grad_norm.svg"} <= names
    for split in ("test", "train"):
        for what in ("accuracy", "loss"):
            for axis in ("epochs", "seconds"):
                assert f"curve-{split}-{what}-{axis}.svg" in names


class Page(HTMLParser):
    """Ids, links, scripts and everything that a page would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.tips: list[str] = []
        self._tip = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._tip = tag == "title" and "svg" in self.tags
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name == "href" and tag == "a":
                self.links.append(str(value))
            elif name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.loads += [str(value)] * (not str(value).startswith("#"))

    def handle_data(self, data: str) -> None:
        if self._tip:
            self.tips.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._tip = False


@pytest.fixture(scope="module")
def page(written: Written) -> Page:
    return Page((written.folder / "report.html").read_text())


def test_the_page_loads_nothing_and_its_ids_are_unique(written: Written, page: Page) -> None:
    text = (written.folder / "report.html").read_text()
    assert page.loads == []
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"url\((?!#)|@import", text)
    for section in SECTIONS:
        made = section(written.comparison)
        assert (f'id="{made.key}"' in text) == bool(made.blocks)


def test_the_only_script_is_the_one_that_the_page_s_policy_names(written: Written) -> None:
    text = (written.folder / "report.html").read_text()
    [script] = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in text
    assert text.count("<script") == 1
    assert not re.search(r"\bon\w+=", re.sub(r"<script>.*</script>", "", text, flags=re.DOTALL))
    assert len(script) < 6_000
    assert not re.search(r"fetch|XMLHttp|import\b|innerHTML|eval|https?:", script)


def test_a_page_begins_with_the_answer_and_one_picture(written: Written, page: Page) -> None:
    text = (written.folder / "report.html").read_text()
    first = text[text.index("<section") : text.index("</section>")]
    assert first.startswith('<section id="answer">')
    assert first.count("<figure>") == 1
    assert "batch-after_" in first[: first.index("</p>")]
    assert "4.15" in first[: first.index("</p>")]
    assert page.ids.index("curves") < page.ids.index("effects") < page.ids.index("runs")


def test_every_run_is_drawn_with_its_seed_value_and_folder(written: Written, page: Page) -> None:
    folders = {run.path: run.root for run in written.comparison.runs}
    assert len(folders) == 14
    for path, root in folders.items():
        [tip] = [tip for tip in page.tips if path in tip]
        assert re.search(rf"seed {root.name[1:]}: 7\d\.\d\d %; run ", tip)
        there = f"../{path}/"
        assert page.links.count(there) == 2  # in the plot and in the table
        assert (written.folder / there).resolve() == root.resolve()


def test_a_run_that_diverged_is_drawn_where_it_counts(tmp_path: Path) -> None:
    make_study(tmp_path, seeds=3)
    make_run(tmp_path, seed=3, sets={**NONE, "name": "study"}, status="diverged")
    written = write_report(compared(tmp_path / "study"), tmp_path / "r")
    text = (tmp_path / "r" / "report.html").read_text()
    [drawn] = [tip for tip in Page(text).tips if "diverged" in tip]
    assert drawn.startswith("none, seed 3: 10.00 %, diverged; run study/none-")
    assert "or × if it diverged" in text  # noqa: RUF001 - the marker
    [strip] = [path for path in written if path.name == "seeds-only.svg"]
    ticks = re.findall(r"<text[^>]*>([\d.]+)</text>", strip.read_text())
    assert "10" in ticks  # an axis with its empty stretch cut out


def test_captions_name_nothing_that_is_not_drawn(tmp_path: Path) -> None:
    single = compared(make_study(tmp_path, seeds=1))
    captions = " ".join(
        block.caption
        for section in SECTIONS
        for block in section(single).blocks
        if isinstance(block, Plot)
    )
    assert "mean of all" in captions
    assert not re.search(r"interval|diverged|shaded|limits", captions)


def test_a_record_in_an_archive_has_no_folder_to_go_to(tmp_path: Path) -> None:
    make_study(tmp_path / "runs", seeds=2)
    pack([tmp_path / "runs"], tmp_path / "mine.tar.xz")
    comparison = compare(load_runs([tmp_path / "mine.tar.xz"])[0], Options())
    write_report(comparison, tmp_path / "r")
    page = Page((tmp_path / "r" / "report.html").read_text())
    assert [link for link in page.links if not link.startswith("#")] == []


PLACED = {"model.norm.placement": "before_activation"}


def make_placements(root: Path, seeds: int, gain: float) -> Comparison:
    """None, after and before, which is so much better than after."""
    levels = ((NONE, 0.60), (LONG, 0.70), (PLACED, 0.70 + gain))
    for place, (sets, level) in enumerate(levels, start=1):
        for seed in range(seeds):
            made = level + 0.001 * place * (seed * 7 % 5)
            make_run(root, seed=seed, sets={**sets, "name": "placed"}, accuracy=made)
    return compared(root / "placed")


def test_before_against_after_is_in_the_headline_and_called_exploratory(tmp_path: Path) -> None:
    comparison = make_placements(tmp_path, seeds=8, gain=0.02)
    [lead] = [b.text for b in answer(comparison).blocks if isinstance(b, Text) and b.kind == "lead"]
    assert re.search(
        r"Before or after\? batch-before_activation against batch-after_activation: \+2\.\d\d pp "
        r"\(simultaneous limits \+\d\.\d\d to \+\d\.\d\d, exploratory\), higher\.$",
        lead,
    )
    [table] = [block for block in pairs(comparison).blocks if isinstance(block, Table)]
    assert len(table.rows) == 3
    assert "exploratory" in table.title


def test_limits_of_pairs_are_bonferroni_s_and_agree_with_what_is_said(tmp_path: Path) -> None:
    view = make_placements(tmp_path, seeds=7, gain=-0.002).views[0]
    assert len(view.pairs) == 3
    for pair in view.pairs:
        assert pair.simultaneous is not None
        assert pair.interval is not None
        assert pair.simultaneous.level == pytest.approx(1 - 0.05 / 3)
        assert pair.simultaneous.low < pair.interval.low
        assert pair.simultaneous.high > pair.interval.high
        if pair.verdict in ("higher", "lower"):
            assert not pair.simultaneous.low <= 0 <= pair.simultaneous.high
    assert {pair.verdict for pair in view.pairs} == {"higher", "undecided"}
    assert len(view.effects) == 2  # which are judged without the pairs


def test_terms_lead_to_their_explanations(written: Written, page: Page) -> None:
    explained = {link for link in page.links if link.startswith("#term-")}
    assert {"#term-pp", "#term-seed", "#term-limits", "#term-paired"} <= explained
    assert {link[1:] for link in explained} <= set(page.ids)
    assert "- pp: percentage points" in (written.folder / "report.md").read_text()


def test_names_are_escaped_in_page_and_markdown(tmp_path: Path) -> None:
    make_study(tmp_path, seeds=2)
    comparison = compared(tmp_path / "study")
    wild = "<b>|x_y"
    [effect] = comparison.views[0].effects
    view = replace(comparison.views[0], effects=(replace(effect, arm=wild),))
    arms = (comparison.arms[0], replace(comparison.arms[1], name=wild))
    curves = tuple(c for c in comparison.curves if c.arm == "none")
    probes = tuple(p for p in comparison.probes if p.arm == "none")
    view = replace(view, results=view.results[:1])
    write_report(
        replace(comparison, views=(view,), arms=arms, curves=curves, probes=probes), tmp_path / "r"
    )
    page = (tmp_path / "r" / "report.html").read_text()
    assert "<b>" not in page
    assert "&lt;b&gt;|x_" in page
    assert r"\<b\>\|x\_y" in (tmp_path / "r" / "report.md").read_text()


def test_every_plot_is_well_formed_and_takes_the_page_s_text_color(written: Written) -> None:
    plots = list(written.folder.glob("*.svg"))
    assert len(plots) >= 11
    for plot in plots:
        root = ET.parse(plot).getroot()  # noqa: S314 - made by bnlab
        assert root.get("role") == "img"
        assert root.get("aria-label")
        assert "currentColor" in plot.read_text()
        assert "prefers-color-scheme:dark" in plot.read_text()


def test_report_json_holds_the_numbers_of_the_comparison(written: Written) -> None:
    comparison = written.comparison
    data = json.loads((written.folder / "report.json").read_text())
    assert data["schema_version"] == 1
    [effect] = data["views"][0]["effects"]
    assert effect["estimate"] == comparison.views[0].effects[0].estimate
    assert effect["interval"]["low"] == comparison.views[0].effects[0].interval.low  # type: ignore[union-attr]
    assert len(data["runs"]) == 14
    assert data["curves"][0]["mean"] == comparison.curves[0].mean.tolist()


def test_the_csv_files_have_a_line_a_run_and_a_line_a_point(written: Written) -> None:
    comparison, folder = written.comparison, written.folder
    runs = list(csv.DictReader(io.StringIO((folder / "runs.csv").read_text())))
    assert len(runs) == 14
    assert {run["arm"] for run in runs} == {"none", "batch-after_activation"}
    assert float(runs[0]["test/accuracy"]) in {
        run.final["test/accuracy"] for run in comparison.runs
    }
    points = list(csv.DictReader(io.StringIO((folder / "curves.csv").read_text())))
    assert len(points) == sum(len(curve.epochs) for curve in comparison.curves)


def test_the_report_lies_in_its_study_or_beside_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_study(Path("runs"), seeds=1)
    assert default_folder(compared(Path("runs")), Path("runs")) == Path("runs/study/report")
    make_run(Path("runs"), seed=5, sets={"name": "other"})
    assert default_folder(compared(Path("runs")), Path("runs")) == Path("runs/report")


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (".", ["runs/reference/study"]),
        (".", ["--runs-dir", "runs/reference", "runs/reference/study", "runs/reference/other"]),
        (".", ["runs/reference/study", "--check", "earlier.json", "--tensorboard"]),
        ("runs/reference", ["study"]),
        ("elsewhere", ["../runs/reference/study"]),
        ("elsewhere", ["../runs/reference/study", "--tensorboard"]),
    ],
)
def test_reference_records_get_no_report_unless_it_is_told_where(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bnlab: Terminal,
    where: str,
    words: list[str],
) -> None:
    records = tmp_path / "runs/reference"
    make_study(records, seeds=2)
    make_run(records, seed=5, sets={"name": "other"})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    if "--check" in words:
        assert bnlab("compare", "runs/reference/study", "--out", ".")[0] == 0
        Path("report.json").rename("earlier.json")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path / where)
    code, out, err = bnlab("compare", *words)
    assert code == 0, err
    assert "Effects" in out
    assert re.search(
        r"^no report: .*report lies among the reference records.*--out$", err, re.MULTILINE
    )
    assert sorted(tmp_path.rglob("*")) == before
    code, _, err = bnlab("compare", *words, "--out", records / "study" / "report")
    assert code == 0
    assert "no report" not in err
    assert (records / "study" / "report" / "report.html").exists()


def test_the_report_of_an_archive_goes_beside_it(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path / "runs", seed=seed)
    pack([tmp_path / "runs"], tmp_path / "mine.tar.xz")
    comparison = compare(load_runs([tmp_path / "mine.tar.xz"])[0], Options())
    assert default_folder(comparison, tmp_path) == tmp_path / "mine" / "report"


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("runs/study/report", False),
        ("runs/report", False),
        ("runs/reference/report", True),
        ("runs/reference/study/report", True),
        ("runs/reference/many/deep/study/report", True),
        ("reference/project/runs/study/report", False),
        ("other/reference/study/report", True),
    ],
)
def test_reference_records_are_known_by_their_place(
    tmp_path: Path, folder: str, expected: bool
) -> None:
    assert is_reference(tmp_path / folder, tmp_path / "runs") == expected


# ------------------------------------------------------------------------------------------- words


def test_a_difference_is_told_in_one_sentence(tmp_path: Path) -> None:
    told = words(findings(compared(make_study(tmp_path))))
    assert re.search(
        r"batch-after_activation scores 4\.15 pp higher than none \(95 % interval \+4\.0\d to "
        r"\+4\.2\d, 7 paired seeds, adjusted p = 0\.016\)",
        told,
    )


def test_one_seed_is_told_without_interval_or_plus_minus(tmp_path: Path) -> None:
    told = words(findings(compared(make_study(tmp_path, seeds=1))))
    assert "no verdict" in told
    assert "at least 6 seeds" in told
    assert "interval" not in told
    assert "±" not in told


def test_a_single_arm_has_values_and_no_effects(tmp_path: Path, bnlab: Terminal) -> None:
    for seed in range(3):
        make_run(tmp_path, seed=seed, accuracy=0.7)
    code, out, _ = bnlab("compare", tmp_path, "--out", tmp_path / "r")
    assert code == 0
    assert "one arm only" in out
    assert "70.00" in out
    assert "Effects" not in out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (number(1234567.0), "1.23e+06"),
        (number(0.012345), "0.0123"),
        (number(12345.6), "12,346"),
        (number(float("nan")), "–"),  # noqa: RUF001
        (p_value(0.00390625), "0.0039"),
        (p_value(1e-9), "<0.0001"),
        (p_value(1.0), "1"),
        (time(TimeToTarget(20.0, reached=False)), "> 20"),
        (time(TimeToTarget(17.5, reached=True)), "17.5"),
    ],
)
def test_numbers_have_sensible_digits(text: str, expected: str) -> None:
    assert text == expected


def test_accuracies_are_percent_and_losses_are_not(tmp_path: Path) -> None:
    accuracy = compared(make_study(tmp_path, seeds=1)).metric
    assert (score(0.7512, accuracy), difference(-0.0123, accuracy)) == ("75.12", "-1.23")
    assert difference(-0.00001, accuracy) == "0.00"
    loss = compared(tmp_path, metric="test/loss").metric
    assert score(0.7512, loss) == "0.7512"


# ------------------------------------------------------------------------------------ command line


@pytest.mark.parametrize("columns", [80, 120])
def test_the_terminal_shows_the_tables_within_its_width(
    tmp_path: Path, bnlab: Terminal, columns: int
) -> None:
    study = make_study(tmp_path)
    make_run(tmp_path, seed=9, sets={**NONE, "name": "study"}, status="diverged")
    make_run(tmp_path, seed=8, sets={**NONE, "name": "study"}, status="running")
    code, out, err = bnlab("compare", study, "--margin", 0.3, columns=columns)
    assert code == 0
    assert max(map(len, out.splitlines())) <= columns
    for part in ("What was found", "Effects against none", "Time to target", "Divergence", "Cost"):
        assert part in out
    assert re.search(
        r"batch-after_activation +7 +\+4\.15 +\+4\.\d\d to \+4\.\d\d +0\.016 +higher", out
    )
    assert re.search(r"none +1 of 8 \(2 to 47 %\) +9 +70\.\d\d", out)
    assert "running; left out" in out
    assert "\x1b" not in out
    assert err == f"report: {study / 'report' / 'report.html'}\n"


def test_json_is_the_report_and_nothing_else(tmp_path: Path, bnlab: Terminal) -> None:
    study = make_study(tmp_path, seeds=2)
    code, out, _ = bnlab("compare", study, "--json")
    assert code == 0
    assert out == (study / "report" / "report.json").read_text()


def test_check_tells_which_verdict_changed_and_writes_nothing(
    tmp_path: Path, bnlab: Terminal
) -> None:
    study = make_study(tmp_path)
    report = study / "report" / "report.json"
    assert bnlab("compare", study)[0] == 0
    before = report.read_bytes()
    assert bnlab("compare", study, "--check", report)[0] == 0
    for seed in range(7):
        make_run(tmp_path, seed=seed, sets={**LONG, "name": "study"}, accuracy=0.60)
    code, _, err = bnlab("compare", study, "--check", report)
    assert code == 4
    assert "batch-after_activation against none (only): was higher, is lower" in err
    assert report.read_bytes() == before


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema_version": 99, "views": []}'])
def test_a_file_that_is_no_report_cannot_be_checked(
    tmp_path: Path, bnlab: Terminal, content: str
) -> None:
    (tmp_path / "old.json").write_text(content)
    code, _, err = bnlab("compare", make_study(tmp_path, 1), "--check", tmp_path / "old.json")
    assert code == 2
    assert "old.json" in err


def test_mixed_runs_end_with_5_and_no_runs_with_2(tmp_path: Path, bnlab: Terminal) -> None:
    code, _, err = bnlab("compare", tmp_path)
    assert (code, "bnlab train" in err) == (2, True)
    make_study(tmp_path, seeds=1)
    make_run(tmp_path, seed=1, run={"precision": "bf16"})
    code, _, err = bnlab("compare", tmp_path)
    assert (code, "precision: bf16 (1 run), fp32 (2 runs)" in err) == (5, True)
    assert bnlab("compare", tmp_path, "--allow-mixed", "--out", tmp_path / "r")[0] == 0


@pytest.mark.parametrize("flags", [("--margin", "-1"), ("--target", "0.7"), ("--target", "200")])
def test_senseless_numbers_are_usage_errors(
    tmp_path: Path, bnlab: Terminal, flags: tuple[str, str]
) -> None:
    code, _, err = bnlab("compare", make_study(tmp_path, 1), *flags)
    assert code == 2
    assert flags[0] in err


def test_aggregates_are_tensorboard_runs_and_never_taken_for_runs(
    tmp_path: Path, bnlab: Terminal
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

    study = make_study(tmp_path, seeds=3)
    assert bnlab("compare", study, "--tensorboard")[0] == 0
    assert bnlab("compare", study, "--tensorboard")[0] == 0
    [curve] = [c for c in compared(study).curves if (c.arm, c.tag) == ("none", "test/accuracy")]
    folder = study / "report" / "tensorboard" / "none"
    assert len(list(folder.iterdir())) == 1
    read = EventAccumulator(str(folder), {"tensors": 0}).Reload()
    [first] = read.Tensors("custom_scalars__config__")
    [category] = Layout.FromString(first.tensor_proto.string_val[0]).category
    [series] = category.chart[-1].margin.series  # which TensorBoard draws first
    for tag, values in (
        ("test/accuracy", curve.mean),
        (series.value, curve.mean),
        (series.lower, curve.low),
        (series.upper, curve.high),
    ):
        events = read.Scalars(tag)
        assert [event.step for event in events] == [1, 2, 3, 4, 5]
        assert [event.value for event in events] == pytest.approx(values.tolist())
    assert compared(study).remarks == ()
    assert len(compared(study).runs) == 6


def test_runs_are_listed_filtered_and_sorted(tmp_path: Path, bnlab: Terminal) -> None:
    study = make_study(tmp_path, seeds=2)
    make_run(tmp_path, seed=4, sets={**NONE, "name": "study"}, status="diverged")
    torn = make_run(tmp_path, seed=5, sets={**NONE, "name": "study"})
    torn.run.write_text("{")

    def seeds(*flags: str) -> list[tuple[str, int]]:
        rows = json.loads(bnlab("runs", study, "--json", *flags)[1])["runs"]
        return [(row["arm"], row["seed"]) for row in rows if "arm" in row]

    assert seeds("--where", "norm=none", "--where", "seed=1") == [("none", 1)]
    assert seeds("--status", "diverged") == [("none", 4)]
    assert seeds("--where", "widths=[64, 128, 256]") == seeds("--where", "lr=1e-1") == seeds()
    assert seeds("--where", f"seed={'[' * 50_000}") == seeds("--where", "seed=true") == []
    assert [arm for arm, _ in seeds("--sort", "-test/accuracy")][:2] == [
        "batch-after_activation"
    ] * 2
    code, out, _ = bnlab("runs", study, "--where", "model.norm.name=none")
    assert code == 0
    assert "3 of 6 runs" in out
    assert "unreadable" in bnlab("runs", study)[1]
    code, _, err = bnlab("runs", study, "--where", "sed=1")
    assert (code, "did you mean 'seed'" in err) == (2, True)
    for flags in (("--status", "diverge"), ("--where", "status=diverge")):
        code, _, err = bnlab("runs", study, *flags)
        assert (code, "did you mean 'diverged'" in err) == (2, True)
    assert bnlab("runs", study, "--status", "cut off", "--json")[0] == 0


def test_show_tells_result_curves_configuration_and_provenance(
    tmp_path: Path, bnlab: Terminal
) -> None:
    run = make_run(tmp_path, seed=3, accuracy=0.7512)
    code, out, _ = bnlab("show", run.root, columns=80)
    assert code == 0
    for part in ("75.12 %", "▁", "optim.lr", "0.1", "init hash", "cpu", "done"):
        assert part in out
    data = json.loads(bnlab("show", run.root, "--json")[1])
    assert data["summary"]["test/accuracy"] == 0.7512
    assert len(data["metrics"]) == 5
    make_run(tmp_path, seed=4)
    assert bnlab("show", tmp_path)[0] == 2


def test_show_has_a_line_for_each_probed_quantity_from_the_first_layer_to_the_last(
    tmp_path: Path, bnlab: Terminal
) -> None:
    run = make_run(tmp_path, seed=3)
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    lines[-2]["probe/dead/conv1_relu"] = 0.5
    for line, scale in zip(lines, range(1, 99), strict=False):
        line |= {f"probe/shift/conv{n}": scale * n for n in (1, 2, 3)}
        line["probe/none_known/conv1"] = None
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = bnlab("show", run.root, columns=100)[1]
    assert re.search(r"shift +conv1 5\.00 +▁▅█ +conv3 15\.0 \(x3\.00\)", out), out
    assert re.search(r"dead +conv1_relu 0\.500", out)
    assert re.search(r"none_known +conv1 \S +$", out, re.MULTILINE)


def test_compare_tells_the_first_and_the_last_layer_of_each_probed_quantity(
    written: Written,
) -> None:
    text = (written.folder / "report.md").read_text().replace("\\_", "_")
    section = text.split("## Inside the network")[1].split("\n## ")[0]
    rows = set(re.findall(r"^\| (\S+) \| (\S+) \| conv1 \S+ ± ", section, re.MULTILINE))
    arms = {arm.name for arm in written.comparison.arms}
    probed = {p.quantity for p in written.comparison.probes}
    assert {(quantity, arm) for quantity in probed for arm in arms} <= rows
    assert "probe-dead.svg" in section


def test_a_sparkline_runs_from_the_least_to_the_greatest_value() -> None:
    assert sparkline([0.0, 1.0]) == "▁█"
    assert sparkline([1.0, None, 1.0]) == "▁·▁"
    assert len(sparkline([float(x) for x in range(1000)], width=40)) <= 40


def test_comparing_and_reporting_never_import_torch(tmp_path: Path) -> None:
    study = make_study(tmp_path, seeds=2)
    code = (
        "import sys; from bnlab.cli import main\n"
        "try: main()\n"
        "except SystemExit: print({'torch', 'torchvision', 'tensorflow'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, "compare", str(study), "--tensorboard"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_thirty_runs_of_forty_epochs_make_a_whole_report(tmp_path: Path) -> None:
    for arm, sets in enumerate((NONE, {}, LONG)):
        for seed in range(10):
            make_run(
                tmp_path, seed=seed, sets={**sets, "train.epochs": 40}, accuracy=0.7 + 0.01 * arm
            )
    comparison = compared(tmp_path)
    assert len(write_report(comparison, tmp_path / "r")) >= 16
    assert [result.n for result in comparison.views[0].results] == [10, 10, 10]
