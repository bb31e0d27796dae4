"""What TensorBoard is told of a run: curves, charts, hyperparameters, pictures; without torch.

TensorBoard sorts by name, so here names say where things stand: what was reached first, what went
on within the network after it, pictures and histograms last.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TypeAlias

from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as charts
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams

from bnlab.config import Config
from bnlab.errors import shown
from bnlab.records.events import EventFile
from bnlab.records.reading import RunRecord, epoch_of
from bnlab.records.schema import Value

PICTURES = "view"
BANDS = "within the arms"
HISTOGRAMS = "within the norms"

_NAMES = {"seconds": "time/seconds", "images_per_second": "time/images_per_second"}
_FAMILIES = {"optim": "train", "probe": "within"}

SPLITS = ("test", "val", "train")
SCORES = ("accuracy", "loss")

FIRST_COLUMNS = ("norm", "placement")

HParams: TypeAlias = Mapping[str, float | str]


@lru_cache(maxsize=10_000)
def tag_of(metric: str) -> str:
    """A metric's name in TensorBoard: `probe/dead/conv1` is `within/dead/conv1`."""
    family, slash, rest = shown(metric, limit=None).partition("/")  # it may be another program's
    return _NAMES.get(metric) or f"{_FAMILIES.get(family, family)}{slash}{rest}"


def scalars(record: Mapping[str, Value]) -> Summary:
    """The values of one line of metrics.jsonl; one that was not finite is NaN."""
    return Summary(
        value=[
            Summary.Value(
                tag=tag_of(metric), simple_value=math.nan if value is None else float(value)
            )
            for metric, value in record.items()
            if metric not in {"epoch", "step"}
        ]
    )


# ------------------------------------------------------------------------------------- charts


def run_charts(metrics: Iterable[str]) -> Summary:
    """Charts that overlay train with test, and of each probed quantity all layers."""
    told = (shown(name, limit=None) for name in metrics)
    probed = dict.fromkeys(name.split("/")[1] for name in told if name.startswith("probe/"))
    return _charts(
        {
            "train and test": {score: rf"^(train|val|test)/{score}$" for score in SCORES},
            "inside the network": {
                quantity: f"^{tag_of('probe/')}{re.escape(quantity)}/" for quantity in probed
            },
        }
    )


def _charts(categories: Mapping[str, Mapping[str, str]]) -> Summary:
    return _layout(
        layout_pb2.Category(
            title=title,
            chart=[
                layout_pb2.Chart(title=name, multiline={"tag": [tags]})
                for name, tags in named.items()
            ],
        )
        for title, named in categories.items()
    )


def band_charts(tags: Iterable[str]) -> Summary:
    """A chart a tag: each arm's mean with a band, whose tags are those of `band_of`.

    TensorBoard 2.21 draws such charts of a category in reverse, so they are listed from the last.
    """
    title = "arms: mean over seeds, and its pointwise 95 % interval"
    drawn = []
    for tag in reversed(list(tags)):
        mean, low, high = band_of(tag)
        series = layout_pb2.MarginChartContent.Series(value=mean, lower=low, upper=high)
        drawn.append(layout_pb2.Chart(title=tag, margin={"series": [series]}))
    return _layout([layout_pb2.Category(title=title, chart=drawn)])


def band_of(tag: str) -> tuple[str, str, str]:
    """The tags of a mean and of its lower and upper limit.

    A chart complains of runs that have one of the three without the others, so the mean has a tag
    for it alone; it finds no color for a tag with parentheses.
    """
    return f"{BANDS}/{tag}/mean", f"{BANDS}/{tag}/low", f"{BANDS}/{tag}/high"


def _layout(categories: Iterable[layout_pb2.Category]) -> Summary:
    layout = layout_pb2.Layout(category=list(categories))
    tensor = TensorProto(
        dtype="DT_STRING",
        string_val=[layout.SerializeToString()],
        tensor_shape=TensorShapeProto(),
    )
    metadata = charts.create_summary_metadata()
    return _one(charts.CONFIG_SUMMARY_TAG, tensor=tensor, metadata=metadata)


def _one(tag: str, *, tensor: TensorProto, metadata: SummaryMetadata) -> Summary:
    return Summary(value=[Summary.Value(tag=tag, tensor=tensor, metadata=metadata)])


# ------------------------------------------------------------------------------ hyperparameters


def short_hparams(config: Config) -> dict[str, float | str]:
    """What a run says of itself; what else differs is known only beside other runs."""
    norm, optim = config.model.norm, config.optim
    return {
        "norm": norm.name,
        "placement": "-" if norm.name == "none" else norm.placement,
        "model": config.model.name,
        "lr": optim.lr,
        "batch_size": config.train.batch_size,
    }


def session(
    group: str, values: HParams, metrics: Sequence[str], columns: HParams | None = None
) -> Iterator[Summary]:
    """A run as one of a group: a row of the table, with averages over its runs.

    Args:
        group: What all seeds of an arm share.
        values: The group's hyperparameters.
        metrics: Tags of the table's last columns.
        columns: Its first columns, in order, each with a value that some group has; by default
            those of this one.
    """
    # Domains are not named: the table would hide rows of runs that come later with other values.
    infos = [
        api_pb2.HParamInfo(
            name=name,
            type=api_pb2.DATA_TYPE_STRING if isinstance(value, str) else api_pb2.DATA_TYPE_FLOAT64,
            differs=name in FIRST_COLUMNS,  # by which, and then by name, TensorBoard sorts them
        )
        for name, value in (columns or values).items()
    ]
    measured = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in metrics]
    yield _hparams(
        hparams.EXPERIMENT_TAG,
        experiment=api_pb2.Experiment(hparam_infos=infos, metric_infos=measured),
    )
    start = plugin_data_pb2.SessionStartInfo(group_name=group)
    for name, value in values.items():
        setattr(
            start.hparams[name], "string_value" if isinstance(value, str) else "number_value", value
        )
    yield _hparams(hparams.SESSION_START_INFO_TAG, session_start_info=start)


def session_end(status: str) -> Summary:
    """That the run is over; one that diverged counts as failed."""
    ended = api_pb2.STATUS_SUCCESS if status == "done" else api_pb2.STATUS_FAILURE
    end = plugin_data_pb2.SessionEndInfo(status=ended)
    return _hparams(hparams.SESSION_END_INFO_TAG, session_end_info=end)


def _hparams(tag: str, **content: object) -> Summary:
    data = plugin_data_pb2.HParamsPluginData(**content)
    metadata = hparams.create_summary_metadata(data)
    return _one(tag, tensor=hparams.NULL_TENSOR, metadata=metadata)


def scores_of(configs: Iterable[Config]) -> list[str]:
    """The tags that runs of these configurations end with, the weightiest first."""
    read = {"train"}
    for config in configs:
        if config.train.test_every is not None:
            read.add("test")
        if config.dataset.val_size:
            read.add("val")
    return [f"{split}/{score}" for split in SPLITS if split in read for score in SCORES]


# ------------------------------------------------------------------------------------- pictures


def picture(name: str, png: bytes, size: tuple[int, int]) -> Summary:
    """A picture of (width, height) pixels."""
    width, height = size
    image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=png)
    return Summary(value=[Summary.Value(tag=f"{PICTURES}/{name}", image=image)])


# -------------------------------------------------------------------------------------- rebuilt


def rebuild(record: RunRecord, folder: Path) -> None:
    """Make a run's event file anew from its metrics; what it showed beside numbers is lost.

    Args:
        record: The run.
        folder: Where; earlier files there count no longer. The clock counts seconds of training.

    Raises:
        StorageError: If the disk takes no more.
    """
    events = EventFile(folder, purge_step=1 if folder.exists() else None)
    seconds = accumulate(float(line.get("seconds") or 0.0) for line in record.metrics)
    if record.metrics:
        events.add(run_charts(record.metrics[0]))
    for line, clock in zip(record.metrics, seconds, strict=True):
        events.add(scalars(line), epoch_of(line), clock)
    if record.summary is not None:
        events.add(session_end(record.summary.status))
    events.flush()
