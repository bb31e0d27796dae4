"""Group normalization."""

import torch
from torch import nn

from bnlab.config import NormConfig
from bnlab.training.norms import NORMS
from bnlab.training.norms._group import group_norm


@NORMS.register("group")
def group(shape: tuple[int, ...], config: NormConfig) -> nn.Module:
    """Group normalization (Wu & He 2018): each image's channels in groups.

    The number of groups is `config.groups`, or the largest below it that divides the channels and
    leaves a group at least two values.
    """
    channels, positions = shape[0], torch.Size(shape[1:]).numel()
    fitting = [
        groups
        for groups in range(1, min(config.groups, channels) + 1)
        if channels % groups == 0 and channels // groups * positions > 1
    ]
    return group_norm(shape, max(fitting, default=1), config)
