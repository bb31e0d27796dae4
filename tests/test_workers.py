import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from odd_jobs import odd_jobs

from bnlab.training.crew import Crew
from bnlab.training.signals import StopRequest
from bnlab.training.workers import (
    Answer,
    ProcessWorker,
    Reply,
    Request,
    ThreadWorker,
    Worker,
    attempt,
)


def process() -> ProcessWorker:
    return ProcessWorker("odd_jobs:odd_jobs", threads=1)


def thread() -> ThreadWorker:
    return ThreadWorker(odd_jobs(), "cpu", threads=1)


@pytest.fixture(params=[process, thread])
def worker(request: pytest.FixtureRequest) -> Iterator[Worker]:
    made = request.param()
    yield made
    made.end()


def until(fact: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def ask(worker: Worker, do: str, **more: Any) -> Reply:
    worker.begin({"do": do, **more})
    return worker.reply()


# --------------------------------------------------------------------------------- either kind


def test_a_worker_answers_one_request_after_another(worker: Worker) -> None:
    answers = [ask(worker, "answer", say=word).answer for word in ("one", "two\n", "drei ß")]
    assert [answer and answer["done"] for answer in answers] == [1, 2, 3]
    assert [answer and answer["said"] for answer in answers] == ["one", "two\n", "drei ß"]
    assert len({answer and answer["pid"] for answer in answers}) == 1


def test_looking_does_not_wait(worker: Worker, tmp_path: Path) -> None:
    assert worker.look() is None
    worker.begin({"do": "wait", "begun": str(tmp_path / "begun"), "saved": str(tmp_path / "s")})
    assert worker.busy
    assert worker.look() is None
    until((tmp_path / "begun").exists)
    assert worker.look() is None


def test_a_worker_told_to_stop_saves_what_it_is_at(worker: Worker, tmp_path: Path) -> None:
    worker.begin({"do": "wait", "begun": str(tmp_path / "begun"), "saved": str(tmp_path / "s")})
    until((tmp_path / "begun").exists)
    worker.stop()
    assert worker.reply() == Reply(stopped=True)
    assert not worker.busy
    assert (tmp_path / "s").exists()


def test_what_is_refused_is_told_in_one_line_and_the_worker_goes_on(worker: Worker) -> None:
    reply = ask(worker, "refuse")
    assert reply.error == "no; such thing"
    assert reply.log.endswith("no; such thing")
    assert ask(worker, "answer").answer is not None
    assert worker.alive


def test_a_worker_has_the_cpu_threads_that_it_was_given() -> None:
    torch.set_num_threads(1)
    for made in (
        ProcessWorker("odd_jobs:odd_jobs", threads=2),
        ThreadWorker(odd_jobs(), "cpu", threads=2),
    ):
        answer = ask(made, "count").answer
        made.end()
        assert answer is not None
        assert answer["threads"] == 2


# -------------------------------------------------------------------------------- a thread alone


def test_a_thread_outlives_what_its_requests_raise() -> None:
    worker = thread()
    reply = ask(worker, "raise")
    assert reply.error == "OSError: the cat; stood on the keyboard"
    assert "in serve" in reply.log
    answer = ask(worker, "answer").answer
    worker.end()
    assert answer is not None
    assert answer["done"] == 2


def test_a_failure_keeps_nothing_of_what_failed_in_memory() -> None:
    class Large:
        gone = threading.Event()

        def __del__(self) -> None:
            self.gone.set()

    def serve(_request: Request, _stop: StopRequest) -> Answer:
        large = Large()
        raise ValueError(f"{large is None}")

    reply = attempt(serve, {}, StopRequest())
    assert reply.error == "ValueError: False"
    assert Large.gone.is_set()


# ------------------------------------------------------------------------------- a process alone


def test_a_process_dies_of_what_it_does_not_understand_and_says_of_what() -> None:
    worker = process()
    reply = ask(worker, "raise")
    assert reply.error == "stood on the keyboard (exit code 1)"
    assert "OSError: the cat" in reply.log
    assert not worker.alive
    worker.end()


def test_a_killed_process_is_told_with_its_signal() -> None:
    worker = process()
    assert ask(worker, "answer").answer is not None
    assert ask(worker, "die").error == "killed by SIGKILL (exit code -9)"
    worker.end()


def test_a_log_holds_what_the_failed_request_wrote_and_nothing_older() -> None:
    worker = process()
    for _ in range(2):
        assert ask(worker, "refuse").log == "a warning\nno; such thing"
    worker.end()


def test_a_process_whose_parent_is_gone_saves_what_it_is_at(tmp_path: Path) -> None:
    worker = process()
    worker.begin({"do": "wait", "begun": str(tmp_path / "begun"), "saved": str(tmp_path / "s")})
    until((tmp_path / "begun").exists)
    worker._stdin.close()  # as the system does when this process dies
    until((tmp_path / "s").exists)
    assert worker.process.wait(60) == 75
    worker.end()


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at processes in /proc")
def test_a_process_is_in_a_session_of_its_own_and_ends_with_all_that_it_started() -> None:
    worker = process()
    answer = ask(worker, "start").answer
    assert answer is not None
    assert os.getsid(worker.process.pid) == worker.process.pid
    stat = Path(f"/proc/{answer['child']}/stat")
    assert "(sleep)" in stat.read_text()
    worker.end()
    # It may be left as a zombie where nobody reaps orphans.
    until(lambda: not stat.exists() or " Z " in stat.read_text())


# ------------------------------------------------------------------------------------- a crew


def test_a_crew_uses_its_workers_again_and_again() -> None:
    hired = list[Worker]()

    def hire() -> Worker:
        hired.append(thread())
        return hired[-1]

    with Crew(hire, StopRequest()) as crew:
        for _ in range(2):
            work = [(number, {"do": "answer", "say": number}) for number in range(5)]
            replies = dict(crew.share(work, lambda: 2))
            assert {n: r.answer and r.answer["said"] for n, r in replies.items()} == {
                n: n for n in range(5)
            }
    assert len(hired) == 2
    assert not any(worker.alive for worker in hired)


def test_a_crew_hires_anew_for_a_worker_that_died() -> None:
    with Crew(process, StopRequest()) as crew:
        work = [(what, {"do": what}) for what in ("answer", "die", "answer again")]
        replies = dict(crew.share(work, lambda: 1))
    assert replies["die"].error == "killed by SIGKILL (exit code -9)"
    first, last = (replies[key].answer for key in ("answer", "answer again"))
    assert first is not None
    assert last is not None
    assert first["pid"] != last["pid"]


def test_what_finds_no_memory_beside_others_is_done_once_more_alone() -> None:
    tries = list[str]()

    def serve(request: Request, _stop: StopRequest) -> Answer:
        tries.append(request["do"])
        if (request["do"] == "b" and len(tries) < 4) or request["do"] == "never":
            raise torch.OutOfMemoryError("no room")
        return {}

    with Crew(lambda: ThreadWorker(serve, "cpu", 1), StopRequest()) as crew:
        replies = dict(crew.share([(key, {"do": key}) for key in "abc"], lambda: 3))
        assert tries[-1] == "b"
        assert len(tries) == 4
        assert all(reply.answer is not None for reply in replies.values())
        ((_, reply),) = crew.share([("never", {"do": "never"})], lambda: 3)
    assert reply.error == "OutOfMemoryError: no room"
    assert tries[4:] == ["never", "never"]


def test_what_finds_no_memory_although_alone_is_not_done_again() -> None:
    def serve(_request: Request, _stop: StopRequest) -> Answer:
        raise torch.OutOfMemoryError("no room")

    with Crew(lambda: ThreadWorker(serve, "cpu", 1), StopRequest()) as crew:
        ended = list(crew.share([("a", {})], lambda: 1))
    assert len(ended) == 1
