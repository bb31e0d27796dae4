"""The network, layer by layer: `layers`."""

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bnlab.cli.options import AsJson, Sets
from bnlab.cli.output import print_json, print_sections
from bnlab.errors import ConfigError

if TYPE_CHECKING:
    from bnlab.config import Config
    from bnlab.report.blocks import Section
    from bnlab.training.layers import Layer

app = typer.Typer()


@app.command()
def layers(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="CONFIG...", help="Configurations, or one study: file or name."),
    ],
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Show a network in order, with shapes, parameters and its norms; several arm beside arm."""
    from bnlab.training.layers import list_layers

    found = {name: list_layers(config) for name, config in _configs(files, sets or []).items()}
    if as_json:
        print_json({name: [vars(layer) for layer in one] for name, one in found.items()})
        return
    (name, first), *others = found.items()
    print_sections([_beside(found) if others else _alone(name, first)])


def _configs(files: list[Path], sets: list[str]) -> "dict[str, Config]":
    """By name, each configuration; of a study, its arms."""
    from bnlab.config import STUDY_KEYS, arm_label, load_config, named, read_file
    from bnlab.study.load import load_plan

    if len(files) == 1 and not files[0].is_dir():
        file = named(named(files[0]), "study")
        if file.exists() and STUDY_KEYS & read_file(file).tree.keys():
            plan = load_plan(file, sets)
            return {
                arm: next(config for (_, own, _), config in plan.configs.items() if own == arm)
                for arm in plan.spec.arms
            }
    for file in files:
        if ".py:" in str(file):
            raise ConfigError(
                f"{file}: expected a configuration; write `model: {{file: '{file}'}}` into one, or "
                f"give any with --set model.file={file}"
            )
        if file.is_dir():
            raise ConfigError(f"{file}: a folder; of a run give its config.yaml")
    configs = [load_config([file], sets) for file in files]
    labels = [arm_label(config) for config in configs]
    names = labels if len(set(labels)) == len(labels) else [str(file) for file in files]
    return dict(zip(names, configs, strict=True))


def _alone(name: str, found: "tuple[Layer, ...]") -> "Section":
    from bnlab.report.blocks import Column, Section, Table

    columns = (
        Column("layer", numeric=False),
        Column("what", numeric=False),
        Column("output"),
        Column("parameters"),
    )
    rows = [(one.name, one.what, _shape(one.output), f"{one.parameters:,}") for one in found]
    rows.append(("all", "", "", f"{sum(one.parameters for one in found):,}"))
    return Section("layers", name, (Table("", columns, tuple(rows)),))


def _beside(found: "dict[str, tuple[Layer, ...]]") -> "Section":
    """A row for each convolution or linear layer, with what follows it in every arm."""
    from bnlab.report.blocks import Column, Section, Table
    from bnlab.training.layers import blocks_of

    blocks = {name: blocks_of(one) for name, one in found.items()}
    if len(found) > ABREAST:
        return _below(blocks)
    columns = (
        Column("from", numeric=False),
        Column("output", numeric=False),
        *(Column(name, numeric=False) for name in found),
    )
    rows = []
    for head in _heads(list(blocks.values())):
        there = [next((b for b in one if _head(b) == head), ()) for one in blocks.values()]
        outputs = dict.fromkeys(_shape(block[-1].output) for block in there if block)
        rows.append((head, " or ".join(outputs), *(_told(block) or "-" for block in there)))
    counts = (f"{sum(layer.parameters for layer in one):,}" for one in found.values())
    norms = (str(sum(layer.norm for layer in one)) for one in found.values())
    rows += [("norms", "", *norms), ("parameters", "", *counts)]
    return Section("layers", "Networks", (Table("", columns, tuple(rows), NOTES),))


def _below(blocks: "dict[str, tuple[tuple[Layer, ...], ...]]") -> "Section":
    """A row for each of many arms, with what repeats told once."""
    from bnlab.report.blocks import Column, Section, Table

    columns = (
        Column("arm", numeric=False),
        Column("network", numeric=False),
        Column("norms"),
        Column("parameters"),
    )
    rows = []
    for name, one in blocks.items():
        parts = []
        for told, same in groupby(map(_told, one)):
            count = len(list(same))
            parts.append(f"{count} times ({told})" if count > 1 else told)
        layers = [layer for block in one for layer in block]
        norms, count = sum(x.norm for x in layers), sum(x.parameters for x in layers)
        rows.append((name, ", ".join(parts), str(norms), f"{count:,}"))
    return Section("layers", "Networks", (Table("", columns, tuple(rows), NOTES[:1]),))


ABREAST = 3
"""The most arms that 80 columns hold side by side."""

INPUT = "input"

NOTES = (
    "in the order in which they are called, functions that do a module's work among them",
    "a row goes from one convolution or linear layer to the next; output is that of its end",
)


def _heads(arms: "list[tuple[tuple[Layer, ...], ...]]") -> list[str]:
    """What the rows begin with, in order, from the arm that has most of them on."""
    longest = sorted(arms, key=len, reverse=True)
    return list(dict.fromkeys(_head(block) for one in longest for block in one))


def _head(block: "tuple[Layer, ...]") -> str:
    return block[0].name if block[0].weighted else INPUT


def _told(block: "tuple[Layer, ...]") -> str:
    return " ".join(layer.what for layer in block)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
