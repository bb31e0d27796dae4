"""From run directories to effects: arms, the audit of their pairing, and what may be said of them.

`load_runs` reads; `compare` is pure and computes a `Comparison` once, of which every table, plot
and file of a report is a view. An *arm* is a configuration up to seed, name and paths. Where arms
were tried at several values of a tuned key (the learning rate), that key is no part of the arm:
arms are compared at the same value and each at its best, or each seed at its own best where every
seed tuned for itself.
"""

from collections.abc import Sequence
from dataclasses import replace

from bnlab.analysis.arms import choose_baseline, differing_factors, make_arms, varying_keys
from bnlab.analysis.audit import Subject, audit
from bnlab.analysis.course import (
    choose_target,
    find_arrivals,
    mean_curves,
    measure_costs,
    summarize_probes,
)
from bnlab.analysis.own_best import Own, find_own_best, pilot_runs
from bnlab.analysis.provenance import caveats, gather_facts, refuse_mixed, show_fact
from bnlab.analysis.results import (
    ALPHA,
    LEVEL,
    MOST_PAIRED,
    Answer,
    Arm,
    Arrival,
    Comparison,
    Cost,
    Curve,
    Effect,
    Fact,
    Metric,
    Options,
    ProbeSummary,
    Response,
    Result,
    View,
    make_metric,
    score_of,
)
from bnlab.analysis.runs import Run, load_runs
from bnlab.analysis.views import make_result, make_views, respond
from bnlab.errors import ConfigError, did_you_mean
from bnlab.records import Remark

__all__ = [
    "ALPHA",
    "LEVEL",
    "MOST_PAIRED",
    "Answer",
    "Arm",
    "Arrival",
    "Comparison",
    "Cost",
    "Curve",
    "Effect",
    "Fact",
    "Metric",
    "Options",
    "ProbeSummary",
    "Remark",
    "Response",
    "Result",
    "Run",
    "View",
    "compare",
    "differing_factors",
    "load_runs",
    "make_metric",
    "make_result",
    "score_of",
    "show_fact",
]


def compare(runs: Sequence[Run], options: Options, remarks: Sequence[Remark] = ()) -> Comparison:
    """Everything that a report says about some runs.

    Raises:
        ConfigError: If there are no runs, or none has the metric, or the baseline is unknown.
        RefusedError: If runs of different code, device, precision or data are mixed.
    """
    metric = make_metric(options.metric)
    notes = list(remarks)
    _check(runs, metric, notes)
    arms, tuned = make_arms(runs, options.tuned, notes)
    arms = [left for arm in arms if (left := _with_metric(arm, metric, notes))]
    kept = sorted((run for a in arms for run in (*a.runs, *a.tuning)), key=lambda run: run.path)
    if not options.allow_mixed:
        refuse_mixed(kept, audit(Subject("comparison", runs)))
    final = [arm for arm in arms if arm.runs]
    baseline, reason = choose_baseline(arms if options.baseline else final, options.baseline)
    arms = [baseline, *(arm for arm in arms if arm is not baseline)]
    own = find_own_best(arms, tuned) if tuned else {}
    responses = _responses(arms, tuned, metric, own) if tuned else ()
    views, cells = make_views(arms, tuned, metric, responses, own, options.margin)
    target, tag = choose_target(cells, options)
    audited = audit(_subject(runs, responses, views[0]))
    return Comparison(
        metric=metric,
        margin=options.margin,
        studies=tuple(sorted({run.study for run in kept})),
        caveats=caveats(kept, audited),
        arms=tuple(arms),
        baseline=baseline.name,
        baseline_reason=reason,
        tuned=tuned,
        views=views,
        responses=responses,
        target=target,
        target_tag=tag,
        arrivals=find_arrivals(cells, views[0], target, tag),
        costs=measure_costs(cells),
        curves=mean_curves(cells),
        probes=summarize_probes(cells),
        varying=varying_keys(arms, tuned),
        facts=gather_facts(kept),
        audit=audited,
        runs=tuple(kept),
        remarks=tuple(notes),
    )


def _responses(arms: Sequence[Arm], tuned: str, metric: Metric, own: Own) -> tuple[Response, ...]:
    """Of every arm but those that stand where the seeds of another arm chose to."""
    return tuple(
        respond(replace(arm, tuning=pilot_runs(arm, own.get(arm.name, {}))), tuned, metric)
        for arm in arms
        if arm.tuning or arm.name not in own
    )


def _subject(runs: Sequence[Run], responses: Sequence[Response], view: View) -> Subject:
    return Subject(
        "comparison",
        runs,
        choices={response.arm: response.choice for response in responses},
        seeds={effect.arm: (effect.n, effect.verdict_n) for effect in view.effects},
        factors={effect.arm: effect.factors for effect in view.effects},
    )


def _check(runs: Sequence[Run], metric: Metric, remarks: Sequence[Remark]) -> None:
    if not runs:
        reasons = "".join(f"\n  {remark.where}: {remark.what}" for remark in remarks[:20])
        raise ConfigError(
            "no finished runs to compare; train some (bnlab train --config FILE), or name the "
            f"folder that holds them{reasons}"
        )
    if all(score_of(run, metric) is None for run in runs):
        known = {tag for run in runs for tag in run.final if "/" in tag or tag == "seconds"}
        raise ConfigError(
            f"--metric: no run recorded {metric.name!r}{did_you_mean(metric.name, known)}"
        )


def _with_metric(arm: Arm, metric: Metric, remarks: list[Remark]) -> Arm | None:
    """The arm's runs that can be compared: tuning runs may lack the metric, final ones not."""
    tuning_metrics = (metric, make_metric("val/accuracy"))
    runs = tuple(run for run in arm.runs if score_of(run, metric) is not None)
    tuning = tuple(
        run for run in arm.tuning if any(score_of(run, m) is not None for m in tuning_metrics)
    )
    remarks += [
        Remark(run.path, f"no finite {metric.name} at its end; left out")
        for run in (*arm.runs, *arm.tuning)
        if run not in runs and run not in tuning
    ]
    return replace(arm, runs=runs, tuning=tuning) if runs or tuning else None
