"""Workers that share cells by lock while they are killed and paused at random; Linux only.

    python tests/lock_trials.py KIND TRIALS SEED FOLDER [FOLDER]

KIND is `flock`, `lease`, `mixed`, where workers differ, or `blind`: leases whose owners do not look
whether they have lost them, which must not go unnoticed. The folders are one and the same, seen
from different mounts. Prints counts as JSON. Of each hold, its beginning is noted after the lock
was had, and each check of it before it is made; so the checks of one hold that lie behind the
beginning of a later one say for certain that the lock was held twice.
"""

import json
import os
import platform
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bnlab.records import leases
from bnlab.records.locks import LockedError, LockLostError, hold_lock, is_locked

CELLS, STEPS, WORKERS = 6, 4, 3
SECONDS = 0.6
TROUBLE_SECONDS = 3.0


class Trial:
    """One folder of cells and what befalls those who train them."""

    def __init__(self, kind: str, folders: list[Path], draw: random.Random, name: str) -> None:
        self.kind, self.draw = kind, draw
        self.places = [folder / name for folder in folders]
        self.log = Path.cwd() / f"{name}.log"
        self.hired, self.stops, self.kills = 0, 0, 0
        for cell in range(CELLS):
            (self.places[0] / str(cell)).mkdir(parents=True)

    def run(self) -> Counter[str]:
        """Trouble for some seconds, then peace until every cell is done."""
        self.log.touch()
        began = time.monotonic()
        kinds = [self.kind] * WORKERS if self.kind != "mixed" else ["flock", "lease", "lease"]
        workers = {self.hire(kind): kind for kind in kinds}
        paused = dict[int, float]()
        while workers:
            now = time.monotonic()
            assert now - began < 60, f"{self.log}: the cells are never done"
            for worker in list(workers):
                pid, status = os.waitpid(worker, os.WNOHANG)
                if pid:
                    kind = workers.pop(worker)
                    paused.pop(worker, None)
                    assert status in (0, signal.SIGKILL), f"{self.log}: a worker ended {status}"
                    if status:
                        workers[self.hire(kind)] = kind
            for worker, until in list(paused.items()):
                if now > until:
                    os.kill(worker, signal.SIGCONT)
                    del paused[worker]
            if workers and now - began < TROUBLE_SECONDS and self.draw.random() < 0.05:
                victim = self.draw.choice(sorted(workers))
                if self.draw.random() < 0.3:
                    self.kills += 1
                    os.kill(victim, signal.SIGKILL)
                elif victim not in paused:
                    self.stops += 1
                    os.kill(victim, signal.SIGSTOP)
                    paused[victim] = now + self.draw.uniform(0, 3 * SECONDS)
            time.sleep(0.01)
        return self.judge()

    def hire(self, kind: str) -> int:
        """A worker; each is on a machine of its own, or some share one."""
        self.hired += 1
        number, seed = self.hired, self.draw.random()
        pid = os.fork()
        if not pid:
            code = 1
            try:
                draw = random.Random(seed)
                name = f"machine-{draw.randrange(number + 1)}"
                if kind == "lease" and draw.random() < 0.7:
                    platform.node = lambda: name
                if kind == "blind":
                    leases.Lease.lost = False  # type: ignore[assignment]
                os.environ["BNLAB_LOCKS"] = "flock" if kind == "flock" else f"lease:{SECONDS}"
                shift = draw.uniform(-1, 1) * 1e6
                true = time.time
                time.time = lambda: true() + shift
                self.work(draw.choice(self.places), draw)
                code = 0
            finally:
                os._exit(code)
        return pid

    def work(self, place: Path, draw: random.Random) -> None:
        """Train cells until all are done."""
        while len(self.finished()) < CELLS:
            for cell in draw.sample(range(CELLS), CELLS):
                lock = place / str(cell) / "lock"
                if str(cell) in self.finished() or (draw.random() < 0.8 and is_locked(lock)):
                    continue
                try:
                    with hold_lock(lock) as hold:
                        self.train(str(cell), hold.refuse_if_lost, draw)
                except LockLostError:
                    self.note(what="lost", cell=str(cell))
                except LockedError:
                    continue
            time.sleep(0.01)

    def train(self, cell: str, check: Callable[[], None], draw: random.Random) -> None:
        """Take the steps that are left."""
        me = f"{os.getpid()} {time.monotonic_ns()}"
        self.note(what="began", cell=cell, hold=me, at=time.monotonic())
        steps = sum(note["what"] == "step" and note["cell"] == cell for note in self.notes())
        for step in range(steps, STEPS):
            time.sleep(draw.uniform(0.02, 0.15))
            at = time.monotonic()
            check()
            self.note(what="step", cell=cell, hold=me, at=at, step=step)

    def finished(self) -> set[str]:
        """Cells of which each step was taken."""
        return {note["cell"] for note in self.notes() if note.get("step") == STEPS - 1}

    def note(self, **what: Any) -> None:
        """Add a line to the log, whole."""
        handle = os.open(self.log, os.O_WRONLY | os.O_APPEND)
        os.write(handle, f"{json.dumps(what)}\n".encode())
        os.close(handle)

    def notes(self) -> list[dict[str, Any]]:
        """All lines of the log."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def judge(self) -> Counter[str]:
        """Count what happened."""
        notes = self.notes()
        began = {note["hold"]: note["at"] for note in notes if note["what"] == "began"}
        steps = [note for note in notes if note["what"] == "step"]
        later = [
            (note, other)
            for note in steps
            for other in notes
            if other["what"] == "began"
            and other["cell"] == note["cell"]
            and began[note["hold"]] < other["at"] < note["at"]
        ]
        times = Counter((note["cell"], note["step"]) for note in steps)
        return Counter(
            trials=1,
            cells=len({cell for cell, step in times if step == STEPS - 1}),
            held_twice=len(later),
            steps=len(times),
            steps_again=sum(times.values()) - len(times),
            holds=len(began),
            lost=sum(note["what"] == "lost" for note in notes),
            kills=self.kills,
            stops=self.stops,
        )


def main() -> None:
    """See above."""
    kind, trials, seed, *folders = sys.argv[1:]
    assert leases.space()
    counts, began = Counter[str](), time.monotonic()
    for number in range(int(trials)):
        draw = random.Random(f"{seed} {number}")
        trial = Trial(
            kind, [Path(folder).resolve() for folder in folders], draw, f"{kind}-{number}"
        )
        counts.update(trial.run())
    print(json.dumps({**counts, "seconds": round(time.monotonic() - began, 1)}))  # noqa: T201


if __name__ == "__main__":
    main()
