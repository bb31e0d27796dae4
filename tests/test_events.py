from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import summary as summaries

from bnlab.records.events import EventFile


def test_a_clock_that_goes_back_between_attempts_leaves_one_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 2_000_000_000.0
    monkeypatch.setattr("time.time", lambda: clock)
    first = EventFile(tmp_path)
    for epoch in (1, 2, 3):
        first.add(summaries.scalar("train/loss", 10.0 + epoch), epoch)
    first.flush()
    clock -= 86_400 * 3
    again = EventFile(tmp_path, purge_step=3)
    for epoch in (3, 4):
        again.add(summaries.scalar("train/loss", 20.0 + epoch), epoch)
    again.flush()
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    seen = read.Scalars("train/loss")
    assert [(event.step, event.value) for event in seen] == [(1, 11), (2, 12), (3, 23), (4, 24)]
    times = [event.wall_time for event in seen]
    assert times == sorted(times)


def test_a_name_that_tells_no_time_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.²").touch()
    EventFile(tmp_path).flush()
    assert len(list(tmp_path.iterdir())) == 2
