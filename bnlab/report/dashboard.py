"""TensorBoard over runs that are named by what differs between them.

A folder of runs has paths like `seed/batch-after_activation-1f0c2a9b/s3`; in a dashboard of six of
them one wants `norm=batch, seed=3`. TensorBoard names runs by folder, so it is given a temporary
folder of links.
"""

import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from bnlab.config import UNHASHED, flatten
from bnlab.errors import BnlabError, ConfigError
from bnlab.records import RunDir, find_runs, read_config
from bnlab.report.safe import folder_name

REFRESH_SECONDS = 5.0
"""How often new runs are looked for while the dashboard is up."""


def run_names(configs: Mapping[Path, Mapping[str, Any]]) -> dict[Path, str]:
    """A name for each run, made of the keys whose values differ between the runs.

    Args:
        configs: Resolved configurations by run directory.

    Returns:
        `{run: "norm=batch, placement=before_activation, seed=1"}`; where runs differ in nothing,
        or in nothing that tells two of them apart, the path is added.
    """
    flat = {run: flatten(config) for run, config in configs.items()}
    keys = {key: None for values in flat.values() for key in values}
    ignored = set(UNHASHED) - {"seed"}
    # A key that some runs lack (they have no norm, so no placement) tells apart only the others.
    found = {key: {repr(values[key]) for values in flat.values() if key in values} for key in keys}
    varying = [key for key in keys if key not in ignored and len(found[key]) > 1]
    varying.sort(key=lambda key: key == "seed")  # last; all others as they stand in the schema
    names = {
        run: ", ".join(f"{_short(key)}={values[key]}" for key in varying if key in values)
        for run, values in flat.items()
    }
    counts = Counter(names.values())
    return {
        run: name if name and counts[name] == 1 else f"{name} {'-'.join(run.parts[-3:])}".strip()
        for run, name in names.items()
    }


def _short(key: str) -> str:
    """`model.norm.name` as `norm`, `optim.lr` as `lr`."""
    *_, section, last = ["", *key.split(".")]
    return section if last == "name" else last


def link_runs(roots: Sequence[Path], folder: Path) -> list[str]:
    """Make `folder` hold one link per run under `roots` that has event files; return their names.

    Links of earlier calls that no longer fit are taken away.
    """
    found = (run for run in find_runs(roots).runs if run.packed is None)
    runs = [run.root for run in found if RunDir(run.root).tensorboard.is_dir()]
    configs: dict[Path, Mapping[str, Any]] = {}
    for run in runs:
        try:
            configs[run] = read_config(RunDir(run).files).resolved()
        except BnlabError:
            continue  # being created right now, or damaged: the next refresh may see it
    wanted = {
        folder_name(name): RunDir(run).tensorboard.resolve()
        for run, name in run_names(configs).items()
    }
    for link in folder.iterdir():
        if link.name not in wanted or link.readlink() != wanted[link.name]:
            link.unlink()
    for name, target in wanted.items():
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(target)
    return sorted(wanted)


def serve(
    roots: Sequence[Path], *, host: str, port: int, say: Callable[[str], None] = lambda _line: None
) -> None:
    """Run TensorBoard until it ends or is interrupted, taking in runs that start meanwhile.

    Args:
        roots: Folders of runs.
        host: Address to serve on.
        port: Port to serve on.
        say: Told the names of the runs.

    Raises:
        ConfigError: If a root does not exist.
        BnlabError: If TensorBoard fails (the port is taken, say).
    """
    missing = [str(root) for root in roots if not root.is_dir()]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)}: no such folder of runs (archives hold no events to draw)"
        )
    code = 0
    # The signals outside of all else: whatever they interrupt, server and folder go.
    with (
        suppress(_EndedError),
        _ended_by_signals(),
        tempfile.TemporaryDirectory(prefix="bnlab-") as name,
    ):
        folder = Path(name)
        names = link_runs(roots, folder)
        say(f"{len(names)} runs" + "".join(f"\n  {run}" for run in names))
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", name]
        command += ["--host", host, "--port", str(port), "--reload_interval", "5"]
        with subprocess.Popen(command) as process:
            try:
                code = _wait(process, lambda: link_runs(roots, folder))
            finally:
                process.kill()  # it keeps nothing that would need saving
    if code:
        raise BnlabError(f"tensorboard ended with {code}; another --port may be free")


def _wait(process: subprocess.Popen[bytes], refresh: Callable[[], object]) -> int:
    while True:
        try:
            return process.wait(REFRESH_SECONDS)
        except subprocess.TimeoutExpired:
            refresh()


class _EndedError(BaseException):
    """A signal has come."""


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Ctrl-C, SIGTERM or a terminal that was closed raise `_EndedError`, once."""
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}

    def handle(_number: int, _frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)  # while all is being put away
        raise _EndedError

    try:
        for number in numbers:
            signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
