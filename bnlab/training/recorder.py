"""Where measurements go: metrics.jsonl, which counts, and TensorBoard, derived from it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams as hparams_summaries

from bnlab.config import Config, flatten
from bnlab.records import RunDir, storage

HISTOGRAM_VALUES = 4096
"""Values per histogram; larger tensors are thinned evenly (a million would cost 70 ms)."""

_RENAMED = {"seconds": "time/seconds", "images_per_second": "time/images_per_second"}


class Recorder:
    """Writes one run's metrics; use `open_recorder`."""

    def __init__(self, run_dir: RunDir, writer: SummaryWriter) -> None:
        self._run_dir, self._writer = run_dir, writer

    def write(self, record: Mapping[str, Any], norms: Mapping[str, nn.Module]) -> None:
        """Record one epoch.

        Args:
            record: The metrics line: epoch, step and values by tag.
            norms: The normalizers by name, whose gamma and beta are drawn as histograms.
        """
        self._run_dir.append_metrics(record)
        with storage(self._run_dir.tensorboard):
            self._draw(record, norms)

    def _draw(self, record: Mapping[str, Any], norms: Mapping[str, nn.Module]) -> None:
        epoch = record["epoch"]
        for tag, value in record.items():
            if tag not in {"epoch", "step"}:
                self._writer.add_scalar(_RENAMED.get(tag, tag), value, epoch)
        for name, norm in norms.items():
            for parameter, values in norm.named_parameters():
                if values.detach().isfinite().all():
                    self._writer.add_histogram(
                        f"norm/{name}/{parameter}", _thin(values), epoch, bins="auto"
                    )
        self._writer.flush()


@contextmanager
def open_recorder(
    run_dir: RunDir, config: Config, layers: Iterable[str], *, epochs_done: int
) -> Iterator[Recorder]:
    """A recorder that goes on after `epochs_done` epochs; what was written after them is dropped.

    TensorBoard shows epochs on its horizontal axis. On resuming, `purge_step` makes it forget the
    events of epochs that will be trained again, so that no curve runs back.

    Args:
        run_dir: The run.
        config: For TensorBoard's table of hyperparameters.
        layers: Layers with gradient norms, one chart each.
        epochs_done: Epochs whose records stay.
    """
    run_dir.keep_metrics(epochs_done)
    with storage(run_dir.tensorboard):
        writer = SummaryWriter(
            str(run_dir.tensorboard),
            purge_step=epochs_done + 1 if run_dir.tensorboard.exists() else None,
        )
    try:
        writer.add_custom_scalars(_layout(layers))
        # Not `add_hparams`: it would open a second run named by the time of day.
        for summary in hparams_summaries(
            _hparams(config),
            {"test/accuracy": None, "test/loss": None, "train/accuracy": None, "train/loss": None},
        ):
            writer._get_file_writer().add_summary(summary)  # noqa: SLF001 - no public way
        yield Recorder(run_dir, writer)
    finally:
        writer.close()


def _layout(layers: Iterable[str]) -> dict[str, dict[str, list[Any]]]:
    """Charts that overlay train with test, and the runs' gradient norms layer by layer."""
    return {
        "train and test": {
            "loss": ["Multiline", [r"^(train|val|test)/loss$"]],
            "accuracy": ["Multiline", [r"^(train|val|test)/accuracy$"]],
        },
        "gradient norm": {layer: ["Multiline", [f"^probe/grad_norm/{layer}$"]] for layer in layers},
    }


def _hparams(config: Config) -> dict[str, Any]:
    """Every key of the schema, so that all runs have the same columns."""
    resolved = flatten(config.resolved())
    every = flatten(config.model_dump(mode="json"))
    return {key: _scalar(resolved.get(key, "-")) for key in every if key != "dataset.root"}


def _scalar(value: Any) -> float | str:
    # TensorBoard would show booleans as 0.0000 and 1.0000.
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value).lower()
    return value


def _thin(values: Tensor) -> Tensor:
    flat = values.detach().flatten()
    return flat[:: -(-len(flat) // HISTOGRAM_VALUES)]
