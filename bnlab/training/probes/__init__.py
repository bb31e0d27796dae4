"""Measurements inside training, one file per family. A probe leaves no trace on the run.

To add one: a file with a function registered in `PROBES`, and one import line here.
"""

from bnlab.training.probes import activations, fit, gradients, statistics, weights  # noqa: F401 - importing registers them
from bnlab.training.probes.base import PROBES, Probe, Sample, leave_no_trace, run_probes

__all__ = ["PROBES", "Probe", "Sample", "leave_no_trace", "run_probes"]
