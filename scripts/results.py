#!/usr/bin/env python3
"""Writes every figure that the documentation prints, from what lies in runs/reference alone.

Usage: scripts/results.py [--check]      --check writes nothing and exits with 4 if a file differs

Needs the Python that bnlab is installed in (.venv/bin/python scripts/results.py). It writes
runs/reference/RESULTS.md, the reports and the picture beside it, and in README.md and the pages of
`bnlab/docs` what stands between `<!-- results: NAME -->` and `<!-- end -->`.
"""

import json
import math
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from editions import EDITIONS, TIMES, Row, beside_the_first, times
from scipy.stats import binomtest
from verdicts import (
    about_picture,
    before_or_after,
    judged,
    verdicts_of_page,
    verdicts_table,
)

from bnlab.analysis import ALPHA, LEVEL, Comparison, Options, compare, load_runs
from bnlab.claims import (
    CLAIM_LEVEL,
    CLAIMS,
    Finding,
    find_findings,
    hold,
    show_effect,
    show_limits,
)
from bnlab.claims._calibration import IMAGES
from bnlab.docs import FOLDER, Language
from bnlab.report import write_report
from bnlab.report.claims import told_power, write_claims
from bnlab.report.plots.canvas import svg
from bnlab.report.plots.claims import draw_all

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "runs" / "reference"
README = ROOT / "README.md"
PICTURE = REFERENCE / "claims" / "verdicts.svg"
STUDIES = ("quick", "seed-10k")
REPORTS = {
    "claims": ("claims.html", "claims.json"),
    **dict.fromkeys(STUDIES, ("report.html", "report.json")),
}
"""What is kept of each report: the page, which is whole by itself, and the numbers."""

DRAWN = (".html", ".svg")
"""Files with plots, which may differ by the version of matplotlib."""

RECORDED = """\
Recorded on 2026-11-28 on two CPU cores, under the protocols in force and by one fingerprint of the
code, on CIFAR-10 re-encoded as JPEG, under the preset quick{larger}. Runs of the first
edition, made under older protocols, are left out.
"""

SEED_COMMAND = (
    "bnlab train --config configs/seed.yaml --set dataset.train_size=10000 --set train.epochs=3"
)

Cell: TypeAlias = Mapping[str, Any]
"""What `scripts/calibrate.py` counted in one world."""


def table(header: Row, rows: Sequence[Row]) -> str:
    """A Markdown table."""
    cells = ([cell.replace("|", r"\|") for cell in row] for row in rows)
    lines = [header, ["---"] * len(header), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def percent(value: float) -> str:
    """A fraction as it stands in a table."""
    return f"{100 * value:.2f} %"


def recorded(findings: Sequence[Finding]) -> str:
    """Where the claims' runs come from."""
    full = [f"`{one.claim.name}`" for one in findings if one.gathered.preset == "full"]
    larger = f" ({', '.join(full)}: full)" if full else ""
    return RECORDED.format(larger=larger)


def claims_table(findings: Sequence[Finding]) -> str:
    """Every claim with its verdict."""
    rows = []
    for finding in findings:
        verdict = finding.verdict
        missing = f" ({verdict.why})" if verdict.label == "NOT TESTED" else ""
        said = f"`{finding.claim.name}`: {finding.claim.statement}"
        for number, (claim, contrast) in enumerate(finding.places):
            plain, judged = contrast.interval, finding.limits(contrast)
            known = math.isfinite(plain.estimate)  # else no pair of which both trained
            rows.append(
                [
                    said if number == 0 else f"the same, {claim.place}",
                    verdict.words + missing if number == 0 else "",
                    show_effect(plain.estimate, claim.unit) if known else "",
                    "" if judged is None else show_limits(judged, claim.unit),
                    show_limits(plain, claim.unit) if known else "",
                    str(contrast.n or ""),
                ]
            )
        if not finding.places:
            rows.append([said, verdict.words + missing, "", "", "", ""])
    limits = f"{100 * CLAIM_LEVEL:g} % limits"
    return table(["claim", "verdict", "effect", limits, "95 % limits", "n"], rows)


def claim_details(finding: Finding) -> str:
    """What stands beside one headline."""
    parts = [f"### {finding.claim.name}\n", f"{finding.verdict.label}: {finding.verdict.why}\n"]
    parts.append(f"{finding.gathered.scope}.\n")
    for claim, contrast in finding.places:
        rows = [one.shown for one in contrast.details]
        beside = f"beside it {claim.place}".rstrip()
        if rows:
            parts.append(table([f"{beside}, exploratory", "estimate", "95 % limits"], rows))
        power = [told_power(finding)] if claim is finding.claim else []
        parts += [*(f"- {remark}" for remark in (*contrast.remarks, *power)), ""]
    return "\n".join(parts)


FIRST = """\
The first edition judged ten claims on 2026-11-21, on the same images under quick. Its rules told
arms apart that are alike in up to 24 % of imagined studies, since a pilot chose each arm's learning
rate once for all seeds, and called a claim SUPPORTED in 34 % of those in which a tenth of an arm's
runs diverge, since a network that learned up to 31 % counted as diverged and as guessing; limits
were Holm's over whatever claims had runs.
`configs/claims/CHANGES.md` has every change of a protocol. In parentheses are limits at the claim's
level.
"""

TOOK = """\
Minutes on two CPU cores, two runs at once (`cost` one), from each run's own clock, with other work
beside some of it. Claims share runs: a run counts for the first that needs it. Of the runs of an
arm that is tuned, three of four are the three learning rates that each seed tries, so to share them
among seeds would halve the time, and the verdicts would not keep their level. What costs no
soundness is more cores or a GPU.
"""

ANCHORED = """\
Numbers that others have published, and bnlab's where it has measured the same. Where the setting is
another, one that differs is a finding about the setting. Limits in parentheses are 95 %.
"""


def anchors_table(findings: Sequence[Finding]) -> str:
    """Published numbers beside bnlab's."""
    rows = [
        [
            f"`{one.anchor.claim}`: {one.anchor.what}",
            show_effect(one.anchor.value, one.anchor.unit),
            one.anchor.setting,
            one.found,
            one.scope,
            one.outcome,
        ]
        for one in hold(findings)
    ]
    return table(["what", "published", "where", "bnlab", "where", "outcome"], rows)


def study_table(comparison: Comparison) -> str:
    """The arms of a study's first view with their effects."""
    view = comparison.views[0]
    effects = {effect.arm: effect for effect in view.effects}
    rows = []
    for result in view.results:
        effect = effects.get(result.arm)
        diverged = f" ({len(result.diverged)} of {result.n} diverged)" if result.diverged else ""
        setting = "" if result.setting is None else f"{result.setting:g}"
        row = [result.arm, setting, str(result.n), f"{percent(result.mean)}{diverged}"]
        if effect is None or effect.interval is None:
            rows.append([*row, "", "", "", ""])
            continue
        low, high = (f"{100 * limit:+.2f}" for limit in (effect.interval.low, effect.interval.high))
        p = "" if effect.p_holm is None else f"{effect.p_holm:.2g}"
        rows.append([*row, f"{100 * effect.estimate:+.2f}", f"{low} to {high}", p, effect.verdict])
    header = ["arm", "best lr", "n", "test accuracy", "effect, points", "95 % interval"]
    return table([*header, "p (Holm)", "verdict"], rows)


def seeds_table(comparison: Comparison) -> str:
    """Test accuracy seed by seed."""
    results = comparison.views[0].results
    seeds = sorted({seed for result in results for seed in result.scores})
    rows = [
        [
            result.arm,
            *(
                f"{percent(result.scores[seed])}{' (diverged)' * (seed in result.diverged)}"
                for seed in seeds
            ),
            percent(result.mean),
        ]
        for result in results
    ]
    return table(["arm", *(f"seed {seed}" for seed in seeds), "mean"], rows)


SIMULATED = """\
Nothing is trained here: `scripts/calibrate.py --studies {studies}` (seed {seed}) imagines the runs
of whole studies, {studies} of each kind in each world, and walks every one from its pilot to its
verdict.

Imagined are {worlds} worlds without an effect: {responses} responses of accuracy to the learning
rate (a round top, a cliff, two rates so alike that a pilot often confuses them; `higher_lr` has one
of its own, `input_normalization` tunes nothing), and in each of them {fails} % of the runs diverge,
whatever the arm. Accuracy scatters by {sd} between seeds, beside what a test on {images:,} images
adds. One more world has an effect, with less scatter. Real runs may be unlike all of these:
most scatter more, so that the power of what was measured, beside each claim above, is less. Limits
in parentheses are Clopper and Pearson's, 95 %; **bold** is what breaks its promise by more than
they allow; of so many shares one or two do so by chance.

**Claims**, preset {preset}. Without an effect: how many studies came to a verdict; how many of
these are false, which is to speak of an effect all the same (SUPPORTED, or REFUTED otherwise than
for too small an effect; of `insensitive`, whose amount then lies just at its bound, either); how
often limits hold the truth. With one: how often it is found, beside the mean power that the
verdicts state.
"""

COMPARED = """\
**`bnlab compare`**, {seeds} seeds an arm, by the first table of its report. Without an effect:
tables that call any arm higher or lower ({allowed} allowed for a whole table), and how often the
95 % interval of the first arm holds the truth. With {planted} in every arm but the baseline: how
often the first is called higher. The learning rate is not tuned; or once for each arm, on {pilots}
pilot seeds, which the intervals leave out, so that the report gives no verdict; or by each seed for
itself. A run that diverges counts as guessing.
"""


def rate(count: int, n: int, digits: int = 1, *, most: float = 1, least: float = 0) -> str:
    """A share with Clopper and Pearson's limits; bold where these lie beyond what is promised."""
    limits = binomtest(count, n).proportion_ci(method="exact")
    share, low, high = (
        f"{100 * value:.{digits}f}" for value in (count / n, limits.low, limits.high)
    )
    bold = "**" * (limits.low > most or limits.high < least)
    return f"{bold}{share} % ({low} to {high}){bold}"


def add_up(cells: Sequence[Cell], key: str) -> int:
    """What was counted in some cells together."""
    return sum(cell[key] for cell in cells)


def claim_row(name: str, cells: Sequence[Cell], level: float) -> list[str]:
    """What came of studies without an effect, whose claims were judged by limits of that level."""
    studies, judged, false = (add_up(cells, key) for key in ("studies", "judged", "false"))
    measured = add_up(cells, "measured")
    return [
        name,
        *(f"{count:,}" for count in (studies, judged, false)),
        rate(false, judged, 2, most=1 - level),
        rate(add_up(cells, "covered"), measured, 2, least=level),
        rate(add_up(cells, "covered_95"), measured, least=LEVEL),
    ]


def calibrated_claims(found: Mapping[str, Any]) -> str:
    """Every claim, and all of them together."""
    rows, level = [], found["limits"]
    for cell in found["claims_planted"]:
        claim = CLAIMS[cell["claim"]]
        nulls = [one for one in found["claims"] if one["claim"] == claim.name]
        effect, power = claim.show(cell["effect"]), cell["power"]
        seen = rate(cell["supported"], cell["studies"], least=power or 0.0)
        stated = "" if power is None else f"{100 * power:.1f} %"
        rows.append([*claim_row(f"`{claim.name}`", nulls, level), effect, seen, stated])
    rows.append([*claim_row("all", found["claims"], level), "", "", ""])
    allowed = f"share ({100 * (1 - level):.2g} % allowed)"
    header = ["claim", "studies", "verdicts", "false", allowed]
    header += [f"{100 * level:g} % limits hold" for level in (found["limits"], LEVEL)]
    return table([*header, "effect", "found", "power stated"], rows)


def calibrated_compare(found: Mapping[str, Any]) -> str:
    """Every kind of study, with runs that diverge and without."""
    rows = []
    for planted in found["compare_planted"]:
        kind = planted["arms"], planted["tuned"]
        cells = [one for one in found["compare"] if (one["arms"], one["tuned"]) == kind]
        for diverging in (False, True):
            some = [one for one in cells if (one["fails"] > 0) == diverging]
            n = add_up(some, "compared")
            row = [
                planted["tuned"],
                str(planted["arms"]),
                "some" if diverging else "none",
                f"{n:,}",
            ]
            row += [rate(add_up(some, "any_told"), n, most=ALPHA)]
            row += [rate(add_up(some, "covered_95"), n, least=LEVEL)]
            seen = "" if diverging else rate(planted["first_higher"], planted["compared"])
            rows.append([*row, seen])
    header = ["tuned", "arms", "runs that diverge", "tables", f"false ({100 * ALPHA:g} % allowed)"]
    return table([*header, f"{100 * LEVEL:g} % intervals hold", "effect found"], rows)


def calibration(found: Mapping[str, Any]) -> list[str]:
    """How often verdicts err, from what `scripts/calibrate.py` counted."""
    worlds = {(cell["response"], cell["fails"], cell["sd"]) for cell in found["claims"]}
    responses, fails, [sd] = (sorted(set(values)) for values in zip(*worlds, strict=True))
    planted = found["compare_planted"][-1]
    simulated = SIMULATED.format(
        **found,
        worlds=len(worlds),
        responses=len(responses),
        fails=", ".join(f"{100 * share:g}" for share in fails),
        sd=f"{100 * sd:g} pp",
        images=IMAGES,
    )
    compared = COMPARED.format(
        seeds=planted["seeds"],
        pilots=planted["pilots"],
        allowed=f"{100 * ALPHA:g} %",
        planted=show_effect(planted["effect"], "pp"),
    )
    tables = calibrated_claims(found), calibrated_compare(found)
    return ["## Calibration\n", simulated, tables[0], compared, tables[1]]


HEAD = """# What came out

Every number here is made from what lies beside this file by `scripts/results.py`, and a test
holds them equal. Images: CIFAR-10 as JPEG class folders (re-encoded, quality about 75), so
accuracies probably lie a little below the original's. Two CPU cores; no GPU has run any of it.
`bnlab claims --runs-dir runs/reference` and `bnlab compare runs/reference/quick.tar.xz` judge the
records anew; `bnlab audit` says what is known of them.

"""


def documents(folder: Path) -> dict[Path, str]:
    """Every file that is made from the archives, with its content.

    Args:
        folder: Where reports may be written meanwhile.
    """
    here, there = str(REFERENCE), str(REFERENCE.relative_to(ROOT))
    findings = [
        replace(finding, command=finding.command.replace(here, there))
        for finding in find_findings(REFERENCE)[0]
    ]
    write_claims(findings, folder / "claims")
    compared = {}
    for name in STUDIES:
        runs, remarks = load_runs([REFERENCE / f"{name}.tar.xz"])
        compared[name] = compare(runs, Options(), remarks)
        write_report(compared[name], folder / name)
    tables = {
        "claims": claims_table(findings),
        "quick": study_table(compared["quick"]),
        "seed-10k": seeds_table(compared["seed-10k"]),
    }
    languages: tuple[Language, ...] = ("en", "zh")
    for language in languages:
        header, *rows = verdicts_table(findings, language)
        end = "" if language == "en" else f"-{language}"
        tables[f"verdicts{end}"] = table(header, rows)
        tables[f"placement{end}"] = before_or_after(findings, language)
    results = [
        HEAD,
        "## Claims\n",
        recorded(findings),
        "`bnlab claims run NAME --preset quick`\n",
        tables["claims"],
        *map(claim_details, findings),
        "## What the first edition said\n",
        FIRST,
        table(EDITIONS, [*beside_the_first(findings, REFERENCE / "first-edition.yaml")]),
        "## How long it took\n",
        TOOK,
        table(TIMES, [*times(findings, REFERENCE)]),
        "## Anchors\n",
        ANCHORED,
        anchors_table(findings),
        "## The quick study\n",
        "`bnlab study run configs/studies/quick.yaml`\n",
        tables["quick"],
        "## Document 001's network and recipe\n",
        f"`{SEED_COMMAND}`, seeds 0, 1, 2\n",
        tables["seed-10k"],
        *calibration(json.loads((REFERENCE / "calibration.json").read_text(encoding="utf-8"))),
    ]
    made = {REFERENCE / "RESULTS.md": "\n".join(results)}
    made[PICTURE] = svg("verdicts", lambda: draw_all(judged(findings)), about_picture(findings))
    for page in (README, *sorted(FOLDER.glob("*/*.md"))):
        text = page.read_text(encoding="utf-8")
        own = verdicts_of_page(text, findings, "zh" if page.parent.name == "zh" else "en")
        made[page] = with_tables(text, {**tables, "these": own})
    for place, names in REPORTS.items():
        for name in names:
            made[REFERENCE / place / name] = (folder / place / name).read_text(encoding="utf-8")
    return made


def with_tables(text: str, tables: Mapping[str, str]) -> str:
    """A document with its tables made anew."""

    def fill(match: re.Match[str]) -> str:
        return f"{match[1]}\n{tables[match[2]]}{match[3]}"

    return re.sub(r"(<!-- results: (\S+) -->)\n.*?(<!-- end -->)", fill, text, flags=re.DOTALL)


def main() -> None:
    """Write, or check."""
    with tempfile.TemporaryDirectory() as folder:
        made = documents(Path(folder))
    if sys.argv[1:] == ["--check"]:
        texts = {path: text for path, text in made.items() if path.suffix not in DRAWN}
        differing = [
            str(path.relative_to(ROOT))
            for path, text in texts.items()
            if not path.exists() or path.read_text(encoding="utf-8") != text
        ]
        if differing:
            print(f"not what the archives say: {', '.join(differing)}; run scripts/results.py")
            sys.exit(4)
        return
    for path, text in made.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
