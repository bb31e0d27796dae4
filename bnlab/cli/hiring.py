"""The options of a study on other machines, and what is made of them."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from bnlab.errors import ConfigError

if TYPE_CHECKING:
    from bnlab.study.fleet import Hiring

PANEL = "On other machines (--executor slurm or ray)"

Workers = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="So many workers at a time.", rich_help_panel=PANEL),
]
Slurm = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="What each worker's job asks of Slurm, as in partition=gpu, gres=gpu:1 or "
        "time=4:00:00; setup=COMMAND runs before it.",
        rich_help_panel=PANEL,
    ),
]
Ray = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="What each worker asks of Ray: num_cpus=N (default 1), num_gpus=N (0.5 for two on "
        "a GPU).",
        rich_help_panel=PANEL,
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="A Ray cluster; default RAY_ADDRESS, or else one is started here for the purpose.",
        rich_help_panel=PANEL,
    ),
]
OnInterrupt = Annotated[
    str | None,
    typer.Option(
        metavar="detach|cancel",
        help="What Ctrl-C means for workers: detach lets them go on (the default with slurm), "
        "cancel stops them, their runs checkpointed (always so with ray).",
        rich_help_panel=PANEL,
    ),
]
Script = Annotated[
    bool,
    typer.Option(
        "--print",
        help="Print a script for sbatch that starts the workers, and start none.",
        rich_help_panel=PANEL,
    ),
]


def hire(
    executor: str | None,
    workers: int | None,
    slurm: list[str] | None,
    ray: list[str] | None,
    ray_address: str | None,
    on_interrupt: str | None,
    *,
    script: bool,
) -> "Hiring | None":
    """The workers that are asked for; None with an executor that trains here.

    Raises:
        ConfigError: For an option that does not belong to the executor, or a setting that it does
            not have.
        BnlabError: If what starts the workers is not installed.
    """
    given = {
        "--workers": (workers, ("slurm", "ray")),
        "--on-interrupt": (on_interrupt, ("slurm", "ray")),
        "--slurm": (slurm, ("slurm",)),
        "--print": (script or None, ("slurm",)),
        "--ray": (ray, ("ray",)),
        "--ray-address": (ray_address, ("ray",)),
    }
    for option, (value, executors) in given.items():
        if value and executor not in executors:
            raise ConfigError(f"{option} belongs to --executor {' or '.join(executors)}")
    if on_interrupt not in (None, "detach", "cancel"):
        raise ConfigError(f"--on-interrupt {on_interrupt}: expected detach or cancel")
    if executor not in ("slurm", "ray"):
        return None
    if workers is None:
        raise ConfigError(f"--executor {executor} needs --workers N: so many at a time")
    from bnlab.study.fleet import Hiring

    if executor == "slurm":
        from bnlab.study.executors import slurm as on_slurm

        settings = on_slurm.read_settings(slurm or ())
        if not script:
            on_slurm.refuse_without_slurm()
        wish = "cancel" if on_interrupt == "cancel" else "detach"
        return Hiring(workers, settings, "cancel" if wish == "cancel" else "detach")
    from bnlab.study.executors import ray as on_ray

    if on_interrupt == "detach":
        raise ConfigError("--on-interrupt detach: workers on Ray end with whoever started them")
    settings = on_ray.read_settings(ray or ())
    on_ray.refuse_without_ray()
    address = ray_address or os.environ.get("RAY_ADDRESS") or ""
    return Hiring(workers, {**settings, "address": address}, "cancel")
