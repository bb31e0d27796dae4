"""How often a claim's whole procedure errs: simulated, with nothing trained.

The study is walked as a real one is: pilot, extension of the grid, neighborhood, what each final
seed chooses, evidence, failures, verdict. Only the runs are imagined, when they are asked for.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bnlab.analysis import Comparison, Options, Run, compare
from bnlab.claims._base import Claim, Imagine, Imagined, Verdict
from bnlab.claims._cells import RunIndex
from bnlab.claims._contrast import Array, Contrast
from bnlab.claims._gather import gather
from bnlab.claims._rule import judge
from bnlab.config import Config, flatten
from bnlab.records import RunFacts
from bnlab.records.schema import Images
from bnlab.study.file import Plan

IMAGES = 4_000
"""Validation and test images of an imagined run, and those that it trains on."""

RESPONSES: Mapping[str, Mapping[float, float]] = {
    "like BN's": {0.003: -0.12, 0.01: -0.06, 0.03: -0.02, 0.1: 0.0, 0.3: -0.013, 1.0: -0.08},
    "like that without BN": {0.003: -0.08, 0.01: -0.02, 0.03: 0.0, 0.1: -0.06, 0.3: -0.3},
    "like after's": {0.003: -0.12, 0.01: -0.08, 0.03: -0.06, 0.1: -0.013, 0.3: 0.0, 1.0: -0.06},
}
"""What accuracy loses at a learning rate, straight in between over log(lr), going on as at the
ends: a round top, a cliff, and two rates 1.3 pp apart that a pilot of two seeds often confuses."""


@dataclass(frozen=True)
class World:
    """What imagined runs are like.

    Attributes:
        effect: True effect of the claim, in storage units.
        response: One of `RESPONSES`.
        sd: Of a run's accuracy, beside what the number of images adds.
        fails: Share of runs that diverge, whatever the arm.
    """

    effect: float = 0.0
    response: str = "like BN's"
    sd: float = 0.01
    fails: float = 0.0

    def loss(self, lr: float) -> float:
        """What accuracy loses at a learning rate: at most 0."""
        known = RESPONSES[self.response]
        octaves, lost = np.log2(list(known)), list(known.values())
        place = float(np.log2(lr))
        if place > octaves[-1]:
            slope = (lost[-1] - lost[-2]) / (octaves[-1] - octaves[-2])
            return float(lost[-1] + slope * (place - octaves[-1]))
        if place < octaves[0]:
            slope = (lost[1] - lost[0]) / (octaves[1] - octaves[0])
            return float(lost[0] + slope * (place - octaves[0]))
        return float(np.interp(place, octaves, lost))


class ImaginedRuns(RunIndex):
    """The runs of a study, each imagined when it is first asked for."""

    def __init__(
        self, imagine: Imagine, plan: Plan, world: World, generator: np.random.Generator
    ) -> None:
        super().__init__([])
        self._imagine, self._plan, self._world, self._generator = imagine, plan, world, generator
        self._arms: dict[str, str] = {}
        for (_, arm, _), config in plan.configs.items():
            self._arms.setdefault(config.hash, arm)
        self._imagined: dict[str, dict[int, Run]] = {}

    def runs_of(self, config: Config) -> dict[int, Run]:
        """All seeds' runs of a configuration."""
        digest = config.hash
        if digest not in self._imagined:
            flat = flatten(config.resolved())
            seeds = {*self._plan.spec.seeds, *self._plan.spec.tune_seeds}
            self._imagined[digest] = {s: self._run(config, digest, flat, s) for s in seeds}
        return self._imagined[digest]

    def _run(self, config: Config, digest: str, flat: Mapping[str, Any], seed: int) -> Run:
        world, arm = self._world, self._arms[digest]
        noise = float(self._generator.normal(0, world.sd))
        levels = self._plan.levels.get(arm, {})
        run = Imagined(arm, levels, config, world.effect, noise, world.loss)
        recorded = {tag: self._counted(tag, value) for tag, value in self._imagine(run).items()}
        if self._generator.random() < world.fails:
            recorded["train/accuracy"] = 0.1
        curves = {tag: values for tag, values in recorded.items() if isinstance(values, np.ndarray)}
        final = {
            tag: float(values[-1]) if isinstance(values, np.ndarray) else values
            for tag, values in recorded.items()
        }
        images = config.dataset.train_size or 50_000
        dataset = Images(name="imagined", train_images=images, val_images=IMAGES)
        start = str(seed)  # whatever the arm, so that runs of one seed are pairs
        facts = RunFacts(
            schema_version=1,
            status="done",
            dataset=dataset,
            init_hash=start,
            data_order_hash=start,
        )
        path = f"imagined/{arm}-{digest[:8]}/s{seed}"
        return Run(
            Path(path), path, "imagined", arm, seed, digest, flat, "done", curves, final, facts
        )

    def _counted(self, tag: str, value: float | Array) -> float | Array:
        """An accuracy as so many images show it."""
        if isinstance(value, np.ndarray) or not tag.endswith("accuracy"):
            return value
        share = min(max(value, 0.0), 1.0)
        # A spread far below what images add stands for exact readings.
        if self._world.sd < 1 / IMAGES:
            return share
        return float(self._generator.binomial(IMAGES, share)) / IMAGES


def alike(treated: Collection[str]) -> Imagine:
    """Arms alike, but that the treated ones are better by the effect."""
    return lambda run: run.reach(0.5 + run.effect * (run.arm in treated))


def imagine_of(claim: Claim) -> Imagine:
    """How the runs of a claim's study turn out."""
    sides = [claim] + ([claim.again] if claim.again else [])
    return claim.imagine or alike({arm for side in sides for arm in side.treated})


@dataclass(frozen=True)
class Study:
    """What one imagined study came to.

    Attributes:
        contrast: What was measured; None where an arm's grid went no further.
        verdict: What was said of it.
    """

    contrast: Contrast | None
    verdict: Verdict


def imagine_study(
    claim: Claim, plan: Plan, preset: str, world: World, generator: np.random.Generator
) -> Study:
    """One study of a claim, from its pilot to its verdict.

    Args:
        claim: Whose.
        plan: Its study under the preset.
        preset: For the smallest effect of interest.
        world: What runs are like.
        generator: Draws all noise.
    """
    index = ImaginedRuns(imagine_of(claim), plan, world, generator)
    gathered = gather(plan, preset, index)
    if gathered.evidence is None:
        return Study(None, Verdict("NOT TESTED", why="no final runs"))
    contrast = replace(claim.contrast(gathered.evidence), guard="")
    return Study(contrast, judge(claim, contrast, preset))


def imagine_comparison(
    plan: Plan, world: World, generator: np.random.Generator
) -> Comparison | None:
    """What `bnlab compare` says of one study whose arms are alike, less the first, by the effect.

    None where the best of an arm lies at the edge of its grid, so that it has no final runs.
    """
    index = ImaginedRuns(alike(list(plan.spec.arms)[1:]), plan, world, generator)
    gathered = gather(plan, "", index)
    return compare(gathered.runs, Options()) if gathered.evidence else None
