"""Claims about batch normalization, one file each, and what the runs at hand say of them.

To add one: a file here that registers a `Claim` in `CLAIMS` under the file's own stem, and its
study of the same stem in `configs/claims/`; a claim of another package says where its study lies.
Nothing here imports torch: verdicts come from the run directories.
"""

from bnlab.claims._base import (
    ALPHA,
    CLAIMS,
    FAMILY,
    MIN_N,
    RULE,
    Chart,
    Claim,
    Contrast,
    Detail,
    Evidence,
    Line,
    Verdict,
    best_lrs,
    detail,
    divergences,
    find_claim,
    judge_effect,
    judge_together,
    make_contrast,
    make_median_contrast,
    named_range,
    show_effect,
    show_limits,
)
from bnlab.claims._evidence import (
    PRESETS,
    SHARED,
    Gathered,
    refuse_bending,
    stored_study,
    study_file,
)
from bnlab.claims._findings import Finding, as_data, explain, find_findings

__all__ = [
    "ALPHA",
    "CLAIMS",
    "FAMILY",
    "MIN_N",
    "PRESETS",
    "RULE",
    "SHARED",
    "Chart",
    "Claim",
    "Contrast",
    "Detail",
    "Evidence",
    "Finding",
    "Gathered",
    "Line",
    "Verdict",
    "as_data",
    "best_lrs",
    "detail",
    "divergences",
    "explain",
    "find_claim",
    "find_findings",
    "judge_effect",
    "judge_together",
    "make_contrast",
    "make_median_contrast",
    "named_range",
    "refuse_bending",
    "show_effect",
    "show_limits",
    "stored_study",
    "study_file",
]
