"""Many at once in one folder, and many runs in one folder."""

import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

from made_runs import make_run

from torture_parts import Part, hold
from torture_parts.kills import children_of, kill
from torture_parts.made import hold_clean, hold_same_runs, runs_below, write_study
from torture_parts.zygote import Zygote

MANY = 1000
STUDY = ("study", "run", "study.yaml", "--json", "--executor")
READERS: Sequence[tuple[str, ...]] = (
    ("compare", "runs", "--allow-mixed", "--out", "report"),
    ("runs", "runs", "--json"),
    ("study", "status", "study.yaml"),
    ("audit", "runs"),
)


class Crowd(Part):
    """See above."""

    full = 10_000

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed)
        self._zygote = Zygote(folder / "streams")
        write_study(folder / "study.yaml", seeds=3, epochs=3)
        hold_clean(self._zygote.run((*STUDY, "inline"), folder, 120), {0}, "one alone")

    def trial(self, number: int, draw: random.Random, folder: Path) -> str:
        """Several studies and readers at once; now and then, many runs."""
        if number % 20 == 1:
            return self._many(folder)
        write_study(folder / "study.yaml", seeds=3, epochs=3)
        runners = []
        for _ in range(3):
            executor = draw.choice(("inline", "inline", "threads", "lanes", "processes"))
            runners.append(self._zygote.start((*STUDY, executor), folder))
            time.sleep(draw.uniform(0, 0.3))
        killed = draw.random() < 0.3
        if killed:
            time.sleep(draw.uniform(0, 1))
            gone = runners.pop(draw.randrange(3))
            for pid in [gone.pid, *children_of(gone.pid)]:
                kill(pid)
            gone.wait(10)
        for _ in range(3):
            words = draw.choice(READERS)
            hold_clean(self._zygote.run(words, folder, 60), {0, 1, 2, 5}, f"{words} meanwhile")
        ends = [runner.wait(180) for runner in runners]
        for end in ends:
            hold_clean(end, {0}, "one of three")
            told = json.loads(end.out)
            hold(told["finished"] == told["total"], f"one of three: {told['finished']} finished")
        hold_same_runs(self.folder, folder)
        for place, root in runs_below(folder).items():
            tries = len(json.loads((root / "run.json").read_text())["attempts"])
            hold(killed or tries == 1, f"{place}: trained {tries} times")
        return "three at once"

    def _many(self, folder: Path) -> str:
        for seed in range(MANY // 2):
            make_run(folder / "runs", seed=seed, sets={"model.norm.name": "none"})
            make_run(folder / "runs", seed=seed, accuracy=0.75)
        for words, seconds in (
            (("runs", "runs", "--json"), 30),
            (("compare", "runs", "--json", "--out", "report"), 60),
            (("pack", "runs", "-o", "x.tar.xz"), 60),
            (("compare", "x.tar.xz", "--json", "--out", "again"), 60),
        ):
            ended = self._zygote.run(words, folder, seconds)
            hold_clean(ended, {0}, f"{words} of {MANY} runs")
            hold(ended.mebibytes < 2000, f"{words}: {ended.mebibytes:.0f} MiB")
            if words[0] == "runs":
                hold(len(json.loads(ended.out)["runs"]) == MANY, "not all are listed")
        reports = [(folder / out / "report.json").read_bytes() for out in ("report", "again")]
        hold(reports[0] == reports[1], "an archive gives another report")
        return f"{MANY} runs"

    def close(self) -> None:
        """End what starts commands."""
        self._zygote.close()
