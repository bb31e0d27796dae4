"""How well the training images are fitted, as at test time: one side of a generalization gap."""

from torch import nn

from bnlab.training.probes import PROBES
from bnlab.training.probes._base import Sample, eval_mode, loss_and_accuracy


@PROBES.register("fit")
def measure_fit(model: nn.Module, sample: Sample) -> dict[str, float]:
    """Loss and accuracy on training images in eval mode, not augmented.

    `probe/eval_loss/train` in nats and `probe/eval_accuracy/train` as a fraction. The training loss
    of a record is another thing: the mean over an epoch of augmented images, while weights change,
    with dropout and with the batch's own statistics. The gap to the test loss at one value of
    `eval_loss` compares arms that fit equally well, however fast they got there.
    """
    with eval_mode(model):
        loss, accuracy = loss_and_accuracy(model, [(sample.images, sample.labels)])
    return {"probe/eval_loss/train": loss, "probe/eval_accuracy/train": accuracy}
