"""The normalizers: one builder each, all called alike, so that an experiment swaps them by name.

A builder gets the shape of one image's features and the configuration and returns a module that
keeps shape and dtype. Statistics are fp32 whatever the input's dtype (float64 stays float64).
Parameters and buffers have torch's names; `momentum` weighs the newest batch, as in torch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnlab.config import NormConfig
from bnlab.errors import ConfigError
from bnlab.registry import Registry
from bnlab.training.streams import Stochastic

NormBuilder: TypeAlias = Callable[[tuple[int, ...], NormConfig], nn.Module]
"""From the shape of one image's features, (channels, height, width) or (features,), and the
configuration to a module on batches of them."""

NORMS: Registry[NormBuilder] = Registry("norm")
"""Facts: `batch_statistics` couples the images of a batch; `per_position` takes its statistics
over the images alone, so that a channel's positions are no further samples; `conv_only` exists
for feature maps only, and fully connected layers go without."""

WHERE = ("placement", "conv", "fc")
RUNNING = ("momentum", "eps", "affine")

# ------------------------------------------------------------------------------ building blocks


class Affine(nn.Module):
    """`weight * features + bias`, the second half of every normalizer.

    Args:
        shape: Shape of `weight` and `bias`: (channels,), or that of one image's features.
        affine: False for no parameters at all (`weight` and `bias` are None).
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, shape: tuple[int, ...], *, affine: bool = True) -> None:
        super().__init__()
        self.register_parameter("weight", nn.Parameter(torch.ones(shape)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(shape)) if affine else None)

    def scale_and_shift(self, features: Tensor) -> Tensor:
        """The affine map; `features` as they are without parameters."""
        if self.weight is None or self.bias is None:
            return features
        return features * _align(self.weight, features) + _align(self.bias, features)

    def forward(self, features: Tensor) -> Tensor:
        """The affine map in the input's dtype."""
        return self.scale_and_shift(_widen(features)).to(features.dtype)


class RunningAffine(Affine):
    """An affine map with torch's running estimates of mean and variance.

    Args:
        shape: Shape of the statistics and of the parameters.
        config: Its momentum, eps and affine are used.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, shape: tuple[int, ...], config: NormConfig) -> None:
        super().__init__(shape, affine=config.affine)
        self.momentum, self.eps = config.momentum, config.eps
        self.register_buffer("running_mean", torch.zeros(shape))
        self.register_buffer("running_var", torch.ones(shape))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def track(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        """Let the statistics of one batch into the running ones."""
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased_variance.to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked.add_(1)

    def normalize(self, features: Tensor) -> Tensor:
        """Torch's batch normalization in the mode the module is in, affine map included."""
        if self.training:
            self.num_batches_tracked.add_(1)
        return F.batch_norm(
            features,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )


def _align(values: Tensor, features: Tensor) -> Tensor:
    """Per-channel values in the shape that broadcasts over (images, channels, ...)."""
    return values.reshape(*values.shape, *[1] * (features.ndim - 1 - values.ndim))


def _widen(features: Tensor) -> Tensor:
    """Half precision as fp32; fp32 and fp64 as they are."""
    return features.float() if features.dtype in (torch.bfloat16, torch.float16) else features


def _require_samples(features: Tensor, samples: int) -> None:
    """Refuse to normalize by a batch in which every feature has one value: all would be zero."""
    if samples < 2:
        raise ValueError(
            "Expected more than 1 value per channel when training, got input size "
            f"{tuple(features.shape)}"
        )


# ---------------------------------------------------------------------------- batch statistics


@NORMS.register("none")
def none(shape: tuple[int, ...], config: NormConfig) -> nn.Module:  # noqa: ARG001
    """No normalization."""
    return nn.Identity()


@NORMS.register("batch", reads=(*WHERE, *RUNNING), facts=("batch_statistics",))
def batch(shape: tuple[int, ...], config: NormConfig) -> nn.Module:
    """Torch's batch normalization (Ioffe & Szegedy 2015)."""
    kind = nn.BatchNorm1d if len(shape) == 1 else nn.BatchNorm2d
    return kind(shape[0], eps=config.eps, momentum=config.momentum, affine=config.affine)


class BatchReference(RunningAffine):
    """Batch normalization written out from its formulas; equal to torch's, and slower.

    In training each channel is normalized by its mean and *biased* variance over images and
    positions, while the running variance averages the *unbiased* one; in eval mode the running
    estimates stand in for both.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Normalize (images, channels, ...) and scale and shift; update the running estimates."""
        wide = _widen(features)
        if self.training:
            over = [axis for axis in range(features.ndim) if axis != 1]
            count = features.numel() // features.shape[1]
            _require_samples(features, count)
            mean = wide.mean(over)
            variance = (wide - _align(mean, wide)).square().mean(over)
            self.track(mean, variance * count / (count - 1))
        else:
            mean, variance = self.running_mean, self.running_var
        normalized = (wide - _align(mean, wide)) / (_align(variance, wide) + self.eps).sqrt()
        return self.scale_and_shift(normalized).to(features.dtype)


@NORMS.register("batch_reference", reads=(*WHERE, *RUNNING), facts=("batch_statistics",))
def batch_reference(shape: tuple[int, ...], config: NormConfig) -> nn.Module:
    """Batch normalization from its formulas, to check `batch` by."""
    return BatchReference(shape[:1], config)


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
        return normalized.view(features.shape)


@NORMS.register("batch_tf", reads=(*WHERE, *RUNNING), facts=("batch_statistics", "per_position"))
def batch_tf(shape: tuple[int, ...], config: NormConfig) -> nn.Module:
    """Batch normalization as document 000 writes it in TensorFlow: per position."""
    return BatchPerPosition(shape, config)


class CaffeBatchNorm(Affine):
    """Caffe's BatchNorm layer, followed by its Scale layer if `affine`.

    Caffe keeps *sums* that start at 0 and are divided by a factor when used: with fraction f, each
    training batch does `factor <- f * factor + 1` and `blob <- f * blob + statistic`, the variance
    with Bessel's correction m / (m - 1). The quotient is a bias-corrected moving average. Before
    the first batch the factor is 0 and so, by definition, are mean and variance: normalizing by
    them multiplies by 1 / sqrt(eps).

    Args:
        channels: Number of channels.
        config: Its moving_average_fraction, use_global_stats, eps and affine are used.
    """

    sum_mean: Tensor
    sum_var: Tensor
    factor: Tensor

    def __init__(self, channels: int, config: NormConfig) -> None:
        super().__init__((channels,), affine=config.affine)
        self.eps = config.eps
        self.fraction = config.moving_average_fraction
        self.use_global_stats = config.use_global_stats
        self.register_buffer("sum_mean", torch.zeros(channels))
        self.register_buffer("sum_var", torch.zeros(channels))
        self.register_buffer("factor", torch.tensor(0.0))

    @property
    def running_mean(self) -> Tensor:
        """Estimate of the mean per channel, read-only."""
        return self.sum_mean * self._inverse_factor()

    @property
    def running_var(self) -> Tensor:
        """Estimate of the variance per channel, read-only."""
        return self.sum_var * self._inverse_factor()

    def _inverse_factor(self) -> Tensor:
        # Not an `if`: reading the factor would make the host wait for the device.
        return torch.where(self.factor == 0, 0, 1 / self.factor)

    def forward(self, features: Tensor) -> Tensor:
        """Normalize by the batch or by the quotients; a training batch enters the sums."""
        by_default = not self.training
        global_stats = by_default if self.use_global_stats is None else self.use_global_stats
        if global_stats:
            return F.batch_norm(
                features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        # With momentum 1, torch hands back the batch's own mean and unbiased variance.
        mean, variance = torch.zeros_like(self.sum_mean), torch.zeros_like(self.sum_var)
        normalized = F.batch_norm(
            features, mean, variance, self.weight, self.bias, True, momentum=1, eps=self.eps
        )
        if self.training:
            with torch.no_grad():
                self.factor.mul_(self.fraction).add_(1)
                self.sum_mean.mul_(self.fraction).add_(mean)
                self.sum_var.mul_(self.fraction).add_(variance)
        return normalized


@NORMS.register(
    "caffe",
    reads=(*WHERE, "eps", "affine", "moving_average_fraction", "use_global_stats"),
    facts=("batch_statistics",),
)
def caffe(shape: tuple[int, ...], config: NormConfig) -> nn.Module:
    """Caffe's BatchNorm and Scale, as in document 002."""
    return CaffeBatchNorm(shape[0], config)


class GhostBatchNorm(RunningAffine):
    """Batch normalization over consecutive sub-batches (Hoffer et al. 2017).

    A last sub-batch of one image joins the one before. The running statistics get the mean of the
    sub-batches' statistics, weighted by their images: one update a step, as in `batch`.

    Args:
        channels: Number of channels.
        config: Its ghost_size, momentum, eps and affine are used.
    """

    def __init__(self, channels: int, config: NormConfig) -> None:
        super().__init__((channels,), config)
        self.ghost_size = config.ghost_size

    def forward(self, features: Tensor) -> Tensor:
        """Normalize each sub-batch by itself; in eval mode all by the running estimates."""
        if not self.training:
            return self.normalize(features)
        images = len(features)
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        normalized, start = [], 0
        for ghosts, size in ghost_batches(images, self.ghost_size):
            part = features[start : start + ghosts * size]
            outcome, means, variances = self._normalize_ghosts(part, ghosts)
            normalized.append(outcome)
            mean.add_(means.sum(0), alpha=size / images)
            variance.add_(variances.sum(0), alpha=size / images)
            start += ghosts * size
        self.track(mean, variance)
        return torch.cat(normalized) if len(normalized) > 1 else normalized[0]

    def _normalize_ghosts(self, features: Tensor, ghosts: int) -> tuple[Tensor, Tensor, Tensor]:
        """Sub-batches of one size; also their means and unbiased variances (ghosts, channels).

        One call does them all: `ghosts` batch norms over C channels are one over ghosts * C.
        """
        channels = features.shape[1]
        side_by_side = features.unflatten(0, (ghosts, -1)).transpose(0, 1).flatten(1, 2)
        mean = self.running_mean.new_zeros(ghosts * channels)
        variance = torch.zeros_like(mean)
        normalized = F.batch_norm(
            side_by_side,
            mean,
            variance,
            None if self.weight is None else self.weight.repeat(ghosts),
            None if self.bias is None else self.bias.repeat(ghosts),
            training=True,
            momentum=1,
            eps=self.eps,
        )
        apart = normalized.unflatten(1, (ghosts, channels)).transpose(0, 1).flatten(0, 1)
        return apart, mean.view(ghosts, channels), variance.view(ghosts, channels)


def ghost_batches(images: int, size: int) -> list[tuple[int, int]]:
    """How a batch is cut: (number of sub-batches, images in each), at most two kinds.

    Args:
        images: Images in the batch.
        size: Images per sub-batch, at least 2; the last may differ, and has at least 2 if the
            batch has.
    """
    whole, rest = divmod(images, size)
    if rest == 1 and whole:
        whole, rest = whole - 1, size + 1
    return [(count, each) for count, each in ((whole, size), (1, rest)) if count and each]


@NORMS.register("ghost", reads=(*WHERE, *RUNNING, "ghost_size"), facts=("batch_statistics",))
def ghost(shape: tuple[int, ...], config: NormConfig) -> nn.Module:
    """Batch statistics over `ghost_size` images, whatever the batch size of the optimizer."""
    return GhostBatchNorm(shape[0], config)


class NoisyBatchNorm(RunningAffine, Stochastic):
    """Batch normalization whose work is undone by noise, in training (Santurkar et al. 2018).

    After the affine map every activation of every image gets normal noise of its own. The noise's
    mean and standard deviation belong to the channel and are drawn anew each step, the mean from
    U(-noise_mean, noise_mean), the deviation from U(1, noise_std): whatever stability of the
    distributions batch normalization gave, this takes away.

    Args:
        channels: Number of channels.
        config: Its noise_mean, noise_std, momentum, eps and affine are used.
    """

    def __init__(self, channels: int, config: NormConfig) -> None:
        super().__init__((channels,), config)
        self.noise_mean, self.noise_std = config.noise_mean, config.noise_std

    def forward(self, features: Tensor) -> Tensor:
        """Batch normalization, plus noise in training."""
        normalized = self.normalize(features)
        if not self.training:
            return normalized
        generator = self.generator(features.device)
        noise = torch.empty_like(_widen(normalized)).normal_(generator=generator)
        mean = noise.new_empty(noise.shape[1])
        mean.uniform_(-self.noise_mean, self.noise_mean, generator=generator)
        std = torch.empty_like(mean).uniform_(1, self.noise_std, generator=generator)
        noise.mul_(_align(std, noise)).add_(_align(mean, noise))
        return (normalized + noise).to(normalized.dtype)


@NORMS.register(
    "noisy_batch",
    reads=(*WHERE, *RUNNING, "noise_mean", "noise_std"),
    facts=("batch_statistics",),
)
def noisy_batch(shape: tuple[int, ...], config: NormConfig) -> nn.Module:
    """Batch normalization followed by noise of changing mean and variance."""
    return NoisyBatchNorm(shape[0], config)


# --------------------------------------------------------------------------- image statistics


class GroupNorm(nn.GroupNorm):
    """Torch's group norm with fp32 statistics and the input's dtype out, under autocast too."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """Normalize (images, channels, ...) image by image."""
        if not input.requires_grad:
            # torch 2.13's CPU backward crashes on channels_last images that need no gradient.
            input = input.contiguous()  # noqa: A001
        normalized = F.group_norm(_widen(input), self.num_groups, self.weight, self.bias, self.eps)
        return normalized.to(input.dtype)


def _group_norm(shape: tuple[int, ...], groups: int, config: NormConfig) -> nn.Module:
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


@NORMS.register("group", reads=(*WHERE, "eps", "affine", "groups"))
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
    return _group_norm(shape, max(fitting, default=1), config)


@NORMS.register("layer", reads=(*WHERE, "eps", "affine"))
def layer(shape: tuple[int, ...], config: NormConfig) -> nn.Module:
    """Layer normalization (Ba et al. 2016): over all features of an image, affine per channel."""
    return _group_norm(shape, 1, config)


@NORMS.register("instance", reads=("placement", "conv", "eps", "affine"), facts=("conv_only",))
def instance(shape: tuple[int, ...], config: NormConfig) -> nn.Module:
    """Instance normalization (Ulyanov et al. 2016): each channel of each image by itself."""
    return _group_norm(shape, shape[0], config)


# ------------------------------------------------------------------------------ fixed statistics


@NORMS.register("affine_only", reads=WHERE)
def affine_only(shape: tuple[int, ...], config: NormConfig) -> nn.Module:  # noqa: ARG001
    """`weight * features + bias` per channel: batch normalization's parameters, no statistics."""
    return Affine(shape[:1])


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
        variance, mean = torch.var_mean(_widen(features), over, correction=0)
        self.running_mean.copy_(mean)
        self.running_var.copy_(variance)
        self.calibrated = True


@NORMS.register("frozen_init", reads=(*WHERE, "eps", "affine"))
def frozen_init(shape: tuple[int, ...], config: NormConfig) -> nn.Module:
    """Statistics of the network at its start, kept; `calibrate` must measure them first."""
    return FrozenInit(shape[0], config)


def calibrate(model: nn.Module, images: Tensor) -> None:
    """Measure the statistics of every `frozen_init` normalizer in one pass; touch nothing else.

    Each normalizes by what it has just measured, so that those behind it see normalized inputs.
    The pass runs in eval mode: other running statistics and random streams stay as they are, and
    every module returns to the mode it was in.

    Args:
        model: The network; nothing happens if it has no such normalizer.
        images: (images, channels, height, width), as in training: about 2,048, normalized.
    """
    frozen = [module for module in model.modules() if isinstance(module, FrozenInit)]
    if not frozen:
        return
    hooks = [
        module.register_forward_pre_hook(lambda norm, inputs: norm.measure(inputs[0]))
        for module in frozen
    ]
    try:
        with _eval_mode(model), torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
