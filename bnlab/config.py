"""The configuration: a frozen schema that holds every default, read from YAML and overrides.

Defaults live here and nowhere else. A configuration is *resolved* once, on loading: every field
that means something is spelled out, every field that means nothing for the chosen plug-ins (the
placement of no norm, the momentum of Adam) is dropped, so that two configurations are equal, and
hash alike, exactly when they describe the same experiment.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from bnlab.errors import ConfigError, did_you_mean
from bnlab.registry import Registry

KeyPath: TypeAlias = tuple[str | int, ...]
Vocabulary: TypeAlias = Mapping[str, Registry[Any]]
"""Registries by the dotted key that names one of their entries, as in `"model.norm.name"`."""

UNHASHED = ("seed", "name", "dataset.root")
"""Keys that do not change what is measured; the run directory's hash leaves them out."""

UNHASHED_VALUES = (
    ("train.accelerate", "auto"),
    ("train.accelerate", "eager"),
    ("train.accelerate", "graph"),
)
"""Choices that give the same numbers; a key with one of these values is left out likewise."""

LATER_KEYS: Mapping[str, Any] = {"model.depths": [], "model.residual": False}
"""Keys that the schema got after runs had been recorded, each with the value that leaves things as
they were: a record without the key means that value, and the hash leaves such a pair out."""


BelowOne: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Width: TypeAlias = Annotated[int, Field(ge=1, le=65536)]


class Section(BaseModel):
    """One mapping of the YAML file: unknown keys are errors, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    only_with: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {}
    """Field -> (selector, values): the field means something only while the selector has one of
    the values."""


class DatasetConfig(Section):
    """Where images come from and how they are fed to the network."""

    name: str = "cifar10"
    """`cifar10`, `folder` (class folders of images) or `synthetic` (drawn by bnlab)."""
    root: str = "data"
    """Folder of the data set; not part of the hash."""
    normalize: Literal["none", "half", "minmax", "zscore", "per_image", "decimal"] = "half"
    """`none` [0, 255]; `half` [-1, 1]; `minmax` [0, 1] by the training images' own range;
    `zscore` zero mean and unit variance per channel; `per_image` z-score of each image by itself;
    `decimal` divided by 10^3. Statistics come from the training images in use."""
    train_size: int | None = Field(None, ge=1)
    """Training images in use, balanced over the classes, the same for every seed; null for all."""
    val_size: int = Field(0, ge=0)
    """Training images held out for choosing hyperparameters; a fixed, recorded split."""
    test_size: int | None = Field(None, ge=1)
    """Test images in use, balanced over the classes; null for all."""
    flip: bool = True
    """Mirror half of the training images, drawn anew each epoch."""
    crop_padding: int = Field(4, ge=0, le=16)
    """Pad by this many black pixels and crop back to size at a random offset; 0 for no crop."""
    augment_test: bool = False
    """Flip and crop the held-out images too: document 001's defect, to be reproduced on purpose."""


class NormConfig(Section):
    """The normalizer and where it stands."""

    name: str = "batch"
    """A normalizer of `norms.py`; `none` switches normalization off."""
    placement: Literal[
        "before_activation", "after_activation", "after_pool", "before_conv", "both"
    ] = "before_activation"
    """Where it stands in a conv-ReLU-pool block. On a fully connected layer `after_pool` means
    after the activation and `before_conv` before the layer."""
    conv: bool = True
    """Normalize the convolution blocks."""
    fc: bool = True
    """Normalize the hidden fully connected layers."""
    momentum: float = Field(0.1, gt=0, le=1)
    """Weight of the *newest* batch in the running statistics (PyTorch's convention; Flax and
    Caffe mean the opposite)."""
    eps: float = Field(1e-5, gt=0)
    affine: bool = True
    """Learn a scale (weight, gamma) and a shift (bias, beta) per channel."""
    groups: int = Field(32, ge=1)
    """Groups of a group norm; where it does not divide the channels, the largest number below it
    that does."""
    ghost_size: int = Field(32, ge=2)
    """Images per ghost batch."""
    moving_average_fraction: float = Field(0.999, gt=0, lt=1)
    """Caffe: weight of the *past* in the running sums."""
    use_global_stats: bool | None = None
    """Caffe: null for its default (running statistics when testing only)."""
    noise_mean: float = Field(0.5, ge=0)
    """noisy_batch: each step shifts activations by noise whose mean is drawn from
    U(-noise_mean, noise_mean)."""
    noise_std: float = Field(1.25, ge=1)
    """noisy_batch: and whose standard deviation is drawn from U(1, noise_std)."""


class InitConfig(Section):
    """How the weights start."""

    name: Literal["he_normal", "torch_default", "xavier_normal", "orthogonal", "normal_small"] = (
        "he_normal"
    )
    """`torch_default` is U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weights and biases; all others set
    biases to zero. `normal_small` is N(0, 0.01^2)."""
    gain: float = Field(1.0, gt=0)
    """Factor on the weights of every layer but the classifier."""


class ModelConfig(Section):
    """The conv-norm-ReLU-pool network."""

    widths: tuple[Width, ...] = Field((64, 128, 256), min_length=1)
    """One conv3x3-norm-ReLU-maxpool2 block each; a block whose input is 1x1 does not pool."""
    depths: tuple[Width, ...] = ()
    """Convolutions of each width, as in [1, 1, 6]; empty for one each. All are numbered through
    (conv1, conv2, ...), and only the last one of a width pools."""
    residual: bool = False
    """Add a block's input right before its ReLU wherever both have the same shape: in every
    convolution of a width but the first, and in that one where the width does not change."""
    hidden: tuple[Width, ...] = (1024,)
    """Fully connected layers before the classifier."""
    norm: NormConfig = NormConfig()
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability of dropping a unit after each hidden fully connected layer."""
    init: InitConfig = InitConfig()

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


class OptimConfig(Section):
    """The optimizer and its schedule."""

    only_with: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {
        "momentum": ("name", ("sgd",)),
        "nesterov": ("name", ("sgd",)),
        "betas": ("name", ("adam",)),
        "milestones": ("schedule", ("step",)),
        "step_factor": ("schedule", ("step",)),
    }

    name: Literal["sgd", "adam"] = "sgd"
    lr: float = Field(0.1, gt=0)
    """Peak learning rate; schedules multiply it."""
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    weight_decay: float = Field(5e-4, ge=0)
    decay_weights_only: bool = False
    """Apply weight decay to conv and fc weights only: not to biases, nor to a norm's gamma and
    beta (document 001 decays everything)."""
    schedule: Literal["constant", "linear", "cosine", "step"] = "constant"
    """`linear` and `cosine` fall to 0 at the end of training."""
    warmup_epochs: float = Field(0.0, ge=0)
    """Epochs of linear rise from 0 before the schedule."""
    milestones: tuple[Fraction, ...] = (0.5, 0.75)
    """Fractions of training at which `step` multiplies the rate by `step_factor`."""
    step_factor: float = Field(0.1, gt=0, lt=1)

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "OptimConfig":
        if self.name == "sgd" and self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class TrainConfig(Section):
    """The training loop."""

    epochs: int = Field(200, ge=1)
    batch_size: int = Field(128, ge=1)
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """`auto` is bf16 where the hardware computes it natively, else fp32. Normalization statistics
    and the loss are fp32 in every mode. What was used is recorded in run.json."""
    accelerate: Literal["auto", "eager", "graph", "compile"] = "auto"
    """`eager` is the plain step. `graph` replays it as a CUDA graph (without CUDA: the same calls,
    not captured) and gives its numbers; so does `auto`, the fastest of what does. `compile` hands
    the network to torch.compile, which rounds differently and needs a C++ compiler on a CPU: it
    alone is part of the hash. What was used is recorded in run.json."""
    eval_batch_size: int = Field(1000, ge=1)
    """Images per batch when measuring; matters only to `evaluate_in_train_mode`."""
    test_every: int | None = Field(1, ge=0)
    """Epochs between readings of the test set; 0 for one reading after the last epoch, null for
    none at all: tuning must not see it."""
    evaluate_in_train_mode: bool = False
    """Measure with the batch's own statistics and let them enter the running ones: document 001's
    missing `net.eval()`, to be reproduced on purpose."""


class Config(Section):
    """One experiment up to its seed, plus the seed."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Folder under runs/; a label, not part of the hash."""
    seed: int = Field(0, ge=0, le=2**31 - 1)
    dataset: DatasetConfig = DatasetConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    probes: tuple[str, ...] = ()
    """Measurements taken inside training; entries of `bnlab/probes/`."""

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
        return yaml.safe_dump(self.resolved(), sort_keys=False, default_flow_style=None)

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


# ---------------------------------------------------------------------------------- comparing


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{dotted}."))
        else:
            flat[dotted] = value
    return flat


ABSENT = "(not set)"
"""Shown for a key that one side of a difference does not have."""


def differences(
    left: Mapping[str, Any], right: Mapping[str, Any]
) -> list[tuple[str, object, object]]:
    """Dotted keys whose values differ, with both values, in the order of the left side's keys."""
    one, two = flatten(left), flatten(right)
    keys = [*one, *(key for key in two if key not in one)]
    pairs = ((key, one.get(key, ABSENT), two.get(key, ABSENT)) for key in keys)
    return [(key, a, b) for key, a, b in pairs if a != b]


# ------------------------------------------------------------------------------------ loading


class _Loader(yaml.SafeLoader):
    """YAML with the floats of YAML 1.2: plain PyYAML reads `1e-3` as a string."""


_FLOAT_TAG = "tag:yaml.org,2002:float"
_MERGE_TAG = "tag:yaml.org,2002:merge"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _FLOAT_TAG]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _FLOAT_TAG,
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.inf$|\.nan$"),
    list("-+.0123456789"),
)


@dataclass(frozen=True)
class Layer:
    """Values from one place, to be laid over those of earlier places.

    Attributes:
        tree: Plain nested data.
        marks: Where each key stands: `file:line`, or the flag that set it.
    """

    tree: dict[str, Any]
    marks: dict[KeyPath, str]


def parse_yaml(text: str, source: str) -> Layer:
    """Read YAML text, remembering the line of every key.

    Args:
        text: The YAML document; its top level must be a mapping (or empty).
        source: The file's name, for messages.

    Raises:
        ConfigError: On a syntax error, a key given twice or a key that is no word, with its line.
    """
    loader = _Loader(text)
    marks: dict[KeyPath, str] = {}
    try:
        node = loader.get_single_node()
        if node is None:
            return Layer({}, {})
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{source}:1: expected a mapping of sections (key: value)")
        return Layer(_construct(loader, node, (), source, marks), marks)
    except RecursionError:
        raise ConfigError(
            f"{source}: nested too deeply; does an anchor (&name) hold its own alias (*name)?"
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{source}{line}: not valid YAML: {problem}") from None
    finally:
        loader.dispose()


def _construct(
    loader: _Loader, node: yaml.Node, path: KeyPath, source: str, marks: dict[KeyPath, str]
) -> Any:
    """The data of a node; fills `marks`. Unlike SafeLoader it refuses a key given twice."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, _ in node.value:
            place = f"{source}:{key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{place}: a key must be a word, not a list or a mapping")
            if key.tag == _MERGE_TAG:
                continue
            if key.value in seen:
                raise ConfigError(f"{place}: {dotted((*path, key.value))}: given twice; keep one")
            seen.add(key.value)
            marks[(*path, key.value)] = place
        loader.flatten_mapping(node)
        return {
            str(key.value): _construct(loader, value, (*path, str(key.value)), source, marks)
            for key, value in node.value
        }
    if isinstance(node, yaml.SequenceNode):
        return [
            _construct(loader, item, (*path, index), source, marks)
            for index, item in enumerate(node.value)
        ]
    return loader.construct_object(node, deep=True)


def dotted(path: Iterable[str | int]) -> str:
    """`("model", "norm", "name")` as `model.norm.name`."""
    return ".".join(str(part) for part in path)


def read_file(path: Path) -> Layer:
    """The layer of a configuration file.

    Raises:
        ConfigError: If the file cannot be read or parsed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a configuration: {error}") from None
    return parse_yaml(text, str(path))


def parse_override(assignment: str, flag: str = "--set") -> Layer:
    """The layer of one `a.b=value`; the value is a YAML scalar, or a list or mapping in flow style.

    Raises:
        ConfigError: If there is no `=`, no key, or the value is not YAML.
    """
    key, equals, text = assignment.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"{flag} {assignment}: expected KEY=VALUE, as in model.norm.name=none")
    mark = f"{flag} {assignment}"
    try:
        inner = parse_yaml(f"value: {text}", mark)
    except ConfigError:
        raise ConfigError(f"{mark}: the value is not valid YAML") from None
    if len(inner.tree) != 1:
        raise ConfigError(f"{mark}: expected one value; give --set once for each key")
    path: KeyPath = tuple(parts)
    value = inner.tree["value"]
    marks: dict[KeyPath, str] = {path[:end]: mark for end in range(1, len(path) + 1)}
    marks.update({(*path, *below[1:]): mark for below in inner.marks})
    for part in reversed(parts):
        value = {part: value}
    return Layer(value, marks)


def load_config(
    files: Sequence[Path | str] = (),
    overrides: Sequence[str] = (),
    *,
    vocabulary: Vocabulary,
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """Defaults, then files in order, then overrides, then dedicated flags; checked and resolved.

    Args:
        files: YAML files, later ones laid over earlier ones.
        overrides: `a.b=value` assignments (`--set`).
        vocabulary: The registries whose names the configuration may use.
        flags: Values of dedicated flags by key (`{"seed": 3}`); None values are skipped.

    Raises:
        ConfigError: With every fault found, one a line, each with its file and line.
    """
    layers = [read_file(Path(file)) for file in files]
    layers += [parse_override(text) for text in overrides]
    layers += [
        Layer({key: value}, {(key,): f"--{key} {value}"})
        for key, value in (flags or {}).items()
        if value is not None
    ]
    return build_config(layers, vocabulary)


def build_config(layers: Sequence[Layer], vocabulary: Vocabulary) -> Config:
    """Lay values over one another, validate them and drop what means nothing.

    Raises:
        ConfigError: With every fault found, one a line.
    """
    merged = merge_layers(layers)
    config, faults = _validate(Config, merged.tree)
    faulty = {path for path, _ in faults}
    faults += [
        (path, message)
        for path, message in _unknown_names(merged.tree, vocabulary)
        if path not in faulty and path[:1] not in faulty
    ]
    if faults or config is None:
        raise ConfigError(_describe_all(faults, merged.marks))
    return restore_config(_meaningful(config, vocabulary))


def restore_config(resolved: Mapping[str, Any]) -> Config:
    """The configuration whose `resolved` data this is; it hashes alike."""
    return Config.model_validate(_lists_to_tuples(resolved))


def merge_layers(layers: Iterable[Layer]) -> Layer:
    """Values of configurations laid over one another, later ones on top."""
    tree: dict[str, Any] = {}
    marks: dict[KeyPath, str] = {}
    for layer in layers:
        _overlay(tree, _expand_shorthand(layer.tree))
        marks.update(layer.marks)
    return Layer(tree, marks)


def sublayer(layer: Layer, *path: str | int) -> Layer:
    """The mapping at `path` as a layer of its own; its keys may be dotted, as in `optim.lr: 0.1`.

    Raises:
        ConfigError: If a key is given both dotted and nested.
    """
    value: Any = layer.tree
    for part in path:
        value = value[part]
    below = {place[len(path) :]: mark for place, mark in layer.marks.items() if _under(place, path)}
    tree: dict[str, Any] = {}
    marks: dict[KeyPath, str] = {}
    for key, item in (value or {}).items():
        parts = tuple(str(key).split("."))
        for place, mark in below.items():
            if place[0] == key:
                for end in range(1, len(parts)):
                    marks.setdefault(parts[:end], mark)
                marks[(*parts, *place[1:])] = mark
        nested = item
        for part in reversed(parts[1:]):
            nested = {part: nested}
        twice = flatten(tree).keys() & flatten({parts[0]: nested}).keys()
        if twice:
            where = mark_of(parts, marks)
            raise ConfigError(f"{where}: {', '.join(sorted(twice))}: given twice; keep one")
        _overlay(tree, {parts[0]: nested})
    return Layer(tree, marks)


def _under(place: KeyPath, path: KeyPath) -> bool:
    return len(place) > len(path) and place[: len(path)] == path


SectionT = TypeVar("SectionT", bound=Section)


def build_section(section: type[SectionT], layer: Layer) -> SectionT:
    """Validate a file of another schema than `Config` (a study), with the same words for faults.

    Raises:
        ConfigError: With every fault found, one a line.
    """
    value, faults = _validate(section, layer.tree)
    if value is None:
        raise ConfigError(_describe_all(faults, layer.marks))
    return value


def _validate(
    section: type[SectionT], tree: Mapping[str, Any]
) -> tuple[SectionT | None, list[tuple[KeyPath, str]]]:
    try:
        return section.model_validate(_lists_to_tuples(tree)), []
    except ValidationError as error:
        faults = error.errors()
        # An entry that is wrong is not counted, and the list would be called too short as well.
        above = {fault["loc"][:-1] for fault in faults}
        kept = [fault for fault in faults if fault["loc"] not in above]
        return None, [(fault["loc"], _explain(fault, section)) for fault in kept]


def _overlay(base: dict[str, Any], top: Mapping[str, Any]) -> None:
    for key, value in top.items():
        below = base.get(key)
        if isinstance(value, Mapping):
            base[key] = dict(below) if isinstance(below, Mapping) else {}
            _overlay(base[key], value)
        else:
            base[key] = value


def _expand_shorthand(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """`norm: none` is short for `norm: {name: none}`."""
    model = tree.get("model")
    if isinstance(model, Mapping) and isinstance(model.get("norm"), (str, bool)):
        return {**tree, "model": {**model, "norm": {"name": model["norm"]}}}
    return tree


def _lists_to_tuples(value: Any) -> Any:
    """YAML has lists, the frozen schema tuples."""
    if isinstance(value, Mapping):
        return {key: _lists_to_tuples(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_lists_to_tuples(item) for item in value)
    return value


def _unknown_names(
    tree: Mapping[str, Any], vocabulary: Vocabulary
) -> Iterable[tuple[KeyPath, str]]:
    for key, registry in vocabulary.items():
        path = tuple(key.split("."))
        value: Any = tree
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else None
        for name in value if isinstance(value, list) else [value]:
            if isinstance(name, str) and name not in registry:
                yield path, f"unknown {registry.kind} {name!r}{did_you_mean(name, registry)}"


def _meaningful(config: Config, vocabulary: Vocabulary) -> dict[str, Any]:
    """All fields of a configuration, defaults included, less those that mean nothing in it."""

    def keep(section: Section, path: str) -> dict[str, Any]:
        idle = {
            field
            for field, (selector, values) in section.only_with.items()
            if getattr(section, selector) not in values
        }
        named = vocabulary.get(f"{path}name")
        if named is not None:
            idle |= named.idle_fields(getattr(section, "name"))  # noqa: B009
        kept: dict[str, Any] = {}
        for field in type(section).model_fields:
            value = getattr(section, field)
            if field not in idle:
                kept[field] = (
                    keep(value, f"{path}{field}.") if isinstance(value, Section) else value
                )
        return kept

    return keep(config, "")


# ------------------------------------------------------------------------------------- faults

_EXPECTED = {
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "string_type": "expected text",
    "too_short": "expected at least one entry",
    "tuple_type": "expected a list, as in [64, 128]",
    "model_type": "expected a mapping of keys",
    "model_attributes_type": "expected a mapping of keys",
    "finite_number": "expected a finite number",
}


def _explain(fault: Any, root: type[Section]) -> str:
    """One pydantic error in bnlab's words: the value, what is allowed, what to do."""
    path, kind, value = fault["loc"], fault["type"], fault["input"]
    if kind == "missing":
        return "required, but not given"
    if kind == "extra_forbidden":
        return f"unknown key{_suggest_key(path, root)}"
    if path[-1:] == ("name",) and isinstance(value, bool):
        return (
            f"got the boolean {str(value).lower()} (YAML reads off, no and false, on, yes and true "
            "as booleans); write a name: `none` switches normalization off, `batch` on"
        )
    shown = json.dumps(value, default=str, ensure_ascii=False)
    if kind == "literal_error":
        return f"got {shown}{did_you_mean(value, _choices(path, root))}"
    if kind == "string_pattern_mismatch":
        return (
            f"got {shown}; use letters, digits, '.', '_' and '-', beginning with a letter or digit"
        )
    own = str(fault["ctx"]["error"]) if kind == "value_error" else None
    message = own or _EXPECTED.get(kind) or str(fault["msg"])
    return f"{message[0].lower()}{message[1:]}, got {shown}"


def _section_at(path: KeyPath, root: type[Section]) -> type[Section] | None:
    section = root
    for part in path:
        field = section.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, Section)):
            return None
        section = annotation
    return section


def _choices(path: KeyPath, root: type[Section]) -> tuple[str, ...]:
    section = _section_at(path[:-1], root)
    annotation = section.model_fields[str(path[-1])].annotation if section else None
    return getattr(annotation, "__args__", ())


def _all_keys(section: type[Section], prefix: str = "") -> Iterable[str]:
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _all_keys(field.annotation, f"{prefix}{name}.")


def _suggest_key(path: KeyPath, root: type[Section]) -> str:
    """A known key for an unknown one: a near name in its section, else its name in another."""
    section = _section_at(path[:-1], root)
    known = tuple(section.model_fields) if section else ()
    wrong = str(path[-1])
    elsewhere = [key for key in _all_keys(root) if key.split(".")[-1] == wrong]
    if elsewhere:
        return f"; did you mean {elsewhere[0]!r}? (known here: {', '.join(sorted(known))})"
    return did_you_mean(wrong, known)


def mark_of(path: KeyPath, marks: Mapping[KeyPath, str]) -> str:
    """Where a key, or the nearest key above it, was given."""
    above = (path[:end] for end in range(len(path), -1, -1))
    return next((marks[key] for key in above if key in marks), "defaults")


def _describe_all(faults: Iterable[tuple[KeyPath, str]], marks: Mapping[KeyPath, str]) -> str:
    return "\n".join(
        f"{mark_of(path, marks)}: {dotted(path)}: {message}" for path, message in faults
    )
