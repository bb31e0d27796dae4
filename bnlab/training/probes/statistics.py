"""One trained network, tested by several statistics (Wu and Johnson 2021, arXiv:2105.07576)."""

from torch import nn

from bnlab.training.probes import PROBES
from bnlab.training.probes._base import Sample, eval_mode, loss_and_accuracy
from bnlab.training.probes._running import (
    LARGE_BATCH,
    average_statistics,
    in_training,
    of_whole_batches,
    tracking_norms,
)


@PROBES.register("statistics", facts=("last", "costly"))
def statistics(model: nn.Module, sample: Sample) -> dict[str, float]:
    """Test loss and accuracy by statistics other than the running ones.

    `probe/test_accuracy/<statistics>` and `probe/test_loss/<statistics>`, where these are

    - `population`: those of up to 10,000 training images, not augmented, averaged over batches of
      the training size (Wu and Johnson's PreciseBN). Training, and so the running statistics, see
      augmented ones, which differ in their black borders: the probe `inference` has both;
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
            with of_whole_batches(norms):
                measure("batches_of_128", LARGE_BATCH)
            average_statistics(model, norms, sample.train(sample.batch_size))
        measure("population", 10 * LARGE_BATCH)
    return values
