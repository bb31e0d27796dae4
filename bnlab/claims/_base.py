"""What a claim is, and the table of all claims."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from bnlab import registry
from bnlab.analysis.stats import (
    Interval,
    MedianEffect,
)
from bnlab.claims._contrast import (
    SCALES,
    Array,
    Contrast,
    Detail,
    Evidence,
    Failures,
    Unit,
    make_contrast,
    make_median_contrast,
    show_effect,
)
from bnlab.config import Config


@dataclass(frozen=True)
class Imagined:
    """A run that is simulated.

    Attributes:
        arm: Of the claim's study.
        levels: Its level of each factor.
        config: How it is trained.
        effect: The true effect of the claim, in storage units.
        noise: What its seed adds to its accuracy.
        response: By learning rate, what accuracy loses beside the best one; at most 0.
    """

    arm: str
    levels: Mapping[str, str]
    config: Config
    effect: float
    noise: float
    response: Callable[[float], float]

    @property
    def lost(self) -> float:
        """What its own learning rate loses."""
        return self.response(self.config.optim.lr)

    def reach(self, accuracy: float) -> dict[str, float | Array]:
        """Every accuracy that a run records, where all of them are alike."""
        found = accuracy + self.lost + self.noise
        return dict.fromkeys(ACCURACIES, found)


ACCURACIES = (
    "train/accuracy",
    "val/accuracy",
    "test/accuracy",
    "probe/test_accuracy/population",
)

Label: TypeAlias = Literal["SUPPORTED", "REFUTED", "INCONCLUSIVE", "NOT TESTED"]


@dataclass(frozen=True)
class Verdict:
    """What may be said of a claim.

    Attributes:
        label: The verdict.
        sublabel: Refines REFUTED: `reversed`, `real but negligible` or `no practical difference`.
        interval: Effect and limits at the claim's level; None if NOT TESTED.
        required_n: Seeds that would settle an INCONCLUSIVE verdict with power 0.8.
        why: In words; of a claim that is NOT TESTED, what is missing.
        power: Chance of finding an effect of twice the smallest of interest, by this spread and n
            at the claim's level; None where too few seeds tell a spread.
        parts: What each place says alone, of a claim that is judged in two.
    """

    label: Label
    sublabel: str = ""
    interval: Interval | None = None
    required_n: int | None = None
    why: str = ""
    power: float | None = None
    parts: tuple["Verdict", ...] = ()

    @property
    def words(self) -> str:
        """The label, and in brackets what refines it."""
        return f"{self.label} ({self.sublabel})" if self.sublabel else self.label


SCORED_AS_GUESSES = "headline, diverged runs scored as guesses"


@dataclass(frozen=True)
class Claim:
    """A testable sentence.

    Attributes:
        name: Stem of its file and of its study's.
        statement: The documents' sentence, in English.
        against: What would count against it, in words.
        sources: Documents that state it, and papers on it.
        quote: A document's number and its sentence, of which the statement is the English; None of
            what no document says.
        definition: What is measured, in words.
        formula: The effect; positive favors the claim.
        protocol: What is trained, and how.
        smallest_effect: Smallest effect of interest, in storage units; fixed beforehand.
        smallest_under: By preset, where it is another one there.
        reason: Why that one.
        unit: Of the effect in tables: `pp` (storage: fractions) or `octaves`.
        treated: Arms of its study that the effect is made of, of the side that it favors.
        control: Those of the other side.
        needs: Arms that it cannot be judged without beside these, as where one is a gate.
        measure: From evidence to the contrast; seeds that only name come first in both.
        at_best: Arms that the effect compares at their best learning rate; none of these may lie
            on the grid's edge.
        about_training: Whether it is about training at all, so that more failures in the control
            support it by themselves.
        scores_failures: Whether its effect has a value for a run that diverged (a depth not
            reached, a learning rate of no use), so that no seed is left out of it.
        failures: Whether runs diverged, by arm, where that counts as failing; by default the final
            runs of its arms.
        bounded: Whether the claim is that an amount stays below the smallest of interest, instead
            of being at least that.
        either_way: Whether it is that, on either side of 0.
        ruled: What its own rule adds to the common one, in words.
        tests: Comparisons of one kind that must all come out for the claim to be supported.
        again: The same once more, elsewhere: the verdict needs both.
        place: Where this is measured, in words, of a claim that is measured in two places.
        depends: What it depends on, in words, where it holds in one place and not in the other.
        judge: From the contrast and the smallest effect to the verdict, if not by the common rule.
        imagine: What a run would show if the effect were so large; see `_calibration`.
        study: Its study file, or another claim whose study it is judged by; by default that of its
            own name among bnlab's own.
    """

    name: str
    statement: str
    against: str
    sources: tuple[str, ...]
    definition: str
    formula: str
    protocol: str
    smallest_effect: float
    reason: str
    unit: Unit
    treated: tuple[str, ...]
    control: tuple[str, ...]
    measure: Callable[[Evidence], Contrast]
    quote: tuple[str, str] | None = None
    needs: tuple[str, ...] = ()
    at_best: tuple[str, ...] = ()
    smallest_under: Mapping[str, float] = field(default_factory=dict)
    about_training: bool = False
    scores_failures: bool = False
    failures: Callable[[Evidence], Mapping[str, Array]] = lambda evidence: evidence.diverged
    bounded: bool = False
    either_way: bool = False
    ruled: str = ""
    tests: int = 1
    again: "Claim | None" = None
    place: str = ""
    depends: str = ""
    judge: "Judge | None" = None
    imagine: "Imagine | None" = None
    study: Path | str | None = None

    @property
    def arms(self) -> tuple[str, ...]:
        """Arms that the effect is made of."""
        return (*self.control, *self.treated)

    def smallest(self, preset: str) -> float:
        """Smallest effect of interest under a preset, in storage units."""
        return self.smallest_under.get(preset, self.smallest_effect)

    def contrast(self, evidence: Evidence) -> Contrast:
        """What is measured, with failures apart.

        The headline is that of the seeds on which every run of both sides trained; what it would be
        with diverged runs as guesses stands among the details.
        """
        again = self.again.contrast(evidence) if self.again else None
        return replace(self._contrast(evidence), again=again)

    def _contrast(self, evidence: Evidence) -> Contrast:
        measured = self.measure(evidence)
        failures = self._failures(evidence, len(measured.differences))
        if failures is None or not failures.set_apart:
            return replace(measured, failures=failures)
        kept = failures.any == 0
        low, high = (bound[kept] for bound in measured.bounds)
        steps = isinstance(measured.effect, MedianEffect) and len(low) > 0
        trained = make_median_contrast(low, high) if steps else make_contrast(low)
        guessed = Detail(SCORED_AS_GUESSES, measured.interval, self.unit)
        return replace(
            measured,
            differences=trained.differences,
            effect=trained.effect,
            interval=trained.interval,
            p=trained.p,
            details=(guessed, *measured.details),
            failures=failures,
        )

    def _failures(self, evidence: Evidence, measuring: int) -> Failures | None:
        """Where runs of the seeds that measure diverged."""
        diverged = self.failures(evidence)
        sides = [[arm for arm in arms if arm in diverged] for arms in (self.treated, self.control)]
        if not all(sides):
            return None
        treated, control = (
            np.max([diverged[arm][-measuring:] for arm in arms], axis=0) for arms in sides
        )
        names = " or ".join(sides[0]), " or ".join(sides[1])
        found = Failures(treated, control, names, set_apart=not self.scores_failures)
        return found if found.any.any() else None

    def power_at(self, preset: str) -> float:
        """Effect at which the power is told: twice the smallest of interest.

        Of an amount that is to stay below it: how far below it half of it lies.
        """
        return self.smallest(preset) * (0.5 if self.bounded else 2)

    @property
    def scale(self) -> float:
        """Factor from storage to tables."""
        return SCALES[self.unit]

    def show(self, value: float) -> str:
        """An effect with its unit: `+0.31 pp`."""
        return show_effect(value, self.unit)


CLAIMS: registry.Registry[Claim] = registry.CLAIMS


def find_claim(name: str) -> Claim:
    """The claim of that name.

    Raises:
        ConfigError: If there is none; the message lists the known names.
    """
    return CLAIMS[name]


Judge: TypeAlias = Callable[[Claim, Contrast, float], Verdict]
"""Claim, contrast, and the smallest effect of interest under its preset."""


Imagine: TypeAlias = Callable[[Imagined], Mapping[str, float | Array]]
"""From an imagined run to what it records, by tag; an array is a curve over epochs."""


def best_lrs(evidence: Evidence) -> str:
    """At which learning rate each arm that was tuned is trained, in words."""
    return "best lr: " + "; ".join(f"{arm} {told}" for arm, told in evidence.told.items())


def divergences(evidence: Evidence) -> tuple[str, ...]:
    """How many final runs diverged, if any did."""
    named = [
        f"{arm} {int(failed.sum())} of {len(failed)}"
        for arm, failed in evidence.diverged.items()
        if failed.any()
    ]
    told = "diverged runs, in all but the headline scored as guesses"
    return (f"{told}: {', '.join(named)}",) if named else ()
