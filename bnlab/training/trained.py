"""A run's network for use: with the normalization of its inputs and the names of its classes."""

import torch
from torch import Tensor, nn

from bnlab.config import Config, ModelConfig
from bnlab.errors import RefusedError
from bnlab.records import RunDir, read_config, read_facts
from bnlab.training.batches import Normalize, fit_normalize
from bnlab.training.checkpoint import first_line, read_checkpoint
from bnlab.training.models import build_model

FITTED = ("minmax", "zscore")
"""Values of `dataset.normalize` that the training images settle."""


class TrainedNetwork(nn.Module):
    """From pixels to logits.

    Attributes:
        network: From normalized images to logits.
        classes: Class names, in the order of the logits.
    """

    def __init__(self, network: nn.Module, normalize: Normalize, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.classes = network, classes
        self.register_buffer("scale", normalize.scale)
        self.register_buffer("shift", normalize.shift)
        self._per_image = normalize.per_image

    scale: Tensor
    shift: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images.

        Args:
            images: uint8, (N, C, H, W), RGB, [0, 255].

        Returns:
            float32, (N, classes).
        """
        logits: Tensor = self.network(self.normalize.apply(images))
        return logits

    @property
    def normalize(self) -> Normalize:
        """From pixels to what the network takes."""
        return Normalize(self.scale, self.shift, self._per_image)


def load_network(run_dir: RunDir, *, trust: bool = False) -> TrainedNetwork:
    """The network of a run as its checkpoint has it, on the CPU, in eval mode.

    Args:
        run_dir: The run.
        trust: Run the Python file that the run recorded, where its network is made by one.

    Raises:
        RefusedError: If the run has no checkpoint (an archive has none), or one that does not fit;
            or if its network is made by a file that is not trusted.
        BnlabError: If its record cannot be read.
    """
    if not run_dir.checkpoint.exists():
        raise RefusedError(
            f"{run_dir.checkpoint}: missing; the weights of a run are in its checkpoint, which "
            "archives leave behind: train it again, or copy the run directory whole"
        )
    config, facts = read_config(run_dir.files), read_facts(run_dir.files)
    state = read_checkpoint(run_dir)
    if (state["config_hash"], state.get("seed", config.seed)) != (config.hash, config.seed):
        raise RefusedError(f"{run_dir.checkpoint}: the checkpoint of another run")
    classes = facts.dataset.classes
    network = build_model(
        model_of(run_dir, config, trust=trust),
        in_shape=config.dataset.image_shape,
        num_classes=len(classes),
        seed=config.seed,
    )
    try:
        network.load_state_dict(state["model"])
    except Exception as error:  # noqa: BLE001 - the file may be anybody's
        raise RefusedError(
            f"{run_dir.checkpoint}: does not fit this bnlab's network: {first_line(error)}"
        ) from None
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return TrainedNetwork(network, _normalization(run_dir, config, state), classes).eval()


def model_of(run_dir: RunDir, config: Config, *, trust: bool) -> ModelConfig:
    """What makes a run's network: where that is a file, the one that the run recorded.

    Raises:
        RefusedError: If it is a file that is not trusted.
    """
    model = config.model
    if model.file is None:
        return model
    if not trust:
        raise RefusedError(
            f"{run_dir.root}: its network is made by Python code, kept in {run_dir.source}; look "
            "at it, then say that you trust it (trust=True, or --trust) to have it run"
        )
    function = model.file.rpartition(":")[2]
    return model.model_copy(update={"file": f"{run_dir.source}:{function}"})


def _normalization(run_dir: RunDir, config: Config, state: dict[str, Tensor]) -> Normalize:
    if "input_scale" in state:
        per_image = config.dataset.normalize == "per_image"
        return Normalize(state["input_scale"], state["input_shift"], per_image)
    if config.dataset.normalize in FITTED:
        raise RefusedError(
            f"{run_dir.checkpoint}: made before checkpoints kept the normalization of the inputs, "
            f"which dataset.normalize={config.dataset.normalize} takes from the training images; "
            "train the run again"
        )
    return fit_normalize(
        config.dataset.normalize,
        torch.zeros(1, config.dataset.image_shape[0], 1, 1, dtype=torch.uint8),
    )
