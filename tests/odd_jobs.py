"""What workers serve in tests; light, for a process that serves it starts many times."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bnlab.errors import BnlabError, StopRequestedError
from bnlab.training.signals import StopRequest
from bnlab.training.workers import Answer, Request


def odd_jobs() -> Callable[[Request, StopRequest], Answer]:
    """Does what a request's `do` says, and counts."""
    done = 0

    def serve(request: Request, stop: StopRequest) -> Answer:
        nonlocal done
        done += 1
        what = request["do"]
        if what == "raise":
            raise OSError("the cat\nstood on the keyboard")
        if what == "refuse":
            print("a warning", file=sys.stderr)  # noqa: T201
            raise BnlabError("no\nsuch thing")
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "wait":
            Path(request["begun"]).touch()
            while not stop():
                time.sleep(0.005)
            Path(request["saved"]).touch()
            raise StopRequestedError("all saved", 75)
        child = subprocess.Popen(["sleep", "60"]).pid if what == "start" else None
        threads = None
        if what == "count":
            import torch

            threads = torch.get_num_threads()
        print("noise on stdout")  # noqa: T201
        return {
            "done": done,
            "pid": os.getpid(),
            "threads": threads,
            "said": request.get("say"),
            "child": child,
        }

    return serve
