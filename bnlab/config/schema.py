"""The configuration's schema: every key, its default, what it accepts and what it means.

Defaults live here and nowhere else. Which keys mean something depends on names that others have
(the placement of no norm means nothing, nor does the momentum of Adam); that stands here as well.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from bnlab.config.reading import render_yaml
from bnlab.config.tree import flatten

UNHASHED = ("seed", "name", "dataset.root", "model.file")
"""Keys that do not change what is measured; the run directory's hash leaves them out. What
`model.file` holds is hashed as `model.source`."""

UNHASHED_VALUES = (
    ("train.accelerate", "auto"),
    ("train.accelerate", "eager"),
    ("train.accelerate", "graph"),
)
"""Choices that give the same numbers; a key with one of these values is left out likewise."""

LATER_KEYS: Mapping[str, Any] = {
    "dataset.size": 32,
    "dataset.grayscale": False,
    "model.name": "convnet",
    "model.depths": [],
    "model.residual": False,
    "model.activation": "relu",
    "model.dropout_first": False,
    "train.shuffle": "each_epoch",
}
"""Keys that the schema got after runs had been recorded, each with the value that leaves things as
they were: a record without the key means that value, and the hash leaves such a pair out."""


BelowOne: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Width: TypeAlias = Annotated[int, Field(ge=1, le=65536)]
Depth: TypeAlias = Annotated[int, Field(ge=1, le=1000)]


ActivationName: TypeAlias = Literal["relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu"]

Readers: TypeAlias = Mapping[str, tuple[str, tuple[str, ...]]]


class ConfigSection(BaseModel):
    """One mapping of the YAML file: unknown keys are errors, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    only_with: ClassVar[Readers] = {}
    """Field -> (selector, values): the field means something only while the selector has one of
    the values. A plug-in of another package reads none of these fields."""
    never_with: ClassVar[Readers] = {}
    """Field -> (selector, values): likewise, while the selector has none of the values. Plug-ins of
    other packages read all of these fields. `norm.fc` is a field of a section below."""

    def idle_fields(self) -> set[str]:
        """The fields that mean nothing beside the values of the others."""
        return {
            field
            for table, wanted in ((self.only_with, True), (self.never_with, False))
            for field, (selector, values) in table.items()
            if (getattr(self, selector) in values) is not wanted
        }


class DatasetConfig(ConfigSection):
    """Where images come from and how they are fed to the network."""

    never_with: ClassVar[Readers] = {"root": ("name", ("synthetic",))}

    name: str = "cifar10"
    """`cifar10`, `folder` (class folders of images) or `synthetic` (drawn by bnlab)."""
    root: str = Field("data", max_length=4096)
    """Folder of the data set; not part of the hash."""
    normalize: Literal["none", "half", "minmax", "zscore", "per_image", "decimal"] = "half"
    """`none` [0, 255]; `half` [-1, 1]; `minmax` [0, 1] by the training images' own range;
    `zscore` zero mean and unit variance per channel; `per_image` z-score of each image by itself;
    `decimal` divided by 10^3. Statistics come from the training images in use."""
    train_size: int | None = Field(None, ge=1, le=10_000_000)
    """Training images in use, balanced over the classes, the same for every seed; null for all."""
    val_size: int = Field(0, ge=0, le=10_000_000)
    """Training images held out for choosing hyperparameters; a fixed, recorded split."""
    test_size: int | None = Field(None, ge=1, le=10_000_000)
    """Test images in use, balanced over the classes; null for all."""
    size: int = Field(32, ge=8, le=512)
    """Height and width of every image, in pixels; others are resized (bilinear, antialiased)."""
    grayscale: bool = False
    """One channel, of luminance (ITU-R BT.601), instead of red, green and blue."""
    flip: bool = True
    """Mirror half of the training images, drawn anew each epoch."""
    crop_padding: int = Field(4, ge=0, le=16)
    """Pad by this many black pixels and crop back to size at a random offset; 0 for no crop."""
    augment_test: bool = False
    """Flip and crop the held-out images too: document 001's defect, to be reproduced on purpose."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image."""
        return (1 if self.grayscale else 3, self.size, self.size)


def _whole_placement(placement: Any) -> Any:
    # Of the five, these two are nearest in spelling to before_conv and after_pool.
    return f"{placement}_activation" if placement in ("before", "after") else placement


class NormConfig(ConfigSection):
    """The normalizer and where it stands."""

    only_with: ClassVar[Readers] = {
        "groups": ("name", ("group",)),
        "ghost_size": ("name", ("ghost",)),
        "moving_average_fraction": ("name", ("caffe",)),
        "use_global_stats": ("name", ("caffe",)),
        "noise_mean": ("name", ("noisy_batch",)),
        "noise_std": ("name", ("noisy_batch",)),
        "r_max": ("name", ("renorm",)),
        "d_max": ("name", ("renorm",)),
        "renorm_steps": ("name", ("renorm",)),
    }
    never_with: ClassVar[Readers] = {
        "placement": ("name", ("none",)),
        "conv": ("name", ("none",)),
        "fc": ("name", ("none", "instance")),
        "momentum": (
            "name",
            ("none", "caffe", "group", "layer", "instance", "affine_only", "frozen_init"),
        ),
        "eps": ("name", ("none", "affine_only")),
        "affine": ("name", ("none", "affine_only")),
    }

    name: str = "batch"
    """A normalizer of `bnlab/training/norms/`; `none` switches normalization off."""
    placement: Annotated[
        Literal["before_activation", "after_activation", "after_pool", "before_conv", "both"],
        BeforeValidator(_whole_placement),
    ] = "before_activation"
    """Where it stands in a conv-ReLU-pool block; `before` and `after` are short for those of the
    activation. On a fully connected layer `after_pool` means after the activation and
    `before_conv` before the layer."""
    conv: bool = True
    """Normalize the convolution blocks."""
    fc: bool = True
    """Normalize the hidden fully connected layers."""
    momentum: float = Field(0.1, gt=0, le=1)
    """Weight of the *newest* batch in the running statistics (PyTorch's convention; Flax and
    Caffe mean the opposite)."""
    eps: float = Field(1e-5, gt=0, le=1e3)
    """Added to the variance under the root."""
    affine: bool = True
    """Learn a scale (weight, gamma) and a shift (bias, beta) per channel."""
    groups: int = Field(32, ge=1, le=65536)
    """Groups of a group norm; where it does not divide the channels, the largest number below it
    that does."""
    ghost_size: int = Field(32, ge=2, le=1_000_000)
    """Images per ghost batch."""
    moving_average_fraction: float = Field(0.999, gt=0, lt=1)
    """Caffe: weight of the *past* in the running sums."""
    use_global_stats: bool | None = None
    """Caffe: null for its default (running statistics when testing only)."""
    noise_mean: float = Field(0.5, ge=0, le=1e6)
    """noisy_batch: each step shifts activations by noise whose mean is drawn from
    U(-noise_mean, noise_mean)."""
    noise_std: float = Field(1.25, ge=1, le=1e6)
    """noisy_batch: and whose standard deviation is drawn from U(1, noise_std)."""
    r_max: float = Field(3.0, ge=1, le=1e6)
    """renorm: the most by which the batch's standard deviation is corrected, as a factor."""
    d_max: float = Field(5.0, ge=0, le=1e6)
    """renorm: the most by which its mean is corrected, in running standard deviations."""
    renorm_steps: int = Field(5000, ge=0, le=1_000_000_000)
    """renorm: steps over which both bounds open evenly, from those of batch norm."""


class InitConfig(ConfigSection):
    """How the weights start."""

    name: Literal["he_normal", "torch_default", "xavier_normal", "orthogonal", "normal_small"] = (
        "he_normal"
    )
    """`he_normal` keeps the mean square of signals through layers of the network's activation.
    `torch_default` is U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weights and biases; all others set
    biases to zero. `normal_small` is N(0, 0.01^2)."""
    gain: float = Field(1.0, gt=0, le=1e6)
    """Factor on the weights of every layer but the classifier."""


class ModelConfig(ConfigSection):
    """The network; the documents' one is made of conv-norm-ReLU-pool blocks."""

    only_with: ClassVar[Readers] = {
        "depths": ("name", ("convnet",)),
        "residual": ("name", ("convnet",)),
        "dropout_first": ("name", ("convnet",)),
        "width": ("name", ("resnet18", "vgg11")),
        "file": ("name", ("file",)),
        "arguments": ("name", ("file",)),
        "source": ("name", ("file",)),
        "rewrite": ("name", ("file",)),
    }
    never_with: ClassVar[Readers] = {
        "widths": ("name", ("resnet18", "vgg11", "file")),
        "hidden": ("name", ("resnet18", "vgg11", "file")),
        "dropout": ("name", ("resnet18", "vgg11", "file")),
        "activation": ("name", ("file",)),
        "init": ("name", ("file",)),
        "norm.fc": ("name", ("resnet18", "vgg11")),  # their one linear layer is the classifier
    }

    name: str = "convnet"
    """A network of `bnlab/training/models/`: `convnet` is that of the documents, `resnet18` and
    `vgg11` are those of CIFAR, `file` is that of `model.file`."""
    file: str | None = Field(None, max_length=4096)
    """`path.py:function`: a network of one's own. The function (or class) is called with
    `model.arguments`, and with the number of classes if it takes `num_classes`. Loading it runs the
    file. Its weights start as it makes them, from a stream of the seed."""
    arguments: dict[str, Any] = Field(default_factory=dict, max_length=100)
    """Keyword arguments of that function."""
    source: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    """SHA-256 of the file's text and the function's name; found on loading."""
    rewrite: bool = True
    """Let `model.norm` say which norms the network has, and where; false keeps it as it is."""
    width: Width = 64
    """Channels of the first stage of `resnet18` and `vgg11`; later ones have up to 8 times them."""
    widths: tuple[Width, ...] = Field((64, 128, 256), min_length=1, max_length=100)
    """One conv3x3-norm-ReLU-maxpool2 block each; a block whose input is 1x1 does not pool."""
    depths: tuple[Depth, ...] = Field((), max_length=100)
    """Convolutions of each width, as in [1, 1, 6]; empty for one each. All are numbered through
    (conv1, conv2, ...), and only the last one of a width pools."""
    residual: bool = False
    """Add a block's input right before its ReLU wherever both have the same shape: in every
    convolution of a width but the first, and in that one where the width does not change."""
    hidden: tuple[Width, ...] = Field((1024,), max_length=100)
    """Fully connected layers before the classifier."""
    activation: ActivationName = "relu"
    """The nonlinearity of every layer but the classifier; `he_normal` scales weights to suit it."""
    norm: NormConfig = NormConfig()
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability of dropping a unit after each hidden fully connected layer."""
    dropout_first: bool = False
    """Drop units in front of the layer's normalizer instead (Li et al. 2019, arXiv:1801.05134:
    testing then meets another variance than the running one); without one, nothing changes."""
    init: InitConfig = InitConfig()

    @model_validator(mode="before")
    @classmethod
    def _file_is_a_network(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("file") is None:
            return data
        if data.get("name", "file") != "file":
            raise ValueError(
                f"model.file and model.name: {data['name']} are two networks; leave out one"
            )
        return {**data, "name": "file"}

    @field_validator("file")
    @classmethod
    def _names_a_function(cls, file: str | None) -> str | None:
        path, _, function = (file or "x:x").rpartition(":")
        if not path or not function.isidentifier():
            raise ValueError("expected path.py:function")
        return file

    @field_validator("depths")
    @classmethod
    def _one_depth_a_width(cls, depths: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        widths = info.data.get("widths", ())
        if depths and widths and len(depths) != len(widths):
            raise ValueError(
                f"expected one number for each of the {len(widths)} widths, or [] for one "
                f"convolution each; got {len(depths)}"
            )
        return depths if any(depth > 1 for depth in depths) else ()


class OptimConfig(ConfigSection):
    """The optimizer and its schedule."""

    only_with: ClassVar[Readers] = {
        "momentum": ("name", ("sgd",)),
        "nesterov": ("name", ("sgd",)),
        "betas": ("name", ("adam",)),
        "milestones": ("schedule", ("step",)),
        "step_factor": ("schedule", ("step",)),
    }

    name: Literal["sgd", "adam"] = "sgd"
    """The optimizer, torch's."""
    lr: float = Field(0.1, gt=0, le=1e38)
    """Peak learning rate; schedules multiply it."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of SGD: weight of the past steps' gradients."""
    nesterov: bool = False
    """Nesterov's momentum."""
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    """Of Adam: weights of the past in the averages of gradients and of their squares."""
    weight_decay: float = Field(5e-4, ge=0, le=1e38)
    """L2 penalty, added to gradients."""
    decay_weights_only: bool = False
    """Apply weight decay to conv and fc weights only: not to biases, nor to a norm's gamma and
    beta (document 001 decays everything)."""
    schedule: Literal["constant", "linear", "cosine", "step"] = "constant"
    """`linear` and `cosine` fall to 0 at the end of training."""
    warmup_epochs: float = Field(0.0, ge=0, le=1_000_000)
    """Epochs of linear rise from 0 before the schedule."""
    milestones: tuple[Fraction, ...] = Field((0.5, 0.75), max_length=100)
    """Fractions of training at which `step` multiplies the rate by `step_factor`."""
    step_factor: float = Field(0.1, gt=0, lt=1)
    """Factor on the rate at each of `milestones`."""

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "OptimConfig":
        if self.name == "sgd" and self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class TrainConfig(ConfigSection):
    """The training loop."""

    epochs: int = Field(200, ge=1, le=1_000_000)
    """Passes over the training images."""
    batch_size: int = Field(128, ge=1, le=1_000_000)
    """Images per step, over which batch norm takes its statistics."""
    shuffle: Literal["each_epoch", "once"] = "each_epoch"
    """An order of the training images drawn anew each epoch, or one order, and so the same batches,
    in all of them."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """`auto` is bf16 where the hardware computes it natively, else fp32. Normalization statistics
    and the loss are fp32 in every mode. What was used is recorded in run.json."""
    accelerate: Literal["auto", "eager", "graph", "compile"] = "auto"
    """`eager` is the plain step. `graph` replays it as a CUDA graph (without CUDA: the same calls,
    not captured) and gives its numbers; so does `auto`, the fastest of what does. `compile` hands
    the network to torch.compile, which rounds differently and needs a C++ compiler on a CPU: it
    alone is part of the hash. What was used is recorded in run.json."""
    eval_batch_size: int = Field(1000, ge=1, le=1_000_000)
    """Images per batch when measuring; matters only to `evaluate_in_train_mode`."""
    test_every: int | None = Field(1, ge=0, le=1_000_000)
    """Epochs between readings of the test set; 0 for one reading after the last epoch, null for
    none at all: tuning must not see it."""
    evaluate_in_train_mode: bool = False
    """Measure with the batch's own statistics and let them enter the running ones: document 001's
    missing `net.eval()`, to be reproduced on purpose."""


class Config(ConfigSection):
    """One experiment up to its seed, plus the seed."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    """Folder under runs/; a label, not part of the hash."""
    seed: int = Field(0, ge=0, le=2**31 - 1)
    """Of every random stream: initialization, order, augmentation and dropout."""
    dataset: DatasetConfig = DatasetConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    probes: tuple[str, ...] = Field((), max_length=100)
    """Measurements taken inside training; entries of `bnlab/training/probes/`."""

    @field_validator("probes")
    @classmethod
    def _each_probe_once(cls, probes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(probes)) < len(probes):
            raise ValueError("expected each probe once")
        return probes

    def resolved(self) -> dict[str, Any]:
        """Every field that means something, as plain data in schema order."""
        return self.model_dump(mode="json", exclude_unset=True)

    def to_yaml(self) -> str:
        """The resolved configuration as YAML that loads back to an equal one."""
        return render_yaml(self.resolved())

    @property
    def hash(self) -> str:
        """SHA-256 of the resolved configuration less seed, name and paths, in hex."""
        return resolved_hash(self.resolved())


def resolved_hash(resolved: Mapping[str, Any]) -> str:
    """The hash of a resolved configuration; see `Config.hash`."""
    kept = {
        key: value
        for key, value in flatten(resolved).items()
        if key not in UNHASHED
        and (key, value) not in UNHASHED_VALUES
        and (key, value) not in LATER_KEYS.items()
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def arm_label(config: Config) -> str:
    """A short name for what the experiment varies: `none`, `batch-after_activation`."""
    norm = config.model.norm
    return "none" if norm.name == "none" else f"{norm.name}-{norm.placement}"
