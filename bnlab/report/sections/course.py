"""The course of training: the tuned key, times to the target, cost, curves."""

from bnlab.analysis import Comparison, Response
from bnlab.report.blocks import Block, Column, Plot, Section, Table, Text
from bnlab.report.numbers import MISSING, number, short_key, span, time
from bnlab.report.sections.drawing import drawing


def response(comparison: Comparison) -> Section:
    """How each arm answers to the tuned key."""
    c = comparison
    if not c.responses:
        return Section("response", "", ())
    short = short_key(c.tuned)
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
        + ", ".join(f"{r.arm} {span(p.n for p in r.points)}" for r in c.responses),),
    )  # fmt: skip
    plot = Plot(
        "response",
        _response_caption(c, judged, short),
        drawing("draw_response", c),
    )
    return Section("response", f"Response to {short}", (table, plot))


def _response_caption(comparison: Comparison, judged: str, short: str) -> str:
    """Says what is drawn, and of that all."""
    parts = [
        f"{judged} by {short}: small dots are single runs, the line joins the means of each arm",
        "the ring marks each arm's best",
    ]
    if any(point.diverged for r in comparison.responses for point in r.points):
        parts.insert(1, "× is a run that diverged, at the value of guessing")  # noqa: RUF001 - the marker
    return f"{'; '.join(parts)}."


def _response_cell(response: Response, value: float) -> str:
    point = next((p for p in response.points if p.setting == value), None)
    if point is None:
        return ""
    scale = 100 if response.metric.endswith("accuracy") else 1
    text = f"{point.mean * scale:.1f}" if scale == 100 else number(point.mean)
    return f"{text} ({len(point.diverged)})" if point.diverged else text


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


def curves(comparison: Comparison) -> Section:
    """Learning curves."""
    measured = {curve.tag for curve in comparison.curves if len(curve.epochs) > 1}
    held = "test" if "test/accuracy" in measured else "val"
    blocks: list[Block] = []
    several = any((curve.n > 1).any() for curve in comparison.curves)
    bands = " with pointwise 95 % intervals as bands, which the plot may cut off" * several
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
                    drawing("draw_curves", comparison, tag, axis),
                )
            )
    if blocks:
        blocks.insert(
            0,
            Text(
                f"Means over seeds{bands}. A run that diverged counts as "
                "guessing once it has ended; losses count while they are finite. Training values "
                "are averages over the epoch, of images as augmented.",
                "note",
            ),
        )
    return Section("curves", "Learning curves", tuple(blocks))
