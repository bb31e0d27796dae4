"""What `import bnlab` gives: the commands as functions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from bnlab import analysis
from bnlab.analysis import Comparison, Options, Run
from bnlab.claims import Finding, find_findings, find_network
from bnlab.config import Config
from bnlab.config import load_config as read_config_files
from bnlab.errors import ConfigError
from bnlab.records import RunDir, find_run, run_path

if TYPE_CHECKING:
    from bnlab.training.evaluation import Evaluation, PrecisionName, SplitName, Statistics
    from bnlab.training.export import Exported, Format
    from bnlab.training.trained import TrainedNetwork

PathLike: TypeAlias = str | Path


def load_config(*files: PathLike, set: Sequence[str] = (), **flags: Any) -> Config:  # noqa: A002 - as the flag is called
    """A configuration: defaults, then files in order, then assignments, then flags.

    Args:
        files: YAML files.
        set: Assignments as `--set` takes them, `"optim.lr=0.01"`.
        flags: `seed` and `name`.

    Raises:
        ConfigError: With every fault found, one a line, each with its file and line.
    """
    return read_config_files([Path(file) for file in files], list(set), flags=flags)


def train(config: Config, runs_dir: PathLike = "runs", *, device: str = "auto") -> Run:
    """Train one run, or go on with it, and read it back; a finished one is only read.

    Args:
        config: What to train.
        runs_dir: Folder of all runs.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        RefusedError: If another process trains it, or what is there does not fit it.
        BnlabError: On a mistake in data or configuration, or a disk that takes no more.
    """
    from bnlab.training.experiment import RunOptions, run_experiment

    root = run_path(Path(runs_dir), config)
    if not RunDir(root).finished:
        run_experiment(config, root, RunOptions(device=device, resume="auto"))
    return load_run(root)


def load_run(path: PathLike) -> Run:
    """The finished run at a path (a run directory, or a place in an archive).

    Raises:
        ConfigError: If there is none, or there are several.
        BnlabError: If it is unfinished or cannot be read.
    """
    found, remarks = analysis.load_runs([find_run(Path(path)).root])
    if not found:
        raise ConfigError(f"{path}: {'; '.join(remark.what for remark in remarks)}")
    return found[0]


def load_runs(*paths: PathLike) -> list[Run]:
    """Every finished run at or below some paths: folders, archives, glob patterns.

    Raises:
        ConfigError: If a path does not exist.
    """
    return analysis.load_runs([Path(path) for path in paths])[0]


def load_model(run: Run | PathLike, *, trust: bool = False) -> "TrainedNetwork":
    """The trained network of a run: uint8 images (N, 3, 32, 32) to logits, with its `classes`.

    Args:
        run: A run, or its directory.
        trust: Run the Python file that the run recorded, where its network is made by one
            (`model.file`). Look at it first if the run is not yours.

    Raises:
        RefusedError: If the run has no checkpoint that fits, or is not trusted.
    """
    from bnlab.training.trained import load_network

    return load_network(_run_dir(run), trust=trust)


def evaluate(
    run: Run | PathLike,
    *,
    set: Sequence[str] = (),  # noqa: A002 - as the flag is called
    statistics: "Statistics" = "running",
    split: "SplitName" = "test",
    batch_size: int | None = None,
    device: str = "auto",
    precision: "PrecisionName | None" = None,
    trust: bool = False,
) -> "Evaluation":
    """Test a run's network anew, on images that are not augmented. Nothing is written.

    Args:
        run: A run, or its directory.
        set: Other images, `"dataset.name=folder"`; or more or fewer, `"dataset.test_size=1000"`.
            They are normalized as the run's were.
        statistics: Batch norm's: `running` as the run left them, `population` of up to 10,000
            training images, `batch` of each batch.
        split: `test`, `val` or `train`.
        batch_size: Images a batch; by default as in the run.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: By default that of the run's configuration.
        trust: As for `load_model`.

    Returns:
        `accuracy`, `loss`, `images`, `classes` (of each its `images` and `accuracy`), `notes`.

    Raises:
        ConfigError: If the images do not fit the network, or the network the statistics.
        DataError: If the images are missing, damaged or fewer than asked for.
        RefusedError: If the run has no checkpoint that fits, or is not trusted.
    """
    from bnlab.training.evaluation import evaluate_run

    return evaluate_run(
        _run_dir(run),
        sets=set,
        statistics=statistics,
        split=split,
        batch_size=batch_size,
        device=device,
        precision=precision,
        trust=trust,
    )


def export(
    run: Run | PathLike,
    path: PathLike,
    *,
    format: "Format" = "state",  # noqa: A002 - as the flag is called
    fold: bool = True,
    trust: bool = False,
) -> "Exported":
    """Write a run's network, in eval mode and fp32, into one file.

    Args:
        run: A run, or its directory.
        path: The file, which must not exist.
        format: `state` is for `torch.load(path, weights_only=True)`: a dictionary of `header`
            (network, classes, normalization of the inputs, ...) and `state_dict`. `torch` (for
            `torch.export.load`) and `onnx` hold the computation from uint8 images to logits.
        fold: Make batch norms part of the convolutions and linear layers right in front of them.
        trust: As for `load_model`.

    Returns:
        `foldings` (what became of each normalizer), `difference`, `header`, `size`.

    Raises:
        ConfigError: If the format needs packages that are not there.
        RefusedError: If the file exists, the run has no checkpoint that fits or is not trusted,
            the network cannot be exported so, or folding would change what it computes.
        BnlabError: If the disk takes no more.
    """
    from bnlab.training.export import export_run

    return export_run(_run_dir(run), Path(path), format=format, folded=fold, trust=trust)


def _run_dir(run: Run | PathLike) -> RunDir:
    return RunDir(run.root if isinstance(run, Run) else find_run(Path(run)).root)


def compare(runs: Sequence[Run], **options: Any) -> Comparison:
    """Effects of every arm against the baseline, paired by seed, with intervals and verdicts.

    Args:
        runs: As `load_runs` gives them.
        options: Fields of `bnlab.analysis.Options`: `metric`, `baseline`, `margin`, ...

    Raises:
        ConfigError: If there is nothing to compare.
        RefusedError: If the runs do not belong together.
    """
    return analysis.compare(runs, Options(**options))


def judge(runs_dir: PathLike = "runs", model: str | None = None) -> Mapping[str, Finding]:
    """Every claim by name, with its verdict from the runs at hand alone.

    Args:
        runs_dir: Folder of all runs.
        model: Another network than the documents', as `bnlab claims --model` names it; only its
            runs count.

    Raises:
        ConfigError: If there is no such network.
    """
    findings, _ = find_findings(Path(runs_dir), find_network(model))
    return {finding.claim.name: finding for finding in findings}
