"""What came out, in plain words."""

from bnlab.analysis import ALPHA, Comparison, Effect, View
from bnlab.report.blocks import Block, Bullets, Section, Text
from bnlab.report.numbers import (
    at_setting,
    difference,
    difference_interval,
    margin_of,
    p_value,
    seeds,
    with_unit,
)


def findings(comparison: Comparison) -> Section:
    """What was compared and what came out, in plain words."""
    c = comparison
    arms, runs = len(c.arms), len(c.runs)
    opening = (
        f"{_count(runs, 'run')} in {_count(arms, 'arm')}"
        f"{' from ' + ', '.join(c.studies) if any(c.studies) else ''}, compared on {c.metric.name}"
    )
    if arms > 1:
        opening += f" with {c.baseline} ({c.baseline_reason})"
    blocks: list[Block] = [Text(caveat, "warning") for caveat in c.caveats]
    blocks.append(Text(f"{opening}."))
    if arms == 1:
        blocks.append(Text("There is one arm only: values, but nothing to compare them with."))
    for view in c.views:
        if view.effects:
            if len(c.views) > 1:
                blocks.append(Text(f"{view.title}:"))
            blocks.append(Bullets(tuple(sentence(effect, c, view) for effect in view.effects)))
    return Section("findings", "What was found", tuple(blocks))


def sentence(effect: Effect, comparison: Comparison, view: View) -> str:
    """One effect's verdict in words."""
    return f"{_verdict(effect, comparison, view)}{_diverged(effect, view)}"


def _diverged(effect: Effect, view: View) -> str:
    counts = [
        f"{len(result.diverged)} of {result.n} runs of {result.arm}"
        for result in view.results
        if result.arm in (effect.arm, effect.baseline) and result.diverged
    ]
    return f" Diverged, and counted as guessing: {', '.join(counts)}." if counts else ""


def _verdict(effect: Effect, comparison: Comparison, view: View) -> str:
    metric = view.metric
    size = with_unit(difference(effect.estimate, metric), metric)
    plain = with_unit(difference(abs(effect.estimate), metric).lstrip("+"), metric)
    arm = f"{effect.arm}{at_setting(effect.setting, comparison.tuned)}"
    base = f"{effect.baseline}{at_setting(effect.baseline_setting, comparison.tuned)}"
    least = f"a verdict on {_count(len(view.effects), 'effect')} needs at least {effect.verdict_n}"
    if effect.interval is None:
        return (
            f"{arm} against {base}: {size} from too few seeds to say how sure that is; no verdict "
            f"({least} seeds an arm)."
        )
    evidence = (
        f"95 % interval {difference_interval(effect.interval, metric)}, {_pairs(effect)}, "
        f"adjusted p {_equals(p_value(effect.p_holm))}"
    )
    if effect.verdict == "no verdict":
        why = effect.barred or f"{least} seeds an arm"
        return f"{arm} against {base}: {size} ({evidence}); no verdict: {why}."
    if effect.verdict in ("higher", "lower"):
        text = f"{arm} scores {plain} {effect.verdict} than {base} ({evidence})."
        if effect.p_equivalence_holm is not None and effect.p_equivalence_holm <= ALPHA:
            text += f" The difference is real but within the margin of {margin_of(comparison)}."
        return text
    if effect.verdict == "equivalent":
        return (
            f"{arm} and {base} are equivalent within {margin_of(comparison)}: {size} ({evidence}; "
            f"both one-sided tests, adjusted p {_equals(p_value(effect.p_equivalence_holm))})."
        )
    text = f"{arm} against {base}: undecided. {size} ({evidence})."
    if effect.required_n:
        text += f" An effect of this size would take about {effect.required_n:,} seeds an arm."
    return text


def _pairs(effect: Effect) -> str:
    if effect.method == "paired":
        return f"{effect.n} paired seeds"
    return f"{seeds(effect)} unpaired seeds"


def _equals(p: str) -> str:
    return p if p.startswith("<") else f"= {p}"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
