"""Reading a study file: its presets, and what it was run with before."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from bnlab.config import (
    STUDY_KEYS,
    Layer,
    build_section,
    mark_of,
    merge_layers,
    named,
    parse_yaml,
    read_file,
    sublayer,
)
from bnlab.errors import ConfigError, did_you_mean, shown
from bnlab.records import StoredStudies
from bnlab.study.build import Builder
from bnlab.study.factors import cross
from bnlab.study.file import (
    Plan,
    StudyFile,
)


def stored_layer(studies: StoredStudies, name: str) -> Layer | None:
    """A study as it was run last, from the runs folder or an archive there; None if it never was.

    Args:
        studies: Those of the folder of all runs.
        name: `STUDY/study.yaml`, or how studies that share a folder call theirs.

    Raises:
        BnlabError: If it cannot be read.
    """
    found = studies.read(name)
    return None if found is None else parse_yaml(*found)


def load_plan(
    file: Path,
    overrides: Sequence[str] = (),
    *,
    name: str | None = None,
    preset: str | None = None,
    network: Layer | None = None,
    stored: Layer | None = None,
    stored_seeds: bool = False,
) -> Plan:
    """Read and check a study file.

    Args:
        file: The study file, or the name of one that comes with bnlab.
        overrides: `--set` assignments for all arms.
        name: Another name than the file's.
        preset: One of the file's presets, laid over it.
        network: Another network, laid over the base. Arms that are the same there are one arm, the
            first.
        stored: The study as it was run before; its overrides count if there are no others.
        stored_seeds: Whether its seeds count, too: what was planned then is whole, however many
            seeds are planned since.

    Raises:
        ConfigError: With every fault found, one a line, each with its place.
    """
    file = named(file, "study")
    layer = read_file(file)
    _refuse_other(file, layer, preset)
    layer.tree.setdefault("name", file.stem)
    layer.marks[()] = str(file)
    if name is not None:
        layer.tree["name"] = name
        layer.marks["name",] = f"--name {name}"
    if preset is not None:
        layer = _with_preset(file, layer, preset)
    if network is not None:
        layer = _on_network(layer, network)
    if overrides:
        layer.tree["overrides"] = list(overrides)
    elif "overrides" not in layer.tree and stored is not None:
        layer.tree["overrides"] = list(stored.tree.get("overrides") or [])
    if stored_seeds and stored is not None:
        planned = ("seeds", "tune_seeds")
        layer.tree.update({key: stored.tree[key] for key in planned if key in stored.tree})
    crossed = cross(layer, build_section(StudyFile, layer))
    spec = build_section(StudyFile, crossed.layer)
    return Builder(file, crossed.layer, spec, crossed.levels, elsewhere=network is not None).build()


def _refuse_other(file: Path, layer: Layer, preset: str | None) -> None:
    """Tell what is given for a study: a configuration, or a claim's study without its preset."""
    if layer.tree and not {*STUDY_KEYS, "seeds"} & layer.tree.keys():
        raise ConfigError(
            f"{file}: a configuration of one run, not a study of many; bnlab check, layers and "
            "train read it"
        )
    if preset is None and "presets" in layer.tree and "seeds" not in layer.tree:
        raise ConfigError(
            f"{file}: the study of a claim, which is run by its name and under a preset: "
            f"bnlab claims run {file.stem}"
        )


def _on_network(layer: Layer, network: Layer) -> Layer:
    """A study file with a network laid over its base."""
    base = layer.tree.get("base", [])
    parts = base if isinstance(base, list) else [base]
    place = ("base", len(parts))
    return Layer(
        {**layer.tree, "base": [*parts, network.tree]},
        {**layer.marks, **{(*place, *path): mark for path, mark in network.marks.items()}},
    )


def _with_preset(file: Path, layer: Layer, preset: str) -> Layer:
    """A study file with one of its presets laid over it."""
    presets = build_section(StudyFile, _seeded(layer)).presets
    if preset not in presets:
        raise ConfigError(
            f"{file}: unknown preset {shown(repr(preset))}{did_you_mean(preset, presets)}"
        )
    chosen = sublayer(layer, "presets", preset)
    unknown = chosen.tree.keys() - StudyFile.model_fields.keys() | {"presets"} & chosen.tree.keys()
    if unknown:
        place = mark_of(("presets", preset), layer.marks)
        raise ConfigError(
            f"{place}: presets.{preset}: {', '.join(sorted(unknown))} cannot be laid over a study"
        )
    merged = merge_layers([_undotted(layer), _undotted(chosen)])
    # A grid and a base replace those below; laid over one another they would mix.
    tree = {**merged.tree, **{key: chosen.tree[key] for key in ("base",) if key in chosen.tree}}
    tree.pop("presets")
    return Layer(tree, {**merged.marks, (): str(file)})


def _seeded(layer: Layer) -> Layer:
    """A file whose seeds stand in its presets only is whole once one of them is chosen."""
    return Layer({"seeds": 1, **layer.tree}, layer.marks)


def _undotted(layer: Layer) -> Layer:
    """`set: {optim.lr: 0.1}` as nested mappings, so that presets meet the keys they mean."""
    nested = Layer(dict(layer.tree), dict(layer.marks))
    for key in ("set", "tune", "same"):
        if isinstance(layer.tree.get(key), Mapping):
            inner = sublayer(layer, key)
            nested.tree[key] = inner.tree
            nested.marks.update({(key, *place): mark for place, mark in inner.marks.items()})
    return nested
