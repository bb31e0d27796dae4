"""The checks, in the order of their codes, and what they find."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from bnlab.doctor import looks
from bnlab.doctor.looks import Said, Severity
from bnlab.doctor.subject import Subject

Look: TypeAlias = Callable[[Subject], Iterator[Said]]


@dataclass(frozen=True)
class Check:
    """One thing that is looked for.

    Attributes:
        code: `BN001`, ...; never given to another check.
        title: What would be wrong.
        why: Why it matters, with a source where there is one.
        todo: What to do.
        severity: `fault` where a number comes out wrong or is about to; `told` where it is waste or
            a habit that somebody may have chosen.
        look: Finds it.
        images: Whether it finds nothing without images at hand.
    """

    code: str
    title: str
    why: str
    todo: str
    severity: Severity
    look: Look
    images: bool = False


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        code: Of the check.
        layers: Dotted names of the layers concerned; none where it is the whole network.
        what: What was found.
        why: Why it matters.
        todo: What to do.
        cost: What it costs, as measured; "" where that was not measured.
        severity: `fault` or `told`.
    """

    code: str
    layers: tuple[str, ...]
    what: str
    why: str
    todo: str
    cost: str
    severity: Severity

    @property
    def layer(self) -> str:
        """The layers for a table: `bn1, bn2 and 18 more`."""
        first, more = self.layers[:SHOWN], len(self.layers) - SHOWN
        return ", ".join(first) + (f" and {more} more" if more > 0 else "")


SHOWN = 2
"""Layers that a table spells out; JSON has all."""


def examine(subject: Subject) -> tuple[Finding, ...]:
    """What all checks find, in the order of their codes; the subject stays as it is."""
    return tuple(
        Finding(
            check.code,
            tuple(said.layers),
            said.what,
            check.why,
            check.todo,
            said.cost,
            said.severity or check.severity,
        )
        for check in CHECKS
        for said in check.look(subject)
    )


def faults(findings: Iterable[Finding]) -> list[Finding]:
    """Those that are more than told."""
    return [finding for finding in findings if finding.severity == "fault"]


def findings_as_data(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """For programs."""
    return [{**vars(finding), "layers": list(finding.layers)} for finding in findings]


CHECKS: tuple[Check, ...] = (
    Check(
        "BN001",
        "batch statistics in testing",
        "What is said of an image depends on the images beside it; testing is to use the "
        "population's statistics (Ioffe and Szegedy 2015, arXiv:1502.03167, section 3.1).",
        "call model.eval() before testing; keep track_running_stats=True",
        "fault",
        looks.batch_statistics_in_testing,
    ),
    Check(
        "BN002",
        "testing changes the statistics",
        "Test images shape later answers, so that the test set is one no more.",
        "call model.eval() before testing",
        "fault",
        looks.polluted_by_testing,
    ),
    Check(
        "BN003",
        "a batch of one",
        "One value is its own mean: what is normalized by it is 0 whatever the image.",
        "drop the last batch (drop_last=True), or choose another batch size",
        "fault",
        looks.batch_of_one,
    ),
    Check(
        "BN004",
        "dropout before batch norm",
        "Dropout changes the variance, in training only: testing divides by one that it does not "
        "meet (Li et al. 2019, arXiv:1801.05134).",
        "put dropout behind the last batch norm, or leave it out",
        "fault",
        looks.dropout_in_front,
    ),
    Check(
        "BN005",
        "weight decay on scale and shift",
        "It pulls scales and shifts to 0, by which nothing is known to be gained; recipes decay "
        "weights only (He et al. 2019, arXiv:1812.01187, section 3.1).",
        "optim.decay_weights_only=true; in torch, a parameter group with weight_decay=0",
        "told",
        looks.decayed,
    ),
    Check(
        "BN006",
        "a bias dead in front of batch norm",
        "Subtracting the mean takes it out, and its gradient is 0; the shift does its work (Ioffe "
        "and Szegedy 2015, section 3.2).",
        "bias=False in these layers",
        "told",
        looks.dead_biases,
    ),
    Check(
        "BN007",
        "batch norm after the last layer",
        "It fixes the spread of every logit over a batch, so how sure the network may be is left "
        "to scales that weights do not reach.",
        "take it out",
        "told",
        looks.behind_the_last_layer,
    ),
    Check(
        "BN008",
        "momentum and the number of steps",
        "Testing uses what the momentum kept: the last batch alone, or the 0 and 1 that running "
        "statistics start from, are not the population's.",
        "in torch momentum is 1 less the weight of the past; few steps need a larger one",
        "fault",
        looks.momentum,
    ),
    Check(
        "BN009",
        "eps beside the variance",
        "Where eps is no small part of variance + eps, it sets the scale and the layer normalizes "
        "less, or not at all.",
        "a smaller eps, or larger weights and inputs",
        "told",
        looks.eps,
    ),
    Check(
        "BN010",
        "running and population statistics differ",
        "The running averages lag behind the weights; averages over training images made "
        "afterwards do not (Wu and Johnson 2021, arXiv:2105.07576, section 3).",
        "recompute them after training: reset, momentum=None, one pass in training mode",
        "told",
        looks.population_gap,
        images=True,
    ),
    Check(
        "BN011",
        "statistics that are not updated",
        "Testing normalizes by numbers that no image has shaped, or not the network's own.",
        "see which code calls eval() on them, loads them, or sets their momentum",
        "fault",
        looks.never_updated,
    ),
    Check(
        "BN012",
        "scales near 0, or negative before a max-pool",
        "A channel of scale 0 says nothing (and can go: Liu et al. 2017, arXiv:1708.06519); a "
        "negative one turns the maximum behind it into a minimum.",
        "prune the former; do not swap or fuse norm and pooling over the latter",
        "told",
        looks.scales,
    ),
    Check(
        "BN013",
        "dead channels",
        "A ReLU that no image opens passes no gradient: it stays shut (Lu et al. 2019, "
        "arXiv:1903.06733).",
        "a lower learning rate or a warm-up, less weight decay on shifts, or prune them",
        "told",
        looks.dead_channels,
        images=True,
    ),
    Check(
        "BN014",
        "small batches",
        "A statistic of m values is off by some 1/sqrt(2m), in training only; accuracy falls "
        "below about 8 images (Wu and He 2018, arXiv:1803.08494, table 2).",
        "larger batches, batch norm synchronized over devices, or group norm",
        "told",
        looks.small_batch,
    ),
)
