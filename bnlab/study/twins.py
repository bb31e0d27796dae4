"""A study on another network than its file was made for, where some of it means nothing."""

from collections.abc import Mapping
from dataclasses import replace

from bnlab.analysis.choose import Point
from bnlab.config import Config
from bnlab.study.file import Plan, Stage
from bnlab.study.pilot import Grid

Configs = Mapping[tuple[Stage, str, Point], Config]


def without_twins(plan: Plan) -> Plan:
    """The plan less what is on its network the same thing twice.

    These are arms of the configuration of an earlier arm that is tuned alike (BN on a hidden layer
    or not, where there is none), and alternatives that make no difference (gains of an
    initialization, where the network makes its own).
    """
    for arm, grid in plan.grids.items():
        for key in grid.unordered:
            if not _matters(plan, arm, key):
                plan = _without_key(plan, arm, key)
    seen: dict[tuple[str, str], str] = {}
    kept = [arm for arm in plan.spec.arms if seen.setdefault(_nature(plan, arm), arm) == arm]
    spec = plan.spec
    each = spec.each_seed
    return replace(
        plan,
        spec=spec.model_copy(
            update={
                "arms": {arm: spec.arms[arm] for arm in kept},
                "follow": {
                    arm: seen[_nature(plan, to)] for arm, to in spec.follow.items() if arm in kept
                },
                "each_seed": each if isinstance(each, bool) else _of(kept, each),
            }
        ),
        grids={arm: plan.grids[arm] for arm in kept},
        configs={key: config for key, config in plan.configs.items() if key[1] in kept},
        levels={arm: levels for arm, levels in plan.levels.items() if arm in kept},
    )


def _of(kept: list[str], names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name in kept)


def _nature(plan: Plan, arm: str) -> tuple[str, str]:
    """What an arm is: what it trains first, and at whose best values it is trained."""
    first = plan.grids[arm].points[0]
    leader = plan.leader(arm)
    tuned = plan.configs["final", leader, plan.grids[leader].points[0]]
    return plan.configs["final", arm, first].hash, tuned.hash


def _matters(plan: Plan, arm: str, key: str) -> bool:
    """Whether the values of a key make different runs of an arm."""
    rest: dict[Point, set[str]] = {}
    for point in plan.grids[arm].points:
        others = tuple(pair for pair in point if pair[0] != key)
        rest.setdefault(others, set()).add(plan.configs["final", arm, point].hash)
    return any(len(hashes) > 1 for hashes in rest.values())


def _without_key(plan: Plan, arm: str, key: str) -> Plan:
    grid = plan.grids[arm]
    left = Grid(
        {name: values for name, values in grid.values.items() if name != key},
        grid.below,
        grid.above,
        tuple(name for name in grid.unordered if name != key),
    )
    configs = {
        (stage, name, _less(point, key) if name == arm else point): config
        for (stage, name, point), config in plan.configs.items()
    }
    return replace(plan, grids={**plan.grids, arm: left}, configs=configs)


def _less(point: Point, key: str) -> Point:
    return tuple(pair for pair in point if pair[0] != key)
