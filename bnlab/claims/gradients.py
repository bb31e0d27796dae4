"""Does batch normalization keep gradients from vanishing and exploding?"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from bnlab.claims._base import CLAIMS, Claim, Imagined
from bnlab.claims._contrast import (
    Array,
    Chart,
    Contrast,
    Detail,
    Evidence,
    Line,
    detail,
    make_contrast,
)

LADDER = slice(2, -1)
"""Of the convolutions, those of one width between which nothing pools."""

TAG = "probe/activation_grad/conv"

STEPS = (1, 10)
"""Steps after which it is looked at again, in the arms that train."""


def log_ratio(evidence: Evidence, arm: str) -> Array:
    """Natural logarithm of what a gradient is multiplied by on its way back through a layer.

    The slope of log(root mean square of dL/dh) against the number of layers that lie behind, by
    least squares: above 0 gradients explode towards the input, below they vanish: (seeds,).
    """
    found = _slopes(evidence.readings.get(arm, {}))
    return np.full(len(evidence.best[arm]), np.nan) if found is None else found


def log_ratios(evidence: Evidence, arm: str) -> Array:
    """The same after every step of an arm that trains: (seeds, steps)."""
    found = _slopes(evidence.curves.get(arm, {}))
    return np.full((len(evidence.best[arm]), max(STEPS)), np.nan) if found is None else found


def _slopes(recorded: Mapping[str, Array]) -> Array | None:
    layers = [tag for tag in recorded if tag.startswith(TAG)][LADDER]
    if len(layers) < 2:
        return None
    sizes = np.stack([recorded[tag] for tag in layers])
    logs = np.log(np.where(sizes > 0, sizes, np.nan))
    behind = np.arange(len(layers))[::-1] - (len(layers) - 1) / 2
    return np.asarray(np.tensordot(behind, logs, axes=1) / (behind @ behind))


def gain(evidence: Evidence, init: str) -> Array:
    """How much nearer to 1 the factor a layer is with BN, as a logarithm: (seeds,)."""
    without, with_bn = (np.abs(log_ratio(evidence, f"{norm}{init}")) for norm in ("none", "batch"))
    return np.asarray(without - with_bn)


def _ratios(evidence: Evidence, init: str) -> list[Detail]:
    return [
        detail(
            f"log of the factor a layer, {norm}", log_ratio(evidence, f"{norm}{init}"), "log/layer"
        )
        for norm in ("none", "batch")
    ]


def measure(evidence: Evidence) -> Contrast:
    """How much nearer to 1 BN brings the factor where gradients vanish without it."""
    return make_contrast(
        gain(evidence, "_small"),
        [
            *_ratios(evidence, "_small"),
            detail("torch's default initialization", gain(evidence, "_torch_default"), "log/layer"),
        ],
        ["at the start of training: no run of the headline takes a step"],
        _unrecorded(gain(evidence, "_small")),
        _chart(_paths(evidence)),
    )


def measure_again(evidence: Evidence) -> Contrast:
    """The same with He's initialization, by which they neither vanish nor explode without it."""
    paths = _paths(evidence)
    return make_contrast(
        gain(evidence, ""),
        [*_ratios(evidence, ""), *(one for step in STEPS for one in _after(paths, step))],
        guard=_unrecorded(gain(evidence, "")),
    )


def _paths(evidence: Evidence) -> dict[str, Array]:
    """By norm, with He's initialization, at the start and after every step: (seeds, steps + 1)."""
    return {
        norm: np.column_stack([log_ratio(evidence, norm), log_ratios(evidence, f"{norm}_steps")])
        for norm in ("none", "batch")
    }


def _chart(paths: Mapping[str, Array]) -> Chart | None:
    whole = {norm: path[np.isfinite(path).all(axis=1)] for norm, path in paths.items()}
    if not all(len(path) for path in whole.values()):
        return None
    lost = sum(len(path) for path in paths.values()) - sum(len(path) for path in whole.values())
    return Chart(
        "Log of the factor a layer with He's initialization, by steps of gradient descent at a "
        f"learning rate of 0.1{f'; runs that broke down, left out: {lost}' * (lost > 0)}.",
        "step",
        "log/layer",
        tuple(Line(norm, np.arange(float(path.shape[1])), path) for norm, path in whole.items()),
        y_scale=1.0,
        x_scale="linear",
    )


def _after(paths: Mapping[str, Array], step: int) -> Iterator[Detail]:
    when = f"after {step} step{'s' * (step > 1)}"
    without, with_bn = (paths[norm][:, step] for norm in ("none", "batch"))
    yield detail(f"nearer to 1 with BN {when}", np.abs(without) - np.abs(with_bn), "log/layer")
    yield detail(f"log of the factor a layer, none, {when}", without, "log/layer")
    yield detail(f"log of the factor a layer, batch, {when}", with_bn, "log/layer")


def _unrecorded(differences: Array) -> str:
    lost = int((~np.isfinite(differences)).sum())
    return f"on {lost} seeds no gradients were recorded, or all were 0" if lost else ""


def imagine(run: Imagined) -> Mapping[str, float | Array]:
    """Without BN a factor of e^-0.5 a layer; with BN one that is nearer to 1 by the effect."""
    factor = -0.5 + run.effect * (run.arm.startswith("batch")) + run.noise
    behind = np.arange(8)[::-1]
    sizes = {
        f"{TAG}{layer + 1}": np.full(max(STEPS), np.exp(factor * behind[layer]))
        for layer in range(8)
    }
    return {**run.reach(0.1), **sizes}


GRADIENTS = Claim(
    name="gradients",
    statement="Batch normalization keeps gradients from vanishing and from exploding on their way "
    "back through the layers.",
    against="Gradients that with BN change as much a layer as without, or more, be it only where "
    "the initialization already keeps their size: then it depends on the initialization.",
    quote=("004", "防止梯度消失和梯度爆炸,确保网络中的反向传播能够更加平稳。"),
    sources=(
        "documents 000, 003 and 004 state it, 001 implies it",
        (
            "Yang et al. 2019, arXiv:1902.08129 (BN itself makes gradients explode at the start, "
            "by the square root of pi/(pi - 1), 1.21 a layer, in fully connected networks)"
        ),
        "Luther 2020 (that factor, measured)",
    ),
    definition="By what factor the root mean square of the gradient in a layer's output grows on "
    "its way back through one layer, from a line through its logarithms over 29 convolutions of "
    "one width, all but the last, which pools, at the start of training; its distance from 1, as "
    "a logarithm without its sign. Once where gradients vanish without BN (weights from N(0, "
    "0.01^2)), and once with He's initialization, which keeps their size. SUPPORTED only if both "
    "are.",
    formula="|log factor| without BN - |log factor| with BN, mean over initializations; the "
    "numbers shown are those with N(0, 0.01^2)",
    protocol="32 convolutions of 32 channels (full: of 64), 20 seeds, 512 training images "
    "(full: 1,024) in one batch, no training: the learning rate is too small to move a weight. "
    "Untuned, for there is nothing to tune. Beside it torch's default initialization and, with "
    "He's, where the factor stands after 1 and 10 steps of gradient descent on these images at "
    "a learning rate of 0.1, one for both arms.",
    smallest_effect=0.05,
    reason="5 % a layer are a factor of 4 over 29 layers.",
    unit="log/layer",
    treated=("batch_small",),
    control=("none_small",),
    measure=measure,
    failures=lambda _evidence: {},  # nothing of the headline is trained
    imagine=imagine,
    place="with N(0, 0.01^2)",
    depends="the initialization",
)

CLAIMS.register("gradients")(
    replace(
        GRADIENTS,
        again=replace(
            GRADIENTS,
            treated=("batch",),
            control=("none",),
            measure=measure_again,
            place="with He's initialization",
        ),
    )
)
