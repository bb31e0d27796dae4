"""What several parts train, and what they hold against each other."""

import json
from collections.abc import Iterator
from pathlib import Path

from trained_runs import assert_same_run

from torture_parts import BrokeError, hold
from torture_parts.zygote import Ended

SETTINGS = {
    "dataset.name": "synthetic",
    "dataset.train_size": 160,
    "dataset.test_size": 40,
    "model.widths": [4, 8],
    "model.hidden": [16],
    "optim.lr": 0.05,
    "train.epochs": 2,
    "train.batch_size": 32,
    "train.precision": "fp32",
}
"""A whole experiment in a fraction of a second."""


def setting_words(**more: object) -> list[str]:
    """As flags; `more` with __ for the dots."""
    settings = {**SETTINGS, **{key.replace("__", "."): value for key, value in more.items()}}
    pairs = (f"{key}={json.dumps(value)}" for key, value in settings.items())
    return [word for pair in pairs for word in ("--set", pair)]


def write_study(path: Path, *, seeds: int = 2, epochs: int = 2) -> Path:
    """A study of two arms that are tuned over two values."""
    settings = {key: value for key, value in SETTINGS.items() if key != "optim.lr"}
    study = {
        "name": "made",
        "set": {**settings, "dataset.val_size": 40, "train.epochs": epochs},
        "arms": {"none": {"model.norm": "none"}, "batch": {"model.norm.name": "batch"}},
        "tune": {"optim.lr": [0.01, 0.05]},
        "tune_seeds": 1,
        "seeds": seeds,
    }
    path.write_text(json.dumps(study))  # JSON is YAML
    return path


def runs_below(folder: Path) -> dict[str, Path]:
    """Every run that was begun, by its place."""
    roots = sorted(path.parent for path in folder.rglob("config.yaml"))
    return {str(root.relative_to(folder)): root for root in roots}


def hold_same_runs(there: Path, here: Path) -> None:
    """The same runs, with the same metrics and weights to the bit, each finished once.

    Raises:
        BrokeError: If not.
    """
    left, right = runs_below(there), runs_below(here)
    hold(left.keys() == right.keys(), f"other runs: {sorted(left.keys() ^ right.keys())}")
    for place, root in left.items():
        try:
            assert_same_run(root, right[place])
        except AssertionError as error:
            raise BrokeError(f"{place}: other bits: {error}") from None
        ends = [json.loads((one / "summary.json").read_text()) for one in (root, right[place])]
        hold(ends[0]["status"] == ends[1]["status"], f"{place}: {ends[1]['status']}")
        extra = {path.name for path in right[place].rglob(".*.new")}
        # Nobody writes in a run that is finished, and so nobody clears what a kill left at its end.
        extra = {name for name in extra if not name.startswith(".run.json.")}
        hold(not extra, f"{place}: left behind: {extra}")


def hold_clean(ended: Ended, codes: set[int], what: str, *, silent: bool = False) -> None:
    """No traceback, no lateness, an exit code that is documented for it, and words with a failure.

    Args:
        ended: What ended.
        codes: That it may exit with.
        what: Was done to it.
        silent: Whether it may say nothing: a second Ctrl-C ends what the first one had to say.

    Raises:
        BrokeError: If not.
    """
    hold(not ended.late, f"{what}: took over {ended.seconds:.0f} s")
    hold("Traceback" not in ended.err, f"{what} {ended}")
    hold(ended.code in codes, f"{what} {ended}")
    told = ended.code in (0, 3) or ended.code < 0 or silent or ended.err.strip()
    hold(told, f"{what}: says nothing")


def texts_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file, by its place."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(folder)), path.read_bytes()
