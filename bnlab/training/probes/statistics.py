"""One trained network, tested by several statistics (Wu and Johnson 2021, arXiv:2105.07576)."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from bnlab.training.probes import PROBES
from bnlab.training.probes._base import Sample, eval_mode, loss_and_accuracy

LARGE_BATCH = 128
"""Images behind the statistics of `batches_of_128`."""


@PROBES.register("statistics", facts=("last",))
def statistics(model: nn.Module, sample: Sample) -> dict[str, float]:
    """Test loss and accuracy by statistics other than the running ones.

    `probe/test_accuracy/<statistics>` and `probe/test_loss/<statistics>`, where these are

    - `population`: those of up to 10,000 training images, not augmented, averaged over batches of
      the training size (Wu and Johnson's PreciseBN);
    - `as_trained`: the test batch's own, in batches of the training size, ghost batches included;
    - `batches_of_128`: the test batch's own over 128 images, whatever the training had.

    Less `as_trained`, the record's `test/accuracy` shows what the change from a batch's statistics
    to running ones costs. Nothing is given for a network without running statistics.
    """
    norms = tracking_norms(model)
    if not norms or sample.train is None or sample.test is None:
        return {}
    values: dict[str, float] = {}

    def measure(name: str, size: int) -> None:
        loss, accuracy = loss_and_accuracy(
            model, sample.test(size) if sample.test is not None else ()
        )
        values[f"probe/test_loss/{name}"] = loss
        values[f"probe/test_accuracy/{name}"] = accuracy

    with eval_mode(model):
        with in_training(norms):
            measure("as_trained", sample.batch_size)
            with _of_whole_batches(norms):
                measure("batches_of_128", LARGE_BATCH)
            average_statistics(model, norms, sample.train(sample.batch_size))
        measure("population", 10 * LARGE_BATCH)
    return values


def tracking_norms(model: nn.Module) -> list[nn.Module]:
    """Normalizers that take a batch's statistics and keep running ones by a momentum."""
    return [
        module
        for module in model.modules()
        if isinstance(getattr(module, "momentum", None), float)
        and getattr(module, "num_batches_tracked", None) is not None
    ]


def average_statistics(
    model: nn.Module, norms: list[nn.Module], batches: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """Make the running statistics plain averages over batches of training images.

    Args:
        model: In eval mode.
        norms: Those of its normalizers that track, in training mode.
        batches: Images, normalized, and labels.
    """
    momenta = [norm.momentum for norm in norms]
    try:
        for number, (images, _labels) in enumerate(batches, 1):
            for norm in norms:
                norm.momentum = 1 / number  # type: ignore[assignment]
            model(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


@contextmanager
def in_training(norms: list[nn.Module]) -> Iterator[None]:
    """Let these normalizers, and nothing else, behave as in training."""
    for norm in norms:
        norm.train()
    try:
        yield
    finally:
        for norm in norms:
            norm.eval()


@contextmanager
def _of_whole_batches(norms: list[nn.Module]) -> Iterator[None]:
    """Take ghost batches as large as they come."""
    sizes = [(norm, norm.ghost_size) for norm in norms if hasattr(norm, "ghost_size")]
    try:
        for norm, _ in sizes:
            norm.ghost_size = LARGE_BATCH  # type: ignore[assignment]
        yield
    finally:
        for norm, size in sizes:
            norm.ghost_size = size
