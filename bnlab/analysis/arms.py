"""Runs grouped into arms: what differs between configurations, seed and tuned key aside."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bnlab.analysis.audit import STAGE_KEYS
from bnlab.analysis.results import Arm
from bnlab.analysis.runs import Run
from bnlab.config import ABSENT
from bnlab.errors import ConfigError, did_you_mean
from bnlab.records import Remark

NORM = "model.norm.name"


def make_arms(
    runs: Sequence[Run], tuned: str, remarks: list[Remark]
) -> tuple[list[Arm], str | None]:
    """Group runs into arms; decide whether a key is tuned and whether tuning runs are apart."""
    held_out = {int(run.config.get("dataset.val_size", 0) or 0) > 0 for run in runs}
    ways: list[tuple[bool, tuple[str, ...]]] = [(False, (tuned,)), (False, ())]
    if len(held_out) == 2:
        ways.insert(0, (True, (tuned, *STAGE_KEYS)))
    for staged, ignored in ways:
        groups = _group(runs, ignored)
        several = any(_values(group, tuned, staged) > 1 for group in groups)
        # One arm at several learning rates compares learning rates.
        if not ignored or (several and (staged or len(groups) > 1)):
            break
    names = _names(groups, ignored)
    arms = []
    for name, group in zip(names, groups, strict=True):
        tuning = [run for run in group if staged and _holds_out(run)]
        final = [run for run in group if not (staged and _holds_out(run))]
        arms.append(
            Arm(
                name,
                {k: v for k, v in group[0].config.items() if k not in ignored},
                _unique(final, ignored[:1], remarks),
                _unique(tuning, ignored[:1], remarks),
            )
        )
    return arms, tuned if ignored else None


def _holds_out(run: Run) -> bool:
    return int(run.config.get("dataset.val_size", 0) or 0) > 0


def _values(group: Sequence[Run], key: str, staged: bool) -> int:
    chosen = [run for run in group if _holds_out(run)] if staged else group
    return len({repr(run.config.get(key)) for run in chosen})


def _group(runs: Sequence[Run], ignored: Sequence[str]) -> list[list[Run]]:
    """Runs of equal configuration; where one study calls them by several names, by these too."""
    texts: dict[int, str] = {}
    labels: dict[tuple[str, str], set[str]] = defaultdict(set)
    for run in runs:
        kept = {key: value for key, value in run.config.items() if key not in ignored}
        texts[id(run)] = json.dumps(kept, sort_keys=True, default=str)
        labels[texts[id(run)], run.study].add(run.label)
    split = {text for (text, _), names in labels.items() if len(names) > 1}
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        text = texts[id(run)]
        groups[text, run.label if text in split else ""].append(run)
    return [groups[key] for key in sorted(groups, key=lambda key: _order(groups[key][0]))]


def _order(run: Run) -> tuple[Any, ...]:
    """Arms without norm first, then by label and values; numbers by size."""
    values = tuple(
        (0, value, "")
        if isinstance(value, (int, float)) and not isinstance(value, bool)
        else (1, 0.0, str(value))
        for _, value in sorted(run.config.items())
    )
    return (run.config.get(NORM) != "none", run.label, len(values), values)


def _names(groups: Sequence[Sequence[Run]], ignored: Sequence[str]) -> list[str]:
    """Their labels if these tell them apart, else the keys in which they differ."""
    labels = [sorted({run.label for run in group}) for group in groups]
    flat = [label for names in labels for label in names]
    if len(set(flat)) == len(groups) == len(flat):
        return flat
    configs = [{k: v for k, v in group[0].config.items() if k not in ignored} for group in groups]
    keys = _keys(configs)
    telling = [key for key in keys if len({repr(c[key]) for c in configs if key in c}) > 1]
    for chosen in (telling, [key for key in keys if len({repr(c.get(key)) for c in configs}) > 1]):
        short = _short_keys(chosen)
        names = [
            ", ".join(f"{short[key]}={config[key]}" for key in chosen if key in config)
            for config in configs
        ]
        if len(set(names)) == len(names):
            return names
    return [
        f"{name} [{'/'.join(label)}]".strip() for name, label in zip(names, labels, strict=True)
    ]


def _keys(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for config in configs for key in config))


def _short_keys(keys: Sequence[str]) -> dict[str, str]:
    """`model.norm.name` as `norm`, `optim.lr` as `lr`, where that is unambiguous."""
    short = {}
    for key in keys:
        *_, section, last = ["", *key.split(".")]
        short[key] = section if last == "name" else last
    counts = Counter(short.values())
    return {key: name if counts[name] == 1 else key for key, name in short.items()}


def _unique(runs: Sequence[Run], tuned: Sequence[str], remarks: list[Remark]) -> tuple[Run, ...]:
    """Each seed once per value of the tuned key."""
    seen: dict[tuple[Any, ...], Run] = {}
    for run in runs:
        key = (run.seed, *(repr(run.config.get(name)) for name in tuned))
        if key in seen:
            remarks.append(
                Remark(run.path, f"same arm and seed as {seen[key].path}; left out of the tables")
            )
        else:
            seen[key] = run
    return tuple(sorted(seen.values(), key=lambda run: run.seed))


def choose_baseline(arms: Sequence[Arm], wanted: str | None) -> tuple[Arm, str]:
    """The arm that others are compared with, and why it is that one.

    Args:
        arms: All of them.
        wanted: Its name, or that of its norm, or its label; None to choose.

    Raises:
        ConfigError: If no arm is called that, or several.
    """
    if wanted is not None:
        chosen = [arm for arm in arms if arm.name == wanted] or [
            arm
            for arm in arms
            if wanted in {arm.config.get(NORM)} | {run.label for run in (*arm.runs, *arm.tuning)}
        ]
        if len(chosen) == 1:
            return chosen[0], "asked for"
        if chosen:
            raise ConfigError(
                f"--baseline {wanted}: {len(chosen)} arms are called that; choose one of "
                + ", ".join(repr(arm.name) for arm in arms)
            )
        raise ConfigError(
            f"--baseline: unknown arm {wanted!r}{did_you_mean(wanted, [arm.name for arm in arms])}"
        )
    without = [arm for arm in arms if arm.config.get(NORM) == "none"]
    if len(without) == 1:
        return without[0], "the arm without norm"
    if without:
        return without[0], f"the first of {len(without)} arms without norm; --baseline changes it"
    return arms[0], "the first arm, as no arm without norm has results here; --baseline changes it"


def differing_factors(left: Mapping[str, Any], right: Mapping[str, Any]) -> tuple[str, ...]:
    """Keys in which two flat configurations differ, as factors.

    A key that only one side has means nothing for the other (the placement of no norm): it is no
    factor of its own if its section differs in a key that both have.
    """
    keys = [key for key in _keys((left, right)) if left.get(key, ABSENT) != right.get(key, ABSENT)]
    both = [key for key in keys if key in left and key in right]
    sections = {key.rpartition(".")[0] for key in both}
    return tuple(key for key in keys if key in both or key.rpartition(".")[0] not in sections)


def varying_keys(arms: Sequence[Arm], tuned: str | None) -> dict[str, tuple[Any, ...]]:
    """Keys in which arms differ, with their values in the order of the arms."""
    rows: dict[str, tuple[Any, ...]] = {}
    for key in _keys(arm.config for arm in arms):
        values = tuple(arm.config.get(key, ABSENT) for arm in arms)
        if len({repr(value) for value in values}) > 1:
            rows[key] = values
    if tuned:
        rows[tuned] = tuple(
            ", ".join(f"{value:g}" for value in settings_of((*arm.runs, *arm.tuning), tuned))
            for arm in arms
        )
    return rows


def setting_of(run: Run, tuned: str | None) -> float | None:
    """A run's value of the tuned key; None where nothing is tuned."""
    value = run.config.get(tuned) if tuned else None
    return float(value) if isinstance(value, (int, float)) else None


def settings_of(runs: Iterable[Run], tuned: str | None) -> list[float]:
    """The values of the tuned key among some runs, rising."""
    return sorted({value for run in runs if (value := setting_of(run, tuned)) is not None})


def runs_at(runs: Iterable[Run], tuned: str | None, setting: float | None) -> tuple[Run, ...]:
    """Those of some runs that have one value of the tuned key."""
    return tuple(run for run in runs if setting_of(run, tuned) == setting)
