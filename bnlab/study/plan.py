"""Where the runs of a study lie."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bnlab.analysis.choose import Point
from bnlab.config import Layer, arm_label
from bnlab.errors import BnlabError, ConfigError
from bnlab.records import RunFiles, StoredStudies, find_runs, read_summary, run_path
from bnlab.study.executors import Cell
from bnlab.study.file import Plan, Stage, show_point
from bnlab.study.load import load_plan, stored_layer

STORED = "study.yaml"
"""A study beside its runs, as it was run last."""


@dataclass(frozen=True)
class Study(Plan):
    """A study whose runs have their places.

    Attributes:
        stored: Where it is kept as it was run last, or None for `runs/<name>/study.yaml`.
        shared: Whether several studies share the folder: a run is then named for its
            configuration instead of this study's arm.
        elsewhere: Finished runs by configuration hash and seed that count wherever they lie, in
            archives too.
        remembered: Overrides that count because the study was run with them before.
    """

    stored: Path | None = None
    shared: bool = False
    elsewhere: Mapping[tuple[str, int], RunFiles] = field(default_factory=dict)
    remembered: tuple[str, ...] = ()

    def cells(
        self,
        stage: Stage,
        arm: str,
        point: Point,
        runs_dir: Path,
        seeds: Sequence[int] | None = None,
    ) -> tuple[Cell, ...]:
        """One cell per seed: of these, or of all that the stage has."""
        config = self.configs[stage, arm, point]
        named = arm_label(config) if self.shared else arm
        folder = run_path(runs_dir, config, named).parent  # a hash has no seed, and costs a survey
        digest = config.hash if self.elsewhere else ""  # most of its time if made for each cell
        found = []
        for seed in self.seeds(stage) if seeds is None else seeds:
            seeded = config.model_copy(update={"seed": seed})
            words = [arm, *(show_point(point),) * bool(point), f"seed {seed}"]
            label = " ".join([*words, *("on held-out images",) * (stage == "each")])
            there = self.elsewhere.get((digest, seed))
            root = folder / f"s{seed}" if there is None else there.root
            found.append(Cell(root, named, label, seeded))
        return tuple(found)

    def files_of(self, cell: Cell) -> RunFiles:
        """Where a cell's files are read."""
        if not self.elsewhere:
            return RunFiles(cell.root)
        there = self.elsewhere.get((cell.config.hash, cell.config.seed))
        return RunFiles(cell.root) if there is None else there

    def possible_roots(self, runs_dir: Path) -> frozenset[Path]:
        """Run directories of all cells that the study may come to need."""
        return frozenset(
            cell.root for key in self.configs for cell in self.cells(*key, runs_dir=runs_dir)
        )


def load_study(
    file: Path, overrides: Sequence[str] = (), *, runs_dir: Path, name: str | None = None
) -> Study:
    """Read and check a study file.

    Args:
        file: The study file.
        overrides: `--set` assignments for all arms. Without any, those that the study was run
            with before count again.
        runs_dir: Folder of all runs, where the study as it was run is kept.
        name: Another name than the file's.

    Raises:
        ConfigError: With every fault found, one a line, each with its place.
    """
    refuse_archive(runs_dir)
    plain = load_plan(file, overrides, name=name)
    stored = stored_layer(StoredStudies(runs_dir), f"{plain.spec.name}/{STORED}")
    plan = load_plan(file, overrides, name=name, stored=stored)
    own, now = plain.spec.overrides, plan.spec.overrides
    return Study(**vars(plan), remembered=tuple(now) if now != own else ())


def refuse_archive(runs_dir: Path) -> None:
    """Studies train, and what is trained lies in a folder.

    Raises:
        ConfigError: If the folder of all runs is a file.
    """
    if runs_dir.is_file():
        raise ConfigError(
            f"--runs-dir {runs_dir}: an archive; a study trains into a folder, so put the archive "
            "into one, where claims count its runs, or unpack it there (tar -xf)"
        )


def load_shared_study(
    file: Path,
    overrides: Sequence[str],
    *,
    runs_dir: Path,
    name: str,
    preset: str,
    stored: str,
    network: Layer | None = None,
) -> Study:
    """A study of which every run counts that is finished anywhere below `runs_dir`.

    Args:
        file: The study file.
        overrides: As for `load_study`.
        runs_dir: Folder of all runs.
        name: The folder below it that such studies share.
        preset: One of the file's presets.
        stored: Where the study is kept as it was run, below `runs_dir`.
        network: Another network than the file's.

    Raises:
        ConfigError: As `load_study`.
    """
    refuse_archive(runs_dir)
    plan = load_plan(
        file,
        overrides,
        name=name,
        preset=preset,
        network=network,
        stored=stored_layer(StoredStudies(runs_dir), stored),
    )
    return Study(
        **vars(plan),
        stored=runs_dir / stored,
        shared=True,
        elsewhere=finished_runs(runs_dir),
    )


def finished_runs(runs_dir: Path) -> dict[tuple[str, int], RunFiles]:
    """Finished runs by configuration hash and seed; of several alike, the first by path."""
    found: dict[tuple[str, int], RunFiles] = {}
    for run in find_runs([runs_dir]).runs if runs_dir.exists() else ():
        try:
            summary = read_summary(run)
        except BnlabError:
            continue  # unfinished, foreign or damaged: nothing to count
        if summary.config_hash is not None and summary.seed is not None:
            found.setdefault((summary.config_hash, summary.seed), run)
    return found


def stored_path(runs_dir: Path, name: str) -> Path:
    """Where a study is kept as it was run last."""
    return runs_dir / name / STORED
