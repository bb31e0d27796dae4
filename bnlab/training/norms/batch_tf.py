"""Batch normalization per position, as document 000 writes it in TensorFlow."""

import torch.nn.functional as F
from torch import Tensor, nn

from bnlab.config import NormConfig
from bnlab.training.norms import NORMS
from bnlab.training.norms._affine import RunningAffine, laid_out_like


class BatchPerPosition(RunningAffine):
    """Batch normalization with moments over the images alone: every pixel has its own.

    This is `tf.nn.moments(inputs, axes=[0])` with beta and gamma of shape `inputs.shape[1:]`, a
    common mistake for feature maps: a convolution's weights serve all positions, its normalizer
    does not. The running estimates follow torch's convention, so that the axes are the only
    difference from `batch`.

    Args:
        shape: Shape of one image's features; so are parameters and statistics.
        config: Its momentum, eps and affine are used.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Normalize (images, *shape) over the images; update the running estimates."""
        if self.training:
            self.num_batches_tracked.add_(1)
        # Each position as a feature of its own; views of the buffers, so updates reach them.
        normalized = F.batch_norm(
            features.flatten(1),
            self.running_mean.view(-1),
            self.running_var.view(-1),
            None if self.weight is None else self.weight.view(-1),
            None if self.bias is None else self.bias.view(-1),
            self.training,
            self.momentum,
            self.eps,
        )
        return laid_out_like(features, normalized.view(features.shape))


@NORMS.register("batch_tf", facts=("batch_statistics", "per_position", "foldable"))
def batch_tf(shape: tuple[int, ...], config: NormConfig) -> nn.Module:
    """Batch normalization as document 000 writes it in TensorFlow: per position."""
    return BatchPerPosition(shape, config)
