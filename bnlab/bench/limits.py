"""What no loop can beat: how fast a device multiplies and moves memory, and an image's cost."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bnlab.config import Config
from bnlab.training.device import Precision, numerics
from bnlab.training.models import build_model, roles
from bnlab.training.norms import calibrate


@dataclass(frozen=True)
class ImageCost:
    """What an image costs in one training step, at the least."""

    flops: float
    """Of matrix products and convolutions, forward and backward."""
    bytes: float
    """Through memory: activations, and the image's share of the weights'."""


def cost_of(config: Config, precision: Precision) -> ImageCost:
    """Count what a network costs by its layers.

    A layer's products cost the same again for each of its two gradients. Its input and output
    cross memory once forward and twice backward (value and gradient); all between two layers is
    taken as fused into them. Each fp32 parameter is read forward and backward, its gradient
    written and read, its momentum read and written, itself written: seven times.
    """
    shape = config.dataset.image_shape
    model = build_model(config.model, in_shape=shape, seed=0).eval()
    sizes: list[tuple[int, int, int]] = []

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer.weight, Tensor)
        products = output.numel() * layer.weight[0].numel()
        sizes.append((products, inputs[0].numel(), output.numel()))

    for layer in roles(model).weighted.values():
        layer.register_forward_hook(count)
    with torch.no_grad():
        calibrate(model, torch.zeros(2, *shape))  # frozen_init refuses to run before
        model(torch.zeros(1, *shape))
    item = 2 if precision == "bf16" else 4
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return ImageCost(
        flops=3 * 2 * sum(products for products, _, _ in sizes),
        bytes=3 * item * sum(read + written for _, read, written in sizes)
        + 7 * 4 * parameters / config.train.batch_size,
    )


@dataclass(frozen=True)
class Device:
    """What this device reaches."""

    flops_per_second: float
    bytes_per_second: float

    def images_per_second(self, cost: ImageCost) -> float:
        """The limit: products and memory traffic perfectly overlapped."""
        return 1 / max(cost.flops / self.flops_per_second, cost.bytes / self.bytes_per_second)


def measure_device(device: torch.device, precision: Precision, *, size: int) -> Device:
    """The best rates of large matrix products (size x size) and of copies on this device."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left = torch.randn(size, size, device=device).to(dtype)
    product = torch.empty_like(left)
    source = torch.randn(8 * size * size, device=device)
    target = torch.empty_like(source)
    with numerics(precision):
        multiply = _fastest(lambda: torch.mm(left, left, out=product), device)
    copy = _fastest(lambda: target.copy_(source), device)
    return Device(2 * size**3 / multiply, 2 * source.nbytes / copy)


def _fastest(work: Callable[[], object], device: torch.device, *, repeats: int = 12) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times)
