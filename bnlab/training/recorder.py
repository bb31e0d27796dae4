"""Where measurements go: metrics.jsonl, which counts, and TensorBoard, derived from it."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.tensorboard import summary as summaries

from bnlab.config import Config, flatten
from bnlab.records import RunDir
from bnlab.records.events import EventFile
from bnlab.training.lane import alone

HISTOGRAM_VALUES = 4096
"""Values per histogram; larger tensors are thinned evenly (a million would cost 70 ms)."""

_RENAMED = {"seconds": "time/seconds", "images_per_second": "time/images_per_second"}


class Recorder:
    """Writes one run's metrics; use `open_recorder`."""

    def __init__(self, run_dir: RunDir, events: EventFile) -> None:
        self._run_dir, self._events = run_dir, events
        self._laid_out = False

    def write(self, record: Mapping[str, Any], norms: Mapping[str, nn.Module]) -> None:
        """Record one epoch.

        Args:
            record: The metrics line: epoch, step and values by tag.
            norms: The normalizers by name, whose gamma and beta are drawn as histograms.
        """
        self._run_dir.append_metrics(record)
        self._draw(record, norms)

    def _draw(self, record: Mapping[str, Any], norms: Mapping[str, nn.Module]) -> None:
        epoch = record["epoch"]
        if not self._laid_out:  # TensorBoard reads the first layout of a run and no other
            self._events.add(summaries.custom_scalars(_layout(record)))
            self._laid_out = True
        for tag, value in record.items():
            if tag not in {"epoch", "step"}:
                self._events.add(summaries.scalar(_RENAMED.get(tag, tag), value), epoch)
        for tag, values in _read(norms).items():
            if values.isfinite().all():
                self._events.add(summaries.histogram(tag, values, bins="auto"), epoch)
        self._events.flush()


def open_recorder(run_dir: RunDir, config: Config, *, epochs_done: int) -> Recorder:
    """A recorder that goes on after `epochs_done` epochs; what was written after them is dropped.

    TensorBoard shows epochs on its horizontal axis. On resuming, `purge_step` makes it forget the
    events of epochs that will be trained again, so that no curve runs back.

    Args:
        run_dir: The run.
        config: For TensorBoard's table of hyperparameters.
        epochs_done: Epochs whose records stay.
    """
    run_dir.keep_metrics(epochs_done)
    purge_step = epochs_done + 1 if run_dir.tensorboard.exists() else None
    events = EventFile(run_dir.tensorboard, purge_step)
    # Into the same file: a SummaryWriter's `add_hparams` would open a second run.
    metrics = ("test/accuracy", "test/loss", "train/accuracy", "train/loss")
    for summary in summaries.hparams(_hparams(config), dict.fromkeys(metrics)):
        events.add(summary)
    events.flush()
    return Recorder(run_dir, events)


def _layout(tags: Iterable[str]) -> dict[str, dict[str, list[Any]]]:
    """Charts that overlay train with test, and of each probed quantity all layers."""
    probed = dict.fromkeys(tag.split("/")[1] for tag in tags if tag.startswith("probe/"))
    return {
        "train and test": {
            "loss": ["Multiline", [r"^(train|val|test)/loss$"]],
            "accuracy": ["Multiline", [r"^(train|val|test)/accuracy$"]],
        },
        "inside the network": {
            quantity: ["Multiline", [f"^probe/{re.escape(quantity)}/"]] for quantity in probed
        },
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


def _read(norms: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Gamma and beta of the normalizers by tag, thinned, on the CPU."""
    read = dict[str, Tensor]()
    for name, norm in norms.items():
        for parameter, values in norm.named_parameters():
            flat = values.detach().flatten()
            with alone(values.device):
                read[f"norm/{name}/{parameter}"] = flat[:: -(-len(flat) // HISTOGRAM_VALUES)].cpu()
    return read
