"""The claims and their verdicts as sections, for the terminal and as a page."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bnlab.analysis.stats import Interval
from bnlab.claims import (
    ALPHA,
    LIMITS,
    MIN_N,
    ROOM,
    Finding,
    Label,
    as_data,
    quoted,
    show_limits,
    show_smallest,
)
from bnlab.errors import shown_json
from bnlab.report import write_files
from bnlab.report.blocks import Block, Bullets, Column, Plot, Section, Table, Text
from bnlab.report.numbers import MISSING, p_value

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "bnlab claims"

PLAIN = "95 % limits"


def terminal_sections(findings: Sequence[Finding]) -> list[Section]:
    """A table of all, then each in a few lines."""
    return [
        Section("claims", f"Claims{_on(findings)}", (_overview(findings),)),
        *(Section(f.claim.name, f.claim.name, (Bullets(_lines(f)),)) for f in findings),
    ]


def page_sections(findings: Sequence[Finding]) -> list[Section]:
    """The answer with a picture of all, then every number, one section a claim.

    Claims that were tested come first.
    """
    ordered = sorted(findings, key=lambda finding: VERDICTS.index(finding.verdict.label))
    return [
        _answer(ordered),
        Section("claims", f"Every claim{_on(findings)}", (_overview(ordered),)),
        *(Section(f.claim.name, f.claim.name, _page(f)) for f in ordered),
    ]


VERDICTS: tuple[Label, ...] = ("SUPPORTED", "REFUTED", "INCONCLUSIVE", "NOT TESTED")

FEW = 6
"""Beyond so many claims a list of verdicts stands beside the picture."""

PLACEMENT = "placement"
"""The claim that people come for: before the activation, or after it?"""


def _answer(findings: Sequence[Finding]) -> Section:
    """What came out of all claims, in a sentence and a picture."""
    counts = Counter(finding.verdict.label for finding in findings)
    told = [f"{counts[label]} {label}" for label in VERDICTS if counts[label]]
    lead = (
        f"Of {len(findings)} claim{'s' * (len(findings) > 1)} about batch normalization"
        f"{_on(findings)}, "
        f"{', '.join(told[:-1])}{' and ' * (len(told) > 1)}{told[-1]}."
        if told
        else "There is no claim to judge."
    )
    lead += "".join(
        f" Before or after the activation? “{one.claim.statement}” {one.verdict.words}: "
        f"{one.verdict.why}."
        for one in findings
        if one.claim.name == PLACEMENT and one.verdict.label != "NOT TESTED"
    )
    blocks: list[Block] = [Text(lead, "lead")]
    untested = [finding.claim.name for finding in findings if finding.contrast is None]
    if untested:
        blocks.append(Text(f"Not in the picture, as runs are missing: {', '.join(untested)}."))
    drawn = [finding for finding in findings if finding.contrast is not None]
    if len(drawn) > FEW:
        columns = (Column("claim", numeric=False), Column("verdict", numeric=False, badge=True))
        rows = tuple(
            (f"{one.claim.name}: {one.claim.statement}", one.verdict.words) for one in drawn
        )
        links = tuple(f"#{one.claim.name}" for one in drawn)
        blocks.append(Table("", columns, rows, links=links))
    if drawn:

        def forest() -> "Figure":
            from bnlab.report.plots.claims import draw_all

            return draw_all(drawn)

        blocks.append(Plot("all-claims", _all_caption(drawn), forest))
    return Section("answer", "The answer", tuple(blocks))


def _all_caption(findings: Sequence[Finding]) -> str:
    """Says what `draw_all` draws, and of that all."""
    levels = {LIMITS if finding.verdict.interval else PLAIN for finding in findings}
    parts = [
        f"Each claim's effect with {' or '.join(sorted(levels, reverse=True))}",
        "in multiples of its own smallest effect of interest (dashed, at 1), as units differ",
        "beyond 1 the axis grows denser, so that all fit",
        "right of 0 favors a claim",
    ]
    if any(finding.claim.bounded and not finding.claim.either_way for finding in findings):
        parts[-1] += ", or left of 1 where its row says “at most”"
    if any(finding.claim.either_way for finding in findings):
        parts[-1] += ", or between -1 and 1 where it says “within”"
    if any(finding.claim.again for finding in findings):
        parts.append("a claim that is measured in two places has a row for each")
    if any(finding.verdict.label == "NOT TESTED" for finding in findings):
        parts.append("hollow, measured but not judged")
    return f"{'; '.join(parts)}."


def _on(findings: Sequence[Finding]) -> str:
    """What network they are about, where it is not the documents'."""
    others = {f.gathered.network.label for f in findings if not f.gathered.network.own}
    return f" on {', '.join(others)}" if others else ""


def write_claims(findings: Sequence[Finding], folder: Path) -> Path:
    """Write claims.html, claims.md and claims.json; give the page's path.

    Raises:
        StorageError: If the folder cannot be written.
    """
    from bnlab.report.page import linked, render_html, render_markdown
    from bnlab.report.plots.canvas import svg

    sections = page_sections(findings)
    plots = [block for section in sections for block in section.blocks if isinstance(block, Plot)]
    links = linked((run for finding in findings for run in finding.gathered.runs), folder)
    drawings = {plot.name: svg(plot.name, plot.draw, plot.caption, links) for plot in plots}
    beside = "claims.md, claims.json (every number) and the figures as SVG"
    files = {
        "claims.html": render_html(TITLE, sections, drawings, beside, links),
        **{f"{name}.svg": drawing for name, drawing in drawings.items()},
        "claims.md": render_markdown(TITLE, sections),
        "claims.json": shown_json(json.dumps(as_data(list(findings)), indent=2, allow_nan=False))
        + "\n",
    }
    write_files(folder, files)
    return folder / "claims.html"


def _overview(findings: Sequence[Finding]) -> Table:
    columns = (
        Column("claim", numeric=False),
        Column("verdict", numeric=False, badge=True),
        Column("effect"),
        Column(LIMITS),
        Column(PLAIN, detail=True),
        Column("n"),
        Column("preset", numeric=False, detail=True),
    )
    rows: list[tuple[str, ...]] = []
    links: list[str] = []
    for finding in findings:
        preset = finding.gathered.preset if finding.gathered.finished else MISSING
        for number, (claim, contrast) in enumerate(finding.places):
            first = number == 0
            rows.append(
                (
                    claim.name if first else "the same",
                    finding.verdict.words if first else claim.place,
                    claim.show(contrast.interval.estimate),
                    _limits(finding, finding.limits(contrast)),
                    _limits(finding, contrast.interval),
                    str(contrast.n),
                    preset,
                )
            )
            links.append(f"#{claim.name}")
        if not finding.places:
            words = finding.verdict.words
            rows.append((finding.claim.name, words, MISSING, MISSING, MISSING, "0", preset))
            links.append(f"#{finding.claim.name}")
    notes = (
        (
            f"each claim is judged by its {LIMITS}, alone: there is room for {ROOM} claims, and no "
            "verdict depends on another claim's runs"
        ),
        (
            f"a verdict needs {MIN_N} seeds; n are those behind the effect: not those that only "
            "name, nor those on which a run diverged, unless the effect has a value then, too"
        ),
    )
    return Table("", columns, tuple(rows), notes, tuple(links))


def _limits(finding: Finding, interval: Interval | None) -> str:
    return show_limits(interval, finding.claim.unit) if interval else MISSING


def told_power(finding: Finding) -> str:
    """What a study like this one could have found; "" while nothing is measured."""
    if finding.contrast is None:
        return ""
    power, claim = finding.verdict.power, finding.claim
    chance = "unknown" if power is None else f"{100 * power:.0f} %"
    size, preset = claim.show(claim.power_at(finding.gathered.preset)), finding.gathered.preset
    at = "twice the smallest effect of interest"
    if claim.bounded:
        at = "half of the largest amount that counts as none"
    return f"power at {at} ({size}, preset {preset}), with this spread and n: {chance}"


def _lines(finding: Finding) -> tuple[str, ...]:
    lines = [
        f"“{finding.claim.statement}” ({finding.claim.sources[0]})",
        *quoted(finding.claim),
        f"{finding.verdict.words}: {finding.verdict.why}",
    ]
    if finding.contrast is not None:
        lines += [f"{PLAIN}: {_limits(finding, finding.contrast.interval)}", told_power(finding)]
    if finding.gathered.finished:
        lines.append(f"scope: {finding.gathered.scope}")
    if finding.command:
        lines.append(f"would tell more: {finding.command}")
    return tuple(lines)


def _page(finding: Finding) -> tuple[Block, ...]:
    claim = finding.claim
    blocks: list[Block] = [
        Text(f"“{claim.statement}”"),
        *(Text(line, "note") for line in quoted(claim)),
        Bullets(claim.sources),
        Text(f"{finding.verdict.words}: {finding.verdict.why}."),
    ]
    if finding.gathered.finished:
        blocks.append(Text(f"Scope: {finding.gathered.scope}.", "note"))
    blocks += _plots(finding)
    table = _arms(finding)
    if table.rows:
        blocks.append(table)
    blocks += _effects(finding)
    blocks += [
        Text(f"What is measured. {claim.definition} Effect: {claim.formula}."),
        Text(f"What would count against it. {claim.against}"),
        Text(f"Protocol. {claim.protocol}"),
        Text(f"Smallest effect of interest: {show_smallest(claim)}. {claim.reason}"),
        Text(f"What would change the verdict. {_change(finding)}"),
    ]
    return tuple(blocks)


def _effects(finding: Finding) -> Iterator[Table]:
    """What was measured, a table for each place of a claim that is measured in two."""
    columns = (Column("contrast", numeric=False), Column("effect"), Column(PLAIN))
    for claim, contrast in finding.places:
        limits = finding.limits(contrast)
        rows = [
            (
                "headline",
                claim.show(contrast.interval.estimate),
                show_limits(contrast.interval, claim.unit),
            ),
            *(one.shown for one in contrast.details),
        ]
        notes = (
            "plain 95 % limits of single contrasts; all but the headline are exploratory",
            *([f"{LIMITS} of the headline: {_limits(finding, limits)}"] if limits else []),
            *([str(contrast.failures)] if contrast.failures else []),
            *([told_power(finding)] if claim is finding.claim else []),
            f"p of the headline by the exact {contrast.test}: {p_value(contrast.p)}",
            *contrast.remarks,
        )
        title = f"Effects {claim.place}" if claim.place else "Effects"
        yield Table(title, columns, tuple(rows), notes)


def _plots(finding: Finding) -> list[Plot]:
    claim, contrast, evidence = finding.claim, finding.contrast, finding.gathered.evidence
    if contrast is None or evidence is None:
        return []

    def sweep() -> "Figure":
        from bnlab.report.plots.claims import draw_sweep

        return draw_sweep(evidence)

    def chart() -> "Figure":
        from bnlab.report.plots.claims import draw_chart

        assert contrast.chart is not None
        return draw_chart(contrast.chart, [*evidence.best])

    effects = [_effect_plot(finding, place) for place in range(len(finding.places))]
    plots = [*effects, *_strip(finding)]
    if contrast.chart is not None:
        plots.append(Plot(f"{claim.name}-chart", contrast.chart.caption, chart))
    if evidence.sweep:
        caption = (
            "Validation accuracy over learning rates: small dots are the tuning seeds, the line "
            "joins their means"
        )
        if any(bad.any() for bad in evidence.sweep_diverged.values()):
            caption += "; × is a run that diverged, at the value of guessing"  # noqa: RUF001 - the marker
        caption += "."
        plots.append(Plot(f"{claim.name}-lr", caption, sweep))
    return plots


def _effect_plot(finding: Finding, place: int) -> Plot:
    claim, contrast = finding.places[place]

    def effect() -> "Figure":
        from bnlab.report.plots.claims import draw_effect

        return draw_effect(finding, place)

    least = claim.show(finding.smallest_effect)
    level = LIMITS if finding.limits(contrast) else PLAIN
    known = bool((contrast.bounds[0] == contrast.bounds[1]).all())
    seeds = "dots" if known else "dots; triangles point onward from bounds"
    middle = "mean" if contrast.test == "sign-flip test" else "median"
    where = f" {claim.place}" if claim.place else ""
    most = "most that counts as none" if claim.bounded else "smallest of interest"
    either_way = ", either way" * claim.either_way
    caption = (
        f"Effect on every seed{where} ({seeds}), {middle} and {level}; dashed, the {most}, "
        f"{least}{either_way}."
    )
    return Plot(f"{claim.name}-effect" + (f"-{place + 1}" if place else ""), caption, effect)


def _strip(finding: Finding) -> list[Plot]:
    """Every final run of every arm, with those that diverged."""
    evidence = finding.gathered.evidence
    if evidence is None or not evidence.best:
        return []

    def strip() -> "Figure":
        from bnlab.report.plots.claims import draw_final_runs

        return draw_final_runs(finding)

    failed = any(bad.any() for bad in evidence.diverged.values())
    caption = "Test accuracy of every final run of every arm, a dot at its value"
    caption += ", or × if it diverged, which then is that of guessing" * failed  # noqa: RUF001 - the marker
    return [Plot(f"{finding.claim.name}-runs", f"{caption}; the bar is the mean of all.", strip)]


def _arms(finding: Finding) -> Table:
    rows = []
    evidence = finding.gathered.evidence
    for arm, scores in evidence.best.items() if evidence is not None else ():
        spread = f"{100 * scores.std(ddof=1):.2f}" if len(scores) > 1 else MISSING
        failed = evidence.diverged.get(arm) if evidence is not None else None
        rows.append(
            (
                arm,
                _show_lr(finding, arm),
                f"{100 * scores.mean():.2f}",
                spread,
                str(len(scores)),
                "0" if failed is None else str(int(failed.sum())),
            )
        )
    columns = (
        Column("arm", numeric=False),
        Column("lr"),
        Column("test accuracy, %"),
        Column("sd"),
        Column("n"),
        Column("diverged"),
    )
    return Table("Arms", columns, tuple(rows))


def _show_lr(finding: Finding, arm: str) -> str:
    """`0.1`, or `0.03 (2), 0.1 (10)` where each seed chose its own."""
    evidence = finding.gathered.evidence
    own = Counter(finding.gathered.own_lrs(arm).values())
    if own:
        return ", ".join(f"{lr:g} ({count})" for lr, count in sorted(own.items()))
    lr = evidence.chosen.get(arm) if evidence is not None else None
    return MISSING if lr is None else f"{lr:g}"


def _change(finding: Finding) -> str:
    verdict = finding.verdict
    then = f" Next: {finding.command}" if finding.command else ""
    if verdict.label == "NOT TESTED":
        return f"Missing: {verdict.why}.{then}"
    if verdict.label == "INCONCLUSIVE":
        n = "many more" if verdict.required_n is None else str(verdict.required_n)
        return f"{n} seeds would settle it if the effect is as it looks.{then}"
    return (
        "Another setting: another network, data set, schedule or budget than the scope says. "
        f"Within it, a verdict that is false comes out in at most one study in {ROOM / ALPHA:.0f}."
    )
