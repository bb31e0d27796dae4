"""What probes measured inside the networks."""

from bnlab.analysis import Comparison, ProbeSummary
from bnlab.report.blocks import Column, Plot, Section, Table
from bnlab.report.numbers import number, ratio, span
from bnlab.report.sections.drawing import drawing


def probes(comparison: Comparison) -> Section:
    """By quantity and arm the first layer and the last; figures of all."""
    found: dict[tuple[str, str], list[ProbeSummary]] = {}
    for probe in comparison.probes:
        found.setdefault((probe.quantity, probe.arm), []).append(probe)
    if not found:
        return Section("probes", "", ())
    columns = (
        Column("quantity", numeric=False),
        Column("arm", numeric=False),
        Column("first", numeric=False),
        Column("last", numeric=False),
        Column("last / first"),
        Column("n"),
    )
    rows = tuple(
        (
            quantity,
            arm,
            _told(layers[0]),
            _told(layers[-1]) if len(layers) > 1 else "",
            ratio(layers[0].last, layers[-1].last) if len(layers) > 1 else "",
            span(probe.n for probe in layers),
        )
        for (quantity, arm), layers in found.items()
    )
    table = Table(
        "After the last epoch that was probed, first layer and last",
        columns,
        rows,
        ("± is half a 95 % interval over seeds; n the number of runs with a finite value.",),
    )
    quantities = dict.fromkeys(quantity for quantity, _ in found)
    plots = tuple(
        Plot(
            f"probe-{quantity}",
            f"{quantity} after the last epoch, mean over seeds with bands of 95 %.",
            drawing("draw_probe", comparison, quantity),
        )
        for quantity in quantities
    )
    return Section("probes", "Inside the network", (table, *plots))


def _told(probe: ProbeSummary) -> str:
    told = f"{probe.layer} {number(probe.last)}"
    if probe.interval is None:
        return told
    return f"{told} ± {number((probe.interval.high - probe.interval.low) / 2, 2)}"
