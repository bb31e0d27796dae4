"""Normalization by statistics that are measured once, before training."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnlab.config import NormConfig
from bnlab.training.norms import NORMS
from bnlab.training.norms._affine import Affine, widen


class FrozenInit(Affine):
    """Normalization by statistics measured once, before training, and constant from then on.

    It gives batch normalization's start without its ongoing normalization, much as LSUV does
    (Mishkin & Matas 2016). `calibrate` measures; `state_dict` carries the measurement.

    Args:
        channels: Number of channels.
        config: Its eps and affine are used.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, config: NormConfig) -> None:
        super().__init__((channels,), affine=config.affine)
        self.eps = config.eps
        self.calibrated = False
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def get_extra_state(self) -> Tensor:
        """Whether the statistics are measured, for `state_dict`."""
        return torch.tensor(self.calibrated)

    def set_extra_state(self, state: Tensor) -> None:
        """Take over whether the statistics are measured."""
        self.calibrated = bool(state)

    def forward(self, features: Tensor) -> Tensor:
        """Normalize by the measured statistics, in training and in eval mode alike."""
        if not self.calibrated:
            raise RuntimeError(
                "frozen_init: the statistics are not measured yet; call "
                "bnlab.training.norms.calibrate(model, images) before the first forward pass"
            )
        return F.batch_norm(
            features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )

    def measure(self, features: Tensor) -> None:
        """Take mean and variance per channel from these features."""
        over = [axis for axis in range(features.ndim) if axis != 1]
        variance, mean = torch.var_mean(widen(features), over, correction=0)
        self.running_mean.copy_(mean)
        self.running_var.copy_(variance)
        self.calibrated = True


@NORMS.register("frozen_init", facts=("foldable",))
def frozen_init(shape: tuple[int, ...], config: NormConfig) -> nn.Module:
    """Statistics of the network at its start, kept; `calibrate` must measure them first."""
    return FrozenInit(shape[0], config)
