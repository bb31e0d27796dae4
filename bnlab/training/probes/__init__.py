"""Measurements inside training, a file each. A probe leaves no trace on the run.

To add one: a file here with a function registered in `PROBES` under the file's own stem. What it
does to parameters, statistics, gradients and random streams is undone behind it.
"""

from collections.abc import Sequence

from torch import nn

from bnlab import registry
from bnlab.training.probes._base import (
    POPULATION_IMAGES,
    PROBE_IMAGES,
    Probe,
    Sample,
    eval_mode,
    inputs_of,
    leave_no_trace,
    loss_and_accuracy,
)
from bnlab.training.probes._running import average_statistics, in_training, tracking_norms

PROBES: registry.Registry[Probe] = registry.PROBES
"""Facts: `last` for a probe that looks once, after the last epoch, where it may read test images;
without any it gives nothing. `remembers` for one that compares with an earlier look: it also looks
before the first step. `costly` for one that takes longer than an epoch of `quick`."""

__all__ = [
    "POPULATION_IMAGES",
    "PROBES",
    "PROBE_IMAGES",
    "Probe",
    "Sample",
    "average_statistics",
    "eval_mode",
    "in_training",
    "inputs_of",
    "leave_no_trace",
    "look_at_start",
    "loss_and_accuracy",
    "run_probes",
    "tracking_norms",
]


def run_probes(
    names: Sequence[str], model: nn.Module, sample: Sample, *, last: bool = False
) -> dict[str, float]:
    """Measure with each named probe, in training mode, leaving no trace.

    Args:
        names: Entries of `PROBES`.
        model: The network as it stands.
        sample: What to look at.
        last: Whether training has ended, so that probes of that moment look too.
    """
    values: dict[str, float] = {}
    for name in names:
        if "last" in PROBES.entry(name).facts and not last:
            continue
        with leave_no_trace(model):
            model.train()
            values.update(PROBES[name](model, sample))
    return values


def look_at_start(names: Sequence[str], model: nn.Module, sample: Sample) -> None:
    """Before the first step, let those of the named probes look that compare with an earlier look.

    What they give is dropped: a record is of an epoch.
    """
    run_probes([n for n in names if "remembers" in PROBES.entry(n).facts], model, sample)
