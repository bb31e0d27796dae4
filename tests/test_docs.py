import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import first_look
import pytest
import typer
from conftest import TINY
from made_runs import make_run
from rich.cells import cell_len
from typer.testing import CliRunner

from bnlab import cli
from bnlab.analysis import Run, load_runs
from bnlab.claims import CLAIMS, find_findings
from bnlab.claims._studies import load_claim_plan
from bnlab.config import build_config, flatten, load_config, parse_yaml
from bnlab.docs import FOLDER, Language, find_language, find_pages, find_title
from bnlab.doctor import CHECKS
from bnlab.records import StoredStudies, find_runs, read_summary
from bnlab.registry import NORMS, PROBES
from bnlab.study.load import load_plan
from bnlab.study.plan import Study
from bnlab.study.survey import survey_study
from bnlab.training.task import check_config

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "runs" / "reference"
README, CHINESE = ROOT / "README.md", FOLDER / "zh" / "README.md"
PAGES = sorted(FOLDER.glob("*/*.md"))
TEXT = {path: path.read_text(encoding="utf-8") for path in (README, *PAGES)}


def page(topic: str) -> str:
    return TEXT[FOLDER / "en" / f"{topic}.md"]


def blocks_of(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands_of(text: str) -> Iterator[str]:
    """What a page's shell blocks say to type, comments left out."""
    for block in blocks_of(text, "sh"):
        for line in block.splitlines():
            if command := shlex.join(shlex.split(line, comments=True)):
                yield command


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_configuration_is_valid_and_named_after_its_file(path: Path) -> None:
    config = load_config([path])
    check_config(config)
    assert config.name == path.stem
    assert f"configs/{path.name}" in TEXT[README]
    assert f"configs/{path.name}" in page("configuration")


def test_the_layout_names_every_module() -> None:
    block = page("development").split("```\nbnlab/\n")[1].split("```")[0]
    named = set(re.findall(r"^  ([a-z_]+(?:\.py|/))", block, flags=re.MULTILINE))
    there = {
        path.name + ("/" if path.is_dir() else "")
        for path in (ROOT / "bnlab").iterdir()
        if not path.name.startswith("_") and (path.is_dir() or path.suffix == ".py")
    }
    assert named == there


def test_the_pages_name_every_command_norm_and_claim() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bnlab.cli", "--help"], capture_output=True, text=True, check=True
    )
    commands = re.findall(r"^│ ([a-z]+)  ", done.stdout, flags=re.MULTILINE)
    assert "train" in commands
    for command in commands:
        assert f"bnlab {command}" in page("commands")
    for norm in NORMS:
        assert f"`{norm}`" in page("configuration")
    for claim in CLAIMS:
        assert f"| `{claim}` |" in page("claims")
    assert f"{len(CLAIMS)} claims" in TEXT[README]


@pytest.mark.parametrize("name", [*CLAIMS])
def test_the_runs_that_a_claim_is_said_to_take_are_those_that_it_plans(
    name: str, tmp_path: Path
) -> None:
    plan = load_claim_plan(name, "quick", StoredStudies(tmp_path))
    [told] = re.findall(rf"^\| `{name}` \| .* \| (\d+) \|$", page("claims"), re.MULTILINE)
    assert int(told) == survey_study(Study(**vars(plan)), tmp_path).total


@pytest.mark.parametrize("path", sorted((ROOT / "configs/studies").glob("*.yaml")))
def test_the_runs_that_a_study_is_said_to_take_are_those_that_it_plans(
    path: Path, tmp_path: Path
) -> None:
    row = rf"^\| `configs/studies/{path.name}` \| .* \| (\d+) \|$"
    told = re.findall(row, page("studies"), re.MULTILINE)
    assert told == [str(survey_study(Study(**vars(load_plan(path))), tmp_path).total)]


def test_what_claims_are_said_to_have_come_to_is_what_was_recorded() -> None:
    found = json.loads((REFERENCE / "claims" / "claims.json").read_text(encoding="utf-8"))["claims"]
    recorded = {one["claim"]: one["runs_finished"] for one in found}
    told = re.findall(r"\(`(\w+)` came to (\d+)\)", page("claims"))
    assert [name for name, _ in told] == ["small_steps", "accuracy"]
    assert all(int(count) == recorded[name] for name, count in told)


def test_the_minutes_that_claims_are_said_to_have_taken_are_those_of_the_records() -> None:
    files = {run.root: run for run in find_runs([REFERENCE]).runs}

    def minutes(runs: Iterable[Run]) -> float:
        walls = ((read_summary(files[run.root]).wall_seconds or 0.0, run.facts) for run in runs)
        return sum(wall / 60 / (facts.runs_at_once or 1) for wall, facts in walls)

    gathered = {one.claim.name: one.gathered for one in find_findings(REFERENCE)[0]}
    took = {name: round(minutes(one.runs)) for name, one in gathered.items()}
    told = page("claims").partition("**How long it takes.**")[2].partition("\n\n")[0]
    told = " ".join(told.split())
    found = re.findall(r"`(\w+)`(?: and those judged with it)? (\d+)", told)
    longest = {name: int(count) for name, count in found}
    assert longest.keys() == {"placement", "depth", "initialization", "covariate_shift"}
    for name, count in longest.items():
        for alike in (one for one in gathered if gathered[one].runs == gathered[name].runs):
            assert took.pop(alike) == count
    assert f"`gradients`, which is recorded under full, {took.pop('gradients')}." in told
    assert [name for name, one in gathered.items() if one.preset != "quick"] == ["gradients"]
    assert f"every other claim under quick {min(took.values())} to {max(took.values())}" in told
    every = {run.root: run for one in gathered.values() for run in one.runs}
    assert "The recorded runs took five hours" in told
    assert minutes(every.values()) / 60 == pytest.approx(5, abs=0.1)


def test_what_pages_quote_from_the_results_stands_there() -> None:
    results = (REFERENCE / "RESULTS.md").read_text(encoding="utf-8")
    held = re.findall(r"^\| once \|(?:[^|]*\|){4} \**([\d.]+) % ", results, re.MULTILINE)
    shares = sorted(float(share) for share in held)
    assert f"hold the truth in {shares[0]:.0f} to {shares[-1]:.0f} %" in page("studies")
    plain, augmented = "running 56.59 %, population 56.48 %", "INCONCLUSIVE: +0.11 pp"
    assert f"- batch tested by statistics: {plain}" in results
    assert augmented in results.partition("### inference_statistics")[2].partition("###")[0]
    assert "not augmented - running | -0.08 pp |" in results
    for number in ("56.59", "56.48", "+0.11 pp", "-0.08 pp"):
        assert number in page("claims").partition("**Population statistics**")[2]


def test_document_004_has_as_many_claims_of_its_own_as_its_page_says() -> None:
    judged = {
        path.stem: set(re.findall(r"^\| `(\w+)` \|", TEXT[path], re.MULTILINE)) & set(CLAIMS)
        for path in sorted((FOLDER / "en").glob("00?.md"))
    }
    own = judged.pop("004").difference(*judged.values())
    assert own == {"decorrelation", "insensitive", "no_decay", "weights"}
    assert find_title(page("004")).endswith("with four claims of its own")
    assert find_title(TEXT[FOLDER / "zh" / "004.md"]).endswith("独有的四个说法")


def test_the_table_of_probes_is_complete_and_says_which_are_costly() -> None:
    table = page("probes").partition("| probe | what | cost |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| .* \| \d+ %(, costly)?;? ?.* \|$", table, re.MULTILINE)
    facts = {name: PROBES.entry(name).facts for name in PROBES}
    assert rows == [(name, ", costly" if "costly" in facts[name] else "") for name in sorted(facts)]


def test_the_configuration_that_is_explained_is_the_default_one() -> None:
    [text] = blocks_of(page("configuration"), "yaml")
    config = build_config([parse_yaml(text, "configuration.md")])
    default = load_config(overrides=["name=seed"])
    assert flatten(config.resolved()) == flatten(default.resolved())


def test_the_faithful_and_the_defective_seed_differ_in_the_named_defects_only() -> None:
    seed = flatten(load_config([ROOT / "configs/seed.yaml"]).resolved())
    as_written = flatten(load_config([ROOT / "configs/seed_as_written.yaml"]).resolved())
    assert {key for key in seed if seed[key] != as_written[key]} == {
        "name",
        "dataset.augment_test",
        "train.evaluate_in_train_mode",
        "train.eval_batch_size",
        "train.test_every",
    }


def test_the_doctors_table_is_that_of_its_checks() -> None:
    rows = re.findall(
        r"^\| (BN\d+) \| (.*) \| (fault|told)(, images)? \|$", page("doctor"), re.MULTILINE
    )
    assert rows == [
        (check.code, check.title, check.severity, ", images" * check.images) for check in CHECKS
    ]


BNLAB = ".venv/bin/bnlab "

SHORT = " ".join(f"--set '{setting}'" for setting in TINY[1:])
MORE = {
    "train --config configs/quickstart.yaml --seed 3": SHORT,
    "train --config configs/quickstart.yaml --set model.norm=none --seed 3": SHORT,
    "claims run placement --preset quick": "--dry-run",
}
"""What is added, so that a command of the README takes seconds."""

NOT_RUN = {
    "scripts/quickstart": "installs anew, for minutes; what it trains is trained here",
    f"{BNLAB}data --fetch": "needs the internet",
    f"{BNLAB}study run configs/studies/quick.yaml": "120 runs; its plan is made here",
    f"{BNLAB}claims": "judges all of them, for seconds; run in test_portable.py",
    f"{BNLAB}tensorboard runs": "serves until it is stopped; see test_dashboard.py",
}


def test_every_command_of_the_readme_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for seed in range(3):  # in place of the study that is not run
        for norm in ("none", "batch"):
            make_run(tmp_path / "runs", seed=seed, sets={"name": "quick", "model.norm.name": norm})
    given = list(commands_of(TEXT[README]))
    assert NOT_RUN.keys() < set(given)
    for command in (one for one in given if one not in NOT_RUN):
        words = command.removeprefix(BNLAB)
        assert words != command
        asked = shlex.split(f"{words} {MORE.get(words, '')}")
        whole = [str(next(tmp_path.glob(one))) if "*" in one else one for one in asked]
        done = CliRunner().invoke(cli.app, whole)
        # A tiny network may well diverge, which is an outcome.
        assert done.exit_code in ((0, 3) if words.startswith("train") else (0,)), (command, done)
        assert done.stdout


def test_quickstart_tells_of_the_three_runs_that_it_trains_and_of_no_others(tmp_path: Path) -> None:
    for seed in range(3):
        make_run(tmp_path, seed=seed)
    made, _ = load_runs([tmp_path])
    planned = sorted(first_look.planned("synthetic"))
    own = [
        replace(run, hash=one, seed=seed) for run, (one, seed) in zip(made, planned, strict=True)
    ]
    others = [*made, *(replace(run, seed=3) for run in own)]
    assert first_look.those_of([*others, *own], "synthetic") == own
    assert first_look.those_of(own, "cifar10") == []


@pytest.mark.parametrize("path", TEXT, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_commands_on_a_page_have_the_flags_that_they_are_given(path: Path) -> None:
    group = typer.main.get_command(cli.app)
    for command in commands_of(TEXT[path]):
        program, *words = shlex.split(command)
        if Path(program).name != "bnlab":
            assert (ROOT / program).exists(), command
            continue
        at = group
        while isinstance(at, typer.core.TyperGroup) and words and words[0] in at.commands:
            at = at.commands[words.pop(0)]
        with suppress(typer.Exit):  # an option that prints and ends
            at.make_context("bnlab", words)


@pytest.mark.parametrize("path", TEXT, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_links_lead_somewhere_and_code_fits_a_terminal(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXT[path]):
        assert link.startswith("https://") or (path.parent / link.partition("#")[0]).exists(), link
        assert path in (README, CHINESE), "a terminal shows links of other pages with their address"
    if path not in (README, CHINESE):
        for block in blocks_of(TEXT[path], "[a-z]*"):
            assert max(map(cell_len, block.splitlines())) <= 78


def test_the_readme_is_short_and_names_every_topic() -> None:
    assert len(TEXT[README].splitlines()) < 200
    for name in find_pages("en"):
        assert f"(bnlab/docs/en/{name}.md)" in TEXT[README] or name == "documents"


def test_the_chinese_readme_has_the_same_commands_and_tables() -> None:
    assert list(commands_of(TEXT[CHINESE])) == list(commands_of(TEXT[README]))
    rows = [len(re.findall(r"^\|", TEXT[path], re.MULTILINE)) for path in (README, CHINESE)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("topic", [*find_pages("en"), "README"])
@pytest.mark.parametrize("width", ["80", "120"])
def test_a_topic_is_printed_within_the_terminal(
    topic: str, width: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    languages: tuple[Language, ...] = ("en", "zh")
    for language in (one for one in languages if (FOLDER / one / f"{topic}.md").exists()):
        done = CliRunner().invoke(cli.app, ["explain", topic, "--lang", language])
        assert done.exit_code == 0
        assert max(map(cell_len, done.stdout.splitlines())) <= int(width)
        assert find_title(TEXT[find_pages(language)[topic]]) in " ".join(done.stdout.split())
        assert "<!-- results: v" not in done.stdout
        assert "…" not in done.stdout.replace('"…"', ""), "a table is cut"


def test_the_schema_is_printed_within_80_columns() -> None:
    lines = CliRunner().invoke(cli.app, ["check", "--schema"]).stdout.splitlines()
    assert max(map(len, lines)) < 80
    assert "model.norm.momentum: 0.1" in lines
    assert "    a number above 0 up to 1" in lines


def test_topics_are_listed_in_the_language_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = {}
    for lang in ("zh_CN.UTF-8", "de_DE.UTF-8"):
        monkeypatch.setenv("LC_ALL", lang)
        done = CliRunner().invoke(cli.app, ["explain"])
        assert done.exit_code == 0
        assert all(f"\n{name} " in done.stdout for name in find_pages("en"))
        said[lang] = find_title(TEXT[FOLDER / "zh" / "000.md"]) in done.stdout
    assert said == {"zh_CN.UTF-8": True, "de_DE.UTF-8": False}
    assert find_language({"LANG": "zh_TW", "LC_MESSAGES": "C"}) == "en"
    assert find_language({"LC_ALL": "", "LANG": "zh_TW"}) == "zh"
    assert find_language({}) == "en"


def test_a_claim_is_explained_and_a_name_that_is_neither_suggests_the_nearest() -> None:
    assert set(CLAIMS).isdisjoint(find_pages("en"))
    done = CliRunner().invoke(cli.app, ["explain", "placement"])
    assert CLAIMS["placement"].definition.split(";")[0] in " ".join(done.stdout.split())
    wrong = CliRunner().invoke(cli.app, ["explain", "studys"])
    assert wrong.exit_code == 1
    assert "did you mean 'studies'" in str(wrong.exception)
