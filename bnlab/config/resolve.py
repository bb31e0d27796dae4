"""From layers to a configuration: laid over one another, checked, and *resolved*.

A configuration is resolved once, on loading: every field that means something is spelled out, every
field that means nothing for the chosen plug-ins (the placement of no norm, the momentum of Adam) is
dropped, so that two configurations are equal, and hash alike, exactly when they describe the same
experiment.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from bnlab.config.faults import describe_all, describe_fault
from bnlab.config.reading import parse_override, parse_yaml, read_file, refuse_study
from bnlab.config.schema import Config, ConfigSection
from bnlab.config.shipped import named
from bnlab.config.tree import KeyPath, Layer, merge_layers
from bnlab.errors import ConfigError
from bnlab.registry import DATASETS, MODELS, NORMS, PROBES, Registry

NAMED: Mapping[str, Registry[Any]] = {
    "dataset.name": DATASETS,
    "model.name": MODELS,
    "model.norm.name": NORMS,
    "probes": PROBES,
}
"""Keys whose value names plug-ins, and of which kind."""

MAX_FAULTS = 50
"""Each is one line, and finding the nearest known key takes a millisecond."""


def load_config(
    files: Sequence[Path | str] = (),
    overrides: Sequence[str] = (),
    *,
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """Defaults, then files in order, then overrides, then dedicated flags; checked and resolved.

    Args:
        files: YAML files, or names of those that come with bnlab, later ones laid over earlier
            ones.
        overrides: `a.b=value` assignments (`--set`).
        flags: Values of dedicated flags by key (`{"seed": 3}`); None values are skipped.

    Raises:
        ConfigError: With every fault found, one a line, each with its file and line.
    """
    layers = []
    for file in files:
        layers.append(read_file(named(Path(file))))
        refuse_study(layers[-1], Path(file))
    layers += [parse_override(text) for text in overrides]
    layers += [
        Layer({key: value}, {(key,): f"--{key} {value}"})
        for key, value in (flags or {}).items()
        if value is not None
    ]
    return build_config(layers)


def build_config(layers: Sequence[Layer]) -> Config:
    """Lay values over one another, validate them and drop what means nothing.

    Raises:
        ConfigError: With every fault found, one a line.
    """
    merged = merge_layers(layers)
    config, faults = _validate(Config, merged.tree)
    faulty = {path for path, _ in faults}
    faults += [
        (path, message)
        for path, message in _unknown_names(
            config.model_dump(mode="json") if config else merged.tree
        )
        if path not in faulty and path[:1] not in faulty
    ]
    if config is not None and not faults and config.model.name == "file":
        config, fault = _with_source(config)
        faults += [(("model", "file"), fault)] if fault else []
    if faults or config is None:
        raise ConfigError(describe_all(faults, merged.marks))
    return restore_config(_meaningful(config))


def read_resolved(text: str, source: str) -> Config:
    """A configuration as bnlab wrote it into a run directory; it hashes alike.

    Raises:
        ConfigError: With every fault found, one a line.
    """
    layer = parse_yaml(text, source)
    config, faults = _validate(Config, layer.tree)
    if config is None:
        raise ConfigError(describe_all(faults, layer.marks))
    return config


def restore_config(resolved: Mapping[str, Any]) -> Config:
    """The configuration whose `resolved` data this is; it hashes alike."""
    return Config.model_validate(_lists_to_tuples(resolved))


def source_hash(text: str, function: str) -> str:
    """SHA-256 of a network's file and the name of what is called in it, in hex."""
    return hashlib.sha256(f"{text}\0{function}".encode(errors="surrogateescape")).hexdigest()


def read_source(file: str) -> tuple[str, str]:
    """The text that makes a network, and the SHA-256 under which it is known.

    Args:
        file: As `model.file` has it.

    Raises:
        ConfigError: If it cannot be read.
    """
    path, _, function = file.rpartition(":")
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{path}: the network's file cannot be read: {reason}") from None
    return text, source_hash(text, function)


def _with_source(config: Config) -> tuple[Config, str]:
    """The configuration with its network's source, or what is wrong with that."""
    model = config.model
    if model.file is None:
        return config, "model.name: file needs model.file, as in model.file=mine.py:Net"
    try:
        _, found = read_source(model.file)
    except ConfigError as error:
        return config, str(error)
    if model.source not in ("", found):
        return config, (
            f"{model.file}: is not what it was when this configuration was made (model.source); "
            "leave out model.source to take it as it is"
        )
    whole = model.model_copy(update={"source": found})
    return config.model_copy(update={"model": whole}), ""


SectionT = TypeVar("SectionT", bound=ConfigSection)


def build_section(section: type[SectionT], layer: Layer) -> SectionT:
    """Validate a file of another schema than `Config` (a study), with the same words for faults.

    Raises:
        ConfigError: With every fault found, one a line.
    """
    value, faults = _validate(section, layer.tree)
    if value is None:
        raise ConfigError(describe_all(faults, layer.marks))
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
        told = [(fault["loc"], describe_fault(fault, section)) for fault in kept[:MAX_FAULTS]]
        if rest := kept[MAX_FAULTS:]:
            told.append((rest[0]["loc"], f"and {len(rest)} more faults from here on"))
        return None, told


def _lists_to_tuples(value: Any) -> Any:
    """YAML has lists, the frozen schema tuples."""
    if isinstance(value, dict):
        return {key: _lists_to_tuples(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_lists_to_tuples(item) for item in value)
    return value


def _unknown_names(tree: Mapping[str, Any]) -> Iterable[tuple[KeyPath, str]]:
    for key, registry in NAMED.items():
        path = tuple(key.split("."))
        value: Any = tree
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        for name in value if isinstance(value, list) else [value]:
            if isinstance(name, str) and (fault := registry.fault(name)):
                yield path, fault


def _meaningful(section: ConfigSection, idle: Collection[str] = ()) -> dict[str, Any]:
    """All fields of a section, defaults included, less those that mean nothing in it.

    Args:
        section: A section.
        idle: Fields that mean nothing by what stands above it.
    """
    idle = section.idle_fields().union(idle)
    values = {
        field: getattr(section, field) for field in type(section).model_fields if field not in idle
    }
    return {
        field: (
            _meaningful(
                value, [name.partition(".")[2] for name in idle if name.startswith(f"{field}.")]
            )
            if isinstance(value, ConfigSection)
            else value
        )
        for field, value in values.items()
    }
