"""One network, as it stands, tested by all the statistics that the documents would test it by."""

from collections.abc import Iterable

import torch
from torch import nn

from bnlab.training.probes import PROBES
from bnlab.training.probes._base import (
    POPULATION_IMAGES,
    Batch,
    Sample,
    eval_mode,
    loss_and_accuracy,
)
from bnlab.training.probes._running import (
    LARGE_BATCH,
    in_training,
    moments_of,
    of_whole_batches,
    set_statistics,
    tracking_norms,
)

SMALL_BATCH = 8
"""Images behind the statistics of `batches_of_8`."""


@PROBES.register("inference", facts=("costly",))
def inference(model: nn.Module, sample: Sample) -> dict[str, float]:
    """Test loss and accuracy by statistics other than the running ones, which the record has.

    After every epoch in which the run reads its test set: `probe/test_accuracy/<statistics>` and
    `probe/test_loss/<statistics>`, where these are

    - `batches_of_128`, `batches_of_8`: the test batch's own (document 001's missing `net.eval()`);
    - `sorted_batches`: likewise of 128 images, that are nearly all of one class;
    - `polluted`: the running ones after such a test in batches of 128, as 001 leaves them behind;
    - `document_002`: means over training batches of the mean and of m/(m-1) times the variance, the
      statistics that document 002 calls the population's. At given weights torch's cumulative
      average (momentum None) is the same number; over a training it averages other weights;
    - `pooled`: of all values of these batches together;
    - `pooled_plain`: the same of images that are not augmented.

    The first two populations are of up to 10,000 images of the coming epoch, in batches of the
    training size and augmented as training is, which is what running statistics estimate; plain
    images lack the black borders of a crop. Dropout is off. Nothing is given for a network without
    running statistics. The probe `statistics` has two of these once, after the last epoch.
    """
    norms = tracking_norms(model)
    if not norms or sample.train is None or sample.test is None or sample.ahead is None:
        return {}
    values: dict[str, float] = {}

    def measure(name: str, batches: Iterable[Batch]) -> None:
        values[f"probe/test_loss/{name}"], values[f"probe/test_accuracy/{name}"] = (
            loss_and_accuracy(model, batches)
        )

    large = list(sample.test(LARGE_BATCH))
    with eval_mode(model):
        with in_training(norms), of_whole_batches(norms):
            measure("batches_of_128", large)
        measure("polluted", large)
        with in_training(norms), of_whole_batches(norms):
            measure("batches_of_8", sample.test(SMALL_BATCH))
            measure("sorted_batches", _by_class(large))
        with in_training(norms):
            augmented = moments_of(model, norms, _first(sample.ahead()[1], POPULATION_IMAGES))
            plain = moments_of(model, norms, sample.train(sample.batch_size))
        for norm, found in augmented.items():
            set_statistics(norm, found.mean, found.variance)
        measure("document_002", large)
        for name, moments in (("pooled", augmented), ("pooled_plain", plain)):
            for norm, found in moments.items():
                set_statistics(norm, found.pooled_mean, found.pooled_variance)
            measure(name, large)
    return values


def _by_class(batches: Iterable[Batch]) -> Iterable[Batch]:
    """The same images in batches of 128, class after class."""
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    order = labels.argsort(stable=True)
    for part in order.split(LARGE_BATCH):
        if len(part) > 1:
            yield images[part], labels[part]


def _first(batches: Iterable[Batch], images: int) -> Iterable[Batch]:
    """So many batches as hold so many images."""
    seen = 0
    for batch in batches:
        yield batch
        seen += len(batch[1])
        if seen >= images:
            return
