"""What the words of reports mean: explained where they stand, and listed at the end of a page."""

import re
from dataclasses import dataclass

from markupsafe import Markup, escape

from bnlab.report.safe import plain


@dataclass(frozen=True)
class Term:
    """A word that needs a sentence.

    Attributes:
        key: Stem of its anchor.
        name: As the list at the end has it.
        words: The forms in which it stands, as a regular expression.
        means: The sentence.
    """

    key: str
    name: str
    words: str
    means: str

    def stands_in(self, text: str) -> bool:
        """Whether a text uses it."""
        return re.search(_whole(self.words), text) is not None


def _whole(words: str) -> str:
    return rf"(?<![\w|&#;/-])(?:{words})(?![\w|])"


TERMS = (
    Term(
        "pp",
        "pp",
        "pp",
        "percentage points: from 70 % to 72 % is +2 pp.",
    ),
    Term(
        "octave",
        "octave",
        "octaves?",
        "a factor of two: 1 octave is twice as much, 2 are four times as much.",
    ),
    Term(
        "nats",
        "nats",
        "nats",
        "a difference of natural logarithms: +0.69 nats is twice as much.",
    ),
    Term(
        "log-layer",
        "log/layer",
        "log/layer",
        "how much the natural logarithm of a gradient's size changes from layer to layer.",
    ),
    Term(
        "r",
        "|r|",
        r"\|r\|",
        "the size of a correlation whatever its sign: 0 is none, 1 the most.",
    ),
    Term(
        "seed",
        "seed",
        "seeds?",
        "the number that a run's random draws start from (weights, order, augmentation); runs that "
        "differ in it alone show how far chance moves a result.",
    ),
    Term(
        "arm",
        "arm",
        "arms?",
        "one way of training; all of its runs differ in nothing but the seed.",
    ),
    Term(
        "paired",
        "paired",
        "paired|pairs?",
        "runs of equal seed are compared with each other: they start from the same weights and see "
        "the same images in the same order.",
    ),
    Term(
        "limits",
        "limits, interval",
        r"[\d.]+ % (?:interval|limits)(?: at once)?|simultaneous limits",
        "the range that holds the true value in that share of studies like this one; wider for "
        "more certainty, narrower with more seeds.",
    ),
    Term(
        "simultaneous",
        "simultaneous",
        "simultaneous",
        "limits so wide that all of a table hold at once in 95 of 100 studies (Bonferroni).",
    ),
    Term(
        "exploratory",
        "exploratory",
        "exploratory",
        "looked at beside the planned question; worth a study of its own before it is believed.",
    ),
    Term(
        "holm",
        "p (Holm), adjusted p",
        r"p \(Holm\)|adjusted p",
        "the chance of a difference this large if there were none, made larger for the number of "
        "comparisons in the table, so that at most 1 table in 20 speaks falsely.",
    ),
    Term(
        "wilson",
        "Wilson",
        "Wilson(?:'|&#39;)s",
        "limits of a share that stay between 0 and 100 % and hold for few runs, too.",
    ),
    Term(
        "welch",
        "Welch",
        "Welch(?:(?:'|&#39;)s)?",
        "a comparison of independent runs, whose spreads may differ.",
    ),
    Term(
        "fisher",
        "Fisher",
        "Fisher(?:(?:'|&#39;)s)?",
        "an exact test of whether two shares of runs that diverged differ by more than chance.",
    ),
    Term(
        "sd",
        "sd",
        "sd",
        "standard deviation over seeds: how far single runs lie from their mean.",
    ),
    Term(
        "n",
        "n",
        "n",
        "the number of seeds behind a figure.",
    ),
    Term(
        "lr",
        "lr",
        "(?:own )?(?:best )?lr",
        "learning rate. Own: each seed is trained at what did best for it on images held out.",
    ),
    Term(
        "diverged",
        "diverged",
        "diverged?s?",
        "a loss or weight became infinite, or training ended no better than guessing (at most 1.2 "
        "times chance).",
    ),
    Term(
        "undecided",
        "undecided",
        "undecided",
        "the limits hold both a difference that matters and none: more seeds would tell.",
    ),
    Term(
        "equivalent",
        "equivalent",
        "equivalent",
        "the difference is shown to be smaller than the margin.",
    ),
    Term(
        "margin",
        "margin",
        "margin",
        "the largest difference that counts as none.",
    ),
    Term(
        "smallest",
        "smallest effect of interest",
        "smallest effects? of interest|smallest of interest",
        "below it a difference would not matter; fixed by the protocol, whose changes are told.",
    ),
    Term(
        "supported",
        "SUPPORTED",
        "SUPPORTED",
        "the limits are above 0, and the effect is at least as large as the smallest of interest; "
        "of a claim of at most some amount, the upper limit is below that.",
    ),
    Term(
        "refuted",
        "REFUTED",
        "REFUTED",
        "the upper limit is below the smallest effect of interest, or even below 0 (reversed); of "
        "a claim of at most some amount, the lower limit is above that.",
    ),
    Term(
        "inconclusive",
        "INCONCLUSIVE",
        "INCONCLUSIVE",
        "the limits leave room for either verdict, or one side of the comparison fails more often.",
    ),
    Term(
        "untested",
        "NOT TESTED",
        "NOT TESTED",
        "runs are missing, too few seeds are left, or something forbids a verdict; which, it says.",
    ),
    Term(
        "power",
        "power",
        "power",
        "the chance that a study like this finds an effect of that size.",
    ),
)
"""All terms, in the order of the list."""


class Explainer:
    """Links the first place of each term in a section to its explanation; one for each page."""

    def __init__(self) -> None:
        self._here: set[str] = set()
        self._seen: set[str] = set()

    def section(self) -> str:
        """A new section begins."""
        self._here.clear()
        return ""

    def explain(self, text: str) -> Markup:
        """A text, escaped, with a link on each term that this section has not explained yet."""
        safe = str(escape(plain(text)))
        found = sorted(
            (match.start(), -match.end(), term.key)
            for term in TERMS
            if term.key not in self._here
            if (match := re.search(_whole(term.words), safe))
        )
        parts, at = [], 0
        for start, end, key in found:
            if start < at:
                continue
            self._here.add(key)
            self._seen.add(key)
            word = safe[start:-end]
            parts += [safe[at:start], f'<a class="term" href="#term-{key}">{word}</a>']
            at = -end
        return Markup("".join([*parts, safe[at:]]))  # noqa: S704 - escaped above

    def used(self) -> list[Term]:
        """Those that the page has linked."""
        return [term for term in TERMS if term.key in self._seen]
