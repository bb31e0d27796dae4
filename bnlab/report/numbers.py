"""Numbers as text: sensible digits, a dash for what is not there."""

import math
from collections.abc import Iterable

from bnlab.analysis import Comparison, Effect, Metric, Result
from bnlab.analysis.stats import Interval, TimeToTarget

MISSING = "–"  # noqa: RUF001 - an en dash, as in printed tables


def number(value: object, digits: int = 3) -> str:
    """Significant digits, without an exponent for everyday sizes; a dash for what is no number."""
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return MISSING
    if value == 0 or 1e-4 <= abs(value) < 10**6:
        places = digits - 1 - (math.floor(math.log10(abs(value))) if value else 0)
        return f"{value:,.{max(0, places)}f}"
    return f"{value:.{digits - 1}e}"


def ratio(first: float | None, last: float | None) -> str:
    """`x1.21`: the last value in terms of the first, where both are of one sign."""
    if first is None or last is None or not first * last > 0:
        return MISSING
    return f"x{number(last / first)}"


def span(counts: Iterable[int]) -> str:
    """`8`, or `7-8` where counts differ."""
    found = sorted(set(counts))
    return str(found[0]) if len(found) == 1 else f"{found[0]}-{found[-1]}"


def _places(metric: Metric) -> int:
    # 0.01 pp is one image of CIFAR-10's 10,000 test images.
    return 2 if metric.unit else 4


def score(value: float | None, metric: Metric) -> str:
    """A value of the metric in the unit of tables."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value * metric.scale:.{_places(metric)}f}"


def difference(value: float | None, metric: Metric) -> str:
    """A signed difference in the unit of tables."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value * metric.scale:+.{_places(metric)}f}"
    return text if text.strip("+-0.") else text[1:]


def score_interval(interval: Interval | None, metric: Metric) -> str:
    """Limits of a value."""
    if interval is None:
        return MISSING
    return f"{score(interval.low, metric)} to {score(interval.high, metric)}"


def difference_interval(interval: Interval | None, metric: Metric) -> str:
    """Limits of a difference."""
    if interval is None:
        return MISSING
    return f"{difference(interval.low, metric)} to {difference(interval.high, metric)}"


def p_value(p: float | None) -> str:
    """Two significant digits; `<0.0001` below that."""
    if p is None or not math.isfinite(p):
        return MISSING
    if p < 1e-4:
        return "<0.0001"
    return number(p, 2) if p < 0.9995 else "1"


def time(value: TimeToTarget | None, digits: int = 3) -> str:
    """A time to a target; `> 20` if it was not reached by then."""
    if value is None:
        return MISSING
    text = f"{value.value:g}" if value.value == round(value.value) else number(value.value, digits)
    return text if value.reached else f"> {text}"


def with_unit(text: str, metric: Metric) -> str:
    """`+1.23 pp`; a loss has no unit worth a word."""
    return f"{text} {metric.unit}".rstrip()


def short_key(tuned: str | None) -> str:
    """`optim.lr` as `lr`; nothing where nothing is tuned."""
    return (tuned or "").rpartition(".")[2]


def at_setting(setting: float | None, tuned: str | None) -> str:
    """` (lr 0.1)`, ` (own lr)` where each seed has its own, or nothing where nothing is tuned."""
    if tuned is None:
        return ""
    key = short_key(tuned)
    return f" (own {key})" if setting is None else f" ({key} {setting:g})"


def show_setting(setting: float | None) -> str:
    """A value of the tuned key; `own` where each seed has its own."""
    return "own" if setting is None else f"{setting:g}"


def margin_of(comparison: Comparison) -> str:
    """`±0.5 pp`: the largest difference that counts as none."""
    margin, metric = comparison.margin, comparison.metric
    return with_unit(f"±{number((margin or 0) * metric.scale, 2).rstrip('0').rstrip('.')}", metric)


def column(metric: Metric) -> str:
    """Heading of a column of values: `test/accuracy, %`."""
    return f"{metric.name}, %" if metric.unit else metric.name


def seeds(effect: Effect) -> str:
    """`8`, or `8 vs 10` where the arms are independent samples of unequal size."""
    a, b = len(effect.seeds), len(effect.baseline_seeds)
    return str(a) if a == b else f"{a} vs {b}"


def standard_deviation(result: Result, metric: Metric) -> str:
    """Standard deviation over seeds in the unit of tables."""
    return MISSING if result.sd is None else f"{result.sd * metric.scale:.{_places(metric)}f}"
