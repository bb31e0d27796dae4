"""Loss and gradient along the gradient, from the same weights on the same batch."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from bnlab.training.probes import PROBES
from bnlab.training.probes._base import ForwardState, Sample, gradients_in, put

# ruff: noqa: SLF001 - torch._foreach_*: one kernel for all parameters

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Lengths of the raw steps in peak learning rates, and of the scale-free ones in `PART`."""

PART = 0.01
"""Of a parameter's norm, in a scale-free step."""

Tensors: TypeAlias = list[Tensor] | tuple[Tensor, ...]

Look: TypeAlias = Callable[[], tuple[Tensor, Tensors]]
"""Gives a loss where its parameters stand, and the gradient in each of them."""


@PROBES.register("landscape")
def landscape(model: nn.Module, sample: Sample) -> dict[str, float]:
    """How the loss and its gradient change along the gradient (Santurkar et al. 2018, figure 4).

    On the next training batch, in training mode with the same dropout and noise and in fp32, the
    network is moved against the gradient g of all its parameters, by five lengths; every point is
    reached from the same weights. *Raw* steps are s g, s from a quarter of the peak learning rate
    to four times it. They compare arms only where gradients and weights are of a size: in front of
    a normalizer gradients shrink as weights grow. *Scale-free* steps change every parameter tensor
    p by a part of its own norm, 0.25 to 4 %, against its own gradient, and gradients count as
    changes of loss per relative change, ||p|| g_p: no rescaling of a weight in front of a
    normalizer alters them.

    - `probe/landscape_loss/here`, and `.../<steps>_least`, `.../<steps>_most` along the way;
    - `probe/gradient_change/<steps>_least`, `.../<steps>_most`: the distance of the gradient there
      from the one here ("predictiveness"); scale-free in parts of the one here;
    - `probe/smoothness/<steps>`: the greatest of such a distance over the length of its step
      ("effective beta-smoothness"); scale-free a relative change over a relative one.

    `<steps>` is `raw` or `scale_free`.
    """
    if sample.ahead is None:
        return {}
    optimizer, batches = sample.ahead()
    batch, state = next(batches), ForwardState(model)
    parameters: list[Tensor] = list(model.parameters())

    def look() -> tuple[Tensor, list[Tensor]]:
        state.put_back()
        return gradients_in(model, batch, parameters)

    return along_gradient(look, parameters, float(optimizer.defaults["lr"]))


def along_gradient(look: Look, parameters: Tensors, lr: float) -> dict[str, float]:
    """The probe's values of any loss; the parameters then stand elsewhere.

    Args:
        look: Gives the loss where the parameters stand, and its gradient in each of them.
        parameters: On which it depends.
        lr: The unit of raw steps.
    """
    loss, grads = look()
    here = [parameter.detach().clone() for parameter in parameters]
    sizes, ones = _norms(here), [torch.ones_like(loss)] * len(here)
    # Where a gradient is zero, there is no direction.
    tiny = torch.finfo(loss.dtype).tiny
    turned = [size / norm.clamp(min=tiny) for size, norm in zip(sizes, _norms(grads), strict=True)]
    whole = _length(grads)
    values = {"probe/landscape_loss/here": float(loss)}
    for steps, unit, direction, scales, length, reference in (
        ("raw", lr, grads, ones, whole, torch.ones_like(whole)),
        ("scale_free", PART, _times(grads, turned), sizes, 1.0, _length(_times(grads, sizes))),
    ):
        found = []
        for step in (factor * unit for factor in FACTORS):
            put(parameters, torch._foreach_sub(here, direction, alpha=step))
            there, changed = look()
            change = _length(_times(torch._foreach_sub(changed, grads), scales)) / reference
            found.append(torch.stack([there.to(change), change, change / (step * length)]))
        ends = torch.stack([torch.stack(found).amin(0), torch.stack(found).amax(0)]).T.tolist()
        for quantity, (least, most) in zip(
            ("landscape_loss", "gradient_change"), ends, strict=False
        ):
            values[f"probe/{quantity}/{steps}_least"] = least
            values[f"probe/{quantity}/{steps}_most"] = most
        values[f"probe/smoothness/{steps}"] = ends[-1][1]
    return values


def _times(tensors: Tensors, factors: Tensors) -> Tensors:
    return torch._foreach_mul(tensors, factors)


def _norms(tensors: Tensors) -> Tensors:
    return torch._foreach_norm(tensors)


def _length(tensors: Tensors) -> Tensor:
    """Of all of them as one vector."""
    return torch.stack(_norms(tensors)).double().square().sum().sqrt()
