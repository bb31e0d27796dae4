"""The arms that a study's factors make: every combination of their levels."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from bnlab.config import Layer, mark_of, merge_layers, sublayer
from bnlab.errors import ConfigError, did_you_mean, shown
from bnlab.study.file import StudyFile

Levels: TypeAlias = Mapping[str, Mapping[str, str]]
"""By arm, its level of each factor."""


@dataclass(frozen=True)
class Crossed:
    """A study with its factors multiplied out.

    Attributes:
        layer: The study, all of whose arms stand in `arms`, and all of `follow` by arm.
        levels: Of the arms that are combinations.
    """

    layer: Layer
    levels: Levels


def cross(layer: Layer, spec: StudyFile) -> Crossed:
    """Multiply out the factors of a study.

    Args:
        layer: The study as written.
        spec: The same, checked key by key.

    Raises:
        ConfigError: If an arm is one of the combinations, two combinations have one name, or
            `follow` names no level of a factor.
    """
    combined: dict[str, Layer] = {}
    levels: dict[str, dict[str, str]] = {}
    for combination in itertools.product(*spec.factors.values()) if spec.factors else ():
        chosen = dict(zip(spec.factors, combination, strict=True))
        parts = [sublayer(layer, "factors", *place) for place in chosen.items()]
        told = [level for (_, level), part in zip(chosen.items(), parts, strict=True) if part.tree]
        name = "_".join(told or combination)
        if name in combined:
            raise ConfigError(
                f"{mark_of(('factors',), layer.marks)}: factors: two combinations of levels are "
                f"called {shown(name)}; rename a level"
            )
        combined[name], levels[name] = merge_layers(parts), chosen
    tree, marks = dict(layer.tree), dict(layer.marks)
    own = tree.get("arms") or {}
    for name in own:
        if name in combined:
            raise ConfigError(
                f"{mark_of(('arms', name), marks)}: arms.{name}: is a combination of factors too; "
                "rename it"
            )
    tree["arms"] = {**{name: one.tree for name, one in combined.items()}, **own}
    for name, one in combined.items():
        marks.update({("arms", name, *place): mark for place, mark in one.marks.items()})
    if spec.follow:
        tree["follow"] = _followed(layer, spec, levels)
    tree.pop("factors", None)
    return Crossed(Layer(tree, marks), levels)


def _followed(layer: Layer, spec: StudyFile, levels: Levels) -> dict[str, Any]:
    """By arm, the arm that it follows."""
    by_factor = {key: level for key, level in spec.follow.items() if key in spec.factors}
    for factor, level in by_factor.items():
        if level not in spec.factors[factor]:
            raise ConfigError(
                f"{mark_of(('follow', factor), layer.marks)}: follow.{factor}: unknown level "
                f"{level!r}{did_you_mean(level, spec.factors[factor])}"
            )
    by_arm = {arm: leader for arm, leader in spec.follow.items() if arm not in by_factor}
    names = {tuple(chosen.items()): arm for arm, chosen in levels.items()}
    found = {}
    for arm, chosen in levels.items():
        leader = names[tuple({**chosen, **by_factor}.items())]
        if leader != arm:
            found[arm] = by_arm.get(leader, leader)
    return {**found, **by_arm}
