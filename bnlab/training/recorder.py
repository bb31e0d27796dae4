"""Where measurements go: metrics.jsonl, which counts, and TensorBoard, derived from it."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.tensorboard import summary as torch_summaries

from bnlab.config import Config
from bnlab.records import RunDir, Status, summaries
from bnlab.records.events import EventFile
from bnlab.training.lane import alone
from bnlab.training.pictures import draw_batch, draw_confusion

HISTOGRAM_VALUES = 4096
"""Values per histogram; larger tensors are thinned evenly (a million would cost 70 ms)."""


class Recorder:
    """Writes one run's metrics; use `open_recorder`."""

    def __init__(self, run_dir: RunDir, events: EventFile, *, histograms: bool) -> None:
        self._run_dir, self._events, self._histograms = run_dir, events, histograms
        self._laid_out = False

    def write(self, record: Mapping[str, Any], norms: Mapping[str, nn.Module]) -> None:
        """Record one epoch.

        Args:
            record: The metrics line: epoch, step and values by tag.
            norms: The normalizers by name, whose gamma and beta are drawn as histograms.
        """
        self._run_dir.append_metrics(record)
        if not self._laid_out:  # TensorBoard reads the first layout of a run and no other
            self._events.add(summaries.run_charts(record))
            self._laid_out = True
        self._events.add(summaries.scalars(record), record["epoch"])
        if self._histograms:
            self._draw(norms, record["epoch"])
        self._events.flush()

    def _draw(self, norms: Mapping[str, nn.Module], epoch: int) -> None:
        for tag, values in _read(norms).items():
            if values.isfinite().all():
                self._events.add(torch_summaries.histogram(tag, values, bins="auto"), epoch)

    def show_batch(self, images: Tensor) -> None:
        """Show what training begins with: images uint8 (B, C, H, W) on the CPU."""
        self._events.add(summaries.picture("augmented batch", *draw_batch(images)))
        self._events.flush()

    def show_confusion(self, counts: Tensor, classes: Sequence[str], epoch: int) -> None:
        """Show how often images of each class (rows) were told for each (columns); int64."""
        drawn = draw_confusion(counts, classes)
        self._events.add(summaries.picture("confusion matrix", *drawn), epoch)
        self._events.flush()

    def end(self, status: Status) -> None:
        """Tell TensorBoard how the run ended."""
        self._events.add(summaries.session_end(status))
        self._events.flush()


def open_recorder(
    run_dir: RunDir, config: Config, *, epochs_done: int, histograms: bool = True
) -> Recorder:
    """A recorder that goes on after `epochs_done` epochs; what was written after them is dropped.

    TensorBoard shows epochs on its horizontal axis. On resuming, `purge_step` makes it forget the
    events of epochs that will be trained again, so that no curve runs back.

    Args:
        run_dir: The run; all seeds of an arm lie in one folder, whose name is their group's.
        config: For TensorBoard's table of hyperparameters.
        epochs_done: Epochs whose records stay.
        histograms: Draw gamma and beta.
    """
    run_dir.keep_metrics(epochs_done)
    purge_step = epochs_done + 1 if run_dir.tensorboard.exists() else None
    events = EventFile(run_dir.tensorboard, purge_step)
    group, metrics = run_dir.root.resolve().parent.name, summaries.scores_of([config])
    for summary in summaries.session(group, summaries.short_hparams(config), metrics):
        events.add(summary)
    events.flush()
    return Recorder(run_dir, events, histograms=histograms)


def _read(norms: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Gamma and beta of the normalizers by tag, thinned, on the CPU."""
    read = dict[str, Tensor]()
    for name, norm in norms.items():
        for parameter, values in norm.named_parameters():
            flat = values.detach().flatten()
            tag = f"{summaries.HISTOGRAMS}/{name}/{parameter}"
            with alone(values.device):
                read[tag] = flat[:: -(-len(flat) // HISTOGRAM_VALUES)].cpu()
    return read
