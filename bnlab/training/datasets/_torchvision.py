"""The one place that imports torchvision, late, and beside any build of torch.

torchvision's wheels are compiled against one build of torch. Beside another (a CPU build, say)
their compiled operators do not load, and the import fails on the first Python function that
describes one of them. Declaring those operators, without implementing them, lets the import pass;
data sets need none of them.
"""

import importlib
import sys
from functools import cache
from types import ModuleType
from typing import Any

from torch import library

_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[Any] = []
"""Keeps the declarations alive: a `Library` takes them back when it is collected."""


@cache
def torchvision_datasets() -> ModuleType:
    """The module `torchvision.datasets`."""
    try:
        return importlib.import_module("torchvision.datasets")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    # Not before the first try: where the compiled operators load, a declaration would clash.
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    fragment = library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        fragment.define(operator + _NMS)
    _declared.append(fragment)
    return importlib.import_module("torchvision.datasets")
