"""Runs of an archive by arm, learning rate and seed, read past all that bnlab reads them by."""

import functools
import io
import itertools
import json
import lzma
import math
import re
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import yaml
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Point: TypeAlias = tuple[tuple[str, Any], ...]

LR = "optim.lr"

UNSAID: Mapping[str, Any] = {
    "dataset.crop_padding": 4,
    "dataset.flip": True,
    "dataset.normalize": "half",
    "dataset.test_size": None,
    "dataset.train_size": None,
    "dataset.val_size": 0,
    "model.activation": "relu",
    "model.depths": [],
    "model.dropout": 0.0,
    "model.dropout_first": False,
    "model.init.gain": 1.0,
    "model.init.name": "he_normal",
    "model.norm.affine": True,
    "model.norm.conv": True,
    "model.norm.fc": True,
    "model.norm.ghost_size": 32,
    "model.norm.groups": 32,
    "model.norm.placement": "before_activation",
    "model.norm.use_global_stats": None,
    "model.residual": False,
    "optim.decay_weights_only": False,
    "optim.momentum": 0.9,
    "optim.schedule": "constant",
    "optim.warmup_epochs": 0.0,
    "optim.weight_decay": 5e-4,
    "probes": [],
    "train.precision": "auto",
    "train.shuffle": "each_epoch",
    "train.test_every": None,
}
"""What a key means where nothing sets it. A key that is missing here must be set by every study."""

ELSEWHERE = ("name", "seed", "dataset.root")
"""Keys that do not tell one configuration from another."""


class Run:
    """A finished run."""

    def __init__(self, config: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        self.config, self._files = config, files

    @functools.cached_property
    def epochs(self) -> list[dict[str, Any]]:
        lines = map(json.loads, self._files["metrics.jsonl"].splitlines())
        by_epoch = {line["epoch"]: line for line in lines}
        return [by_epoch[epoch] for epoch in sorted(by_epoch)]

    @functools.cached_property
    def end(self) -> dict[str, Any]:
        """What it recorded last, and its summary."""
        last = self.epochs[-1] if self.epochs else {}
        return {**last, **json.loads(self._files["summary.json"])}

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self._files["run.json"])
        return facts

    @property
    def classes(self) -> int:
        return len(self.facts["dataset"]["classes"])

    @property
    def images(self) -> int:
        """That it was trained on."""
        return int(self.facts["dataset"]["train_images"])

    @functools.cached_property
    def diverged(self) -> bool:
        """A loss that is not finite, or a training accuracy of at most 1.2 times chance."""
        losses = [_number(self.end.get(f"{split}/loss", 0.0)) for split in ("train", "val", "test")]
        learned = _number(self.end["train/accuracy"]) > 1.2 / self.classes
        return not (np.isfinite(losses).all() and learned)

    def at_end(self, tag: str) -> float:
        return _number(self.end.get(tag))

    def score(self, tag: str) -> float:
        """An accuracy; of a run that diverged, that of guessing."""
        return 1 / self.classes if self.diverged else self.at_end(tag)

    def curve(self, tag: str) -> Array:
        """One value an epoch, NaN where there is none."""
        return np.array([_number(line.get(tag)) for line in self.epochs])

    def layers(self, quantity: str) -> list[str]:
        """The layers of which it recorded a quantity, in the order of the network."""
        tags = dict.fromkeys(tag for line in self.epochs for tag in line)
        start = f"probe/{quantity}/"
        return [tag.removeprefix(start) for tag in tags if tag.startswith(start)]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


@dataclass(frozen=True)
class Pilot:
    """What the tuning seeds found for an arm.

    Attributes:
        best: The point of the best mean validation accuracy.
        score: That accuracy.
        near: The best and the points beside it.
        runs: By point, in the order of the tuning seeds.
    """

    best: Point
    score: float
    near: tuple[Point, ...]
    runs: Mapping[Point, list[Run]]


class Archive:
    """The members of a `.tar.xz` of one study folder."""

    def __init__(self, path: Path) -> None:
        self.studies: dict[str, dict[str, Any]] = {}
        members: dict[str, dict[int, dict[str, bytes]]] = {}
        whole = io.BytesIO(lzma.decompress(path.read_bytes()))  # in a packed one seeks are slow
        with tarfile.open(fileobj=whole) as archive:
            for member in archive:
                stream = archive.extractfile(member)
                if stream is None:
                    continue
                folder, _, name = member.name.rpartition("/")
                seed = re.fullmatch(r"(.+)/s(\d+)", folder)
                if seed:
                    files = members.setdefault(seed[1], {}).setdefault(int(seed[2]), {})
                    files[name] = stream.read()
                elif name.endswith(".yaml"):
                    self.studies[name.removesuffix(".yaml")] = _yaml(stream.read())
        self._runs = [_configured(files) for _, files in sorted(members.items())]
        told = [_told(study) for study in self.studies.values()]
        self._told = sorted({key for keys in told for key in keys} - set(ELSEWHERE))

    def runs(self, wanted: Mapping[str, Any]) -> dict[int, Run]:
        """By seed, the runs of a configuration.

        Held against each other is every key that some study sets: that a norm does not read means
        nothing, and one that this study leaves alone has its default.
        """
        found = [(config, runs) for config, runs in self._runs if self._same(config, wanted)]
        configs = [{k: v for k, v in config.items() if k not in ELSEWHERE} for config, _ in found]
        assert all(config == configs[0] for config in configs), "two configurations for one arm"
        return {seed: run for _, runs in reversed(found) for seed, run in runs.items()}

    def _same(self, config: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
        for key in self._told:
            if key.startswith("model.norm.") and key not in config:
                continue
            has = config[key] if key in config else UNSAID[key]
            if has != (wanted[key] if key in wanted else UNSAID[key]):
                return False
        return True


def _yaml(text: str | bytes) -> Any:
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - a safe one


def _configured(
    by_seed: Mapping[int, Mapping[str, bytes]],
) -> tuple[dict[str, Any], dict[int, Run]]:
    """The configuration of a folder of runs, and those that are finished."""
    config = _flat(_yaml(by_seed[min(by_seed)]["config.yaml"]))
    done = {seed: files for seed, files in by_seed.items() if "summary.json" in files}
    return config, {seed: Run(config, files) for seed, files in done.items()}


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """By dotted key; `norm: none` is short for `norm: {name: none}`."""
    found: dict[str, Any] = {}
    for name, value in (tree or {}).items():
        key = f"{above}{name}"
        if isinstance(value, dict):
            found |= _flat(value, f"{key}.")
        else:
            found[f"{key}.name" if key == "model.norm" else key] = value
    return found


def _for_all(study: Mapping[str, Any]) -> dict[str, Any]:
    """What a study lays over its base for all arms."""
    given = [text.partition("=") for text in study.get("overrides", [])]
    return {**_flat(study.get("set", {})), **{key: _yaml(value) for key, _, value in given}}


def _told(study: Mapping[str, Any]) -> set[str]:
    parts = [study["base"], study.get("tune", {}), *study["arms"].values()]
    parts += study.get("alternatives", {}).values()
    stages = {"probes", "train.test_every", "dataset.val_size", "dataset.train_size"}
    return stages.union(_for_all(study), *map(_flat, parts))


class Study:
    """A study of an archive as its file has it, with the runs that belong to it."""

    def __init__(self, archive: Archive, name: str, preset: str) -> None:
        self._archive, self._file = archive, archive.studies[f"{name}-{preset}"]
        self.preset = preset
        self.arms: list[str] = list(self._file["arms"])
        self.seeds: list[int] = self._file["seeds"]
        self.tune_seeds: list[int] = self._file.get("tune_seeds", [])
        self._pilots: dict[str, Pilot] = {}
        self._finals: dict[str, list[Run]] = {}

    @property
    def same(self) -> Point:
        """The learning rate at which all arms are trained too, if there is one."""
        return tuple(_flat(self._file.get("same", {})).items())

    def finals(self, arm: str) -> list[Run]:
        """The final runs of an arm at its own best, in the order of the seeds."""
        if arm not in self._finals:
            self._finals[arm] = [self._final(arm, seed) for seed in self.seeds]
        return self._finals[arm]

    def finals_at(self, arm: str, point: Point) -> list[Run]:
        """The final runs of an arm at one point for all seeds."""
        return [self._runs("final", arm, point)[seed] for seed in self.seeds]

    def _final(self, arm: str, seed: int) -> Run:
        if "tune" not in self._file:
            return self._runs("final", arm, ())[seed]
        leader = self._file.get("follow", {}).get(arm, arm)
        pilot = self.pilot(leader)
        point = pilot.best
        if self._each(leader):
            tried = {p: self._runs("tune", leader, p)[seed] for p in pilot.near}
            point = _top({p: _validated([run]) for p, run in tried.items()})
        return self._runs("final", arm, point)[seed]

    def pilot(self, arm: str) -> Pilot:
        """The tuning seeds' best, the grid going on as long as it lies at an end of it."""
        if arm not in self._pilots:
            self._pilots[arm] = self._pilot(arm)
        return self._pilots[arm]

    def _pilot(self, arm: str) -> Pilot:
        lrs = sorted(_flat(self._file["tune"])[LR])
        below, above = self._beyond(lrs)
        while True:
            points = self._points(arm, lrs)
            runs = {p: [self._runs("tune", arm, p)[s] for s in self.tune_seeds] for p in points}
            scores = {p: self._pilot_score(arm, tried) for p, tried in runs.items()}
            best = _top(scores)
            lr = dict(best)[LR]
            if lr == lrs[0] and below:
                lrs = [below.pop(0), *lrs]
            elif lr == lrs[-1] and above:
                lrs = [*lrs, above.pop(0)]
            else:
                place = lrs.index(lr)
                beside = lrs[max(place - 1, 0) : place + 2]
                near = tuple(p for p in points if dict(p)[LR] in beside)
                return Pilot(best, scores[best], near, runs)

    def _pilot_score(self, arm: str, runs: Sequence[Run]) -> float:
        """Of runs that diverged among others that trained, a neighborhood is not made."""
        trained = [run for run in runs if not run.diverged]
        counted = trained if self._each(arm) and trained else runs
        return _validated(counted)

    def _beyond(self, lrs: Sequence[float]) -> tuple[list[float], list[float]]:
        """Learning rates below and above a grid, in the ratio of its last two."""
        if not self._file.get("each_seed") or len(lrs) < 2:
            return [], []
        ends = (lrs[0], lrs[1]), (lrs[-1], lrs[-2])
        steps = range(1, self._file.get("extend", 2) + 1)
        below, above = ([float(f"{e * (e / i) ** k:.6g}") for k in steps] for e, i in ends)
        return below, above

    def _points(self, arm: str, lrs: Iterable[float]) -> list[Point]:
        own = _flat(self._file.get("alternatives", {}).get(arm, {}))
        keys = [*own, LR]
        choices = itertools.product(*own.values(), lrs)
        return [tuple(zip(keys, values, strict=True)) for values in choices]

    def _each(self, arm: str) -> bool:
        listed = self._file.get("each_seed", False)
        return listed if isinstance(listed, bool) else arm in listed

    def _runs(self, stage: str, arm: str, point: Point) -> dict[int, Run]:
        """By seed; images are held out in tuning, and the final runs train on them, too."""
        for_all = _for_all(self._file)
        wanted = {**_flat(self._file["base"]), **for_all, **_flat(self._file["arms"][arm])}
        wanted |= dict(point)
        if stage == "tune":
            wanted |= {"train.test_every": None, "probes": []}
        elif "tune" in self._file:
            if wanted.get("dataset.train_size") is not None:
                wanted["dataset.train_size"] += wanted["dataset.val_size"]
            wanted["dataset.val_size"] = 0
            wanted["train.test_every"] = for_all.get("train.test_every", 0)
        return self._archive.runs(wanted)


def _validated(runs: Iterable[Run]) -> float:
    """Mean validation accuracy."""
    # Rounded, as equal counts of images may differ in their last digit as means of fractions.
    return round(float(np.mean([run.score("val/accuracy") for run in runs])), 9)


def _top(scores: Mapping[Point, float]) -> Point:
    """The best; of several alike the first, which is the smaller one."""
    return max(scores, key=scores.__getitem__)
