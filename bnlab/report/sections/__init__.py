"""The parts of a report. To add one: a function in its topic's file and an entry in `SECTIONS`."""

from bnlab.report.blocks import SectionFunction
from bnlab.report.sections.comparison import arms, divergence, effects, pairs
from bnlab.report.sections.course import cost, curves, response, target
from bnlab.report.sections.evidence import audit, configuration, provenance, remarks, runs
from bnlab.report.sections.inside import probes
from bnlab.report.sections.verdicts import answer, findings

SECTIONS: tuple[SectionFunction, ...] = (
    answer,
    curves,
    findings,
    effects,
    pairs,
    arms,
    response,
    target,
    divergence,
    cost,
    probes,
    configuration,
    audit,
    provenance,
    remarks,
    runs,
)
"""The report, in order."""

IN_TERMINAL: tuple[SectionFunction, ...] = (
    answer,
    findings,
    effects,
    pairs,
    arms,
    response,
    target,
    divergence,
    cost,
    remarks,
)
"""What the terminal shows of it."""
