"""What a step of earlier layers does to a layer's gradient: Santurkar et al. (2018)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn

from bnlab.training.models import roles
from bnlab.training.probes import PROBES
from bnlab.training.probes._base import Batch, ForwardState, Sample, gradients_in, put, step_by

STEPS = 4
"""Steps that are averaged over: every epoch of five gives the twenty of a run."""


@PROBES.register("shift")
def shift(model: nn.Module, sample: Sample) -> dict[str, float]:
    """Internal covariate shift as Santurkar et al. define it (arXiv:1805.11604, definition 2.1).

    For the weight W of a layer, G is the gradient of a batch's loss where the network stands, and
    G' that of the same batch after the layers before it, their gammas and betas included, have
    taken the step that the optimizer makes, with its momentum and decay; W itself and what comes
    behind it have not. Means over the next steps of training:

    - `probe/gradient_shift/<layer>`: ||G - G'||, to be compared within an arm only: in front of a
      normalizer gradients are as small as weights are large;
    - `probe/gradient_shift_relative/<layer>`: ||G - G'|| / ||G||;
    - `probe/gradient_shift_cosine/<layer>`: the cosine between them, 1 for no shift.

    Before a layer is what is called before it; the first has none. Both gradients are of training
    mode, with the same dropout and noise, in fp32. The steps are taken one after another on the
    batches to come, at the learning rate of the last step, and are then undone.
    """
    if sample.ahead is None:
        return {}
    optimizer, batches = sample.ahead()
    found = [_one_step(model, optimizer, batch) for batch in islice(batches, STEPS)]
    return {
        f"probe/gradient_shift{quantity}/{layer}": value
        for layer in found[0]
        for quantity, value in zip(
            ("", "_relative", "_cosine"),
            torch.stack([step[layer] for step in found]).mean(0).tolist(),
            strict=True,
        )
    }


def _one_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch
) -> dict[str, Tensor]:
    """Take a step; by layer ||G - G'||, ||G - G'|| / ||G|| and their cosine: (3,), fp64."""
    names = {layer: name for name, layer in roles(model).weighted.items()}
    parameters = list(model.parameters())
    before = ForwardState(model)
    with _calls(model) as called:
        _, grads = gradients_in(model, batch, parameters)
    after = ForwardState(model)
    grad_of: dict[Tensor, Tensor] = dict(zip(parameters, grads, strict=True))
    here = _copies(parameters)
    step_by(optimizer, parameters, grads)
    there = dict(zip(parameters, _copies(parameters), strict=True))
    put(parameters, here)

    found, moved = dict[str, Tensor](), False
    for module in called:
        own = list(module.parameters(recurse=False))
        if module in names and moved:
            before.put_back()
            _, (shifted,) = gradients_in(model, batch, [module.weight])
            found[names[module]] = _compare(grad_of[module.weight], shifted)
        put(own, [there[parameter] for parameter in own])
        moved = moved or bool(own)
    put(parameters, list(there.values()))
    after.put_back()
    return found


def _compare(grad: Tensor, shifted: Tensor) -> Tensor:
    one, two = grad.flatten().double(), shifted.flatten().double()
    change, length = (one - two).norm(), one.norm()
    return torch.stack([change, change / length, one @ two / (length * two.norm())])


@contextmanager
def _calls(model: nn.Module) -> Iterator[dict[nn.Module, None]]:
    """Collect, while the context lasts, all modules in the order of their first call."""
    called = dict[nn.Module, None]()
    hooks = [
        module.register_forward_pre_hook(lambda module, _inputs: called.setdefault(module))
        for module in model.modules()
    ]
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()


def _copies(values: Sequence[Tensor]) -> list[Tensor]:
    return [value.detach().clone() for value in values]
