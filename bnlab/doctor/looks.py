"""What the checks look at: one function each, from a subject to what is said of it."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor, nn

from bnlab.doctor import measure
from bnlab.doctor.subject import Subject, kept
from bnlab.training.norms.batch_tf import BatchPerPosition
from bnlab.training.norms.caffe import CaffeBatchNorm

Severity: TypeAlias = Literal["fault", "told"]


@dataclass(frozen=True)
class Said:
    """One thing that a check found.

    Attributes:
        layers: Dotted names of the layers concerned; none where it is the whole network.
        what: What was found.
        cost: What it costs, as measured here; "" where that was not measured.
        severity: Where it is not the check's own.
    """

    layers: Sequence[str]
    what: str
    cost: str = ""
    severity: Severity | None = None


# ------------------------------------------------------------------------------- statistics in use


def _testing_by_batches(subject: Subject, *, updating: bool = False) -> list[str]:
    """Batch norms that take a batch's statistics in testing, or that let it into their own."""
    with kept(subject.model, evaluate=not subject.config.train.evaluate_in_train_mode):
        return [
            name
            for name, norm in subject.norms.items()
            if _by_batch(norm)
            and not (updating and (not norm.training or measure.running_statistics(norm) is None))
        ]


def _training_by_batches(subject: Subject) -> list[str]:
    """Batch norms that take a batch's statistics in training, of those that are called."""
    return [name for name in subject.shapes if _by_batch(subject.norms[name])]


def _by_batch(norm: nn.Module) -> bool:
    """Whether a normalizer, in the mode it is in, takes the batch's statistics."""
    if isinstance(norm, CaffeBatchNorm) and norm.use_global_stats is not None:
        return not norm.use_global_stats
    return norm.training or measure.running_statistics(norm) is None


def batch_statistics_in_testing(subject: Subject) -> Iterator[Said]:
    """A batch's statistics in testing."""
    layers = _testing_by_batches(subject)
    if not layers:
        return
    cost = ""
    if subject.sample is not None:
        own, other, size = measure.in_other_batches(subject, subject.sample)
        changed = float((own.predicted != other.predicted).double().mean())
        cost = f"{changed:.1%} of {len(own.labels)} answers change in batches of {size}"
        population = measure.by_population(subject, subject.sample) if subject.trained else None
        if population is not None:
            cost += (
                f"; accuracy {own.accuracy:.1%} by the batch's, {population[1].accuracy:.1%} by "
                "population statistics"
            )
    if subject.config.train.evaluate_in_train_mode:
        what = "train.evaluate_in_train_mode leaves the network in training mode"
    else:
        what = "in eval mode, too, the batch's own statistics are used"
    yield Said(layers, what, cost)


def polluted_by_testing(subject: Subject) -> Iterator[Said]:
    """Running statistics that testing changes."""
    layers = _testing_by_batches(subject, updating=True)
    if not layers:
        return
    cost = ""
    if subject.sample is not None:
        moved = measure.moved_by_testing(subject, subject.sample)
        cost = f"a pass over test images moves the running variances by {moved:.1%} (median)"
    yield Said(layers, "test batches enter the running statistics", cost)


# -------------------------------------------------------------------------------------- batch sizes


def _values(subject: Subject, name: str, images: int) -> int:
    """Values of a channel in a batch, or in a ghost batch, of so many images."""
    norm = subject.norms[name]
    if isinstance(norm, BatchPerPosition):
        return images
    return images * math.prod(subject.shapes[name][2:])


def batch_of_one(subject: Subject) -> Iterator[Said]:
    """A batch of one image."""
    train, total = subject.config.train, subject.train_images
    which = ""
    if train.batch_size == 1:
        which = "every batch holds one image"
    elif total is not None and total % train.batch_size == 1:
        which = f"the last batch of {total} images in batches of {train.batch_size} holds one"
    called = _training_by_batches(subject)
    if not which or not called:
        return
    alone = [name for name in called if _values(subject, name, 1) == 1]
    if alone:
        yield Said(alone, f"{which}, and a channel there one value: training stops with an error")
    if rest := [name for name in called if name not in alone]:
        yield Said(rest, f"{which}: its statistics are those of one image", severity="told")


SMALL, SMALL_IN_SPACE, TINY = 16, 32, 8
"""Images a batch below which statistics are noisy; with few positions; and where accuracy falls."""

FEW_POSITIONS = 16


def small_batch(subject: Subject) -> Iterator[Said]:
    """Few values behind a statistic."""
    groups: dict[int, list[str]] = defaultdict(list)
    for name in _training_by_batches(subject):
        ghosts: int = getattr(subject.norms[name], "ghost_size", 2**30)
        size = min(subject.config.train.batch_size, ghosts)
        if size < 2:
            continue
        few = _values(subject, name, 1) <= FEW_POSITIONS
        if size < (SMALL_IN_SPACE if few else SMALL):
            groups[size].append(name)
    for size, layers in groups.items():
        worst = min(layers, key=lambda name: _values(subject, name, size))
        values = _values(subject, worst, size)
        what = (
            f"{size} images a batch; {worst} sees {values} values a channel: its standard "
            f"deviation is off by {1 / math.sqrt(2 * values):.1%} if they are independent"
        )
        cost = ""
        if subject.sample is not None and size <= len(subject.sample.images) // 2:
            noise = measure.noise_of_batches(subject, subject.sample, size)
            cost = f"from batch to batch it varies by {noise[worst]:.1%} (median channel)"
        yield Said(layers, what, cost, severity="fault" if size < TINY else "told")


# ----------------------------------------------------------------------------------- its layers


def dropout_in_front(subject: Subject) -> Iterator[Said]:
    """Dropout on a way to a batch norm."""
    wiring = subject.wiring
    for dropout in wiring.those("dropout"):
        behind = wiring.behind(dropout)
        layers = [name for name in _training_by_batches(subject) if name in behind]
        module = wiring.module_of(dropout)
        if not layers or (module and not _drops(subject.model.get_submodule(module))):
            continue
        cost = ""
        if subject.sample is not None and module:  # a function cannot be switched off
            images = subject.sample.images[: subject.sample.batch_size]
            kept_off = measure.batch_variances(subject, images)
            dropped = measure.batch_variances(subject, images, dropout=True)
            first = layers[0]
            ratio = float((dropped[first] / kept_off[first].clamp(min=1e-12)).median())
            cost = f"{first} gets {ratio:.2f} times the variance that it will get in testing"
        yield Said(layers, f"{dropout} stands in front", cost)


def _drops(dropout: nn.Module) -> bool:
    """Whether its probability is above 0."""
    probability: float = getattr(dropout, "p", 1 - getattr(dropout, "keep", 0.0))
    return probability > 0


def dead_biases(subject: Subject) -> Iterator[Said]:
    """Biases of layers that a batch norm alone reads."""
    wiring, found = subject.wiring, {}
    weighted = Counter(wiring.module_of(name) for name in wiring.those("weighted"))
    for name in _training_by_batches(subject):
        layer = wiring.read_by(name) if name in wiring.inputs else None
        if layer is None or len(wiring.users(layer)) != 1:
            continue
        module = wiring.module_of(layer)
        if module is None or weighted[module] != 1:  # called twice, it may be read elsewhere too
            continue
        bias = getattr(subject.model.get_submodule(module), "bias", None)
        if bias is not None:
            found[module] = bias.numel()
    if not found:
        return
    cost = f"{sum(found.values())} parameters of {_parameters(subject)}"
    if subject.sample is not None:
        gradients = measure.bias_gradients(subject, subject.sample, found).values()
        bias, weight = (max(part) for part in zip(*gradients, strict=True))
        cost += f"; largest gradient {bias:.0e}, of the weights {weight:.0e}"
    yield Said(list(found), "a bias that batch norm takes out again", cost)


def _parameters(subject: Subject) -> int:
    return sum(parameter.numel() for parameter in subject.model.parameters())


def behind_the_last_layer(subject: Subject) -> Iterator[Said]:
    """Batch norms with no weights behind them."""
    wiring, weighted = subject.wiring, set(subject.wiring.those("weighted"))
    for name in subject.norms:
        if name not in wiring.inputs or not weighted & wiring.before(name):
            continue
        if not weighted & wiring.behind(name):
            yield Said([name], "no layer with weights comes behind it")


# ------------------------------------------------------------------------------------- training


def decayed(subject: Subject) -> Iterator[Said]:
    """Weight decay on scales and shifts."""
    optim = subject.config.optim
    layers = [name for name, norm in subject.norms.items() if list(norm.parameters())]
    if layers and optim.weight_decay > 0 and not optim.decay_weights_only:
        count = sum(one.numel() for name in layers for one in subject.norms[name].parameters())
        what = f"weight decay of {optim.weight_decay:g} acts on {count} scales and shifts"
        yield Said(layers, what)


REMEMBERED = 0.01
"""Weight of their start in running statistics from which it counts."""

ONE_BATCH = 0.5
"""Momentum from which a batch counts for more than all before it together."""


def momentum(subject: Subject) -> Iterator[Said]:
    """A momentum that remembers too little, or too much."""
    groups: dict[tuple[float, int | None], list[str]] = defaultdict(list)
    for name, norm in subject.norms.items():
        weight = getattr(norm, "momentum", None)
        if weight and measure.running_statistics(norm) is not None:
            steps = _updates(norm) if subject.trained else subject.steps
            groups[weight, steps].append(name)
    for (weight, steps), layers in groups.items():
        if weight > ONE_BATCH:
            keras = " (Keras and Flax mean the weight of the past)" if weight >= 0.9 else ""
            yield Said(layers, f"momentum {weight:g} is the weight of the newest batch{keras}")
        elif steps and (1 - weight) ** steps > REMEMBERED:
            part = (1 - weight) ** steps
            what = f"after {steps} steps of momentum {weight:g}, {part:.0%} of them is their start"
            yield Said(layers, what)


def _updates(norm: nn.Module) -> int | None:
    tracked = getattr(norm, "num_batches_tracked", None)
    return None if tracked is None else int(tracked)


def never_updated(subject: Subject) -> Iterator[Said]:
    """Running statistics that training does not move."""
    found: dict[tuple[str, Severity], list[str]] = defaultdict(list)
    for name, norm in subject.norms.items():
        running = measure.running_statistics(norm)
        if running is None:
            continue
        weight = getattr(norm, "momentum", 0.1)
        mean, var = running
        start = not isinstance(norm, CaffeBatchNorm) and bool((mean == 0).all() & (var == 1).all())
        if weight == 0:
            found["momentum 0 never updates the running statistics", "fault"].append(name)
        elif subject.trained and (start or _updates(norm) == 0):
            found["trained, and its running statistics were never updated", "fault"].append(name)
        elif not norm.training:
            found["model.train() leaves it in eval mode: its statistics stay", "told"].append(name)
        elif weight is None:
            found["momentum None averages over all of training, its start included", "told"].append(
                name
            )
    for (what, severity), layers in found.items():
        yield Said(layers, what, severity=severity)


# ------------------------------------------------------------------------------------- its values


COMPARABLE = 10
"""Times eps below which a variance is told."""


def eps(subject: Subject) -> Iterator[Said]:
    """An eps that the variances do not exceed by far."""
    if not subject.trained and subject.sample is None:
        return
    seen: Mapping[str, Tensor] = {}
    if not subject.trained and subject.sample is not None:
        seen = measure.batch_variances(subject, subject.sample.images)
    for name, norm in subject.norms.items():
        running = measure.running_statistics(norm)
        var = running[1] if subject.trained and running is not None else seen.get(name)
        least = float(getattr(norm, "eps", 0.0))
        if var is None or not (median := float(var.median())) <= COMPARABLE * least:
            continue
        left = math.sqrt(median / (median + least)) if median + least > 0 else 0.0
        what = f"eps {least:g} beside a variance of {median:.1g} (median channel)"
        severity: Severity = "fault" if median <= least else "told"
        yield Said([name], what, f"its output has a deviation of {left:.2f}, not 1", severity)


LEAST_GAP = 0.01
"""Nats."""


def population_gap(subject: Subject) -> Iterator[Said]:
    """Answers that population statistics would give otherwise."""
    if subject.sample is None or not subject.trained:
        return
    found = measure.by_population(subject, subject.sample)
    if found is None:
        return
    running, population = found
    gap = (running.losses - population.losses).double()
    error = float(gap.std() / math.sqrt(len(gap)))
    points = 100 * (population.accuracy - running.accuracy)
    if not abs(float(gap.mean())) > max(2 * error, LEAST_GAP):
        return
    cost = (
        f"accuracy {running.accuracy:.1%} by running, {population.accuracy:.1%} by population "
        f"statistics; loss {running.loss:.3f} and {population.loss:.3f}"
    )
    severity: Severity = "fault" if points >= 1 else "told"
    what = f"running statistics are not those of the training images ({len(gap)} test images)"
    yield Said(list(subject.norms), what, cost, severity)


NO_SCALE = 0.01
"""Scales start at 1; one below this gives nearly a constant."""


def scales(subject: Subject) -> Iterator[Said]:
    """Scales that are nearly 0, or negative in front of a maximum."""
    # Before training, a scale of 0 is meant: Goyal et al. 2017 (arXiv:1706.02677, section 5.1).
    for name, norm in subject.norms.items() if subject.trained else ():
        gamma = getattr(norm, "weight", None)
        if gamma is None:
            continue
        near = float((gamma.abs() < NO_SCALE).double().mean())
        if near > 0:
            yield Said([name], f"{near:.0%} of its scales are nearly 0 (below {NO_SCALE:g})")
        negative = float((gamma <= -NO_SCALE).double().mean())
        if negative > 0 and (pool := _pool_behind(subject, name)):
            yield Said([name], f"{negative:.0%} of its scales are negative in front of {pool}")


def _pool_behind(subject: Subject, name: str) -> str | None:
    """The max-pool that reads a layer, with nothing but activations in between."""
    wiring = subject.wiring
    while name in wiring.inputs and len(users := wiring.users(name)) == 1:
        (name,) = users
        if wiring.kinds[name] == "max_pool":
            return name
        if wiring.kinds[name] not in ("relu", "activation", "pass"):
            return None
    return None


def dead_channels(subject: Subject) -> Iterator[Said]:
    """Channels that no image excites."""
    if subject.sample is None:
        return
    found = measure.dead_channels(subject, subject.sample)
    for name, (dead, channels) in sorted(found.items(), key=lambda one: -one[1][0] / one[1][1]):
        if dead:
            severity: Severity = "fault" if 2 * dead > channels else "told"
            what = f"{dead} of {channels} channels are zero on all images"
            yield Said([name], what, severity=severity)
