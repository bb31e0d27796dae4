"""Several studies one after another, as the claims are trained over runs that they share."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeAlias

from bnlab.study.executors import StudyWatcher
from bnlab.study.plan import Study
from bnlab.study.run import Finished, StudyOptions, run_study

Watching: TypeAlias = Callable[
    [], AbstractContextManager[tuple[StudyWatcher, Callable[[str], None]]]
]
"""Opens a view of one study: who is told how it goes, and a way to say a line there."""


def run_each(
    studies: Mapping[str, Study], runs_dir: Path, options: StudyOptions, watching: Watching
) -> list[Finished]:
    """Run studies in order; the failed runs of one keep no other from its turn.

    Args:
        studies: By the title under which each is shown.
        runs_dir: Folder of all runs.
        options: How to run them.
        watching: Opens the view of each.

    Raises:
        RefusedError, StopRequestedError: As `run_study`.
    """
    ended = []
    for title, study in studies.items():
        with watching() as (watcher, say):
            say(title)
            ended.append(run_study(study, runs_dir, options, watcher, say))
    return ended
