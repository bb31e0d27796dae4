"""bnlab: a command-line laboratory that measures what batch normalization does."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnlab.api import (
        compare,
        evaluate,
        export,
        judge,
        load_config,
        load_model,
        load_run,
        load_runs,
        train,
    )

__version__ = "0.1.0"

__all__ = [
    "compare",
    "evaluate",
    "export",
    "judge",
    "load_config",
    "load_model",
    "load_run",
    "load_runs",
    "train",
]


def __getattr__(name: str) -> Any:
    """The functions of `bnlab.api`, loaded when the first is asked for: commands need it light."""
    if name not in __all__:
        raise AttributeError(f"module 'bnlab' has no attribute {name!r}")
    return getattr(importlib.import_module("bnlab.api"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
