"""Claims about batch normalization, one file each, and what the runs at hand say of them.

To add one: a file here that registers a `Claim`, its study of the same stem in `configs/claims/`,
and one import line below. Nothing here imports torch: verdicts come from the run directories.
"""

from bnlab.claims import accuracy as accuracy
from bnlab.claims import convergence as convergence
from bnlab.claims import depth as depth
from bnlab.claims import dropout as dropout
from bnlab.claims import fc_norm as fc_norm
from bnlab.claims import higher_lr as higher_lr
from bnlab.claims import initialization as initialization
from bnlab.claims import input_normalization as input_normalization
from bnlab.claims import placement as placement
from bnlab.claims import small_batch as small_batch
from bnlab.claims.base import (
    ALPHA,
    CLAIMS,
    FAMILY,
    MIN_N,
    RULE,
    Claim,
    Contrast,
    Detail,
    Evidence,
    Verdict,
    find_claim,
    judge_together,
)
from bnlab.claims.evidence import (
    PRESETS,
    SHARED,
    Gathered,
    refuse_bending,
    stored_study,
    study_file,
)
from bnlab.claims.findings import Finding, as_data, explain, find_findings

__all__ = [
    "ALPHA",
    "CLAIMS",
    "FAMILY",
    "MIN_N",
    "PRESETS",
    "RULE",
    "SHARED",
    "Claim",
    "Contrast",
    "Detail",
    "Evidence",
    "Finding",
    "Gathered",
    "Verdict",
    "as_data",
    "explain",
    "find_claim",
    "find_findings",
    "judge_together",
    "refuse_bending",
    "stored_study",
    "study_file",
]
