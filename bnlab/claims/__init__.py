"""Claims about batch normalization, one file each, and what the runs at hand say of them.

To add one: a file here that registers a `Claim` in `CLAIMS` under the file's own stem, and its
study of the same stem in `configs/claims/`; a claim of another package says where its study lies.
Nothing here imports torch: verdicts come from the run directories.
"""

from bnlab.claims._anchors import ANCHORS, Anchor, Held, hold
from bnlab.claims._base import (
    CLAIMS,
    Claim,
    Label,
    Verdict,
    best_lrs,
    divergences,
    find_claim,
)
from bnlab.claims._contrast import (
    ALPHA,
    CLAIM_LEVEL,
    ROOM,
    SCALES,
    Chart,
    Contrast,
    Detail,
    Evidence,
    Failures,
    Line,
    Unit,
    detail,
    make_contrast,
    make_median_contrast,
    named_range,
    show_count,
    show_effect,
    show_limits,
)
from bnlab.claims._findings import (
    READABLE,
    Finding,
    as_data,
    explain,
    find_findings,
    quoted,
    show_smallest,
)
from bnlab.claims._gather import Gathered
from bnlab.claims._network import OWN, Network, find_network
from bnlab.claims._rule import LIMITS, MIN_N, find_power, judge, judge_effect
from bnlab.claims._studies import (
    PRESETS,
    SHARED,
    not_asked,
    refuse_bending,
    stored_study,
    study_file,
)

__all__ = [
    "ALPHA",
    "ANCHORS",
    "CLAIMS",
    "CLAIM_LEVEL",
    "LIMITS",
    "MIN_N",
    "OWN",
    "PRESETS",
    "READABLE",
    "ROOM",
    "SCALES",
    "SHARED",
    "Anchor",
    "Chart",
    "Claim",
    "Contrast",
    "Detail",
    "Evidence",
    "Failures",
    "Finding",
    "Gathered",
    "Held",
    "Label",
    "Line",
    "Network",
    "Unit",
    "Verdict",
    "as_data",
    "best_lrs",
    "detail",
    "divergences",
    "explain",
    "find_claim",
    "find_findings",
    "find_network",
    "find_power",
    "hold",
    "judge",
    "judge_effect",
    "make_contrast",
    "make_median_contrast",
    "named_range",
    "not_asked",
    "quoted",
    "refuse_bending",
    "show_count",
    "show_effect",
    "show_limits",
    "show_smallest",
    "stored_study",
    "study_file",
]
