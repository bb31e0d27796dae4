"""A run's network as one file for use without bnlab."""

import importlib.util
import io
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from bnlab import __version__
from bnlab.config import Config
from bnlab.errors import ConfigError, RefusedError
from bnlab.records import RunDir, RunFacts, read_config, read_facts
from bnlab.records.storage import write_bytes
from bnlab.training.checkpoint import packed
from bnlab.training.folding import Folding, fold
from bnlab.training.trained import TrainedNetwork, load_network

Format: TypeAlias = Literal["state", "torch", "onnx"]

TOLERANCE = 1e-3
"""Of the largest logit: rounding gives 1e-6; more than this is another network."""

CHECK_IMAGES = 16
"""Random images on which a folded network is held against the network."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file.
        format: Its kind.
        size: In bytes.
        foldings: What became of each normalizer; empty if none was to be folded.
        difference: The largest difference that folding makes to a logit of random images, as a
            fraction of the largest logit; None without folding.
        header: What the file says of itself.
    """

    path: Path
    format: Format
    size: int
    foldings: tuple[Folding, ...]
    difference: float | None
    header: Mapping[str, Any]

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": str(self.path),
            "format": self.format,
            "bytes": self.size,
            "header": dict(self.header),
        }


def export_run(
    run_dir: RunDir,
    path: Path,
    *,
    format: Format = "state",  # noqa: A002 - as the flag is called
    folded: bool = True,
    trust: bool = False,
) -> Exported:
    """Write a run's network, in eval mode and fp32, into one file.

    Args:
        run_dir: The run.
        path: The file, which must not exist.
        format: `state` is for `torch.load(weights_only=True)`: `header`, in types of JSON, and
            `state_dict`. `torch` (torch.export.save) and `onnx` hold the computation itself, from
            uint8 images to logits.
        folded: Make batch norms part of the layers in front of them, where that can be.
        trust: Run the Python file that the run recorded, where its network is made by one.

    Raises:
        ConfigError: If the format needs packages that are not there.
        RefusedError: If the file exists, the run has no checkpoint that fits or is not trusted,
            the network cannot be exported so, or folding would change what it computes.
        StorageError: If the disk takes no more.
    """
    if path.exists():
        raise RefusedError(f"{path}: is there already; choose another name, or delete it first")
    if format == "onnx":
        _require_onnx()
    network = load_network(run_dir, trust=trust)
    config, facts = read_config(run_dir.files), read_facts(run_dir.files)
    foldings: tuple[Folding, ...] = ()
    difference = None
    if folded:
        images = _random_images(config)
        with torch.no_grad():
            before = network(images)
        network.network, foldings = fold(network.network, config.dataset.image_shape)
        with torch.no_grad():
            difference = _difference(before, network(images), run_dir)
    header = {
        **_header(run_dir, config, facts, network),
        "folded": {one.norm: one.into for one in foldings if one.into},
        "kept": {one.norm: f"{one.kind}: {one.why}" for one in foldings if one.why},
        "largest_difference": difference,
    }
    data = _WRITERS[format](network, header, _random_images(config))
    write_bytes(path, data)
    return Exported(path, format, len(data), foldings, difference, header)


def _random_images(config: Config) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (CHECK_IMAGES, *config.dataset.image_shape)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def _difference(before: torch.Tensor, after: torch.Tensor, run_dir: RunDir) -> float:
    found = float((after - before).abs().max() / before.abs().max().clamp(min=1e-30))
    if not found <= TOLERANCE:  # NaN is not either
        raise RefusedError(
            f"{run_dir.root}: with its normalizers folded, the network's logits of random images "
            f"differ by {found:.1e} of the largest one, more than {TOLERANCE:.0e}; use --no-fold"
        )
    return found


def _header(
    run_dir: RunDir, config: Config, facts: RunFacts, network: TrainedNetwork
) -> dict[str, Any]:
    """What one must know to use the weights; types of JSON only."""
    resolved = config.resolved()
    normalize = network.normalize
    return {
        "made_by": f"bnlab {__version__}",
        "run": run_dir.files.path,
        "arm": facts.arm,
        "seed": config.seed,
        "status": facts.status,
        "config_hash": config.hash,
        "network": {key: value for key, value in resolved["model"].items() if key != "init"},
        "classes": list(network.classes),
        "input": {
            "shape": list(config.dataset.image_shape),
            "pixels": "0 to 255",
            "normalize": config.dataset.normalize,
            "scale": normalize.scale.flatten().tolist(),
            "shift": normalize.shift.flatten().tolist(),
            "per_image": normalize.per_image,
        },
    }


def _state(network: TrainedNetwork, header: Mapping[str, Any], _images: torch.Tensor) -> bytes:
    weights = {
        name: value.contiguous() if isinstance(value, torch.Tensor) else value
        for name, value in network.network.state_dict().items()
    }
    return packed({"header": header, "state_dict": weights})


def _program(network: TrainedNetwork, header: Mapping[str, Any], images: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    files = {"header.json": json.dumps(header)}
    program = _exported(network, images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that share a storage
        torch.export.save(program, buffer, extra_files=files)
    return buffer.getvalue()


def _exported(network: nn.Module, images: torch.Tensor) -> torch.export.ExportedProgram:
    """The computation for any number of images, held against the network's own."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                network, (images,), dynamic_shapes=({0: torch.export.Dim("images", min=1)},)
            )
            torch.testing.assert_close(program.module()(images[:3]), network(images[:3]))
    except Exception as error:
        raise _cannot("torch.export", error) from error
    return program


def _cannot(what: str, error: Exception) -> RefusedError:
    said = str(error).strip().partition("\n")[0]
    return RefusedError(
        f"{what} cannot take this network: {type(error).__name__}: {said}; use --format state"
    )


def _onnx(network: TrainedNetwork, header: Mapping[str, Any], images: torch.Tensor) -> bytes:
    exported = _exported(network, images)
    names: Any = {"input_names": ["images"], "output_names": ["logits"]}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(exported, **names, dynamo=True, verbose=False)
        assert program is not None
        model: Any = program.model_proto
        for key, value in header.items():
            model.metadata_props.add(key=key, value=json.dumps(value))
        data: bytes = model.SerializeToString()
    except Exception as error:
        raise _cannot("torch.onnx", error) from error
    return data


def _require_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--format onnx: torch needs {' and '.join(missing)} for it, which bnlab does not "
            f"bring: pip install {' '.join(missing)}"
        )


_WRITERS: Mapping[Format, Callable[[TrainedNetwork, Mapping[str, Any], torch.Tensor], bytes]] = {
    "state": _state,
    "torch": _program,
    "onnx": _onnx,
}
