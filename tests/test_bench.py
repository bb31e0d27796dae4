import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, MakeConfig
from rich.console import Console
from typer.testing import CliRunner

from bnlab import bench as module
from bnlab.bench import Settings, bench, contenders_of, default_settings, table_of, timing
from bnlab.bench.contenders import Alone, Contender, Lap, build_runner
from bnlab.bench.limits import Device, ImageCost, cost_of, measure_device
from bnlab.bench.table import rate_of
from bnlab.bench.timing import race
from bnlab.cli import app
from bnlab.errors import BnlabError
from bnlab.training.loop import training_sums

CPU = torch.device("cpu")
SETTINGS = Settings("cpu", 64, warm_up=1, repeats=2, at_once=(2,), workers=0, matrix=32)


class Here:
    """A contender's laps in this process."""

    def __init__(self, contender: Contender) -> None:
        self.lap = build_runner(contender)

    def __call__(self) -> Lap:
        return self.lap()

    def close(self) -> None:
        pass


# ------------------------------------------------------------------------------------- the race


def test_contenders_are_warmed_up_and_then_timed_in_turn(tiny_config: MakeConfig) -> None:
    events: list[str] = []

    class Told:
        def __init__(self, contender: Contender) -> None:
            self.name = contender.name
            events.append(f"{self.name} starts")

        def __call__(self) -> Lap:
            events.append(self.name)
            return Lap(1, len(events))

        def close(self) -> None:
            events.append(f"{self.name} ends")

    both = [Contender(name, "bnlab", tiny_config(), "cpu") for name in "ab"]
    laps = race(both, warm_up=2, repeats=2, start=Told)
    assert events == [
        *("a starts", "a", "a", "b starts", "b", "b"),
        *("a", "b", "a", "b"),
        *("a ends", "b ends"),
    ]
    assert [lap.seconds for lap in laps["a"]] == [7, 9]


def test_the_conventional_loop_comes_first_and_is_fp32(tiny_config: MakeConfig) -> None:
    names = [contender.name for contender in contenders_of(tiny_config(), SETTINGS)]
    assert names[:2] == ["conventional fp32", "bnlab fp32"]
    assert len(set(names)) == len(names)
    assert names[-1].startswith("2 runs at once in threads")


@pytest.mark.parametrize("kind", ["conventional", "bnlab", "bare", "recorded", "threads"])
def test_every_kind_of_contender_trains_on_all_images(tiny_config: MakeConfig, kind: Any) -> None:
    runs = 2 if kind == "threads" else 1
    runner = build_runner(Contender(kind, kind, tiny_config(), "cpu", runs=runs, workers=0))
    for _ in range(2):
        lap = runner()
        assert lap.images == 160 * runs
        assert lap.seconds > 0
        assert (lap.per_epoch > 0) == (kind == "recorded")


def test_without_gradient_norms_the_same_steps_are_taken(tiny_config: MakeConfig) -> None:
    runners = [Alone(Contender(kind, kind, tiny_config(), "cpu")) for kind in ("bnlab", "bare")]
    for runner in runners:
        runner()
    with_norms, without = (training_sums(runner.task) for runner in runners)
    assert with_norms.grad_norms.all()
    assert not without.grad_norms.any()
    assert torch.equal(with_norms.loss, without.loss)


@pytest.mark.parametrize(("kind", "runs"), [("conventional", 1), ("threads", 2), ("processes", 2)])
def test_a_contender_races_in_processes_of_its_own(
    tiny_config: MakeConfig, kind: Any, runs: int
) -> None:
    contender = Contender("a", kind, tiny_config(), "cpu", runs=runs, workers=2)
    laps = race([contender], warm_up=0, repeats=2)
    assert [lap.images for lap in laps["a"]] == [160 * runs] * 2


def test_a_contender_that_fails_is_named(tiny_config: MakeConfig) -> None:
    with pytest.raises(BnlabError, match=r"bench: a: ConfigError: .*no CUDA device"):
        race([Contender("a", "bnlab", tiny_config(), "cuda:7")], warm_up=0, repeats=1)


def test_runs_in_threads_report_their_failure(tiny_config: MakeConfig) -> None:
    config = tiny_config("dataset.train_size=161", "model.widths=[4]", "model.norm.fc=true")
    with pytest.raises(BnlabError, match=r"ValueError: .*more than 1 value"):
        build_runner(Contender("a", "threads", config, "cpu", runs=2))()


# ------------------------------------------------------------------------------------ the limit


def test_the_work_of_a_network_is_counted_by_hand(tiny_config: MakeConfig) -> None:
    config = tiny_config("model.widths=[2]", "model.hidden=[]", "model.norm=none")
    products = 2 * 27 * 1024 + 10 * 512  # 3x3x3 per output position; 2 * 16 * 16 features in
    parameters = 2 * 27 + 2 + 10 * 512 + 10
    activations = 3 * 1024 + 2 * 1024 + 512 + 10
    cost = cost_of(config, "fp32")
    assert cost.flops == 6 * products
    assert cost.bytes == 3 * 4 * activations + 28 * parameters / 32
    assert cost_of(config, "bf16").bytes == 3 * 2 * activations + 28 * parameters / 32


def test_the_seed_network_takes_262_million_operations(make_seed: Callable[[], Any]) -> None:
    assert cost_of(make_seed(), "fp32").flops == pytest.approx(262e6, rel=0.01)


@pytest.fixture
def make_seed() -> Callable[[], Any]:
    from bnlab.config import load_config

    path = Path(__file__).parents[1] / "configs" / "seed.yaml"
    return lambda: load_config([path])


def test_frozen_statistics_do_not_keep_the_work_from_being_counted(
    tiny_config: MakeConfig,
) -> None:
    assert cost_of(tiny_config("model.norm.name=frozen_init"), "fp32").flops > 0


def test_the_scarcer_of_products_and_traffic_sets_the_limit() -> None:
    device = Device(flops_per_second=100.0, bytes_per_second=10.0)
    assert device.images_per_second(ImageCost(flops=50, bytes=1)) == 2
    assert device.images_per_second(ImageCost(flops=50, bytes=20)) == 0.5


def test_a_device_reaches_some_rate() -> None:
    reached = measure_device(CPU, "bf16", size=16)
    assert reached.flops_per_second > 0
    assert reached.bytes_per_second > 0


# ----------------------------------------------------------------------------------- the report


def test_ratios_are_medians_over_laps_of_one_round(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raced(contenders: Any, **_: Any) -> dict[str, list[Lap]]:
        # The machine slows down from round to round; the ratio stays 4.
        slow = [Lap(100, seconds) for seconds in (1.0, 2.0, 10.0)]
        fast = [Lap(100, seconds / 4) for seconds in (1.0, 2.0, 10.0)]
        return {each.name: slow if each.kind == "conventional" else fast for each in contenders}

    monkeypatch.setattr(module, "race", raced)
    report = bench(tiny_config(), SETTINGS)
    conventional, ours = report["rows"][:2]
    assert conventional["over_conventional"] == 1
    assert ours["over_conventional"] == pytest.approx(4)
    assert ours["images_per_second"] == pytest.approx(200)
    assert ours["seconds_per_epoch"] == pytest.approx(250)
    limit = report["limits"]["fp32"]["images_per_second"]
    assert ours["share_of_limit"] == pytest.approx(200 / limit)


def test_what_is_done_once_an_epoch_counts_once_an_epoch() -> None:
    assert rate_of(Lap(100, 1.0)) == pytest.approx(100)
    assert rate_of(Lap(100, 1.0, per_epoch=500.0)) == pytest.approx(50)


def test_the_command_prints_a_table_and_writes_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "Processes", Here)
    monkeypatch.setattr(module, "default_settings", lambda *_, **__: SETTINGS)
    out = tmp_path / "bench.json"
    sets = [word for override in TINY for word in ("--set", override)]
    result = CliRunner().invoke(app, ["bench", *sets, "--device", "cpu", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "conventional fp32" in result.stdout
    assert "GFLOP/s" in result.stdout
    report = json.loads(out.read_text())
    assert report["environment"]["torch"] == torch.__version__
    assert report["settings"]["images"] == 64
    assert report["config"]["dataset"]["name"] == "synthetic"
    assert all(len(row["laps"]) == 2 for row in report["rows"])
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table_of(report))
    assert f"torch {torch.__version__}" in console.export_text()


def test_a_quick_bench_is_a_smaller_one() -> None:
    for device in (CPU, torch.device("cuda:0")):
        quick, whole = (default_settings(device, quick=flag) for flag in (True, False))
        assert quick.images < whole.images
        assert quick.repeats < whole.repeats
        assert set(quick.at_once) <= set(whole.at_once)
    assert default_settings(torch.device("cuda:0"), quick=False).at_once == (1, 2, 4, 8, 16)
