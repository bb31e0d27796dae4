"""How fast this machine trains: bnlab beside the loop that one would write, and beside the limit.

Every contender lives in a process of its own, so that none works with another's settings. All are
warmed up, then timed in turn, one lap each, again and again: what disturbs the machine for a while
disturbs all of them. Medians count.
"""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch

from bnlab.bench.contenders import Contender, Lap
from bnlab.bench.limits import cost_of, measure_device
from bnlab.bench.table import EPOCH_IMAGES, rows_of, table_of
from bnlab.bench.timing import race
from bnlab.config import Config
from bnlab.errors import BnlabError, ConfigError
from bnlab.training.device import Precision, resolve_device, resolve_precision
from bnlab.training.provenance import environment

__all__ = ["Settings", "bench", "contenders_of", "default_settings", "table_of"]

LANES = 4
"""Runs at once that are tried compiled as well."""

AT_ONCE = (1, 2, 4, 8, 16)
"""Numbers of runs at once that are tried, as far as the device suits them."""


@dataclass(frozen=True)
class Settings:
    """How to bench.

    Attributes:
        device: Where.
        images: Training images of a lap.
        warm_up: Laps that do not count; a captured step needs three of its own.
        repeats: Laps that do.
        at_once: Numbers of runs to try at once.
        ways: How runs go on at once: `threads` as in bnlab, `processes` to compare.
        workers: Of the conventional loop.
        matrix: Side of the matrices that measure the device.
        only: Of the contenders behind the first those whose names contain this.
        apart: Time each contender when those before it are gone: a GPU's memory does not hold all.
            What disturbs the machine for a while then disturbs only some.
    """

    device: str
    images: int
    warm_up: int
    repeats: int
    at_once: tuple[int, ...]
    ways: tuple[Literal["threads", "processes"], ...] = ("threads",)
    workers: int = 2
    matrix: int = 2048
    apart: bool = False
    only: str = ""


def default_settings(device: torch.device, *, quick: bool) -> Settings:
    """Settings that take some minutes, or less than one if `quick`."""
    if device.type == "cuda":
        if quick:
            return Settings(str(device), 20_000, 4, 3, (2, 4, 8), matrix=8192, apart=True)
        return Settings(str(device), EPOCH_IMAGES, 4, 5, AT_ONCE, matrix=8192, apart=True)
    at_once = tuple(runs for runs in AT_ONCE if runs <= 2 * torch.get_num_threads())
    if quick:
        return Settings(str(device), 512, 1, 3, at_once[:2], matrix=1024)
    return Settings(str(device), 1280, 1, 7, at_once)


def contenders_of(config: Config, settings: Settings) -> list[Contender]:
    """Everything that is raced, the conventional loop first.

    Raises:
        ConfigError: If the settings leave nothing to race.
    """
    device = resolve_device(settings.device)
    best = resolve_precision("auto", device)
    precisions: tuple[Precision, ...] = ("fp32",)
    if device.type == "cuda" and best == "bf16":
        precisions += ("tf32",)
    if best != "fp32":
        precisions += (best,)

    def contender(name: str, kind: Any, precision: str, way: str = "auto", runs: int = 1) -> Any:
        train = config.train.model_copy(update={"precision": precision, "accelerate": way})
        return Contender(
            name,
            kind,
            config.model_copy(update={"train": train}),
            settings.device,
            runs,
            settings.workers,
        )

    found: list[Contender] = [
        contender("conventional fp32", "conventional", "fp32", "eager"),
        *(contender(f"bnlab {precision}", "bnlab", precision) for precision in precisions),
        contender(f"bnlab {best}, eager", "bnlab", best, "eager"),
        *(
            [contender(f"bnlab {best}, compiled", "bnlab", best, "compile")]
            if device.type == "cuda"
            else []
        ),
        contender(f"bnlab {best}, no gradient norms", "bare", best),
        contender(f"bnlab {best}, probes and recorder", "recorded", best),
        *(
            contender(f"{runs} runs at once in {way}, {best}", way, best, runs=runs)
            for way in settings.ways
            for runs in settings.at_once
        ),
        *(
            contender(f"{runs} runs at once, {best}, compiled", "threads", best, "compile", runs)
            for runs in settings.at_once
            if device.type == "cuda" and runs == LANES
        ),
    ]
    yardstick, *others = found
    chosen = [one for one in others if settings.only in one.name]
    if not chosen:
        names = ", ".join(one.name for one in others)
        raise ConfigError(f"--only {settings.only}: none of the contenders ({names})")
    return [yardstick, *chosen]


def bench(
    config: Config,
    settings: Settings,
    say: Callable[[str], None] = lambda _text: None,
    keep: Callable[[Mapping[str, Any]], None] = lambda _report: None,
) -> dict[str, Any]:
    """Measure, and give plain data: device, versions, settings, limits, and a row a contender.

    Args:
        config: What to train; its data set is cut to the settings' images.
        settings: How.
        say: Told how far it is.
        keep: Given the report as it grows, where contenders are timed apart. One that fails then
            costs no other; `failed` says why.

    Raises:
        BnlabError: If a contender fails, and they are not timed apart.
    """
    device = resolve_device(settings.device)
    update = {"train_size": settings.images, "test_size": 1000}
    config = config.model_copy(update={"dataset": config.dataset.model_copy(update=update)})
    contenders = contenders_of(config, settings)
    report: dict[str, Any] = {
        "environment": environment(device),
        "device": str(device),
        "machine": platform.machine(),
        "settings": asdict(settings),
        "config": config.resolved(),
        "limits": _limits(config, contenders, device, settings, say),
        "rows": [],
        "failed": {},
    }
    timed = partial(race, warm_up=settings.warm_up, repeats=settings.repeats, say=say)
    if not settings.apart:
        laps = timed(contenders)
        return {**report, "rows": rows_of(contenders, laps, report["limits"])}
    found: dict[str, list[Lap]] = {}
    for contender in contenders:
        try:
            found |= timed([contender])
        except BnlabError as error:
            say(str(error))
            report["failed"][contender.name] = str(error)
        if contenders[0].name in found:
            report["rows"] = rows_of(contenders, found, report["limits"])
        keep(report)
    return report


def _limits(
    config: Config,
    contenders: Sequence[Contender],
    device: torch.device,
    settings: Settings,
    say: Callable[[str], None],
) -> dict[str, dict[str, float]]:
    """What the device reaches at the best, by precision."""
    limits: dict[str, dict[str, float]] = {}
    for contender in contenders:
        precision = resolve_precision(contender.config.train.precision, device)
        if precision not in limits:
            say(f"measuring the device in {precision}")
            reached = measure_device(device, precision, size=settings.matrix)
            cost = cost_of(config, precision)
            limits[precision] = {
                **asdict(reached),
                "flops_per_image": cost.flops,
                "bytes_per_image": cost.bytes,
                "images_per_second": reached.images_per_second(cost),
            }
    return limits
