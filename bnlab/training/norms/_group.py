"""Normalization image by image, over groups of channels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnlab.config import NormConfig
from bnlab.errors import ConfigError
from bnlab.training.norms._affine import laid_out_like, widen


class GroupNorm(nn.GroupNorm):
    """Torch's group norm with fp32 statistics and the input's dtype out, under autocast too."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """Normalize (images, channels, ...) image by image."""
        features = input
        if not input.requires_grad:
            # torch 2.13's CPU backward crashes on channels_last images that need no gradient.
            features = input.contiguous()
        normalized = F.group_norm(
            widen(features), self.num_groups, self.weight, self.bias, self.eps
        )
        return laid_out_like(input, normalized.to(input.dtype))


def group_norm(shape: tuple[int, ...], groups: int, config: NormConfig) -> nn.Module:
    """Group norm over `groups` groups.

    Raises:
        ConfigError: If a group would hold a single value, which normalizes to zero.
    """
    if torch.Size(shape).numel() == groups:
        raise ConfigError(
            f"model.norm.name: {config.name} over features of shape {shape} would normalize every "
            "value by itself, to zero; use wider layers, fewer conv blocks (model.widths), "
            "or model.norm.fc=false"
        )
    return GroupNorm(groups, shape[0], eps=config.eps, affine=config.affine)
