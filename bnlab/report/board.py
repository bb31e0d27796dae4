"""The folder that TensorBoard is given: runs under their names, grouped by arm, and arms' means.

TensorBoard names runs by folder and keeps to what it hears first of hyperparameters. So each run
gets a folder with links to its event files behind a file that says what differs; where a record has
no event files (archives have none) they are made anew from its metrics.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from bnlab.analysis.arm_events import write_mean
from bnlab.analysis.runs import Run, read_run
from bnlab.config import Config
from bnlab.errors import BnlabError
from bnlab.records import RunDir, RunFiles, find_runs, load_record, read_config, summaries
from bnlab.records.events import PREFIX, EventFile
from bnlab.records.files import CONFIG, METRICS, SUMMARY
from bnlab.report.names import Name, name_runs

MEAN = "(mean) "
"""Before the name of an arm; so means stand before all runs, and their charts before all charts."""


class Board:
    """Keeps such a folder.

    Args:
        folder: Empty at first.
        roots: Runs, folders of runs, archives.
    """

    def __init__(self, folder: Path, roots: Sequence[Path]) -> None:
        self._folder, self._roots = folder, roots
        self._configs: dict[Path, tuple[object, Config | None]] = {}
        self._finished: dict[Path, tuple[object, Run | None]] = {}
        self._made: dict[str, object] = {}
        self._shown: list[tuple[RunFiles, Name]] = []

    def show_runs(self) -> list[str]:
        """Take in runs that are there now, and forget those that are gone; return their names.

        Raises:
            ConfigError: If a root does not exist.
            StorageError: If the disk takes no more.
        """
        runs = {
            files: config
            for files in find_runs(self._roots).runs
            if (files.has(METRICS) or _events_of(files)) and (config := self._config(files))
        }
        names = name_runs({files.root: config.resolved() for files, config in runs.items()})
        self._shown = [(files, names[files.root]) for files in runs]
        self._forget("[!(]*", {name.run for name in names.values()})
        columns: dict[str, float | str] = {}
        for name in names.values():
            columns |= name.hparams
        scores = summaries.scores_of(runs.values())
        for files, name in self._shown:
            folder = self._folder / name.run
            if not folder.exists():
                own = EventFile(folder, first=True)
                for summary in summaries.session(name.group, name.hparams, scores, columns):
                    own.add(summary)
                own.flush()
            for path in _events_of(files):
                if not (folder / path.name).is_symlink():
                    (folder / path.name).symlink_to(path.resolve())
        return sorted(name.run for name in names.values())

    def draw(self) -> None:
        """Draw what has no event files, and each arm that has several finished runs.

        What has not changed since it was drawn stays.

        Raises:
            StorageError: If the disk takes no more.
        """
        for files, name in self._shown:
            if not _events_of(files):
                self._rebuild(files, name.run)
        arms: dict[str, list[Run]] = {}
        for files, name in self._shown:
            if (run := self._run(files)) is not None:
                arms.setdefault(f"{MEAN}{name.group}", []).append(run)
        arms = {arm: runs for arm, runs in arms.items() if len(runs) > 1}
        self._forget("(*", set(arms))
        for arm, runs in arms.items():
            if self._is_new(arm, [(run.root, self._finished[run.root][0]) for run in runs]):
                write_mean(self._folder / arm, runs)

    def _forget(self, pattern: str, wanted: set[str]) -> None:
        for folder in self._folder.glob(pattern):
            if folder.name not in wanted:
                self._made.pop(folder.name, None)
                shutil.rmtree(folder)

    def _is_new(self, name: str, state: object) -> bool:
        before, self._made[name] = self._made.get(name), state
        return before != state

    def _config(self, files: RunFiles) -> Config | None:
        """The run's; None if it is being made right now, or damaged."""
        stamp = files.stamp(CONFIG)
        if files.root not in self._configs or self._configs[files.root][0] != stamp:
            try:
                self._configs[files.root] = stamp, read_config(files)
            except BnlabError:
                self._configs[files.root] = stamp, None
        return self._configs[files.root][1]

    def _run(self, files: RunFiles) -> Run | None:
        """What it ended with; None if it is not finished, or damaged."""
        stamp = files.stamp(SUMMARY)
        if files.root not in self._finished or self._finished[files.root][0] != stamp:
            try:
                run = None if stamp is None else read_run(files)[0]
            except BnlabError:
                run = None
            self._finished[files.root] = stamp, run
        return self._finished[files.root][1]

    def _rebuild(self, files: RunFiles, name: str) -> None:
        if self._is_new(name, (files.stamp(METRICS), files.stamp(SUMMARY))):
            try:
                record = load_record(files)
            except BnlabError:
                return  # damaged: the others are shown
            summaries.rebuild(record, self._folder / name)


def _events_of(files: RunFiles) -> list[Path]:
    if files.packed is not None:
        return []
    return sorted(RunDir(files.root).tensorboard.glob(f"{PREFIX}*"))
