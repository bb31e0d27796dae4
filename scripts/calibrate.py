#!/usr/bin/env python3
"""Simulates whole studies, of every claim and for `bnlab compare`, and counts how often they err.

Usage: scripts/calibrate.py [--studies 150] [--jobs 2] [--out runs/reference/calibration.json]

Each imagined study is walked from its pilot to its verdict, nothing is trained. Without an effect,
under three responses to the learning rate and with runs that diverge: how often a verdict is false,
and how often the limits hold the effect. With an effect: how often it is found, and for claims the
power that their verdicts state. Half an hour for 150 studies of each on one core; every cell draws
from a stream of its own, so that the numbers do not depend on --jobs.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import yaml

from bnlab.analysis import Effect
from bnlab.analysis.stats import Interval
from bnlab.claims import CLAIM_LEVEL, CLAIMS, Claim, Verdict, study_file
from bnlab.claims._calibration import RESPONSES, World, imagine_comparison, imagine_study
from bnlab.claims._contrast import CLAIM_ALPHA
from bnlab.study.file import Plan
from bnlab.study.load import load_plan

PRESET = "quick"
SEED = 20261125
OUT = Path(__file__).resolve().parent.parent / "runs" / "reference" / "calibration.json"
NULLS = [World(response=response, fails=f) for response in RESPONSES for f in (0.0, 0.05, 0.1)]

PLACEMENTS = ("before_activation", "after_activation", "after_pool", "before_conv")
KINDS = [(arms, tuned) for tuned in ("not", "once", "by each seed") for arms in (2, 3, 5)]
"""Studies that are compared: how many arms, the baseline among them, and how each is tuned."""

PLANTED, PLANTED_SD = 0.02, 0.006
"""What compared arms are better by in a world with an effect, and how runs scatter in such."""

Cell: TypeAlias = dict[str, Any]
"""One claim, or one kind of comparison, in one world, with what was counted."""


def stream(*cell: Any) -> np.random.Generator:
    """The draws of one cell, which no other cell shares: their errors may be added up."""
    return np.random.default_rng([SEED, *repr(cell).encode()])


def nothing(name: str) -> float:
    """The effect of which a claim must not be supported, nor anything else be said."""
    return CLAIMS[name].smallest(PRESET) if CLAIMS[name].bounded else 0.0


def is_false(claim: Claim, verdict: Verdict) -> bool:
    """Whether a verdict speaks of an effect where there is none, or with just so much as bounds it.

    That is SUPPORTED, and REFUTED where it does not say merely that the effect is too small.
    """
    if verdict.label == "REFUTED" and not claim.bounded:
        return verdict.sublabel not in ("", "no practical difference")
    return verdict.label in ("SUPPORTED", "REFUTED")


def holding(intervals: Sequence[Interval], truth: float) -> int:
    """How many limits hold the true effect."""
    return sum(one.low <= truth <= one.high for one in intervals)


def claim_cell(name: str, world: World, studies: int) -> Cell:
    """So many studies of one claim in one world."""
    claim, generator = CLAIMS[name], stream(name, world)
    plan = load_plan(study_file(name), name="claims", preset=PRESET)
    done = [imagine_study(claim, plan, PRESET, world, generator) for _ in range(studies)]
    contrasts = [one.contrast for one in done if one.contrast is not None]
    measured = [one for one in contrasts if len(one.differences) > 1]
    stated = [one.verdict.power for one in done if one.verdict.power is not None]
    return {
        "claim": name,
        **asdict(world),
        "studies": len(done),
        "judged": sum(one.verdict.label != "NOT TESTED" for one in done),
        "false": sum(is_false(claim, one.verdict) for one in done),
        "supported": sum(one.verdict.label == "SUPPORTED" for one in done),
        "refuted": sum(one.verdict.label == "REFUTED" for one in done),
        "power": float(np.mean(stated)) if stated else None,
        "measured": len(measured),
        "covered": holding([one.limits for one in measured], world.effect),
        "covered_95": holding([one.interval for one in measured], world.effect),
    }


def compared_plan(arms: int, tuned: str) -> Plan:
    """A study like configs/studies/quick.yaml, with so many arms."""
    norms = [{"name": "batch", "placement": place} for place in PLACEMENTS[: arms - 1]]
    study: dict[str, Any] = {
        "set": {"dataset.val_size": 1000},
        "arms": {"none": {"model.norm": "none"}}
        | {norm["placement"]: {"model.norm": norm} for norm in norms},
        "seeds": 8,
    }
    if tuned != "not":
        study |= {"tune": {"optim.lr": [0.01, 0.03, 0.1, 0.3]}, "tune_seeds": 2}
        study["each_seed"] = tuned == "by each seed"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "imagined.yaml")
        file.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
        return load_plan(file)


def compare_cell(arms: int, tuned: str, world: World, studies: int) -> Cell:
    """So many studies in one world as `bnlab compare` judges them, by its first table."""
    plan, generator = compared_plan(arms, tuned), stream(arms, tuned, world)
    done = [imagine_comparison(plan, world, generator) for _ in range(studies)]
    tables = [one.views[0].effects for one in done if one is not None]

    def told(effect: Effect) -> bool:
        return effect.verdict in ("higher", "lower")

    # Effects of one study share their baseline: the first alone counts where they would be added.
    firsts = [effects[0] for effects in tables]
    intervals = [one.interval for one in firsts if one.interval is not None]
    return {
        "arms": arms,
        "tuned": tuned,
        "seeds": len(plan.spec.seeds),
        "pilots": len(plan.spec.tune_seeds),
        **asdict(world),
        "studies": len(done),
        "compared": len(tables),
        "any_told": sum(any(map(told, effects)) for effects in tables),
        "first_higher": sum(one.verdict == "higher" for one in firsts),
        "covered_95": holding(intervals, world.effect),
    }


def main(arguments: list[str]) -> int:
    """Simulate, write, and say how many verdicts were false."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--studies", type=int, default=150)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="claims, or `not`, `once`, `by each seed` of compare; --out keeps the rest as it is",
    )
    given = parser.parse_args(arguments)
    n = given.studies
    jobs: dict[str, list[tuple[str, partial[Cell]]]] = {
        "claims": [
            (name, partial(claim_cell, name, replace(world, effect=nothing(name)), n))
            for name in CLAIMS
            for world in NULLS
        ],
        "claims_planted": [
            (
                name,
                partial(claim_cell, name, World(CLAIMS[name].power_at(PRESET), sd=PLANTED_SD), n),
            )
            for name in CLAIMS
        ],
        "compare": [
            (kind[1], partial(compare_cell, *kind, world, n)) for kind in KINDS for world in NULLS
        ],
        "compare_planted": [
            (kind[1], partial(compare_cell, *kind, World(PLANTED, sd=PLANTED_SD), n))
            for kind in KINDS
        ],
    }
    head = {"studies": n, "seed": SEED, "preset": PRESET}
    cells: dict[str, list[Cell]] = {part: [{}] * len(some) for part, some in jobs.items()}
    if given.only:
        kept = json.loads(given.out.read_text(encoding="utf-8"))
        if {key: kept[key] for key in head} != head:
            parser.error(f"{given.out} was made with { ({key: kept[key] for key in head}) }")
        cells = {part: kept[part] for part in jobs}
    with ProcessPoolExecutor(given.jobs) as pool:
        asked = {
            (part, place): pool.submit(job)
            for part, some in jobs.items()
            for place, (name, job) in enumerate(some)
            if not given.only or name in given.only
        }
        for (part, place), one in asked.items():
            cells[part][place] = one.result()
    print(f"{len(asked)} cells of {n} studies", file=sys.stderr)
    found = {**head, "level": CLAIM_ALPHA, "limits": CLAIM_LEVEL, **cells}
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    false, studies = (sum(one[key] for one in cells["claims"]) for key in ("false", "studies"))
    print(f"{false} false verdicts of {studies} ({CLAIM_ALPHA:.2%} allowed); {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
