"""What a race and the limits say, as rows and as a table for a terminal."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from bnlab.bench.contenders import Contender, Lap
from bnlab.training.device import resolve_device, resolve_precision

EPOCH_IMAGES = 50_000
"""Images of the epoch that the table speaks of: CIFAR-10's."""


def rows_of(
    contenders: Sequence[Contender],
    laps: Mapping[str, Sequence[Lap]],
    limits: Mapping[str, Mapping[str, float]],
) -> list[dict[str, Any]]:
    """The table, of those that have laps; ratios are medians over laps of the same round."""
    device = resolve_device(contenders[0].device)
    yardstick = [rate_of(lap) for lap in laps[contenders[0].name]]
    rows = []
    for contender in contenders:
        if contender.name not in laps:
            continue
        rates = [rate_of(lap) for lap in laps[contender.name]]
        precision = resolve_precision(contender.config.train.precision, device)
        rate = statistics.median(rates)
        rows.append(
            {
                "name": contender.name,
                "precision": precision,
                "runs": contender.runs,
                "images_per_second": rate,
                "seconds_per_epoch": EPOCH_IMAGES / rate,
                "over_conventional": statistics.median(
                    one / other for one, other in zip(rates, yardstick, strict=True)
                ),
                "share_of_limit": rate / limits[precision]["images_per_second"],
                "laps": rates,
            }
        )
    return rows


def table_of(report: Mapping[str, Any]) -> Table:
    """The rows of `bench` for a terminal, with the machine's facts as title and caption."""
    facts, limits = report["environment"], report["limits"]
    hardware = facts["gpu"] or f"{facts['cpu']}, {facts['threads']} threads"
    table = Table(
        title=f"{hardware}; torch {facts['torch']}, Python {facts['python']}",
        caption="\n".join(
            f"limit in {precision}: {limit['images_per_second']:,.0f} images/s, from measured "
            f"{limit['flops_per_second'] / 1e9:,.0f} GFLOP/s and "
            f"{limit['bytes_per_second'] / 1e9:,.1f} GB/s for "
            f"{limit['flops_per_image'] / 1e6:,.0f} MFLOP and "
            f"{limit['bytes_per_image'] / 1e6:,.2f} MB an image"
            for precision, limit in limits.items()
        ),
    )
    table.add_column("contender")
    for heading in ("images/s", "s/epoch", "x conventional", "of limit"):
        table.add_column(heading, justify="right")
    for row in report["rows"]:
        table.add_row(
            row["name"],
            f"{row['images_per_second']:,.0f}",
            f"{row['seconds_per_epoch']:,.2f}",
            f"{row['over_conventional']:.2f}",
            f"{100 * row['share_of_limit']:.0f} %",
        )
    return table


def rate_of(lap: Lap) -> float:
    """Images per second over an epoch of `EPOCH_IMAGES`."""
    return 1 / (lap.seconds / lap.images + lap.per_epoch / EPOCH_IMAGES)
