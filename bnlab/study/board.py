"""A study's arms in TensorBoard, as they come in: `runs/STUDY/tensorboard`, a run an arm."""

import logging
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from bnlab.analysis.arm_events import write_mean
from bnlab.analysis.course import CURVE_TAGS
from bnlab.analysis.runs import Array, Run, read_run
from bnlab.errors import BnlabError
from bnlab.records.events import PREFIX
from bnlab.records.files import SUMMARY
from bnlab.study.executors import Cell, Outcome
from bnlab.study.plan import Study
from bnlab.study.survey import Survey

log = logging.getLogger("bnlab")

FOLDER = "tensorboard"

SHARE = 0.02
"""Of a study's time that drawing may take before its end."""


class Board:
    """Draws each arm anew when one of its runs is finished, if that costs little.

    Args:
        study: Whose arms.
        folder: That of its runs.
    """

    def __init__(self, study: Study, folder: Path) -> None:
        # Studies that share their folder have arms of equal names.
        self._folder = folder / FOLDER / (study.stored.stem if study.stored else "")
        self._study = study
        self._runs: dict[Path, Run | None] = {}
        self._late: set[str] = set()
        self._began, self._spent = time.monotonic(), 0.0

    def ended(self, survey: Survey, outcome: Outcome) -> None:
        """An attempt is over: draw the arms that its run belongs to, unless that takes too long."""
        if outcome.ending not in ("done", "diverged", "taken"):
            return
        root, began = outcome.cell.root, time.monotonic()
        arms = _arms(survey)
        self._late |= {name for name, cells in arms.items() if any(c.root == root for c in cells)}
        if self._spent <= SHARE * (began - self._began):
            self._draw(arms)
            self._spent += time.monotonic() - began

    def close(self, survey: Survey) -> None:
        """Draw all arms that have runs not drawn yet."""
        arms = _arms(survey)
        self._late |= {name for name in arms if not any((self._folder / name).glob(f"{PREFIX}*"))}
        self._draw(arms)

    def _draw(self, arms: Mapping[str, Sequence[Cell]]) -> None:
        try:
            for name in sorted(self._late & set(arms)):
                if runs := [run for cell in arms[name] if (run := self._read(cell)) is not None]:
                    write_mean(self._folder / name, runs)
                self._late.remove(name)
        except Exception as error:  # noqa: BLE001 - pictures never end a study
            log.warning("%s: the arms were not drawn: %s", self._folder, error)

    def _read(self, cell: Cell) -> Run | None:
        files = self._study.files_of(cell)
        if cell.root not in self._runs and files.has(SUMMARY):
            with suppress(BnlabError):  # damaged: the survey says so
                run, _ = read_run(files)
                self._runs[cell.root] = run and replace(run, curves=_drawn(run))
        return self._runs.get(cell.root)


def _drawn(run: Run) -> dict[str, Array]:
    """What is drawn of a run: its probes would fill the memory, if there are thousands of runs."""
    return {tag: run.curves[tag] for tag in ("epoch", *CURVE_TAGS) if tag in run.curves}


def _arms(survey: Survey) -> dict[str, list[Cell]]:
    """The cells of the final stage by arm; the names are known before any of them is."""
    arms: dict[str, list[Cell]] = {}
    for row in survey.rows:
        if row.stage == "final":
            name = f"{row.arm}, {row.why}" if row.why else row.arm
            arms.setdefault(re.sub(r"[^\w .,=+()-]", "-", name), []).extend(row.cells)
    return arms
