"""Published numbers, each beside bnlab's own: whether another setting comes to the same."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bnlab.analysis.stats import Interval
from bnlab.claims._contrast import Unit, show_effect, show_limits
from bnlab.claims._findings import Finding


@dataclass(frozen=True)
class Anchor:
    """A number that somebody has published.

    Attributes:
        claim: Whose measurement it is held against.
        what: What it is of.
        value: In storage units.
        unit: Of the table.
        setting: Where it was found, and by whom.
        detail: Which of the claim's further numbers it is held against; "" for its headline.
        again: Whether that is one of the claim's second place.
        own: bnlab's number where no claim measures it, in storage units; a test holds it.
    """

    claim: str
    what: str
    value: float
    unit: Unit
    setting: str
    detail: str = ""
    again: bool = False
    own: float | None = None


@dataclass(frozen=True)
class Held:
    """An anchor beside what bnlab has.

    Attributes:
        anchor: What was published.
        found: bnlab's number, as text.
        scope: Its setting.
        outcome: Whether they agree, in words.
    """

    anchor: Anchor
    found: str
    scope: str
    outcome: str


ANCHORS = (
    Anchor(
        "gradients",
        "log of the factor a layer, BN, fully connected",
        math.log(math.sqrt(math.pi / (math.pi - 1))),
        "log/layer",
        "wide ladder of ReLU layers at the start, theory; Yang et al. 2019, Luther 2020",
        own=math.log(1.2125),
    ),
    Anchor(
        "gradients",
        "the same without BN",
        0.0,
        "log/layer",
        "the same ladder, He's initialization",
        own=math.log(1.0012),
    ),
    Anchor(
        "gradients",
        "log of the factor a layer, BN, convolutions",
        math.log(math.sqrt(math.pi / (math.pi - 1))),
        "log/layer",
        "theory of fully connected layers; Yang et al. 2019",
        "log of the factor a layer, batch",
        again=True,
    ),
    Anchor(
        "gradients",
        "the same after a step of training (gradients level out)",
        0.0,
        "log/layer",
        "fully connected ladder, stochastic gradient descent; Yang et al. 2019",
        "log of the factor a layer, batch, after 1 step",
        again=True,
    ),
    Anchor(
        "accuracy",
        "accuracy that BN adds",
        0.0252,
        "pp",
        "a network like the documents', CIFAR-10, one learning rate, one seed; "
        "Al13n0231's repository",
    ),
    *(
        Anchor(
            "placement",
            f"accuracy, before less after the activation{where}",
            value,
            "pp",
            setting,
            again=again,
        )
        for value, setting in (
            (
                -0.015,
                "CaffeNet, ImageNet at 128 pixels, one run each, with Scale; caffenet-benchmark",
            ),
            (
                -0.0197,
                "8 blocks, CIFAR-10, Adam, 5 runs; gdd72582's notebook (95 %: -4.21 to +0.27)",
            ),
        )
        for where, again in (("", False), (", BN on the convolutions alone", True))
    ),
    Anchor(
        "convergence",
        "octaves of steps saved",
        math.log2(31.0 / 13.3),
        "octaves",
        "Inception, ImageNet, to 72.2 %, BN-Baseline; Ioffe and Szegedy 2015",
    ),
    Anchor(
        "higher_lr",
        "octaves by which working learning rates are higher",
        math.log2(0.1 / 0.0001),
        "octaves",
        "ResNet-110, CIFAR-10; Bjorck et al. 2018",
    ),
    Anchor(
        "higher_lr",
        "BN's gain at the learning rate of the network without it",
        0.0,
        "pp",
        "ResNet-110, CIFAR-10, what they conclude; Bjorck et al. 2018",
        "of it, BN at the best lr of the arm without",
    ),
    *(
        Anchor(
            "depth",
            f"the same at {depth} convolutions, in training accuracy",
            0.0,
            "pp",
            "ResNet-110, CIFAR-10, what they conclude; Bjorck et al. 2018",
            f"BN's gain at {depth} convolutions, at the lr of the network without",
        )
        for depth in ("4", "16")
    ),
    Anchor(
        "covariate_shift_gradients",
        "octaves by which gradients shift less (similar or worse: 0 or less)",
        0.0,
        "octaves",
        "VGG and deep linear networks, CIFAR-10; Santurkar et al. 2018",
    ),
    Anchor(
        "covariate_shift_noise",
        "training loss that noise behind BN costs (trains as well)",
        0.0,
        "nats",
        "VGG, CIFAR-10, read from a plot; Santurkar et al. 2018",
    ),
    Anchor(
        "landscape",
        "octaves by which the gradient changes less, raw (two orders of magnitude)",
        math.log2(100),
        "octaves",
        "VGG, CIFAR-10, read from a plot; Santurkar et al. 2018",
        "greatest change of the gradient, raw",
    ),
    Anchor(
        "small_batch",
        "accuracy, statistics over many images less over 8",
        0.012,
        "pp",
        "ResNet-50, ImageNet, 32 against 8 images a device; Wu and He 2018",
    ),
    Anchor(
        "inference_statistics",
        "accuracy by the test batch's statistics less by running ones",
        0.0,
        "pp",
        "ResNets, CIFAR-10, 93.7 to 94.1 % either way; records of StochBN",
        "the batch's own, of 128 - running",
    ),
    Anchor(
        "inference_statistics",
        "accuracy by precise statistics less by running ones",
        -0.0009,
        "pp",
        "bnlab's first edition, 1,000 test images, 95 % limits -0.20 to +0.02",
        "pooled, of images that are not augmented - running",
    ),
    Anchor(
        "caffe",
        "accuracy that Scale adds, before the activation",
        0.004,
        "pp",
        "CaffeNet, ImageNet at 128 pixels, one run each; caffenet-benchmark",
        "what the Scale layer adds",
    ),
    Anchor(
        "cost",
        "part by which an epoch takes longer",
        0.40,
        "%",
        "bnlab's first edition: 1.77 to 2.47 seconds, two CPU cores, two runs at once",
    ),
)
"""By claim, in the order of the table. Where the setting is another, a number that differs is a
finding about the setting, and no failure."""


def hold(findings: Sequence[Finding]) -> Iterator[Held]:
    """Every anchor beside what the runs at hand say."""
    by_claim = {finding.claim.name: finding for finding in findings}
    for anchor in ANCHORS:
        if anchor.own is not None:
            alike = abs(anchor.own - anchor.value) < 0.01
            found = show_effect(anchor.own, anchor.unit)
            yield Held(anchor, found, "the probe on that ladder", "agree" if alike else "differ")
            continue
        finding = by_claim.get(anchor.claim)
        interval = None if finding is None else _measured(finding, anchor)
        if finding is None or interval is None or not math.isfinite(interval.estimate):
            yield Held(anchor, "", "", "not measured")
            continue
        shown = show_effect(interval.estimate, anchor.unit)
        limits = show_limits(interval, anchor.unit)
        scope = finding.gathered.scope.partition(", fp32")[0]
        yield Held(anchor, f"{shown} ({limits})", scope, compare_with(anchor.value, interval))


def compare_with(value: float, interval: Interval) -> str:
    """Whether a published value agrees with an interval, in words."""
    if interval.low <= value <= interval.high:
        return "agree: within the 95 % limits"
    if interval.low <= 0 <= interval.high or value == 0:
        return "differ"
    same = (value > 0) == (interval.estimate > 0)
    return "the same sign, another size" if same else "differ: the opposite sign"


def _measured(finding: Finding, anchor: Anchor) -> Interval | None:
    contrast = finding.contrast
    if contrast is not None and anchor.again:
        contrast = contrast.again
    if contrast is None:
        return None
    if not anchor.detail:
        return contrast.interval
    return next((one.interval for one in contrast.details if one.name == anchor.detail), None)
