"""The headline of every claim, worked out anew from the archived runs in plain numpy.

None of what judges is used: neither how runs are found and chosen, nor how they are counted.
"""

import functools
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain_limits import Effect, Mean, Median
from plain_runs import LR, Archive, Array, Run, Study
from scipy import stats

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "runs/reference"

LEVEL = 0.998
"""That at which a claim is judged."""

SCALES = {"pp": 100.0, "%": 100.0, "octaves": 1.0, "nats": 1.0, "log/layer": 1.0, "|r|": 1.0}
"""From fractions to what a unit is printed in."""


def trained(*arms: Sequence[Run]) -> list[int]:
    """The places of the seeds on which every run of some arms trained."""
    by_seed = enumerate(zip(*arms, strict=True))
    return [place for place, runs in by_seed if not any(run.diverged for run in runs)]


def read(runs: Sequence[Run], tag: str) -> Array:
    return np.array([run.at_end(tag) for run in runs])


def where_first(losses: Array, readings: Array, level: float) -> float:
    """A reading where the losses first come down to a level, on a line between two points."""
    below = np.flatnonzero(losses <= level)
    if not len(below):
        return math.nan
    after = int(below[0])
    if after == 0:
        return float(readings[0])
    ends = [after, after - 1]  # rising, as interp has it
    return float(np.interp(level, losses[ends], readings[ends]))


def at_one_loss(without: Run, with_bn: Run, reading: Callable[[Run], Array]) -> float:
    """A reading without BN less that with it, at the least training loss that both come down to."""
    runs = without, with_bn
    losses = [run.curve("train/loss") for run in runs]
    level = max(loss.min() for loss in losses)
    found = [where_first(loss, reading(r), level) for r, loss in zip(runs, losses, strict=True)]
    return found[0] - found[1]


def paired(study: Study, effect: Callable[[Run, Run], float]) -> Array:
    """An effect of the run without BN and that with it, for each seed on which both trained."""
    none, batch = study.finals("none"), study.finals("batch")
    return np.array([effect(none[place], batch[place]) for place in trained(none, batch)])


def mean_over(run: Run, quantity: str, layers: Sequence[str], *, octaves: bool = False) -> Array:
    """The mean over layers after every epoch, of logarithms if in octaves."""
    values = np.stack([run.curve(f"probe/{quantity}/{layer}") for layer in layers])
    return np.asarray(known_mean(log2(values) if octaves else values))


def log2(values: Array) -> Array:
    """NaN where there is no logarithm."""
    return np.log2(values, where=values > 0, out=np.full(values.shape, np.nan))


def known_mean(values: Array) -> Array:
    """Over the first axis, of what is a number."""
    return np.asarray(np.ma.filled(np.ma.masked_invalid(values).mean(axis=0), np.nan))


def shared_layers(quantity: str, *runs: Run) -> list[str]:
    first, *others = (run.layers(quantity) for run in runs)
    return [name for name in first if all(name in layers for layers in others)]


# ------------------------------------------------------------------------------------- the claims

TEST = "test/accuracy"

GAINS = {
    "accuracy": ("batch", "none", TEST),
    "caffe": ("batch", "caffe", TEST),
    "covariate_shift_noise": ("noisy_batch", "batch", "train/loss"),
    "decay_norm": ("batch", "decayed", TEST),
    "fc_norm": ("both", "conv", TEST),
    "no_decay": ("batch", "batch_no_decay", TEST),
    "placement": ("before", "after", TEST),
    "shuffle_once": ("batch", "batch_once", TEST),
    "small_batch": ("batch", "ghost_8", "probe/test_accuracy/population"),
}
"""Claims whose effect is what one arm reads at its end more than another, seed by seed."""


def gain(study: Study, treated: str, control: str, tag: str) -> Mean:
    """On the seeds on which both trained."""
    arms = study.finals(treated), study.finals(control)
    more, less = (read(runs, tag) for runs in arms)
    return Mean((more - less)[trained(*arms)])


def convergence(study: Study) -> Effect:
    """log2 of how many times more epochs the arm without BN needs to reach the target."""
    target = {"full": 0.7, "quick": 0.4, "smoke": 0.3}[study.preset]
    bounds = {norm: _times(study, norm, target) for norm in ("none", "batch")}
    kept = trained(study.finals("none"), study.finals("batch"))
    (none_low, none_high), (batch_low, batch_high) = bounds["none"], bounds["batch"]
    return Median((none_low - batch_high)[kept], (none_high - batch_low)[kept])


def _times(study: Study, norm: str, target: float) -> tuple[Array, Array]:
    """Bounds of log2 of the epochs that each seed needs."""
    arms = {
        arm: study.finals(arm) for arm in study.arms if re.fullmatch(rf"{norm}(_half|_b\d)?", arm)
    }
    images = max(runs[0].images for runs in arms.values())
    octaves = {
        arm: math.log2(runs[0].config["train.epochs"] * runs[0].images / images)
        for arm, runs in arms.items()
    }
    rising = sorted(arms, key=octaves.__getitem__)
    x = np.array([octaves[arm] for arm in rising])
    found = []
    for place in range(len(study.seeds)):
        scores = np.array([arms[arm][place].score(TEST) for arm in rising])
        hits = np.flatnonzero(scores >= target)
        if not len(hits):
            found.append((x[-1], math.inf))
        elif hits[0] == 0:
            found.append((-math.inf, x[0]))
        else:
            ends = [hits[0] - 1, hits[0]]
            found.append((float(np.interp(target, scores[ends], x[ends])),) * 2)
    low, high = np.array(found).T
    return low, high


def cost(study: Study) -> Effect:
    def more(none: Run, batch: Run) -> float:
        seconds = [np.median(run.curve("seconds")[1:]) for run in (batch, none)]
        return float(seconds[0] / seconds[1] - 1)

    return Mean(paired(study, more))


def covariate_shift(study: Study) -> Effect:
    def less(none: Run, batch: Run) -> float:
        drift = "drift_mean_epoch"
        layers = shared_layers(drift, none, batch)
        return at_one_loss(none, batch, lambda run: mean_over(run, drift, layers, octaves=True))

    return median_of(paired(study, less))


def covariate_shift_by_epochs(study: Study) -> Effect:
    def less(none: Run, batch: Run) -> float:
        drift = "drift_mean_epoch"
        layers = shared_layers(drift, none, batch)
        sides = (mean_over(run, drift, layers, octaves=True) for run in (none, batch))
        return float(np.mean(np.subtract(*sides)))

    return median_of(paired(study, less))


def median_of(found: Array) -> Effect:
    """A seed that broke down bounds nothing."""
    known = np.isfinite(found)
    return Median(np.where(known, found, -np.inf), np.where(known, found, np.inf))


def covariate_shift_gradients(study: Study) -> Effect:
    def less(none: Run, batch: Run) -> float:
        shift = "gradient_shift_relative"
        layers = shared_layers(shift, none, batch)
        found = [known_mean(mean_over(run, shift, layers, octaves=True)) for run in (none, batch)]
        return float(found[0] - found[1])

    return Mean(paired(study, less))


def decorrelation(study: Study) -> Effect:
    def less(none: Run, batch: Run) -> float:
        layers = [name for name in none.layers("channel_correlation") if name != "classifier"]
        return at_one_loss(none, batch, lambda run: mean_over(run, "channel_correlation", layers))

    return Mean(paired(study, less))


def depth(study: Study) -> Effect:
    arms = {arm: study.finals(arm) for arm in ("batch_16", "none_16", "batch_4", "none_4")}
    deep, deep_none, shallow, shallow_none = (read(arms[a], "train/accuracy") for a in arms)
    return Mean(((deep - deep_none) - (shallow - shallow_none))[trained(*arms.values())])


def dropout(study: Study) -> Effect:
    def closed(none: Run, batch: Run) -> float:
        """How much wider the gap is without BN; every network begins at guessing, with none."""
        paths = []
        for run in (none, batch):
            train, test = run.curve("probe/eval_loss/train"), run.curve("test/loss")
            read_at = np.isfinite(test)
            start = [math.log(run.classes)]
            paths.append([np.concatenate([start, loss[read_at]]) for loss in (train, test)])
        level = max(float(train[1:].min()) for train, _ in paths)
        gaps = [where_first(train, test, level) - level for train, test in paths]
        return gaps[0] - gaps[1] if level < math.log(none.classes) else math.nan

    return Mean(paired(study, closed))


def gradients(study: Study) -> Effect:
    return _nearer_to_one(study, "_small")


def gradients_again(study: Study) -> Effect:
    return _nearer_to_one(study, "")


def _nearer_to_one(study: Study, init: str) -> Mean:
    """|log of the factor a layer| without BN less that with it; nothing trains, none diverges."""

    def distance(run: Run) -> float:
        convolutions = [name for name in run.layers("activation_grad") if name.startswith("conv")]
        # The third width begins behind a pool, and the last convolution stands before one.
        ladder = convolutions[2:-1]
        sizes = np.array([run.at_end(f"probe/activation_grad/{name}") for name in ladder])
        return abs(float(stats.linregress(np.arange(len(sizes)), log2(sizes)).slope)) * math.log(2)

    runs = zip(study.finals(f"none{init}"), study.finals(f"batch{init}"), strict=True)
    return Mean(np.array([distance(none) - distance(batch) for none, batch in runs]))


def higher_lr(study: Study) -> Effect:
    """Of all seeds' mean curves; each seed's value is moved from it as the jackknife has it."""
    curves = {arm: study.pilot(arm).runs for arm in ("none", "batch")}
    n = len(study.tune_seeds)

    def upper(arm: str, seeds: Sequence[int]) -> float:
        points = sorted(curves[arm], key=lambda point: dict(point)[LR])
        octaves = np.log2([dict(point)[LR] for point in points])
        means = np.array([_counted([curves[arm][point][s] for s in seeds]) for point in points])
        best = int(means.argmax())
        least = means[best] - 0.03
        below = np.flatnonzero(means[best:] < least)
        if not len(below):
            return float(octaves[-1])
        ends = [best + below[0], best + below[0] - 1]
        return float(np.interp(least, means[ends], octaves[ends]))

    def effect(seeds: Sequence[int]) -> float:
        return upper("batch", seeds) - upper("none", seeds)

    without = np.array([effect([s for s in range(n) if s != left]) for left in range(n)])
    return Mean(effect(range(n)) - (n - 1) * (without - without.mean()))


def _counted(runs: Sequence[Run]) -> float:
    """Mean accuracy of those that trained; where half or more diverged, of all, as guesses."""
    good = [run for run in runs if not run.diverged]
    counted = good if 2 * len(good) > len(runs) else runs
    return float(np.mean([run.score("val/accuracy") for run in counted]))


def inference_statistics(study: Study) -> Effect:
    runs = study.finals("batch")
    gained = read(runs, "probe/test_accuracy/document_002") - read(runs, TEST)
    return Mean(gained[trained(runs)])


INITIALIZATIONS = ("", "_gain_0.3", "_gain_2", "_torch_default")


def initialization(study: Study) -> Effect:
    arms = {norm: [f"{norm}{init}" for init in INITIALIZATIONS] for norm in ("none", "batch")}
    ranges = {}
    for norm, names in arms.items():
        best = max(names, key=lambda arm: study.pilot(arm).score)
        worst = min(names, key=lambda arm: study.pilot(arm).score)
        scores = [read(study.finals(arm), TEST) for arm in (best, worst)]
        ranges[norm] = scores[0] - scores[1]
    kept = trained(*(study.finals(arm) for names in arms.values() for arm in names))
    return Mean((ranges["none"] - ranges["batch"])[kept])


def input_normalization(study: Study) -> Effect:
    """Three seeds name the best way and the worst, the others measure how far these lie apart."""
    ways = ("minmax", "half", "zscore", "per_image", "decimal")
    ranges, measuring = {}, []
    for norm in ("none", "batch"):
        arms = [study.finals_at(f"{norm}_{way}", study.same) for way in ways]
        scores = np.array([[run.score(TEST) for run in runs] for runs in arms])
        names = [_named_by(runs[:3]) for runs in arms]
        best, worst = int(np.argmax(names)), int(np.argmin(names))
        ranges[norm] = (scores[best] - scores[worst])[3:]
        measuring += [runs[3:] for runs in arms]
    return Mean((ranges["none"] - ranges["batch"])[trained(*measuring)])


def _named_by(runs: Sequence[Run]) -> float:
    counted = [run for run in runs if not run.diverged] or runs
    return float(np.median([run.score(TEST) for run in counted]))


def insensitive(study: Study) -> Effect:
    arms = [study.finals(f"batch{init}") for init in INITIALIZATIONS]
    kept = trained(*arms)
    pairs = itertools.permutations([read(runs, TEST)[kept] for runs in arms], 2)
    return max((Mean(one - other) for one, other in pairs), key=lambda it: it.limits(LEVEL)[2])


def landscape(study: Study) -> Effect:
    def less(none: Run, batch: Run) -> float:
        return at_one_loss(none, batch, lambda run: log2(run.curve("probe/smoothness/scale_free")))

    return Mean(paired(study, less))


def small_steps(study: Study) -> Effect:
    arms = {arm: study.finals(arm) for arm in ("batch", "group", "batch_4", "group_4")}
    batch, group, batch_4, group_4 = (read(arms[arm], TEST) for arm in arms)
    return Mean(((batch - group) - (batch_4 - group_4))[trained(*arms.values())])


def weights(study: Study) -> Effect:
    none, batch = study.finals("none_no_decay"), study.finals("batch_no_decay")

    def growth(run: Run) -> float:
        layers = [name for name in run.layers("weight_growth") if name != "classifier"]
        return float(mean_over(run, "weight_growth", layers)[-1])

    found = [growth(none[place]) - growth(batch[place]) for place in trained(none, batch)]
    return Mean(np.array(found))


PLAIN = (
    *(convergence, cost, covariate_shift, covariate_shift_gradients, decorrelation, depth, dropout),
    *(gradients, higher_lr, inference_statistics, initialization, input_normalization, insensitive),
    *(landscape, small_steps, weights),
)

RECOMPUTED: Mapping[str, Callable[[Study], Effect]] = {
    **{
        name: functools.partial(gain, treated=treated, control=control, tag=tag)
        for name, (treated, control, tag) in GAINS.items()
    },
    **{effect.__name__: effect for effect in PLAIN},
}

AGAIN: Mapping[str, Callable[[Study], tuple[str, Effect]]] = {
    "covariate_shift": lambda study: ("epoch by epoch", covariate_shift_by_epochs(study)),
    "gradients": lambda study: ("with He's initialization", gradients_again(study)),
    "placement": lambda study: (
        "with BN on the convolutions alone",
        gain(study, treated="before_no_fc", control="after_no_fc", tag=TEST),
    ),
}
"""Claims that are measured in a second place."""

STUDIES = {
    "covariate_shift_gradients": "covariate_shift",
    "covariate_shift_noise": "covariate_shift",
    "decorrelation": "covariate_shift",
    "landscape": "covariate_shift",
    "insensitive": "initialization",
    "no_decay": "weights",
}
"""Of claims that are judged by another's runs."""


# -------------------------------------------------------------------------------------- the tests


def check(archive: Archive, told: Mapping[str, Any]) -> None:
    """Hold what bnlab says of a claim against what the runs say."""
    name, unit = told["claim"], told["unit"]
    study = Study(archive, STUDIES.get(name, name), told["preset"])
    effect = RECOMPUTED[name](study)
    assert len(effect) == told["n"]
    hold(told, effect, SCALES[unit])
    places = [(told["places"][0]["place"], effect), AGAIN[name](study)] if name in AGAIN else []
    assert [place["place"] for place in told["places"]] == [place for place, _ in places]
    for place, (_, there) in zip(told["places"], places, strict=True):
        hold(place, there, SCALES[unit])


def hold(told: Mapping[str, Any], effect: Effect, scale: float) -> None:
    """An effect and its limits against what is told of them."""
    assert same(told["effect"], effect.limits(LEVEL)[0] * scale)
    for limits in told["limits"]:
        found = effect.limits(limits["level"])
        for key, value in zip(("estimate", "low", "high"), found, strict=True):
            assert same(limits[key], value * scale), (limits["level"], key, value)


def same(told: float | None, found: float) -> bool:
    """Equal but for rounding; what the data do not set is null."""
    if told is None:
        return not math.isfinite(found)
    return math.isclose(told, found, rel_tol=1e-9, abs_tol=1e-12)


@functools.cache
def read_archive(path: Path) -> Archive:
    return Archive(path)


def measured() -> list[tuple[Path, dict[str, Any]]]:
    """What bnlab says of every claim that it measured, with the archive that this was told from."""
    return [
        (archive, told)
        for archive in sorted(REFERENCE.glob("*.tar.xz"))
        if (page := REFERENCE / archive.name.partition(".")[0] / "claims.json").exists()
        for told in json.loads(page.read_text(encoding="utf-8"))["claims"]
        if told["limits"]
    ]


@pytest.mark.parametrize(
    ("path", "told"), [pytest.param(p, t, id=f"{p.stem}-{t['claim']}") for p, t in measured()]
)
def test_the_headline_is_what_the_runs_say(path: Path, told: dict[str, Any]) -> None:
    check(read_archive(path), told)


def test_an_effect_that_is_one_percent_off_is_found() -> None:
    path, told = measured()[0]
    with pytest.raises(AssertionError):
        check(read_archive(path), {**told, "effect": 1.01 * told["effect"]})


def test_every_claim_is_recomputed() -> None:
    files = (ROOT / "bnlab/claims").glob("[a-z]*.py")
    assert RECOMPUTED.keys() == {path.stem for path in files}
