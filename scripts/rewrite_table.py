"""What `rewrite` does to torchvision's networks, as a table in Markdown.

Usage: .venv/bin/python scripts/rewrite_table.py [NETWORK]...
"""

import copy
import importlib
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bnlab.config import NormConfig
from bnlab.errors import ConfigError
from bnlab.training.datasets import torchvision_datasets
from bnlab.training.models._rewrite import Rewritten, rewrite
from bnlab.training.models._roles import roles

IN_SHAPE = (3, 64, 64)

NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "resnet18": {},
    "resnet50": {},
    "vgg11_bn": {},
    "vgg11": {},
    "alexnet": {},
    "mobilenet_v2": {},
    "mobilenet_v3_small": {},
    "densenet121": {},
    "googlenet": {"aux_logits": False, "init_weights": False},
    "shufflenet_v2_x0_5": {},
    "squeezenet1_0": {},
    "efficientnet_b0": {},
    "convnext_tiny": {},
}
"""torchvision's name, and what its builder is called with beside `weights=None`."""

SLOW = ("resnet50", "vgg11_bn", "vgg11", "alexnet", "densenet121", "convnext_tiny")
"""A second and more each: many weights, or many layers."""


def network(name: str, **more: Any) -> nn.Module:
    """One of torchvision's networks for ten classes, its normalizers as if it had been trained."""
    torchvision_datasets()  # makes the import below work beside any build of torch
    models = importlib.import_module("torchvision.models")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        settings = {"weights": None, "num_classes": 10, **NETWORKS[name], **more}
        model: nn.Module = getattr(models, name)(**settings)
        for norm in roles(model).norms.values():
            for key, values in norm.state_dict().items():
                if key.endswith(("weight", "running_var")):
                    values.uniform_(0.5, 1.5)
                elif values.is_floating_point():
                    values.normal_(std=0.1)
    return model


def config_of(
    model: nn.Module, name: str = "batch", place: str = "before_activation"
) -> NormConfig:
    """A normalizer as the network's own are; no network here has any on its linear layers."""
    norms = [norm for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)]
    own = {"eps": norms[0].eps, "momentum": norms[0].momentum} if norms else {}
    return NormConfig.model_validate({"name": name, "placement": place, "fc": False, **own})


def logits(model: nn.Module) -> Tensor:
    """Outputs in eval mode of four fixed images."""
    images = torch.randn(4, *IN_SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output: Tensor = model.eval()(images)
    return output


def removed_and_put_back(model: nn.Module) -> tuple[nn.Module, nn.Module, list[str]]:
    """A network whose norms were removed and put back with their own values; what that should be.

    Norms that stand behind no layer with an activation do not come back: in the second network they
    are the identity. Their names are the third.
    """
    config = config_of(model)
    there = rewrite(model, config, IN_SHAPE)
    bare = rewrite(model, config_of(model, "none"), IN_SHAPE)
    back = rewrite(bare.module, config, IN_SHAPE)
    own = {c.layer: c.norm for c in there.changes if c.after.endswith("before_activation")}
    for change in back.changes:
        if there_was(own, change.layer, model):
            state = model.get_submodule(own[change.layer]).state_dict()
            back.module.get_submodule(change.norm).load_state_dict(state)
        else:
            back.module.set_submodule(change.norm, nn.Identity())
    expected = copy.deepcopy(model)
    lost = [c.norm for c in there.changes if c.after.endswith("in place")]
    for name in lost:
        expected.set_submodule(name, nn.Identity())
    return back.module, expected, lost


def there_was(own: Mapping[str, str], layer: str, model: nn.Module) -> bool:
    """Whether the network itself has the normalizer of a layer."""
    return own[layer] in {name for name, _ in model.named_modules()}


def moved_and_back(model: nn.Module, away: str = "after_activation") -> nn.Module:
    """Norms in front of the activation, moved behind it and back."""
    there = rewrite(model, config_of(model, place=away), IN_SHAPE)
    return rewrite(there.module, config_of(model), IN_SHAPE).module


def same_state(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks have the same names and values, to the bit."""
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(
        torch.equal(values, theirs[key]) for key, values in ours.items()
    )


def row(name: str) -> list[str]:
    """A network's line of the table."""
    model = network(name)
    found = roles(model)
    cells = [name, str(len(found.weighted)), str(len(found.norms))]
    notes = []
    for norm, place in (
        ("none", "before_activation"),
        ("batch", "before_activation"),
        ("batch", "after_activation"),
        ("batch", "before_conv"),
    ):
        try:
            made = rewrite(model, config_of(model, norm, place), IN_SHAPE)
            cells.append(counted(made))
        except ConfigError as error:
            cells.append("error")
            notes.append(str(error))
    cells += [verdict(lambda: put_back_equals(model)), verdict(lambda: moving_back_equals(model))]
    return [*cells, "; ".join(dict.fromkeys(notes))]


def counted(made: Rewritten) -> str:
    """How often which change happened."""
    counts = Counter(change.what for change in made.changes)
    stuck = sum(c.after.endswith("in place") for c in made.changes)
    told = ", ".join(f"{count} {what}" for what, count in counts.items()) or "nothing"
    return told + (f" ({stuck} in place)" if stuck else "")


def put_back_equals(model: nn.Module) -> bool:
    """Whether removing and putting back gives the same outputs."""
    back, expected, _ = removed_and_put_back(model)
    return torch.equal(logits(back), logits(expected))


def moving_back_equals(model: nn.Module) -> bool:
    """Whether moving away and back gives the same outputs and the same state.

    The same as the network's own, or, where it has no norms, as those of adding them at once.
    """
    back = moved_and_back(model)
    expected = model
    if not roles(model).norms:
        expected = rewrite(model, config_of(model), IN_SHAPE).module
    return same_state(back, expected) and torch.equal(logits(back), logits(expected))


def verdict(holds: Callable[[], bool]) -> str:
    """What a check says, in a cell."""
    try:
        return "to the bit" if holds() else "differs"
    except ConfigError:
        return "error"


def main() -> None:
    """Print the table."""
    head = ["network", "weighted", "norms", "none", "batch before", "batch after", "before_conv"]
    head += ["none, then before", "after, then before", "note"]
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for name in sys.argv[1:] or NETWORKS:
        print("| " + " | ".join(row(name)) + " |", flush=True)


if __name__ == "__main__":
    main()
