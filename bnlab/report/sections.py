"""The parts of a report. To add one: a function here and an entry in `SECTIONS`."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from bnlab.analysis import ALPHA, Comparison, Effect, Response, View, make_metric, show_fact
from bnlab.report.blocks import (
    Block,
    Bullets,
    Column,
    Plot,
    Section,
    SectionFunction,
    Table,
    Text,
)
from bnlab.report.numbers import (
    MISSING,
    at_setting,
    column,
    difference,
    difference_interval,
    number,
    p_value,
    score,
    score_interval,
    seeds,
    standard_deviation,
    time,
    with_unit,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _drawing(name: str, *arguments: object) -> "Callable[[], Figure]":
    """A function of `plots` with its arguments, for later: matplotlib takes a second to load."""

    def draw() -> "Figure":
        from bnlab.report import plots

        figure: Figure = getattr(plots, name)(*arguments)
        return figure

    return draw


# ---------------------------------------------------------------------------------------- findings


def findings(comparison: Comparison) -> Section:
    """What was compared and what came out, in plain words."""
    c = comparison
    arms, runs = len(c.arms), len(c.runs)
    opening = (
        f"{_count(runs, 'run')} in {_count(arms, 'arm')}"
        f"{' from ' + ', '.join(c.studies) if any(c.studies) else ''}, compared on {c.metric.name}"
    )
    if arms > 1:
        opening += f" with {c.baseline} ({c.baseline_reason})"
    blocks: list[Block] = [Text(caveat, "warning") for caveat in c.caveats]
    blocks.append(Text(f"{opening}."))
    if arms == 1:
        blocks.append(Text("There is one arm only: values, but nothing to compare them with."))
    for view in c.views:
        if view.effects:
            if len(c.views) > 1:
                blocks.append(Text(f"{view.title}:"))
            blocks.append(Bullets(tuple(sentence(effect, c, view) for effect in view.effects)))
    return Section("findings", "What was found", tuple(blocks))


def sentence(effect: Effect, comparison: Comparison, view: View) -> str:
    """One effect's verdict in words."""
    return f"{_verdict(effect, comparison, view)}{_diverged(effect, view)}"


def _diverged(effect: Effect, view: View) -> str:
    counts = [
        f"{len(result.diverged)} of {result.n} runs of {result.arm}"
        for result in view.results
        if result.arm in (effect.arm, effect.baseline) and result.diverged
    ]
    return f" Diverged, and counted as guessing: {', '.join(counts)}." if counts else ""


def _verdict(effect: Effect, comparison: Comparison, view: View) -> str:
    metric = view.metric
    size = with_unit(difference(effect.estimate, metric), metric)
    plain = with_unit(difference(abs(effect.estimate), metric).lstrip("+"), metric)
    arm = f"{effect.arm}{at_setting(effect.setting, comparison.tuned)}"
    base = f"{effect.baseline}{at_setting(effect.baseline_setting, comparison.tuned)}"
    least = f"a verdict on {_count(len(view.effects), 'effect')} needs at least {effect.verdict_n}"
    if effect.interval is None:
        return (
            f"{arm} against {base}: {size} from too few seeds to say how sure that is; no verdict "
            f"({least} seeds an arm)."
        )
    evidence = (
        f"95 % interval {difference_interval(effect.interval, metric)}, {_pairs(effect)}, "
        f"adjusted p {_equals(p_value(effect.p_holm))}"
    )
    if effect.verdict == "no verdict":
        return f"{arm} against {base}: {size} ({evidence}); no verdict: {least} seeds an arm."
    if effect.verdict in ("higher", "lower"):
        text = f"{arm} scores {plain} {effect.verdict} than {base} ({evidence})."
        if effect.p_equivalence_holm is not None and effect.p_equivalence_holm <= ALPHA:
            text += f" The difference is real but within the margin of {_margin(comparison)}."
        return text
    if effect.verdict == "equivalent":
        return (
            f"{arm} and {base} are equivalent within {_margin(comparison)}: {size} ({evidence}; "
            f"both one-sided tests, adjusted p {_equals(p_value(effect.p_equivalence_holm))})."
        )
    text = f"{arm} against {base}: undecided. {size} ({evidence})."
    if effect.required_n:
        text += f" An effect of this size would take about {effect.required_n:,} seeds an arm."
    return text


def _pairs(effect: Effect) -> str:
    if effect.method == "paired":
        return f"{effect.n} paired seeds"
    return f"{seeds(effect)} unpaired seeds"


def _equals(p: str) -> str:
    return p if p.startswith("<") else f"= {p}"


def _margin(comparison: Comparison) -> str:
    margin, metric = comparison.margin, comparison.metric
    return with_unit(f"±{number((margin or 0) * metric.scale, 2).rstrip('0').rstrip('.')}", metric)


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


# ------------------------------------------------------------------------------------------ effects


def effects(comparison: Comparison) -> Section:
    """Every arm against the baseline."""
    blocks: list[Block] = []
    for view in comparison.views:
        if not view.effects:
            continue
        blocks.append(_effects_table(comparison, view))
        blocks.append(
            Plot(
                f"effects-{view.key}",
                f"{view.title}: difference from {comparison.baseline} with its 95 % interval"
                + (", and the margin shaded." if comparison.margin else "."),
                _drawing("forest", comparison, view),
            )
        )
    return Section("effects", f"Effects against {comparison.baseline}", tuple(blocks))


def _effects_table(comparison: Comparison, view: View) -> Table:
    metric, margin = view.metric, comparison.margin is not None
    settings = comparison.tuned is not None
    columns = (
        Column("arm", numeric=False),
        *((Column(_short(comparison)),) if settings else ()),
        Column("n"),
        Column(f"effect{', ' + metric.unit if metric.unit else ''}"),
        Column("95 % interval"),
        Column("p (Holm)"),
        Column("verdict", numeric=False),
        Column("test", numeric=False, detail=True),
        Column("p", detail=True),
        *((Column(f"p within {_margin(comparison)}", detail=True),) if margin else ()),
        Column("n needed", detail=True),
    )
    rows = tuple(
        (
            effect.arm,
            *((f"{effect.setting:g}",) if effect.setting is not None else ()),
            seeds(effect),
            difference(effect.estimate, metric),
            difference_interval(effect.interval, metric),
            p_value(effect.p_holm),
            effect.verdict,
            {"paired": "paired", "welch": "Welch", "single": MISSING}[effect.method],
            p_value(effect.p),
            *((p_value(effect.p_equivalence_holm),) if margin else ()),
            _needed(effect),
        )
        for effect in view.effects
    )
    return Table(view.title, columns, rows, (*view.notes, *_effect_notes(comparison, view)))


def _needed(effect: Effect) -> str:
    if effect.verdict == "no verdict":
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
        yield "runs that diverged count as chance; see Divergence"


def _short(comparison: Comparison) -> str:
    return (comparison.tuned or "").rpartition(".")[2]


# --------------------------------------------------------------------------------------------- arms


def arms(comparison: Comparison) -> Section:
    """Every arm by itself."""
    c = comparison
    blocks: list[Block] = []
    for view in c.views:
        columns = (
            Column("arm", numeric=False),
            *((Column(_short(c)),) if c.tuned else ()),
            Column("n"),
            Column("diverged"),
            Column(column(view.metric)),
            Column("sd"),
            Column("95 % interval"),
        )
        rows = tuple(
            (
                result.arm,
                *((f"{result.setting:g}",) if result.setting is not None else ()),
                str(result.n),
                str(len(result.diverged)),
                score(result.mean, view.metric),
                standard_deviation(result, view.metric),
                score_interval(result.interval, view.metric),
            )
            for result in view.results
        )
        blocks.append(Table(view.title, columns, rows))
        blocks.append(
            Plot(
                f"seeds-{view.key}",
                f"{view.title}: every seed is a dot; the bar is the mean, the line its 95 % "
                "interval.",
                _drawing("strip", c, view),
            )
        )
    return Section("arms", "The arms", tuple(blocks))


# ---------------------------------------------------------------------------------- tuned key, time


def response(comparison: Comparison) -> Section:
    """How each arm answers to the tuned key."""
    c = comparison
    if not c.responses:
        return Section("response", "", ())
    short = _short(c)
    settings = sorted({p.setting for r in c.responses for p in r.points if p.setting is not None})
    columns = (
        Column("arm", numeric=False),
        *(Column(f"{value:g}") for value in settings),
        Column("best"),
        Column("edge", numeric=False),
    )
    rows = tuple(
        (
            r.arm,
            *(_response_cell(r, value) for value in settings),
            f"{r.best:g}",
            {"low": "lowest tried", "high": "highest tried", "single": "only one", None: ""}[
                r.edge
            ],
        )
        for r in c.responses
    )
    judged = ", ".join(sorted({r.metric for r in c.responses}))
    table = Table(
        f"Mean {judged} by {short}",
        columns,
        rows,
        ("(k): k runs diverged and count as chance; n is the number of seeds behind each mean: "
        + ", ".join(f"{r.arm} {_range(p.n for p in r.points)}" for r in c.responses),),
    )  # fmt: skip
    plot = Plot(
        "response",
        f"{judged} by {short}, with 95 % intervals; the ring marks each arm's best, a triangle at "
        "the lower edge a mean below the axis.",
        _drawing("response", c),
    )
    return Section("response", f"Response to {short}", (table, plot))


def _response_cell(response: Response, value: float) -> str:
    point = next((p for p in response.points if p.setting == value), None)
    if point is None:
        return ""
    scale = 100 if response.metric.endswith("accuracy") else 1
    text = f"{point.mean * scale:.1f}" if scale == 100 else number(point.mean)
    return f"{text} ({len(point.diverged)})" if point.diverged else text


def _range(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return str(found[0]) if len(found) == 1 else f"{found[0]}-{found[-1]}"


def target(comparison: Comparison) -> Section:
    """When each arm gets to the target accuracy."""
    c = comparison
    if c.target is None:
        return Section("target", "", ())
    columns = (
        Column("arm", numeric=False),
        Column("reached"),
        Column("epochs"),
        Column("seconds"),
        Column("times as fast", detail=True),
    )
    rows = []
    for arrival in c.arrivals:
        speed = MISSING
        if arrival.speedup is not None:
            s = arrival.speedup
            sign = "≥ " if s.at_most != s.at_least else ""
            high = "" if s.high == float("inf") else f"{2**s.high:.2f}"
            limits = f"{2**s.low:.2f} to {high}" if high else f"at least {2**s.low:.2f}"
            speed = f"{sign}{2**s.at_least:.2f} ({limits})"
        rows.append(
            (
                arrival.arm,
                f"{arrival.reached} of {arrival.n}",
                time(arrival.epochs),
                time(arrival.seconds),
                speed,
            )
        )
    title = f"Median time to {100 * c.target:g} % {c.target_tag}"
    notes = (
        "a run that never gets there counts as later than its last epoch; > marks a lower bound",
        (
            "times as fast: median over paired seeds of baseline's epochs over this arm's, with "
            "its sign-test interval; exploratory, not adjusted"
        ),
    )
    table = Table(title, columns, tuple(rows), notes if len(rows) > 1 else notes[:1])
    return Section("target", "Time to target", (table,))


# --------------------------------------------------------------------------------- divergence, cost


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
                f"{len(result.diverged)} of {result.n}",
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
    note = "the mean of survivors is conditional on not diverging: it is no estimate for the arm"
    lead = f"Training broke down or ended no better than guessing in these runs. {counted}"
    return Section(
        "divergence", "Divergence", (Text(lead), Table("", columns, tuple(rows.values()), (note,)))
    )


def cost(comparison: Comparison) -> Section:
    """What an epoch takes."""
    columns = (
        Column("arm", numeric=False),
        Column("seconds an epoch"),
        Column("95 % interval", detail=True),
        Column("relative"),
        Column("images/s"),
        Column("parameters", detail=True),
    )
    rows = tuple(
        (
            c.arm,
            number(c.seconds_per_epoch),
            f"{number(c.interval.low)} to {number(c.interval.high)}" if c.interval else MISSING,
            f"{c.ratio:.2f}" if c.ratio else MISSING,
            number(c.images_per_second),
            f"{c.parameters:,}" if c.parameters else MISSING,
        )
        for c in comparison.costs
    )
    if not any(c.seconds_per_epoch for c in comparison.costs):
        return Section("cost", "", ())
    note = "each run's median over its epochs; runs that shared a device slowed one another"
    return Section("cost", "Cost", (Table("", columns, rows, (note,)),))


# ------------------------------------------------------------------------------------------- plots


def curves(comparison: Comparison) -> Section:
    """Learning curves."""
    measured = {curve.tag for curve in comparison.curves if len(curve.epochs) > 1}
    held = "test" if "test/accuracy" in measured else "val"
    blocks: list[Block] = []
    for tag in (f"{held}/accuracy", "train/accuracy", f"{held}/loss", "train/loss"):
        if tag not in measured:
            continue
        for axis in ("epochs", "seconds"):
            if axis == "seconds" and not any(
                curve.seconds[-1] > 0 for curve in comparison.curves if curve.tag == tag
            ):
                continue
            blocks.append(
                Plot(
                    f"curve-{tag.replace('/', '-')}-{axis}",
                    f"{tag} by {'epoch' if axis == 'epochs' else 'seconds of training'}.",
                    _drawing("curves", comparison, tag, axis),
                )
            )
    if blocks:
        blocks.insert(
            0,
            Text(
                "Means over seeds with pointwise 95 % intervals. A run that diverged counts as "
                "guessing once it has ended; losses count while they are finite. Training values "
                "are averages over the epoch, of images as augmented.",
                "note",
            ),
        )
    return Section("curves", "Learning curves", tuple(blocks))


def probes(comparison: Comparison) -> Section:
    """What was measured inside the networks."""
    quantities = list(dict.fromkeys(probe.quantity for probe in comparison.probes))
    figures = tuple(
        Plot(
            f"probe-{quantity}",
            f"{quantity} after the last epoch, mean over seeds with 95 % intervals.",
            _drawing("probe", comparison, quantity),
        )
        for quantity in quantities
    )
    return Section("probes", "Inside the network", figures)


# ---------------------------------------------------------------------------------------- evidence


def configuration(comparison: Comparison) -> Section:
    """In which keys the arms differ."""
    c = comparison
    if len(c.arms) == 1 and not c.varying:
        return Section("configuration", "", ())
    columns = (
        Column("key", numeric=False),
        *(Column(arm.name, numeric=False) for arm in c.arms),
    )
    rows = tuple((key, *(_plain(value) for value in values)) for key, values in c.varying.items())
    note = "all other keys are equal; '(not set)' means nothing for that arm"
    return Section(
        "configuration", "How the arms' configurations differ", (Table("", columns, rows, (note,)),)
    )


def _plain(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def provenance(comparison: Comparison) -> Section:
    """Where the numbers come from, and whether the runs may be compared."""
    audit = [
        f"{view.title}: {effect.arm} against {effect.baseline}: {'; '.join(effect.audit)}"
        for view in comparison.views
        for effect in view.effects
        if effect.audit
    ]
    columns = (Column("what", numeric=False), Column("runs", numeric=False))
    rows = tuple(
        (f"{fact.name}{' (mixed)' if fact.mixed else ''}", show_fact(fact))
        for fact in comparison.facts
    )
    blocks: list[Block] = [Table("", columns, rows)]
    if audit:
        blocks += [Text("Pairing:"), Bullets(tuple(audit))]
    return Section("provenance", "Provenance and pairing", tuple(blocks))


def remarks(comparison: Comparison) -> Section:
    """What was left out or mended."""
    grouped = Counter(remark.what for remark in comparison.remarks)
    where = {
        what: [remark.where for remark in comparison.remarks if remark.what == what]
        for what in grouped
    }
    items = tuple(f"{_places_listed(places)}: {what}" for what, places in sorted(where.items()))
    return Section("remarks", "Remarks on files", (Bullets(items),) if items else ())


def _places_listed(places: list[str]) -> str:
    return ", ".join(places[:5]) + (f" and {len(places) - 5} more" if len(places) > 5 else "")


SECTIONS: tuple[SectionFunction, ...] = (
    findings,
    effects,
    arms,
    response,
    target,
    divergence,
    cost,
    curves,
    probes,
    configuration,
    provenance,
    remarks,
)
"""The report, in order."""

IN_TERMINAL: tuple[SectionFunction, ...] = (
    findings,
    effects,
    arms,
    response,
    target,
    divergence,
    cost,
    remarks,
)
"""What the terminal shows of it."""
