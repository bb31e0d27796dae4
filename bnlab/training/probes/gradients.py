"""Gradients with respect to activations, by depth (Ioffe & Szegedy 2015; Yang et al. 2019)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnlab.training.models import outputs_of, roles
from bnlab.training.probes import PROBES
from bnlab.training.probes._base import Sample


@PROBES.register("gradients")
def gradients(model: nn.Module, sample: Sample) -> dict[str, float]:
    """Root mean square of dL/dh for the output h of every convolution and linear layer.

    `probe/activation_grad/<layer>` = ||dL/dh||_F / sqrt(numel); the loss is the batch mean of the
    cross-entropy, without weight decay.
    """
    with outputs_of(roles(model).weighted) as outputs:
        loss = F.cross_entropy(model(sample.images), sample.labels)
    grads = torch.autograd.grad(loss, list(outputs.values()))
    return {
        f"probe/activation_grad/{name}": _norm(grad) / math.sqrt(grad.numel())
        for name, grad in zip(outputs, grads, strict=True)
    }


def _norm(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values, dtype=torch.float64))
