"""The arms: against the baseline, each by itself, and the runs of each that broke down."""

from collections.abc import Iterable

from bnlab.analysis import MOST_PAIRED, Comparison, Effect, View, make_metric
from bnlab.claims import show_count
from bnlab.report.blocks import Block, Column, Plot, Section, Table, Text
from bnlab.report.numbers import (
    MISSING,
    at_setting,
    column,
    difference,
    difference_interval,
    margin_of,
    p_value,
    score,
    score_interval,
    seeds,
    short_key,
    show_setting,
    standard_deviation,
)
from bnlab.report.sections.drawing import drawing
from bnlab.report.sections.verdicts import forest_caption


def effects(comparison: Comparison) -> Section:
    """Every arm against the baseline."""
    blocks: list[Block] = []
    for view in comparison.views:
        if not view.effects:
            continue
        blocks.append(_effects_table(comparison, view))
    blocks += [
        Plot(
            f"effects-{view.key}",
            f"{view.title}: {forest_caption(comparison, view)}",
            drawing("draw_forest", comparison, view),
        )
        for view in comparison.views[1:]  # the first is the answer's
        if view.effects
    ]
    return Section("effects", f"Effects against {comparison.baseline}", tuple(blocks))


def _effects_table(comparison: Comparison, view: View) -> Table:
    metric, margin = view.metric, comparison.margin is not None
    settings = comparison.tuned is not None
    columns = (
        Column("arm", numeric=False),
        *((Column(short_key(comparison.tuned)),) if settings else ()),
        Column("n"),
        Column(f"effect{', ' + metric.unit if metric.unit else ''}"),
        Column("95 % interval"),
        Column("p (Holm)"),
        Column("verdict", numeric=False, badge=True),
        Column("test", numeric=False, detail=True),
        Column("p", detail=True),
        *((Column(f"p within {margin_of(comparison)}", detail=True),) if margin else ()),
        Column("n needed", detail=True),
    )
    rows = tuple(
        (
            effect.arm,
            *((show_setting(effect.setting),) if settings else ()),
            seeds(effect),
            difference(effect.estimate, metric),
            difference_interval(effect.interval, metric),
            p_value(effect.p_holm),
            effect.verdict,
            _METHODS[effect.method],
            p_value(effect.p),
            *((p_value(effect.p_equivalence_holm),) if margin else ()),
            _needed(effect),
        )
        for effect in view.effects
    )
    return Table(view.title, columns, rows, (*view.notes, *_effect_notes(comparison, view)))


def pairs(comparison: Comparison) -> Section:
    """All pairs of arms, adjusted over all of them."""
    blocks: list[Block] = []
    for view in comparison.views:
        if not view.pairs:
            continue
        metric = view.metric
        columns = (
            Column("arm", numeric=False),
            Column("against", numeric=False),
            Column("n"),
            Column(f"difference{', ' + metric.unit if metric.unit else ''}"),
            Column("simultaneous limits"),
            Column("p (Holm)"),
            Column("looks", numeric=False, badge=True),
            Column("test", numeric=False, detail=True),
        )
        rows = tuple(
            (
                pair.arm,
                pair.baseline,
                seeds(pair),
                difference(pair.estimate, metric),
                difference_interval(pair.simultaneous, metric),
                p_value(pair.p_holm),
                pair.verdict,
                _METHODS[pair.method],
            )
            for pair in view.pairs
        )
        level = next((p.simultaneous.level for p in view.pairs if p.simultaneous), None)
        each = f", each at {100 * level:.4g} %" if level else ""
        notes = (
            f"exploratory: {len(rows)} pairs, adjusted over all of them",
            f"limits at once with 95 % (Bonferroni{each}), p by Holm; higher or lower asks both",
        )
        blocks.append(Table(f"{view.title}, exploratory", columns, rows, notes))
    if not blocks and len(comparison.views[0].results) > MOST_PAIRED:
        blocks.append(Text(f"Pairs are compared of up to {MOST_PAIRED} arms."))
    return Section("pairs", "All pairs of arms", tuple(blocks))


_METHODS = {"paired": "paired", "welch": "Welch", "single": MISSING}


def _needed(effect: Effect) -> str:
    if effect.verdict == "no verdict" and not effect.barred:
        return f"{max(effect.verdict_n, effect.required_n or 0):,}"
    return f"{effect.required_n:,}" if effect.required_n else MISSING


def _effect_notes(comparison: Comparison, view: View) -> Iterable[str]:
    if view is comparison.views[-1] and any(effect.interval for effect in view.effects):
        yield (
            "Student's (Welch's, where not paired) 95 % interval, not adjusted; exact sign-flip "
            "(permutation) p, two-sided; Holm's adjustment over each table"
        )
        yield (
            "n needed: seeds an arm to find an effect of the size seen with power 0.8; a size "
            "seen in few seeds is itself uncertain"
        )
    for effect in view.effects:
        if len(effect.factors) > 1:
            yield (
                f"{effect.arm} differs from {effect.baseline} in {len(effect.factors)} factors "
                f"({', '.join(effect.factors)}): the effect belongs to all of them together"
            )
        unpaired = [line for line in effect.audit if not line.startswith("paired")]
        yield from (f"{effect.arm}: {line}" for line in unpaired)
    if view.metric.chance(10) is not None and any(r.diverged for r in view.results):
        yield (
            "runs that diverged count as chance, which makes an effect with any exploratory; "
            "Divergence has failures and scores apart"
        )


def arms(comparison: Comparison) -> Section:
    """Every arm by itself."""
    c = comparison
    blocks: list[Block] = []
    for view in c.views:
        columns = (
            Column("arm", numeric=False),
            *((Column(short_key(c.tuned)),) if c.tuned else ()),
            Column("n"),
            Column("diverged"),
            Column(column(view.metric)),
            Column("sd"),
            Column("95 % interval"),
        )
        rows = tuple(
            (
                result.arm,
                *((show_setting(result.setting),) if c.tuned else ()),
                str(result.n),
                str(len(result.diverged)),
                score(result.mean, view.metric),
                standard_deviation(result, view.metric),
                score_interval(result.interval, view.metric),
            )
            for result in view.results
        )
        blocks.append(Table(view.title, columns, rows))
    blocks += [
        Plot(f"seeds-{view.key}", _strip_caption(view), drawing("draw_strip", c, view))
        for view in c.views
    ]
    return Section("arms", "The arms", tuple(blocks))


def _strip_caption(view: View) -> str:
    """Says what is drawn, and of that all."""
    parts = [f"{view.title}: every run is a dot at its value"]
    if any(result.diverged for result in view.results):
        parts[0] += ", or × if it diverged, which then is that of guessing"  # noqa: RUF001 - the marker
    parts.append("the bar is the mean of all")
    drawn = [result.interval is not None and not result.diverged for result in view.results]
    if any(drawn):
        parts.append("the line its 95 % interval" + ", where no run diverged" * (not all(drawn)))
    return f"{'; '.join(parts)}."


def divergence(comparison: Comparison) -> Section:
    """Runs that broke down or learned nothing, and what the others did."""
    c = comparison
    cells = [(view.metric.name, result) for view in c.views for result in view.results]
    cells += [(r.metric, point) for r in c.responses for point in r.points]
    rows: dict[tuple[str, float | None], tuple[str, ...]] = {}
    for name, result in cells:
        if result.diverged and (result.arm, result.setting) not in rows:
            mean = score(result.survivors_mean, make_metric(name))
            rows[result.arm, result.setting] = (
                f"{result.arm}{at_setting(result.setting, c.tuned)}",
                show_count(len(result.diverged), result.n),
                ", ".join(map(str, result.diverged)),
                mean if name == c.metric.name or mean == MISSING else f"{mean} ({name})",
            )
    if not rows:
        return Section("divergence", "Divergence", (Text("No run diverged."),))
    chance = c.metric.chance(c.runs[0].classes)
    counted = (
        f"In every other table they count as chance, {score(chance, c.metric)}"
        f"{' %' if c.metric.unit else ''}."
        if chance is not None
        else ""
    )
    columns = (
        Column("arm", numeric=False),
        Column("diverged"),
        Column("seeds", numeric=False),
        Column("mean of survivors"),
    )
    notes = (
        "beside a count, Wilson's 95 % limits of the share that diverges",
        "the mean of survivors is conditional on not diverging: it is no estimate for the arm",
    )
    lead = f"Training broke down or ended no better than guessing in these runs. {counted}"
    return Section(
        "divergence",
        "Divergence",
        (
            Text(lead),
            Table("", columns, tuple(rows.values()), notes),
            *(
                _apart(view)
                for view in c.views
                if any(e.failures_p is not None for e in view.effects)
            ),
        ),
    )


def _apart(view: View) -> Table:
    """What the arms' failures and the runs that trained say, each by itself."""
    rows = tuple(
        (
            effect.arm,
            *(
                show_count(len(result.diverged), result.n)
                for arm in (effect.arm, effect.baseline)
                for result in view.results
                if result.arm == arm
            ),
            p_value(effect.failures_p),
            difference(effect.trained.estimate, view.metric) if effect.trained else MISSING,
            difference_interval(effect.trained, view.metric),
            difference(effect.estimate, view.metric),
        )
        for effect in view.effects
        if effect.failures_p is not None
    )
    columns = (
        Column("arm", numeric=False),
        Column("diverged", numeric=False),
        Column("of the baseline", numeric=False, detail=True),
        Column("p (Fisher)"),
        Column("both trained"),
        Column("95 % interval"),
        Column("scored at chance", detail=True),
    )
    notes = (
        f"diverged: in the arm, and in the baseline {view.results[0].arm}, with Wilson's limit",
        (
            "both trained: the effect over the seeds on which neither arm diverged (of independent "
            "samples, over the runs that did not)"
        ),
        "scored at chance: the effect of the other tables, failures and scores mixed; exploratory",
    )
    return Table(f"{view.title}, failures apart", columns, rows, notes)
