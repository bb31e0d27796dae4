"""The doctor: what is wrong with the batch norms of a network and of how it is trained.

Every check has a code, says what it looks for and why, and, where images are at hand, what the
fault costs. Nothing is trained and nothing is changed.
"""

from bnlab.doctor.checks import CHECKS, Check, Finding, examine, faults, findings_as_data
from bnlab.doctor.subject import Subject, subject_of_config, subject_of_run

__all__ = [
    "CHECKS",
    "Check",
    "Finding",
    "Subject",
    "examine",
    "faults",
    "findings_as_data",
    "subject_of_config",
    "subject_of_run",
]
