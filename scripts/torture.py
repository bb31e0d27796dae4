#!/usr/bin/env python
"""Nothing lost, nothing wrong returned, nothing let in: a campaign that tries to break bnlab.

    scripts/torture.py                                      every part, ten minutes each
    scripts/torture.py --part storage --trials 100          some of it
    scripts/torture.py --part storage --seed 3 --only 17    one trial, as a failure names it

Exits with 4 if anything failed. Linux only.
"""

import argparse
import importlib
import signal
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[1:1] = [str(ROOT), str(ROOT / "tests")]

from torture_parts import Part, Tally, campaign  # noqa: E402 - found by the above

PARTS = {
    "storage": "Storage",
    "kills": "Kills",
    "fuzz": "Fuzz",
    "hostile": "Hostile",
    "surroundings": "Surroundings",
    "crowd": "Crowd",
    "corruption": "Corruption",
}


def part_of(name: str) -> type[Part]:
    """A part by its name."""
    part: type[Part] = getattr(importlib.import_module(f"torture_parts.{name}"), PARTS[name])
    return part


def show(tallies: list[Tally]) -> str:
    """A table, and below it every failure with what reproduces it."""
    lines = [f"{'part':<14}{'seed':>5}{'tried':>8}{'held':>8}{'failed':>8}{'seconds':>9}"]
    lines += [
        f"{t.part:<14}{t.seed:>5}{t.tried:>8}{t.held:>8}{len(t.failures):>8}{t.seconds:>9.0f}"
        for t in tallies
    ]
    return "\n".join([*lines, *(failure for tally in tallies for failure in tally.failures)])


def main() -> int:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, help="by default as many as at full size")
    parser.add_argument("--seconds", type=float, default=600.0, help="the most for each part")
    parser.add_argument("--only", type=int, help="the number of one trial")
    given = parser.parse_args()
    # A shell's background job ignores it, and so would every command that is started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tallies = []
    for name in given.part or PARTS:
        part = part_of(name)
        numbers = [given.only] if given.only is not None else range(given.trials or part.full)
        with tempfile.TemporaryDirectory(prefix="bnlab-torture-") as folder:
            tallies.append(campaign(part, Path(folder), given.seed, numbers, given.seconds))
        print(show(tallies[-1:]), file=sys.stderr, flush=True)
    print(show(tallies))
    return 4 if any(tally.failures for tally in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
