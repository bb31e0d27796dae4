"""How alike channels are, and images: whether normalization decorrelates features."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnlab.training.models import outputs_of, roles
from bnlab.training.probes import PROBES
from bnlab.training.probes._base import Sample
from bnlab.training.probes._channels import CONSTANT, mean_and_std, sum_over

COMPARED = 256
"""Images that are compared with one another: 32,640 pairs."""


@PROBES.register("correlation")
def correlation(model: nn.Module, sample: Sample) -> dict[str, float]:
    """Mean absolute correlation of channels, and mean absolute cosine of images.

    For the output of every convolution, linear layer and normalizer, in training mode:

    - `probe/channel_correlation/<layer>`: of the values of two channels over all images and
      positions, mean over pairs; constant channels are dropped. A normalizer that treats channels
      apart cannot change it at given weights. Of n independent values chance alone gives
      0.8 / sqrt(n): 0.025 for a fully connected layer and 1,024 images;
    - `probe/image_cosine/<layer>`: of the features of two of 256 images, not centered, mean over
      pairs. It is these that batch normalization makes orthogonal with depth (Daneshmand et al.
      2021, arXiv:2106.03970).
    """
    found = roles(model)
    values = dict[str, float]()
    with torch.no_grad(), outputs_of({**found.weighted, **found.norms}) as outputs:
        model(sample.images)
    with torch.autocast(sample.images.device.type, enabled=False):
        for name, output in outputs.items():
            values[f"probe/channel_correlation/{name}"] = float(_of_channels(output))
            values[f"probe/image_cosine/{name}"] = float(_of_images(output))
    return values


def _of_channels(features: Tensor) -> Tensor:
    """Mean absolute correlation over the pairs of channels that vary."""
    mean, sd = mean_and_std(features)
    varies = sd > CONSTANT * mean.abs()
    scale = torch.where(varies, 1 / sd, 0)
    products = sum_over(features, lambda rows: _products((rows - mean.to(rows)) * scale.to(rows)))
    correlations = products / (features[:, 0].numel() - 1)
    count = varies.sum()
    return _off_diagonal(correlations) / (count * (count - 1))


def _products(rows: Tensor) -> Tensor:
    return rows.T @ rows


def _of_images(features: Tensor) -> Tensor:
    """Mean absolute cosine over pairs of images."""
    chosen = features[:: -(-len(features) // COMPARED)].flatten(1)
    directions = F.normalize(chosen if chosen.dtype == torch.float64 else chosen.float())
    return _off_diagonal(directions @ directions.T) / (len(chosen) * (len(chosen) - 1))


def _off_diagonal(square: Tensor) -> Tensor:
    """Sum of the absolute values that are not on the diagonal."""
    return square.double().abs().sum() - square.double().abs().diagonal().sum()
