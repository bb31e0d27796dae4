"""Batch normalization written out from its formulas."""

from torch import Tensor, nn

from bnlab.config import NormConfig
from bnlab.training.norms import NORMS
from bnlab.training.norms._affine import RunningAffine, align, require_samples, widen


class BatchReference(RunningAffine):
    """Batch normalization written out from its formulas; equal to torch's, and slower.

    In training each channel is normalized by its mean and *biased* variance over images and
    positions, while the running variance averages the *unbiased* one; in eval mode the running
    estimates stand in for both.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Normalize (images, channels, ...) and scale and shift; update the running estimates."""
        wide = widen(features)
        if self.training:
            over = [axis for axis in range(features.ndim) if axis != 1]
            count = features.numel() // features.shape[1]
            require_samples(features, count)
            mean = wide.mean(over)
            variance = (wide - align(mean, wide)).square().mean(over)
            self.track(mean, variance * count / (count - 1))
        else:
            mean, variance = self.running_mean, self.running_var
        normalized = (wide - align(mean, wide)) / (align(variance, wide) + self.eps).sqrt()
        return self.scale_and_shift(normalized).to(features.dtype)


@NORMS.register("batch_reference", facts=("batch_statistics", "foldable"))
def batch_reference(shape: tuple[int, ...], config: NormConfig) -> nn.Module:
    """Batch normalization from its formulas, to check `batch` by."""
    return BatchReference(shape[:1], config)
