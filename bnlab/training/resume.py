"""Whether a run may begin, may go on, or must be left alone."""

from typing import Literal

from bnlab.config import Config, DatasetConfig, differences
from bnlab.errors import RefusedError
from bnlab.records import RunDir, RunFacts, RunFiles, read_config, read_facts
from bnlab.records.files import RUN
from bnlab.training.datasets import DATASETS, Progress, silent

Resume = Literal["never", "auto", "must"]


def refuse_unless_allowed(run_dir: RunDir, config: Config, resume: Resume) -> None:
    """Refuse a run that is finished, or unfinished where that was not asked for.

    Raises:
        RefusedError: Naming what differs and what to do; or who trains it right now.
    """
    if run_dir.finished:
        raise RefusedError(
            f"{run_dir.root}: this run is finished; use --if-exists skip to accept it, another "
            "--seed or --name to train anew, or delete the folder"
        )
    if run_dir.started and resume == "never":
        if run_dir.hold is None:
            run_dir.refuse_if_locked()
        raise RefusedError(
            f"{run_dir.root}: an unfinished run is here; --resume auto continues it, or use "
            "another --name or delete the folder"
        )
    if run_dir.started:
        _refuse_other_config(run_dir, config)
    elif run_dir.traces:
        there = ", ".join(str(place.relative_to(run_dir.root)) for place in run_dir.traces)
        raise RefusedError(
            f"{run_dir.root}: a run has been here ({there}) but its config.yaml is lost, so it can "
            "be neither continued nor known for the same; put config.yaml back, use another "
            "--name, or delete the folder"
        )
    elif resume == "must":
        raise RefusedError(_nothing_to_resume(run_dir, config))


def _refuse_other_config(run_dir: RunDir, config: Config) -> None:
    stored = read_config(run_dir.files)
    if stored.hash != config.hash or stored.seed != config.seed:
        raise RefusedError(
            f"{run_dir.root}: --resume needs the configuration that the run was started with; "
            f"these keys differ:\n{_differing_keys(stored, config)}"
        )


def refuse_other_images(run: RunFiles, checksum: str | None, where: str) -> None:
    """Refuse to take a run for one of these images: where they lie is no part of its hash.

    Args:
        run: Finished or not; one that recorded no images is let pass.
        checksum: Of the images at hand; None if they follow from the configuration.
        where: They lie.

    Raises:
        RefusedError: Naming both.
    """
    stored = read_facts(run).dataset.checksum if run.has(RUN) else None
    if stored is not None and checksum is not None and stored != checksum:
        raise RefusedError(
            f"{run.root}: this run has other images than those in {where}: checksum "
            f"{checksum[:8]} here, {stored[:8]} there, from {read_config(run).dataset.root}; set "
            "dataset.root to its images, or use another --name or --runs-dir for these"
        )


def checksum_at_hand(config: DatasetConfig, progress: Progress = silent) -> str | None:
    """Which images a configuration would train on now: the configuration alone does not say.

    None for a source that has no `root`: its images follow from the configuration.

    Raises:
        ConfigError, DataError: As `load_splits`.
    """
    if "root" in config.idle_fields():
        return None
    return DATASETS[config.name](config, progress).checksum


def refuse_other_images_than_at_hand(
    run: RunFiles, config: Config, progress: Progress = silent
) -> None:
    """Look at the images of a configuration before a finished run of it is taken for its result.

    Raises:
        RefusedError: If the run has others.
        DataError: If they cannot be read.
    """
    refuse_other_images(run, checksum_at_hand(config.dataset, progress), config.dataset.root)


def _nothing_to_resume(run_dir: RunDir, config: Config) -> str:
    """Say that no run is there, and what differs in unfinished runs of the same name and seed."""
    message = f"{run_dir.root}: --resume must, but there is no run here"
    for other in sorted(run_dir.root.parent.parent.glob(f"*/{run_dir.root.name}")):
        if RunDir(other).started and not RunDir(other).finished:
            stored = read_config(RunDir(other).files)
            message += (
                f"\n{other}: unfinished, of another configuration; these keys differ:\n"
                f"{_differing_keys(stored, config)}"
            )
    return message


def _differing_keys(stored: Config, config: Config) -> str:
    found = differences(stored.resolved(), config.resolved())
    return "\n".join(f"  {key}: {was} -> {now}" for key, was, now in found)


def earlier_facts(run_dir: RunDir) -> RunFacts | None:
    """What earlier attempts at the run recorded; None if this is the first."""
    return read_facts(run_dir.files) if run_dir.run.exists() else None
