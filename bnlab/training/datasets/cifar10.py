"""CIFAR-10 as torchvision reads it: found below the root and verified, or downloaded.

torchvision names the files, verifies and reads them. The download is bnlab's own:
torchvision's draws its own progress bar, waits for a silent network without end, and writes under
the final name, so that a broken download looks like an archive.
"""

import hashlib
import http.client
import tarfile
import tempfile
import threading
import urllib.error
import urllib.request
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from bnlab.config import DatasetConfig
from bnlab.errors import DataError
from bnlab.training.datasets import DATASETS
from bnlab.training.datasets._splits import ImageData, Progress, Split, checksum_of, silent
from bnlab.training.datasets._torchvision import torchvision_datasets

CONNECT_SECONDS = 5.0
"""How long the server may take to begin its answer: name look-up, connection, first bytes."""
STALL_SECONDS = 20.0
"""How long a download may then stand still."""


@DATASETS.register("cifar10")
def load_cifar10(config: DatasetConfig, progress: Progress) -> ImageData:
    """CIFAR-10 (Krizhevsky 2009) below `dataset.root`, downloaded if it is not there.

    Raises:
        DataError: If it is damaged, or missing and cannot be downloaded.
    """
    root = Path(config.root).expanduser()
    if not cifar10_folder(root).exists():
        fetch_cifar10(root, progress)
    progress("reading CIFAR-10", 0, 2)
    train, classes = _read(root, train=True)
    progress("reading CIFAR-10", 1, 2)
    test, _ = _read(root, train=False)
    progress("reading CIFAR-10", 2, 2)
    return ImageData(train, test, classes, checksum_of(train, test, classes), "")


def _read(root: Path, *, train: bool) -> tuple[Split, tuple[str, ...]]:
    try:
        source = _cifar10()(root, train=train, download=False)
    except (
        RuntimeError,
        OSError,
    ):  # RuntimeError is torchvision's word for "not found or corrupted"
        raise DataError(cifar10_status(root).message) from None
    images = torch.from_numpy(np.ascontiguousarray(source.data.transpose(0, 3, 1, 2)))
    return Split(images, torch.tensor(source.targets)), tuple(source.classes)


# -------------------------------------------------------------------------------------- status


@dataclass(frozen=True)
class Cifar10Status:
    """What there is of CIFAR-10 below a root.

    Attributes:
        state: `ready` (verified), `archive` (verified, not yet unpacked), `damaged` or `missing`.
        message: One line on it: the place, what is wrong and what to do.
    """

    state: Literal["ready", "archive", "damaged", "missing"]
    message: str


def cifar10_status(root: Path) -> Cifar10Status:
    """Verify what there is of CIFAR-10 below root; takes half a second and no network."""
    cifar10, folder, archive = _cifar10(), cifar10_folder(root), cifar10_archive(root)
    if folder.exists():
        files = [*cifar10.train_list, *cifar10.test_list]
        files.append((cifar10.meta["filename"], cifar10.meta["md5"]))
        for name, expected in files:
            found = _md5(folder / name)
            if found != expected:
                return Cifar10Status(
                    "damaged",
                    f"{folder / name}: {_fault(found, expected)}; delete the folder {folder} and "
                    "start again to have it made anew",
                )
        return Cifar10Status("ready", f"{folder}: CIFAR-10, verified")
    if archive.exists():
        found = _md5(archive)
        if found != cifar10.tgz_md5:
            return Cifar10Status(
                "damaged",
                f"{archive}: {_fault(found, cifar10.tgz_md5)}; delete it and start again to have "
                "it downloaded",
            )
        return Cifar10Status("archive", f"{archive}: CIFAR-10, verified, not yet unpacked")
    return Cifar10Status("missing", f"{root}: no CIFAR-10 here; it can be downloaded (170 MB)")


def cifar10_folder(root: Path) -> Path:
    """Where the unpacked batches of CIFAR-10 belong."""
    return root / str(_cifar10().base_folder)


def cifar10_archive(root: Path) -> Path:
    """Where an archive of CIFAR-10 may be put by hand."""
    return root / str(_cifar10().filename)


def _cifar10() -> Any:
    return torchvision_datasets().CIFAR10


def _fault(found: str | None, expected: str) -> str:
    if found is None:
        return "missing or unreadable"
    return f"damaged or incomplete (md5 {found}, expected {expected})"


def _md5(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError:
        return None


# -------------------------------------------------------------------------------------- fetching


def fetch_cifar10(root: Path, progress: Progress = silent) -> None:
    """Make CIFAR-10 ready below root: unpack the archive there, else download it; or do nothing.

    Everything happens in a temporary folder below root; only the verified result is renamed to its
    place, so an interruption leaves nothing that looks complete.

    Raises:
        DataError: If what is there is damaged, the network does not answer within `CONNECT_SECONDS`
            or fails later, or the disk does.
    """
    status = cifar10_status(root)
    if status.state == "ready":
        return
    if status.state == "damaged":
        raise DataError(status.message)
    if all((root / part).is_dir() for part in ("train", "test")):
        raise DataError(
            f"{root}: holds train/ and test/, but no CIFAR-10; for class folders of images use "
            "dataset.name=folder"
        )
    # Asked before anything is made, so that a machine without network is left as it was.
    with _open(root) if status.state == "missing" else nullcontext() as response:
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=root, prefix=".cifar10-") as folder:
                archive = cifar10_archive(root)
                if response is not None:
                    archive = Path(folder) / archive.name
                    _download(response, root, archive, progress)
                _unpack(root, archive, Path(folder), progress)
        except OSError as error:
            raise DataError(f"{root}: CIFAR-10 cannot be put here: {error}") from None


def _unpack(root: Path, archive: Path, folder: Path, progress: Progress) -> None:
    progress("unpacking CIFAR-10", 0, 1)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    status = cifar10_status(folder)
    if status.state != "ready":
        raise DataError(status.message)
    try:
        cifar10_folder(folder).rename(cifar10_folder(root))
    except OSError:
        # Another process may have been quicker; its folder is as good.
        if cifar10_status(root).state != "ready":
            raise
    progress("unpacking CIFAR-10", 1, 1)


def _download(response: Any, root: Path, archive: Path, progress: Progress) -> None:
    """Save the server's answer as the archive and verify it.

    Raises:
        DataError: With what to do instead.
        OSError: If the disk fails.
    """
    total, done = int(response.headers.get("Content-Length") or 0), 0
    digest = hashlib.md5(usedforsecurity=False)
    with archive.open("wb") as file:
        while True:
            progress("downloading CIFAR-10", done, total)
            try:
                chunk = response.read(2**18)
            except (OSError, http.client.HTTPException) as error:
                raise DataError(_no_download(root, f"broke off ({error})")) from None
            if not chunk:
                break
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
    if digest.hexdigest() != _cifar10().tgz_md5:
        fault = f"brought {done} bytes with md5 {digest.hexdigest()}"
        raise DataError(_no_download(root, fault))


def _open(root: Path) -> Any:
    """The server's answer to a request for the archive.

    Raises:
        DataError: If there is none within `CONNECT_SECONDS`.
    """
    url = _cifar10().url
    answer: list[Any] = []
    given_up = threading.Event()

    def ask() -> None:
        try:
            response = urllib.request.urlopen(url, timeout=STALL_SECONDS)  # noqa: S310 (torchvision's URL)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            answer.append(error)
            return
        answer.append(response)
        if given_up.is_set():
            response.close()

    # A thread, because no timeout reaches a name look-up that hangs; a daemon, because nothing can
    # end such a thread.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    if not answer:
        given_up.set()
        fault = f"got no answer within {CONNECT_SECONDS:g} s"
        raise DataError(_no_download(root, fault))
    if isinstance(answer[0], Exception):
        reason = getattr(answer[0], "reason", None) or answer[0]
        raise DataError(_no_download(root, f"failed ({reason})"))
    return answer[0]


def _no_download(root: Path, fault: str) -> str:
    cifar10 = _cifar10()
    return (
        f"{root}: no CIFAR-10 here, and downloading it from {cifar10.url} {fault}; use "
        f"dataset.name=synthetic, or dataset.name=folder for class folders, or put "
        f"{cifar10.filename} (md5 {cifar10.tgz_md5}) into {root}"
    )
