"""Images in class folders: ROOT/train/<class>/* and ROOT/test/<class>/*, decoded once.

Decoding 60,000 files takes a quarter of a minute, and every run would pay it. The decoded images
are therefore kept in one file of the cache folder, named by the files' contents. To know the
contents without reading them, a second small file is named by a fingerprint (path, size and times
of every file): a touched or copied folder is read through once more, but not decoded.
"""

import hashlib
import logging
import os
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError

from bnlab.config import DatasetConfig
from bnlab.errors import DataError
from bnlab.training.datasets import DATASETS
from bnlab.training.datasets._splits import SIZE, ImageData, Progress, Split, checksum_of
from bnlab.training.streams import stream

log = logging.getLogger("bnlab")

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Files with other endings (and hidden ones) are not images and are passed over."""

NOTE = "images from class folders; not bnlab's verified CIFAR-10"

FORMAT = 2
"""Raised whenever the same files would decode or be kept differently; part of every cache name."""


@DATASETS.register("folder")
def load_folder(config: DatasetConfig, progress: Progress) -> ImageData:
    """All images below `dataset.root`, as RGB of `dataset.size`, in a fixed mixed order.

    Images of another size are resized (bilinear, antialiased, not keeping the aspect ratio);
    transparency is dropped; orientation tags are not followed. How many, and their sizes, is said
    when they are decoded and stands in the note.

    Raises:
        DataError: If the layout is not as the module says, or an image cannot be read.
    """
    listing = list_images(Path(config.root).expanduser())
    cache = Cache(cache_folder(), config.size)
    fingerprint = listing.fingerprint()
    content = cache.read_content(fingerprint)
    data = cache.read(content) if content else None
    if data is None:
        content = listing.content_hash(progress)
        data = cache.read(content)
        if data is None:
            data = decode(listing, config.size, progress)
            cache.write(content, data)
        cache.write_content(fingerprint, content)
    return data


def find_image_folders(root: Path) -> list[Path]:
    """Which of `root` and the folders in it look like class folders, with train/ and test/."""
    below = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return [
        path for path in (root, *below) if (path / "train").is_dir() and (path / "test").is_dir()
    ]


# ------------------------------------------------------------------------------------- listing


@dataclass(frozen=True)
class Listing:
    """The image files of a folder.

    Attributes:
        root: The folder.
        classes: Class names, sorted.
        files: Paths relative to the root, `split/class/file`, sorted within each split; train
            first.
        stamps: Size and times of each file.
    """

    root: Path
    classes: tuple[str, ...]
    files: dict[str, list[str]]
    stamps: dict[str, tuple[int, ...]]

    def __iter__(self) -> Iterator[str]:
        for files in self.files.values():
            yield from files

    def __len__(self) -> int:
        return len(self.stamps)

    def fingerprint(self) -> str:
        """Changes whenever a file may have changed; costs no reading, in hex."""
        # The change time is there because sizes and modification times are easily equal: an
        # unpacked archive of bitmaps has one size and, often, one time.
        parts = [f"{file}\t{self.stamps[file]}" for file in self]
        text = "\n".join([str(self.root.resolve()), *parts])
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()

    def content_hash(self, progress: Progress) -> str:
        """SHA-256 over names and bytes of all files, in hex; the same for a copy of the folder."""
        digest = hashlib.sha256()
        for done, file in enumerate(self):
            if done % 500 == 0:
                progress("reading images", done, len(self))
            try:
                one = hashlib.sha256((self.root / file).read_bytes()).hexdigest()
            except OSError:
                one = "unreadable"  # decoding will say which and why
            digest.update(f"{file}\t{one}\n".encode(errors="surrogateescape"))
        progress("reading images", len(self), len(self))
        return digest.hexdigest()


LAYOUT = "expected train/<class>/<image> and test/<class>/<image> below it"


def list_images(root: Path) -> Listing:
    """Find the images below root.

    Raises:
        DataError: If the folders are not as the module says.
    """
    if not root.is_dir():
        raise DataError(
            f"{root}: no such folder; {LAYOUT}; set dataset.root to a folder of that layout, or "
            "try dataset.name=synthetic, which needs none"
        )
    stamps: dict[str, tuple[int, ...]] = {}
    files: dict[str, list[str]] = {}
    classes: dict[str, list[str]] = {}
    for split in ("train", "test"):
        folder = root / split
        if not folder.is_dir():
            raise DataError(f"{root}: there is no folder {split}/; {LAYOUT}")
        classes[split] = sorted(
            entry.name
            for entry in os.scandir(folder)
            if entry.is_dir() and not entry.name.startswith(".")
        )
        files[split] = []
        for name in classes[split]:
            found = sorted(_image_entries(folder / name))
            if not found:
                raise DataError(
                    f"{folder / name}: no images ({', '.join(SUFFIXES)}) in this class; "
                    "add some or remove the folder"
                )
            for file, stamp in found:
                path = f"{split}/{name}/{file}"
                files[split].append(path)
                stamps[path] = stamp
    _check_classes(root, classes["train"], classes["test"])
    return Listing(root, tuple(classes["train"]), files, stamps)


def _image_entries(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    for entry in os.scandir(folder):
        name = entry.name
        if name.startswith(".") or not name.lower().endswith(SUFFIXES):
            continue
        try:
            stat = entry.stat()
        except OSError:  # a broken link: decoding will name it
            yield name, ()
            continue
        yield name, (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _check_classes(root: Path, train: list[str], test: list[str]) -> None:
    if train != test:
        sides = {"train/": set(train) - set(test), "test/": set(test) - set(train)}
        only = "; ".join(
            f"only in {side}: {', '.join(sorted(names))}" for side, names in sides.items() if names
        )
        raise DataError(f"{root}: train/ and test/ must have the same class folders; {only}")
    if len(train) < 2:
        found = f"only one, {train[0]}" if train else "none"
        raise DataError(f"{root / 'train'}: at least two class folders are needed, found {found}")


# ------------------------------------------------------------------------------------ decoding


def decode(listing: Listing, size: int, progress: Progress) -> ImageData:
    """Decode every image, as squares of `size` pixels.

    Raises:
        DataError: If any cannot be decoded; names the first three.
    """
    faults: list[str] = []
    splits = []
    made_fit = _MadeFit(size)
    done = 0
    for split, files in listing.files.items():
        pixels = torch.zeros(len(files), size, size, 3, dtype=torch.uint8)
        array = pixels.numpy()
        # One thread: an image this small is decoded within the interpreter's lock, and a second
        # thread halves the speed.
        for place, file in enumerate(files):
            if done % 500 == 0:
                progress("decoding images", done, len(listing))
            try:
                array[place] = _decode_file(listing.root / file, size, made_fit)
            except Exception as error:  # noqa: BLE001 (Pillow's decoders raise a dozen kinds)
                faults.append(f"{file} ({_reason(error)})")
            done += 1
        label_of = {name: label for label, name in enumerate(listing.classes)}
        labels = torch.tensor([label_of[file.split("/")[1]] for file in files])
        # Path order is one class after the other, and a batch of one class is no fair batch.
        mixed = torch.randperm(len(files), generator=stream(0, "folder", split))
        splits.append(Split(pixels.permute(0, 3, 1, 2)[mixed].contiguous(), labels[mixed]))
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise DataError(
            f"{listing.root}: {len(faults)} of {len(listing)} images cannot be read: "
            f"{', '.join(faults[:3])}{more}; replace or remove them"
        )
    progress("decoding images", done, len(listing))
    train, test = splits
    checksum = checksum_of(train, test, listing.classes)
    if changed := made_fit.told(len(listing)):
        log.warning("%s: %s", listing.root, changed)
    note = "; ".join(filter(None, (NOTE, changed)))
    return ImageData(train, test, listing.classes, checksum, note)


class _MadeFit:
    """What had to be done to images so that all are RGB of one size: counted, to be told."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._resized: Counter[tuple[int, int]] = Counter()
        self._colored = 0

    def count(self, image: Image.Image) -> None:
        """An image as it was found."""
        if image.size != (self._size, self._size):
            self._resized[image.size] += 1
        self._colored += image.mode != "RGB"

    def told(self, total: int) -> str:
        """`4 of 9 images resized to 32x32, from 48x36 to 64x64`; "" where nothing was done."""
        said = []
        if self._resized:
            by_area = sorted(self._resized, key=lambda size: (size[0] * size[1], size))
            least, most = (f"{width}x{height}" for width, height in (by_area[0], by_area[-1]))
            sizes = least if least == most else f"{least} to {most}"
            number = self._resized.total()
            said.append(
                f"{number:,} of {total:,} images resized to {self._size}x{self._size}, from {sizes}"
            )
        if self._colored:
            said.append(f"{self._colored:,} of {total:,} images made RGB")
        return "; ".join(said)


def _decode_file(path: Path, size: int, made_fit: _MadeFit) -> Any:
    """One image as uint8 of (size, size, 3), in a form that numpy takes."""
    with Image.open(path) as image:
        made_fit.count(image)
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"mode {image.mode}: not 8 bits a channel")
        # A palette with transparency goes by way of RGBA: straight to RGB, Pillow warns.
        plain = image.convert("RGBA") if "transparency" in image.info else image
        rgb = plain.convert("RGB")
    if rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.BILINEAR)
    return rgb


def _reason(error: Exception) -> str:
    """The error in a few words, without the path that the message already has."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


# ----------------------------------------------------------------------------------- the cache


def cache_folder() -> Path:
    """$BNLAB_CACHE, else $XDG_CACHE_HOME/bnlab, else ~/.cache/bnlab."""
    if named := os.environ.get("BNLAB_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bnlab"


class Cache:
    """Decoded images by content hash, and content hashes by fingerprint.

    Without it everything works, only slower: what cannot be written is said once and forgotten,
    what cannot be read back is decoded anew.

    Args:
        folder: Where.
        size: Of the images, in pixels.
    """

    def __init__(self, folder: Path, size: int = SIZE) -> None:
        self.folder, self._size = folder, size
        self._writable = True

    def read_content(self, fingerprint: str) -> str | None:
        """The content hash last seen with this fingerprint."""
        try:
            text = self._index(fingerprint).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return text if len(text) == 64 and text.isalnum() else None

    def write_content(self, fingerprint: str, content: str) -> None:
        """Remember the content hash of a fingerprint."""
        self._write(
            self._index(fingerprint), lambda path: path.write_text(content, encoding="ascii")
        )

    def read(self, content: str) -> ImageData | None:
        """The images of a content hash; None if they are not there or damaged."""
        path = self._images(content)
        if not path.exists():
            return None
        try:
            # Mapped, not read: start-up then costs the check sum and no copy.
            kept = torch.load(path, mmap=True, weights_only=True)
            data = ImageData(
                Split(*kept["train"]),
                Split(*kept["test"]),
                tuple(kept["classes"]),
                kept["checksum"],
                kept["note"],
            )
            intact = kept["crc"] == _crc(data)
        except Exception:  # noqa: BLE001 (a damaged file fails in as many ways as it has bytes)
            intact = False
        if not intact:
            log.warning("%s: damaged; decoding the images again", path)
            return None
        return data

    def write(self, content: str, data: ImageData) -> None:
        """Keep decoded images."""
        kept = {
            "train": (data.train.images, data.train.labels),
            "test": (data.test.images, data.test.labels),
            "classes": list(data.classes),
            "checksum": data.checksum,
            "note": data.note,
            "crc": _crc(data),
        }
        self._write(self._images(content), lambda path: torch.save(kept, path))

    def _images(self, content: str) -> Path:
        size = "" if self._size == SIZE else f"-{self._size}"
        return self.folder / f"folder-v{FORMAT}-{content[:32]}{size}.pt"

    def _index(self, fingerprint: str) -> Path:
        return self.folder / f"folder-v{FORMAT}-{fingerprint[:32]}.content"

    def _write(self, path: Path, write: Callable[[Path], object]) -> None:
        """Write beside and rename: another process never sees half a file."""
        if not self._writable:
            return
        beside: Path | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=f"{path.name}.")
            os.close(handle)
            beside = Path(name)
            write(beside)
            beside.replace(path)
        except (OSError, RuntimeError) as error:  # torch.save turns a full disk into RuntimeError
            self._writable = False
            log.warning(
                "%s: cannot be written (%s), so the images will be decoded again next time; set "
                "BNLAB_CACHE to a writable folder",
                self.folder,
                _reason(error),
            )
        finally:
            if beside is not None:
                beside.unlink(missing_ok=True)


def _crc(data: ImageData) -> int:
    """A check sum that costs a tenth of a second for 60,000 images; SHA-256 costs two."""
    value = zlib.crc32("\n".join([*data.classes, data.checksum]).encode(errors="surrogateescape"))
    for split in (data.train, data.test):
        for tensor in (split.images, split.labels):
            value = zlib.crc32(tensor.numpy().data, value)
    return value
