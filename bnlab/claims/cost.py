"""Does batch normalization cost computing time?"""

from collections.abc import Mapping

import numpy as np

from bnlab.claims._base import CLAIMS, Claim, Imagined, divergences
from bnlab.claims._contrast import Array, Contrast, Evidence, detail, make_contrast

FURTHER = {
    "frozen_init": "with statistics kept from the start",
    "affine_only": "with scale and shift alone",
}


def more(evidence: Evidence, arm: str) -> Array:
    """By what part an epoch takes longer than without a norm: (seeds,)."""
    return np.asarray(_seconds(evidence, arm) / _seconds(evidence, "none") - 1)


def _seconds(evidence: Evidence, arm: str) -> Array:
    """Seconds of training an epoch, the median over all but the first: (seeds,)."""
    seconds = evidence.curves.get(arm, {}).get("seconds")
    if seconds is None or seconds.shape[1] < 2:
        return np.full(len(evidence.best[arm]), np.nan)
    return np.median(seconds[:, 1:], axis=1)


def measure(evidence: Evidence) -> Contrast:
    """By what part an epoch takes longer with BN."""
    differences = more(evidence, "batch")
    seconds = ", ".join(f"{arm} {np.median(_seconds(evidence, arm)):.2f}" for arm in evidence.best)
    return make_contrast(
        differences,
        [detail(told, more(evidence, arm), "%") for arm, told in FURTHER.items()],
        [f"seconds an epoch, median: {seconds}", *divergences(evidence)],
        "" if np.isfinite(differences).all() else "no time was recorded beyond the first epoch",
    )


def imagine(run: Imagined) -> Mapping[str, float | Array]:
    """An epoch takes longer with BN by the effect."""
    seconds = 2.0 * (1 + run.effect * (run.arm == "batch") + run.noise)
    return {**run.reach(0.5), "seconds": np.full(5, seconds)}


CLAIMS.register("cost")(
    Claim(
        name="cost",
        statement="Batch normalization adds computing cost.",
        against="Epochs of training that take as long with BN as without.",
        quote=("003", "在每个批量数据上都需要计算均值和方差,增加了计算量。"),
        sources=(
            "document 003 states it",
            (
                "Bulo et al. 2018, arXiv:1712.02616 (memory); Jacob et al. 2018, arXiv:1712.05877 "
                "(folded into the layer before it, BN is free in testing: bnlab export)"
            ),
        ),
        definition="By what part an epoch of training takes longer with BN, steps alone, without "
        "reading images or testing; the median of all epochs but the first. The same learning "
        "rate for all, which takes no time.",
        formula="seconds(BN) / seconds(no norm) - 1, mean over seeds",
        protocol="Arms take turns, seed by seed, forth and back, so that what else the machine "
        "does meets them alike. The verdict holds for the machine, its number of threads, and runs "
        "at once. Beside it scale and shift alone, and statistics kept from the start.",
        smallest_effect=0.05,
        reason="5 % are what one would notice.",
        unit="%",
        treated=("batch",),
        control=("none",),
        measure=measure,
        imagine=imagine,
    )
)
