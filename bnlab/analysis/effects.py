"""One arm less the baseline: the audit of their pairing, interval, exact test and verdict."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from bnlab.analysis.arms import differing_factors
from bnlab.analysis.results import ALPHA, LEVEL, Answer, Arm, Effect, Metric, score_of
from bnlab.analysis.runs import Run
from bnlab.analysis.stats import (
    Interval,
    at_level,
    fisher_p,
    holm,
    mean_interval,
    paired_correlation,
    paired_interval,
    paired_tost,
    permutation_p,
    required_n,
    sign_flip_p,
    smallest_permutation_p,
    smallest_sign_flip_p,
    welch_interval,
    welch_tost,
    within,
)


def make_effect(
    arm: Arm,
    runs: Sequence[Run],
    base: Arm,
    base_runs: Sequence[Run],
    metric: Metric,
    margin: float | None,
    settings: tuple[float | None, float | None],
) -> Effect:
    """The effect of one arm, before the table as a whole is judged."""
    treated = {run.seed: run for run in runs if score_of(run, metric) is not None}
    control = {run.seed: run for run in base_runs if score_of(run, metric) is not None}
    common = sorted(treated.keys() & control.keys())
    mismatch = _pairing_faults(treated, control, common)
    audit: list[str] = []
    if mismatch:
        audit.append(f"not paired: {mismatch}")
    elif len(common) < 2 <= min(len(treated), len(control)):
        audit.append(f"not paired: {len(common)} common seeds")
    paired = not mismatch and (len(common) >= 2 or (common and min(len(treated), len(control)) < 2))
    if paired:
        audit.insert(0, "paired: data order and initial weights agree seed by seed")
        for name, seeds_of in ((arm.name, treated), (base.name, control)):
            dropped = sorted(seeds_of.keys() - set(common))
            if dropped:
                verb = "have no partner and are" if len(dropped) > 1 else "has no partner and is"
                audit.append(f"{_seeds(dropped)} of {name} {verb} dropped")
        seeds = base_seeds = tuple(common)
    else:
        seeds, base_seeds = tuple(sorted(treated)), tuple(sorted(control))
    a = [_value(treated[seed], metric) for seed in seeds]
    b = [_value(control[seed], metric) for seed in base_seeds]
    effect = Effect(
        arm=arm.name,
        baseline=base.name,
        setting=settings[0],
        baseline_setting=settings[1],
        method="single",
        audit=tuple(audit),
        factors=differing_factors(base.config, arm.config),
        seeds=seeds,
        baseline_seeds=base_seeds,
        estimate=float(np.mean(a) - np.mean(b)),
    )
    failed = [treated[seed].diverged for seed in seeds], [control[s].diverged for s in base_seeds]
    if any(failed[0]) or any(failed[1]):
        effect = replace(
            effect,
            trained=_trained(a, b, *failed, paired=bool(paired)),
            failures_p=fisher_p(sum(failed[0]), len(a), sum(failed[1]), len(b)),
        )
    if min(len(a), len(b)) < 2:
        return effect
    effect = (_paired_effect if paired else _welch_effect)(effect, a, b, margin)
    return replace(
        effect,
        interval=_possible(effect.interval, metric),
        trained=_possible(effect.trained, metric),
    )


def _possible(interval: Interval | None, metric: Metric) -> Interval | None:
    return interval and within(interval, -metric.farthest, metric.farthest)


def _value(run: Run, metric: Metric) -> float:
    score = score_of(run, metric)
    assert score is not None
    return score


def _trained(
    a: Sequence[float],
    b: Sequence[float],
    a_failed: Sequence[bool],
    b_failed: Sequence[bool],
    *,
    paired: bool,
) -> Interval | None:
    """The difference without runs that diverged; None where fewer than two are left."""
    if paired:
        kept = [
            x - y for x, y, *failed in zip(a, b, a_failed, b_failed, strict=True) if not any(failed)
        ]
        return mean_interval(kept, LEVEL) if len(kept) > 1 else None
    left = [x for x, failed in zip(a, a_failed, strict=True) if not failed]
    right = [x for x, failed in zip(b, b_failed, strict=True) if not failed]
    return welch_interval(left, right, LEVEL) if min(len(left), len(right)) > 1 else None


def _pairing_faults(
    treated: Mapping[int, Run], control: Mapping[int, Run], common: Sequence[int]
) -> str:
    """Why runs of equal seed are no pairs, or nothing."""
    for key, what in (
        ("data_order_hash", "data order differs"),
        ("init_hash", "initial weights differ"),
    ):
        pairs = {
            seed: (getattr(treated[seed].facts, key), getattr(control[seed].facts, key))
            for seed in common
        }
        unknown = [seed for seed, pair in pairs.items() if None in pair]
        if unknown:
            return f"{key} is not recorded at {_seeds(unknown)}"
        differing = [seed for seed, pair in pairs.items() if pair[0] != pair[1]]
        if differing:
            return f"the {what} at {_seeds(differing)}"
    return ""


def _seeds(seeds: Sequence[int]) -> str:
    """`seed 7`, `seeds 0-3, 7`."""
    parts: list[list[int]] = []
    for seed in sorted(seeds):
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    listed = ", ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)
    return f"seed{'s' * (len(seeds) > 1)} {listed}"


def _paired_effect(
    effect: Effect, a: Sequence[float], b: Sequence[float], margin: float | None
) -> Effect:
    differences = np.subtract(a, b)
    correlation = paired_correlation(a, b) if len(a) >= 4 else None
    return replace(
        effect,
        method="paired",
        interval=paired_interval(a, b, LEVEL),
        p=sign_flip_p(differences, generator=np.random.default_rng(0)),
        equivalence=paired_tost(a, b, margin, ALPHA) if margin else None,
        correlation=correlation.estimate if correlation else None,
        required_n=_seeds_for(effect.estimate, float(np.std(differences, ddof=1))),
    )


def _welch_effect(
    effect: Effect, a: Sequence[float], b: Sequence[float], margin: float | None
) -> Effect:
    spread = math.sqrt(float(np.var(a, ddof=1)) + float(np.var(b, ddof=1)))
    return replace(
        effect,
        method="welch",
        interval=welch_interval(a, b, LEVEL),
        p=permutation_p(a, b, generator=np.random.default_rng(0)),
        equivalence=welch_tost(a, b, margin, ALPHA) if margin else None,
        required_n=_seeds_for(effect.estimate, spread),
    )


def _seeds_for(effect: float, sd: float) -> int | None:
    try:
        return required_n(effect, sd, ALPHA, 0.8)
    except ValueError:  # no effect, or none beside the spread: no number of seeds would do
        return None


def judge_table(effects: Sequence[Effect]) -> list[Effect]:
    """Adjust over the table, and say what may be said.

    A verdict needs an exact test that can reach significance at all: with m effects in the table,
    the smallest p of n seeds times m must not exceed .05. `higher` and `lower` ask for an adjusted
    p of at most .05 and an interval that excludes zero; `equivalent` for both one-sided tests.
    What is barred gets no verdict.
    """
    tested = [effect for effect in effects if effect.p is not None]
    adjusted = dict(
        zip(map(_sides, tested), holm([e.p for e in tested if e.p is not None]), strict=True)
    )
    margins = [e for e in tested if e.equivalence]
    equivalent = dict(
        zip(
            map(_sides, margins),
            holm([e.equivalence.p for e in margins if e.equivalence]),
            strict=True,
        )
    )
    judged = []
    for effect in effects:
        least = _verdict_n(effect.method, max(1, len(effects)))
        judged.append(
            replace(
                effect,
                p_holm=adjusted.get(_sides(effect)),
                p_equivalence_holm=equivalent.get(_sides(effect)),
                verdict_n=least,
                required_n=max(least, effect.required_n) if effect.required_n else None,
            )
        )
    return [replace(effect, verdict=_verdict(effect, len(effects))) for effect in judged]


def judge_pairs(pairs: Sequence[Effect]) -> list[Effect]:
    """All pairs of arms, adjusted over all of them, with limits that hold for all at once.

    Bonferroni's limits, each at the level 1 - .05 / m: they hold however the pairs depend on one
    another, whether these are paired by seed or not. `higher` and `lower` ask that these limits,
    too, exclude zero.
    """
    tested = sum(pair.interval is not None for pair in pairs)
    judged = []
    for pair in judge_table(pairs):
        if pair.interval is not None:
            limits = at_level(pair.interval, 1 - ALPHA / tested)
            open_one = pair.verdict in ("higher", "lower") and limits.low <= 0 <= limits.high
            verdict: Answer = "undecided" if open_one else pair.verdict
            judged.append(replace(pair, simultaneous=limits, verdict=verdict))
        else:
            judged.append(pair)
    return judged


def _sides(effect: Effect) -> tuple[str, str]:
    return effect.arm, effect.baseline


def _verdict_n(method: str, effects: int) -> int:
    def smallest(n: int) -> float:
        return smallest_permutation_p(n, n) if method == "welch" else smallest_sign_flip_p(n)

    return next(n for n in range(2, 64) if effects * smallest(n) <= ALPHA)


def _verdict(effect: Effect, effects: int) -> Answer:
    interval, p = effect.interval, effect.p_holm
    if interval is None or p is None or effect.barred:
        return "no verdict"
    if effect.method == "paired":
        least = smallest_sign_flip_p(len(effect.seeds))
    else:
        least = smallest_permutation_p(len(effect.seeds), len(effect.baseline_seeds))
    if effects * least > ALPHA:
        return "no verdict"
    if p <= ALPHA and interval.low > 0:
        return "higher"
    if p <= ALPHA and interval.high < 0:
        return "lower"
    if effect.p_equivalence_holm is not None and effect.p_equivalence_holm <= ALPHA:
        return "equivalent"
    return "undecided"
