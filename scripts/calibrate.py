#!/usr/bin/env python3
"""Simulates the whole procedure of every claim and writes how often its verdicts err.

Usage: scripts/calibrate.py [--studies 300] [--jobs 2] [--out runs/reference/calibration.json]

Each imagined study is walked from its pilot to its verdict, nothing is trained. Without an effect,
under three responses to the learning rate and with runs that diverge: how often a verdict is false,
and how often the limits hold the effect. With an effect at which the power is told: how often it is
found, beside the power that the verdicts state. About a minute for 50 studies of each.
"""

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from bnlab.claims import CLAIM_LEVEL, CLAIMS, study_file
from bnlab.claims._calibration import RESPONSES, Study, World, imagine_study
from bnlab.claims._contrast import CLAIM_ALPHA
from bnlab.study.load import load_plan

PRESET = "quick"
OUT = Path(__file__).resolve().parent.parent / "runs" / "reference" / "calibration.json"
NULLS = [(response, fails) for response in RESPONSES for fails in (0.0, 0.05, 0.1)]


def simulate(name: str, world: World, studies: int, seed: int) -> list[Study]:
    """So many studies of one claim in one world."""
    claim = CLAIMS[name]
    plan = load_plan(study_file(name), name="claims", preset=PRESET)
    generator = np.random.default_rng(seed)
    return [imagine_study(claim, plan, PRESET, world, generator) for _ in range(studies)]


def is_false(name: str, study: Study) -> bool:
    """Whether a verdict contradicts a world without an effect, or with just too much of it."""
    verdict = study.verdict
    return verdict.label == "SUPPORTED" or (
        verdict.sublabel == "reversed" and not CLAIMS[name].bounded
    )


def null_cell(name: str, response: str, fails: float, studies: int) -> dict[str, Any]:
    """A claim without an effect: false verdicts, and limits that hold the truth."""
    claim = CLAIMS[name]
    truth = claim.smallest(PRESET) if claim.bounded else 0.0
    done = simulate(name, World(truth, response, fails=fails), studies, 20261125)
    measured = [one.contrast for one in done if one.contrast is not None]
    wide = [one.limits for one in measured if len(one.differences) > 1]
    plain = [one.interval for one in measured if len(one.differences) > 1]
    return {
        "claim": name,
        "response": response,
        "fails": fails,
        "studies": len(done),
        "judged": len(measured),
        "false": sum(is_false(name, one) for one in done),
        "covered": sum(one.low <= truth <= one.high for one in wide),
        "covered_plain": sum(one.low <= truth <= one.high for one in plain),
        "limits": len(wide),
    }


def planted_cell(name: str, studies: int) -> dict[str, Any]:
    """A claim with the effect at which its power is told."""
    effect = CLAIMS[name].power_at(PRESET)
    done = simulate(name, World(effect, sd=0.006), studies, 7)
    stated = [one.verdict.power for one in done if one.verdict.power is not None]
    found = sum(one.verdict.label == "SUPPORTED" for one in done)
    return {
        "claim": name,
        "studies": len(done),
        "found": found,
        "stated": float(np.mean(stated)) if stated else None,
    }


def main(arguments: list[str]) -> int:
    """Simulate, write, and say how many verdicts were false."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--studies", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args(arguments)
    with ProcessPoolExecutor(given.jobs) as pool:
        nulls = [
            pool.submit(null_cell, name, response, fails, given.studies)
            for name in CLAIMS
            for response, fails in NULLS
        ]
        planted = [pool.submit(planted_cell, name, given.studies) for name in CLAIMS]
        found: dict[str, Any] = {
            "preset": PRESET,
            "level": CLAIM_ALPHA,
            "limits": CLAIM_LEVEL,
            "null": [one.result() for one in nulls],
            "planted": [one.result() for one in planted],
        }
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    false, studies = (sum(one[key] for one in found["null"]) for key in ("false", "studies"))
    print(f"{false} false verdicts of {studies} ({CLAIM_ALPHA:.2%} allowed); {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
