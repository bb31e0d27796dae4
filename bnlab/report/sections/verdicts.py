"""What came out, in plain words."""

from collections.abc import Sequence

from bnlab.analysis import ALPHA, Comparison, Effect, View
from bnlab.report.blocks import Block, Bullets, Plot, Section, Text
from bnlab.report.numbers import (
    at_setting,
    difference,
    difference_interval,
    margin_of,
    p_value,
    score,
    seeds,
    short_key,
    with_unit,
)
from bnlab.report.sections.drawing import drawing

MOST_NAMED = 6
"""Arms that the answer names for each verdict; the tables have all."""


def answer(comparison: Comparison) -> Section:
    """What came out, in a sentence and a picture."""
    c = comparison
    view, runs = c.views[0], len(c.runs)
    told = [_summary(view, c), *(placement_sentence(pair, view) for pair in placements(c, view))]
    blocks: list[Block] = [Text(" ".join(told), "lead")]
    blocks += [Text(caveat, "warning") for caveat in c.caveats]
    opening = (
        f"{_count(runs, 'run')} in {_count(len(c.arms), 'arm')}"
        f"{' from ' + ', '.join(c.studies) if any(c.studies) else ''}, compared on {c.metric.name}"
    )
    if len(c.arms) > 1:
        opening += f" with {c.baseline} ({c.baseline_reason})"
    blocks.append(Text(f"{opening}."))
    if view.effects:
        pairs = [pair for pair in placements(c, view) if pair in view.pairs]
        blocks.append(
            Plot(
                f"effects-{view.key}",
                f"{view.title}: {forest_caption(c, view, pairs)}",
                drawing("draw_forest", c, view, pairs),
            )
        )
    return Section("answer", "The answer", tuple(blocks))


def forest_caption(comparison: Comparison, view: View, pairs: Sequence[Effect] = ()) -> str:
    """Says what `draw_forest` draws, and of that all."""
    parts = [f"difference from {comparison.baseline}"]
    if any(effect.interval for effect in view.effects):
        parts.append("with its 95 % interval, not adjusted")
    if comparison.margin:
        parts.append(f"; shaded, the margin of {margin_of(comparison)}")
    if any(pair.simultaneous for pair in pairs):
        parts.append("; last, the placements against each other, with simultaneous limits")
    return " ".join(parts).replace(" ;", ";") + "."


def placements(comparison: Comparison, view: View) -> list[Effect]:
    """Arms with batch norm before and after the activation that differ in nothing else."""
    where = {arm.name: arm.config.get(PLACEMENT) for arm in comparison.arms}
    return [
        effect
        for effect in (view.pairs or view.effects)
        if effect.factors == (PLACEMENT,)
        and {where[effect.arm], where[effect.baseline]} == {"before_activation", "after_activation"}
    ]


PLACEMENT = "model.norm.placement"


def placement_sentence(effect: Effect, view: View) -> str:
    """Before against after, in a sentence of the answer."""
    metric, limits = view.metric, effect.simultaneous or effect.interval
    size = with_unit(difference(effect.estimate, metric), metric)
    evidence = [difference_interval(limits, metric)] if limits else []
    if effect.simultaneous:
        evidence = [f"simultaneous limits {evidence[0]}", "exploratory"]
    elif evidence:
        evidence = [f"95 % interval {evidence[0]}"]
    told = f" ({', '.join(evidence)})" if evidence else ""
    sides = f"{effect.arm} against {effect.baseline}"
    return f"Before or after? {sides}: {size}{told}, {effect.verdict}."


def _summary(view: View, comparison: Comparison) -> str:
    """Which arms do better and worse than the baseline, by how much."""
    metric, base = view.metric, comparison.baseline
    if not view.effects:
        means = [with_unit(score(r.mean, metric), metric).replace("pp", "%") for r in view.results]
        return f"{base} reaches {' and '.join(means)} {metric.name}; there is no other arm."
    said = {
        "higher": "higher with ",
        "lower": "lower with ",
        "equivalent": f"equivalent within {margin_of(comparison)} with ",
        "undecided": "undecided with ",
        "no verdict": "without a verdict with ",
    }
    parts = []
    for verdict, words in said.items():
        found = [effect for effect in view.effects if effect.verdict == verdict]
        if not found:
            continue
        named = [
            f"{effect.arm} ({with_unit(difference(effect.estimate, metric), metric)})"
            for effect in found[:MOST_NAMED]
        ]
        named += [f"{len(found) - MOST_NAMED} more"] * (len(found) > MOST_NAMED)
        parts.append(words + ", ".join(named[:-1]) + " and " * (len(named) > 1) + named[-1])
    rule = {"each": "each seed at its own best", "best": "each arm at its best"}.get(view.key)
    ruled = f", {rule} {short_key(comparison.tuned)}" if rule else ""
    return f"Against {base}, {metric.name} is {'; '.join(parts)}{ruled}."


def findings(comparison: Comparison) -> Section:
    """Every verdict in plain words, with its evidence."""
    c = comparison
    blocks: list[Block] = []
    if len(c.arms) == 1:
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
