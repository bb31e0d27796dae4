"""The normalizers: a file each, all called alike, so that an experiment swaps them by name.

To add one: a file here that registers a builder in `NORMS` under the file's own stem. A builder
gets the shape of one image's features and the configuration and returns a module that keeps shape
and dtype. Statistics are fp32 whatever the input's dtype (float64 stays float64). Parameters and
buffers have torch's names; `momentum` weighs the newest batch, as in torch. Which fields of the
configuration mean nothing for it stands in `NormConfig`.
"""

from collections.abc import Callable
from typing import TypeAlias

from torch import nn

from bnlab import registry
from bnlab.config import NormConfig
from bnlab.training.norms._affine import Affine, RunningAffine, align, widen
from bnlab.training.norms._calibrate import calibrate, evaluating

NormBuilder: TypeAlias = Callable[[tuple[int, ...], NormConfig], nn.Module]
"""From the shape of one image's features, (channels, height, width) or (features,), and the
configuration to a module on batches of them."""

NORMS: registry.Registry[NormBuilder] = registry.NORMS
"""Facts: `batch_statistics` couples the images of a batch; `per_position` takes its statistics
over the images alone, so that a channel's positions are no further samples; `conv_only` exists
for feature maps only, and fully connected layers go without; `foldable` is in eval mode no more
than `weight` and `bias` on what `running_mean` and `running_var`, if it has them, normalize."""

__all__ = [
    "NORMS",
    "Affine",
    "NormBuilder",
    "RunningAffine",
    "align",
    "build_norm",
    "calibrate",
    "evaluating",
    "is_norm",
    "widen",
]


def build_norm(shape: tuple[int, ...], config: NormConfig) -> nn.Module:
    """The normalizer that a configuration names.

    Args:
        shape: Of one image's features: (channels, height, width) or (features,).
        config: Its name and what it reads.

    Raises:
        ConfigError: If there is none of that name, or it cannot stand on features of this shape.
    """
    norm = NORMS[config.name](shape, config)
    if config.name != "none":
        norm.is_norm = True  # type: ignore[assignment]
        norm.foldable = "foldable" in NORMS.entry(config.name).facts  # type: ignore[assignment]
    return norm


_OF_TORCH = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)  # noqa: SLF001 - no public name says it


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalizer: one of `build_norm`, of whatever class, or torch's."""
    return isinstance(module, _OF_TORCH) or getattr(module, "is_norm", False) is True
