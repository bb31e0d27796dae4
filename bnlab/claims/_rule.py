"""The rule by which every claim is judged, each alone.

A verdict depends on its own runs and nothing else: the level allows for `ROOM` claims, however many
of them have runs.
"""

import math
from dataclasses import replace

import numpy as np
from scipy.special import ndtr

from bnlab.analysis.stats import (
    Decision,
    Interval,
    MedianEffect,
    decide,
    paired_power,
    required_n,
    required_n_sign,
    sign_power,
    smallest_sign_flip_p,
)
from bnlab.claims._base import Claim, Verdict
from bnlab.claims._contrast import (
    ALPHA,
    CLAIM_ALPHA,
    CLAIM_LEVEL,
    ROOM,
    Contrast,
    show_limits,
)

MIN_N = next(n for n in range(2, 99) if smallest_sign_flip_p(n) <= CLAIM_ALPHA)
"""Fewest seeds of a verdict: with fewer, no exact test reaches the level of a claim, however large
the effect."""

MAX_N = 10_000
"""Beyond so many seeds a claim is as good as undecidable."""

LIMITS = f"{100 * CLAIM_LEVEL:g} % limits"
"""What the limits of a verdict are called."""

_ALONE = (
    f"Each claim is judged alone, at the two-sided level {ALPHA:g} / {ROOM} (room for {ROOM} "
    f"claims): its {LIMITS} are Student's of a mean, or the sign test's of a median, and a plain "
    "95 % interval stands beside them."
)
_EFFECT = (
    "SUPPORTED if the lower limit is above 0 and the effect at least the smallest effect of "
    "interest, and if the treated arms do not fail more often; REFUTED if the upper limit is below "
    "the smallest effect of interest (reversed: below 0; real but negligible: lower limit above "
    "0); INCONCLUSIVE otherwise."
)
_BOUND = (
    "It says that an amount is small: SUPPORTED if the upper limit is below the smallest effect of "
    "interest, and if the treated arms do not fail more often; REFUTED if the lower limit is above "
    "it; INCONCLUSIVE otherwise."
)
_EITHER_WAY = (
    "It says that two things are alike: SUPPORTED if both limits lie within the smallest effect of "
    "interest on either side of 0 (two one-sided tests); REFUTED if both lie beyond it on the same "
    "side; INCONCLUSIVE otherwise."
)
_PLACES = (
    "It is measured in two places: SUPPORTED and REFUTED take both; where one supports and the "
    "other refutes it is REFUTED, as it then depends on the place; INCONCLUSIVE otherwise."
)
_FAILURES = (
    "Failures are judged apart: where runs diverged (a loss or weight that is not finite, or a "
    "final training accuracy of at most 1.2 times chance), {effect}, and the counts are compared "
    "by Fisher's exact test at the same level; that the control fails more often supports a claim "
    "by itself only if the claim is about training at all."
)
_SET_APART = "the effect is that of the seeds on which both sides trained"
_SCORED = "the effect has a value, too, and no seed is left out"
_UNTESTED = (
    f"NOT TESTED with fewer than {MIN_N} seeds (no exact test reaches the level below that), while "
    "a planned run is missing, under the preset smoke and on synthetic images."
)


def rule_of(claim: Claim) -> str:
    """By what a claim is judged, in words."""
    kind = _BOUND if claim.bounded else _EFFECT
    return " ".join(
        [
            _ALONE,
            _EITHER_WAY if claim.either_way else kind,
            *([claim.ruled] if claim.ruled else []),
            *([_PLACES] if claim.again else []),
            _FAILURES.format(effect=_SCORED if claim.scores_failures else _SET_APART),
            _UNTESTED,
        ]
    )


def judge(claim: Claim, contrast: Contrast, preset: str) -> Verdict:
    """Judge one claim: the chance of a false verdict is at most `CLAIM_ALPHA`.

    A false verdict is SUPPORTED where the effect is 0 or less, REFUTED where it is at least the
    smallest effect of interest, and "reversed" where it is 0 or more.

    Args:
        claim: What is judged.
        contrast: What it measured.
        preset: The smallest effect of interest is that of the preset.

    Returns:
        NOT TESTED where a guard or too few seeds forbid another verdict.
    """
    smallest = claim.smallest(preset)
    common = judge_equivalence if claim.either_way else judge_effect
    verdict = _bar(contrast) or (claim.judge or common)(claim, contrast, smallest)
    power = find_power(contrast.effect, claim.power_at(preset))
    if power is not None:  # Boole: of several tests all must come out, and they may hang together
        power = max(0.0, 1 - claim.tests * (1 - power))
    verdict = replace(verdict, power=power)
    if claim.again is None or contrast.again is None:
        return verdict
    return _join(claim, verdict, claim.again, judge(claim.again, contrast.again, preset))


def _join(claim: Claim, here: Verdict, again: Claim, there: Verdict) -> Verdict:
    """The verdict of a claim that is measured in two places.

    It is false no more often than one of them: SUPPORTED needs both, and either side of REFUTED
    takes half of the level.
    """
    why = f"{claim.place}: {here.why}; {again.place}: {there.why}"
    powers = [one.power for one in (here, there) if one.power is not None]
    both = None
    if len(powers) == 2:  # Boole where both are measured on the same runs
        alike = set(claim.arms) & set(again.arms)
        both = max(0.0, sum(powers) - 1) if alike else math.prod(powers)
    joined = replace(here, why=why, power=both, parts=(here, there))
    for one in (here, there):
        if one.label == "NOT TESTED":
            return replace(one, why=why if here.label == there.label else one.why)
    if here.label == there.label:
        same = here.sublabel == there.sublabel
        needed = [one.required_n for one in (here, there)]
        most = None if None in needed else max(n for n in needed if n is not None)
        return replace(joined, sublabel=here.sublabel if same else "", required_n=most)
    if {here.label, there.label} == {"SUPPORTED", "REFUTED"}:
        return replace(joined, label="REFUTED", sublabel=f"depends on {claim.depends}")
    open_one = here if here.label == "INCONCLUSIVE" else there
    return replace(joined, label="INCONCLUSIVE", sublabel="", required_n=open_one.required_n)


def _bar(contrast: Contrast) -> Verdict | None:
    if contrast.guard:
        return Verdict("NOT TESTED", why=contrast.guard)
    if contrast.seeds < MIN_N:
        needed = f"a verdict needs {MIN_N}, for an exact test to reach the level of a claim"
        return Verdict("NOT TESTED", why=f"{contrast.seeds} seeds; {needed}")
    if not isinstance(contrast.effect, MedianEffect) and contrast.effect.standard_error == 0:
        return Verdict("NOT TESTED", why="every seed gives the same effect: no spread to judge by")
    return None


def judge_effect(claim: Claim, contrast: Contrast, smallest: float) -> Verdict:
    """The rule of an effect, or of a bound on one.

    Args:
        claim: Its unit counts, and whether it is about training at all.
        contrast: What was measured.
        smallest: The smallest effect of interest.
    """
    limits, trained = contrast.limits, len(contrast.differences)
    decision = Decision("INCONCLUSIVE")
    if trained >= MIN_N:
        decision = _decide(claim, limits, smallest)
    failing = contrast.failures.more_often(CLAIM_ALPHA) if contrast.failures else None
    label, sublabel, n = decision.ruling, decision.refinement or "", None
    least = claim.show(smallest)
    if failing == "control" and claim.about_training and sublabel != "reversed":
        label, sublabel, meaning = "SUPPORTED", "", "the control fails more often"
    elif failing == "control" and claim.about_training:
        label, sublabel = "INCONCLUSIVE", ""
        meaning = "the control fails more often, but where both train the effect goes the other way"
    elif failing == "treated" and label == "SUPPORTED":
        amount = f"below {least}" if claim.bounded else f"at least {least}"
        label, meaning = "INCONCLUSIVE", f"{amount}, but the treated side fails more often"
    elif claim.bounded and label != "INCONCLUSIVE":
        meaning = f"{'below' if label == 'SUPPORTED' else 'more than'} {least}"
    elif label == "SUPPORTED":
        meaning = f"limits above 0, estimate at least {least}"
    elif label == "REFUTED":
        meaning = {
            "reversed": "limits below 0: the effect goes the other way",
            "real but negligible": f"there is an effect, but less than {least}",
            "": f"less than {least}",
        }[sublabel]
    elif trained < MIN_N:
        meaning = f"both sides trained on {trained} of {contrast.seeds} seeds; {MIN_N} are needed"
    else:
        n = settling_n(contrast.effect, smallest, bounded=claim.bounded)
        sides = f"above 0 and at least {least}, nor below {least}"
        if claim.bounded:
            sides = f"below {least} nor above it"
        meaning = f"neither {sides}; {would_settle(n)}"
    shown = f"{claim.show(limits.estimate)} ({LIMITS}: {show_limits(limits, claim.unit)})"
    told = f"; {contrast.failures}" if contrast.failures else ""
    return Verdict(label, sublabel, limits, n, f"{shown}: {meaning}{told}")


def judge_equivalence(claim: Claim, contrast: Contrast, smallest: float) -> Verdict:
    """Two one-sided tests: SUPPORTED within the smallest effect of interest on either side."""
    limits = contrast.limits
    shown = f"{claim.show(limits.estimate)} ({LIMITS}: {show_limits(limits, claim.unit)})"
    least = f"{smallest * claim.scale:g} {claim.unit}"
    if -smallest < limits.low and limits.high < smallest:
        return Verdict("SUPPORTED", "", limits, None, f"{shown}: within {least} either way")
    if limits.low > smallest or limits.high < -smallest:
        return Verdict("REFUTED", "", limits, None, f"{shown}: more than {least} apart")
    assert isinstance(contrast.effect, Interval)
    either_way = replace(contrast.effect, estimate=abs(contrast.effect.estimate))
    n = settling_n(either_way, smallest, bounded=True)
    why = f"{shown}: neither within {least} nor beyond; {would_settle(n)}"
    return Verdict("INCONCLUSIVE", "", limits, n, why)


def would_settle(n: int | None) -> str:
    """How many seeds would settle an open verdict, in words; None for more than can be told."""
    seeds = f"{n} seeds" if n is not None else f"more than {MAX_N:,} seeds"
    return f"{seeds} would settle it, if the effect is as it looks"


def _decide(claim: Claim, limits: Interval, smallest: float) -> Decision:
    if not claim.bounded:
        return decide(limits.low, limits.high, limits.estimate, smallest)
    if limits.high < smallest:
        return Decision("SUPPORTED")
    return Decision("REFUTED" if limits.low > smallest else "INCONCLUSIVE")


def settling_n(
    effect: Interval | MedianEffect, smallest_effect: float, *, bounded: bool = False
) -> int | None:
    """Seeds at which an effect like this one is told from 0, or from the smallest of interest.

    With power 0.8, at the level of a claim. None above `MAX_N`.

    Args:
        effect: Student's interval, of any level, or a median.
        smallest_effect: Smallest effect of interest.
        bounded: Whether only the latter counts.
    """
    if isinstance(effect, MedianEffect):
        n = len(effect.low)
        above, below = (effect.low > 0).mean(), (effect.high < smallest_effect).mean()
        share = above if effect.estimate >= smallest_effect else below
        needed = required_n_sign(float(share), CLAIM_ALPHA)
        return None if needed is None else max(needed, n + 1, MIN_N)
    interval = effect
    assert interval.standard_error is not None
    estimate, spread = interval.estimate, interval.standard_error * math.sqrt(interval.n)
    distance = abs(smallest_effect - estimate)
    if estimate >= smallest_effect and not bounded:
        distance = estimate
    # An effect a hundredth of its spread away takes far beyond MAX_N.
    if distance < spread / 100:
        return None
    n = max(required_n(distance, spread, CLAIM_ALPHA), interval.n + 1, MIN_N)
    return n if n <= MAX_N else None


def find_power(effect: Interval | MedianEffect, size: float) -> float | None:
    """Chance of telling an effect of some size from 0 with this spread and n, at a claim's level.

    That of the t-test; of a median that of the sign test, whose seeds are taken to scatter normally
    about the size, with the spread of those that are known; the others never count for it.

    Args:
        effect: Student's interval, of any level, or a median.
        size: True effect, positive.

    Returns:
        None where fewer than two seeds tell a spread, or all are equal in a mean.
    """
    if isinstance(effect, MedianEffect):
        known = effect.low[np.isfinite(effect.low)]
        if len(known) < 2:
            return None
        spread = float(known.std(ddof=1))
        above = float(ndtr(size / spread)) if spread > 0 else 1.0
        return sign_power(len(effect.low), above * len(known) / len(effect.low), CLAIM_ALPHA)
    if not effect.standard_error:
        return None
    return paired_power(effect.n, size, effect.standard_error * math.sqrt(effect.n), CLAIM_ALPHA)
