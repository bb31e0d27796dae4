"""The parts of a report. To add one: a function in its topic's file and an entry in `SECTIONS`."""

from bnlab.report.blocks import SectionFunction
from bnlab.report.sections.comparison import arms, divergence, effects
from bnlab.report.sections.course import cost, curves, response, target
from bnlab.report.sections.evidence import audit, configuration, provenance, remarks
from bnlab.report.sections.inside import probes
from bnlab.report.sections.verdicts import findings

SECTIONS: tuple[SectionFunction, ...] = (
    findings,
    effects,
    arms,
    response,
    target,
    divergence,
    cost,
    curves,
    probes,
    configuration,
    audit,
    provenance,
    remarks,
)
"""The report, in order."""

IN_TERMINAL: tuple[SectionFunction, ...] = (
    findings,
    effects,
    arms,
    response,
    target,
    divergence,
    cost,
    remarks,
)
"""What the terminal shows of it."""
