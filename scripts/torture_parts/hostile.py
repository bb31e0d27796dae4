"""Others' runs: names and texts that want to act, checkpoints and archives that want out."""

import csv
import hashlib
import io
import json
import os
import pickle
import random
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import torch
import yaml
from made_runs import make_run

from torture_parts import Part, hold
from torture_parts.made import hold_clean, setting_words, texts_below
from torture_parts.zygote import Zygote

MARK = "zqx"
"""In every text that wants to act, so that what acts can be told from what bnlab writes."""

PIECES = (
    f'"><img src={MARK} onerror=alert(1)>',
    f"</title></style></script><script>{MARK}</script>",
    f"<svg onload={MARK}>",
    f"' onmouseover='{MARK}",
    f"javascript:{MARK}",
    f"{{{{ {MARK}.__class__ }}}}",
    f"{{% include '{MARK}' %}}",
    f"\x1b]0;{MARK}\x07",
    f"\x1b[31m{MARK}",
    f"\x9b31m{MARK}",
    f"\x7f\x08{MARK}",
    f"\r{MARK}",
    f"\n# {MARK}",
    f"\n\n- {MARK}",
    f"\u2028{MARK}\u2029",
    f"\u202e{MARK}\u2066",
    f"\u200b\ufeff{MARK}",
    f"\xa0{MARK}",
    f"\udc80{MARK}",
    f"\0{MARK}",
    f"![{MARK}](http://{MARK}.example)",
    f"[{MARK}](javascript:{MARK})",
    f"`{MARK}` **{MARK}** | {MARK} |",
    f"$\\frac{{{MARK}}}$",
    f"$\\{MARK}",
    f"=cmd|'/C {MARK}'!A0",
    f"@{MARK}",
    f"+{MARK}",
    f"-{MARK}",
    f"\t={MARK}",
    f"[red]{MARK}[/red]",
    f"../../{MARK}",
    f"/{MARK}",
    f"&lt;{MARK}&#27;",
    MARK * 300,
    "批归一化" + MARK,
)
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("compare", "runs", "--allow-mixed", "--tensorboard", "--out", "report"),
    ("compare", "runs", "--allow-mixed", "--json", "--check", "report/report.json"),
    ("runs", "runs"),
    ("runs", "runs", "--json"),
    ("audit", "runs"),
    ("audit", "runs", "--json"),
    ("claims", "--runs-dir", "runs", "--out", "claims"),
    ("pack", "runs", "-o", "x.tar.xz"),
    ("compare", "x.tar.xz", "--allow-mixed", "--json", "--out", "again"),
)
ACTS = re.compile("[\0-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")
MARKDOWN = re.compile(
    rf"^\s*(?:#|\d\.) *{MARK}|(?<!\\)<[^>]*{MARK}|(?<!\\)\]\((?!probe-[\w-]+\.svg\))\S*{MARK}",
    re.MULTILINE,
)
"""Headings, tags and links of others' making; the figures of their probes are bnlab's."""
FORMULA = re.compile(r"^\s*[=+\-@]")
ADDRESS = re.compile(r"#[\w-]*|(?!//)[\w%./~-]*")
"""A place on the page, or a folder beside it, in whose address all else is encoded: it names no
scheme and no host."""


class _Page(HTMLParser):
    """The tags and attributes of a page, and what of them the mark has come to."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.live: list[str] = []
        self._within = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._within = tag
        for name, value in attrs:
            acts = name in ("href", "src", "style", "srcdoc", "action", "xlink:href")
            if tag == "a" and name == "href":
                acts = not ADDRESS.fullmatch(str(value))
            if name.startswith("on") or MARK in name or (acts and MARK in str(value).lower()):
                self.live.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        if self._within in ("script", "style") and MARK in data:
            self.live.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_comment(self, data: str) -> None:
        if MARK in data:
            self.live.append(data)


def hold_harmless(name: str, data: bytes, tags: set[str]) -> None:
    """A file of a report in which nothing of others' text acts.

    Raises:
        BrokeError: If something does.
    """
    if name.endswith((".tar.xz", ".yaml")) or "/events." in name:
        return
    text = data.decode()
    hold(not (found := ACTS.search(text)), f"{name}: {found and ascii(found[0])}")
    if name.endswith(".html"):
        page = _Page()
        page.feed(text)
        hold(page.tags <= tags, f"{name}: {page.tags - tags}")
        hold(not page.live, f"{name}: {page.live}")
    elif name.endswith(".svg"):
        for element in ET.fromstring(text).iter():  # noqa: S314 - made by bnlab
            live = [
                key
                for key, value in element.attrib.items()
                if key.startswith("on") or ("href" in key and not ADDRESS.fullmatch(value))
            ]
            hold(not live and "script" not in element.tag, f"{name}: {element.tag} {live}")
    elif name.endswith(".csv"):
        for line in csv.reader(io.StringIO(text)):
            for value in line:
                number = re.fullmatch(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", value)
                hold(number or not FORMULA.match(value), f"{name}: {value[:80]!r}")
    elif name.endswith(".json"):
        json.loads(text)
    elif name.endswith(".md"):
        live = MARKDOWN.findall(text)
        hold(not live, f"{name}: {live}")


def attack(draw: random.Random) -> str:
    """A text that wants to act."""
    return "".join(draw.choice(PIECES) for _ in range(draw.randint(1, 3)))


def texts_of(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in JSON data that holds a text."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, (dict, list)):
            yield from texts_of(value)
        elif isinstance(value, str):
            yield tree, key


class Hostile(Part):
    """See above."""

    full = 10_000

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed)
        self._zygote = Zygote(folder / "streams")
        runs = folder / "runs"
        for one in range(2):
            make_run(runs, seed=one, sets={"model.norm.name": "none"}, probes=("p",))
            make_run(runs, seed=one, probes=("p",))
        hold_clean(self._zygote.run(COMMANDS[0], folder), {0}, "compare of healthy runs")
        hold_clean(self._zygote.run(COMMANDS[6], folder), {0}, "claims of healthy runs")
        self._tags: set[str] = set()
        for path in folder.rglob("*.html"):
            page = _Page()
            page.feed(path.read_text())
            self._tags |= page.tags
        words = ["train", "--name", "made", *setting_words(train__epochs=4)]
        hold_clean(self._zygote.run(words, folder, env={"BNLAB_CACHE": "x"}), {0, 3}, "train")
        (self._trained,) = folder.glob("runs/made/*/s0/checkpoints/last.pt")
        self._trained = self._trained.parent.parent
        (self._trained / "summary.json").unlink()
        shutil.move(self._trained, folder / "trained")

    def trial(self, number: int, draw: random.Random, folder: Path) -> str:
        """Texts, a checkpoint or an archive."""
        return (self._texts, self._checkpoint, self._archive)[number % 3](draw, folder)

    def _texts(self, draw: random.Random, folder: Path) -> str:
        runs = folder / "runs"
        shutil.copytree(self.folder / "runs", runs)
        victims = sorted(path.parent for path in runs.rglob("run.json"))
        for victim in draw.sample(victims, draw.randint(1, len(victims))):
            self._write_into(victim, draw)
        if draw.random() < 0.5:
            name = re.sub(r"[/\0]", "-", attack(draw))[:60]
            (runs / "made").rename(runs / name)
        elif draw.random() < 0.5:
            arm = draw.choice(sorted((runs / "made").iterdir()))
            arm.rename(arm.with_name(re.sub(r"[/\0]", "-", attack(draw))[:60]))
        for words in COMMANDS:
            ended = self._zygote.run(words, folder)
            hold_clean(ended, {0, 1, 2, 4, 5}, " ".join(words))
            for stream in (ended.out, ended.err):
                hold(not (found := ACTS.search(stream)), f"{words}: {found and ascii(found[0])}")
            if "--json" in words and ended.code == 0:
                json.loads(ended.out)
        for name, data in texts_below(folder):
            if not name.startswith("runs/"):
                hold_harmless(name, data, self._tags)
        there = {path.name for path in folder.iterdir()}
        hold(there <= {"runs", "report", "claims", "x.tar.xz", "again"}, f"written: {there}")
        return "texts"

    def _write_into(self, victim: Path, draw: random.Random) -> None:
        for name in ("run.json", "summary.json"):
            data = json.loads((victim / name).read_text())
            free = [(tree, key) for tree, key in texts_of(data) if "hash" not in str(key)]
            for tree, key in draw.sample(free, min(len(free), draw.randint(0, 6))):
                if key != "status" or draw.random() < 0.1:
                    tree[key] = attack(draw)
            (victim / name).write_text(json.dumps(data))
        if draw.random() < 0.5:
            lines = (victim / "metrics.jsonl").read_text()
            tag = json.dumps(f"probe/{attack(draw)}")[1:-1]
            (victim / "metrics.jsonl").write_text(lines.replace("probe/p", tag))
        if draw.random() < 0.3:
            config = yaml.safe_load((victim / "config.yaml").read_text())
            tree, key = draw.choice(list(texts_of(config)))
            tree[key] = attack(draw).encode(errors="replace").decode()
            (victim / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

    # ------------------------------------------------------------------ checkpoints

    def _checkpoint(self, draw: random.Random, folder: Path) -> str:
        root = folder / self._trained.relative_to(self.folder)
        shutil.copytree(self.folder / "trained", root)
        path = root / "checkpoints" / "last.pt"
        how = draw.choice((runs_a_program, scribbled, another_value))
        data = how(path.read_bytes()[:-32], draw)
        path.write_bytes(data + hashlib.sha256(data).digest())
        words = ["train", "--name", "made", *setting_words(train__epochs=4), "--resume", "auto"]
        ended = self._zygote.run(words, folder, env={"BNLAB_CACHE": "x"})
        hold_clean(ended, {0, 1, 3, 5}, how.__name__)
        hold(how is not runs_a_program or ended.code == 5, f"{how.__name__}: {ended}")
        hold(not (folder / MARK).exists(), f"{how.__name__}: a program ran")
        hold(ended.mebibytes < 3000, f"{how.__name__}: {ended.mebibytes:.0f} MiB")
        return how.__name__

    # --------------------------------------------------------------------- archives

    def _archive(self, draw: random.Random, folder: Path) -> str:
        secret = folder / "secret"
        secret.mkdir()
        (secret / "run.json").write_text(f'"{MARK}"')
        kind = draw.choice(("xz", "gz"))
        mode: Any = f"w:{kind}"
        with tarfile.open(folder / f"x.tar.{kind}", mode) as archive:
            for one in ("run.json", "config.yaml", "metrics.jsonl", "summary.json"):
                for _ in range(draw.randint(1, 3)):
                    _add(archive, one, draw, secret)
        (name,) = (path.name for path in folder.iterdir() if path.name != "secret")
        if draw.random() < 0.2:
            data = bytearray((folder / name).read_bytes())
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            (folder / name).write_bytes(data)
        for words in (
            ("runs", name, "--json"),
            ("compare", name, "--out", "report"),
            ("pack", name, "-o", "again.tar.xz"),
            ("audit", "."),
        ):
            ended = self._zygote.run(words, folder, 10)
            hold_clean(ended, {0, 1, 2, 5}, " ".join(words))
            hold(MARK not in ended.out + ended.err, f"{words}: the secret is out")
            hold(ended.mebibytes < 2000, f"{words}: {ended.mebibytes:.0f} MiB")
        there = {path.name for path in folder.iterdir()}
        hold(there <= {name, "secret", "report", "again.tar.xz"}, f"written: {there}")
        hold(os.listdir(secret) == ["run.json"], "written beside the secret")  # noqa: PTH208
        return "an archive"

    def close(self) -> None:
        """End what starts commands."""
        self._zygote.close()


class _Program:
    """Pickled, it is a call."""

    def __init__(self, function: Callable[..., Any], *arguments: str) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        return self._call


def runs_a_program(data: bytes, draw: random.Random) -> bytes:
    """A checkpoint whose reading would run something."""
    touch = f"touch {MARK}"
    program = draw.choice(
        (_Program(os.system, touch), _Program(eval, f"open({MARK!r}, 'w')"), _Program(exec, touch))
    )
    if draw.random() < 0.3:
        return pickle.dumps(program, protocol=draw.randint(0, 5))
    state = torch.load(io.BytesIO(data), weights_only=True)
    state[draw.choice(list(state))] = program
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=draw.random() < 0.7)
    return buffer.getvalue()


def scribbled(data: bytes, draw: random.Random) -> bytes:
    """A checkpoint with other bytes here and there."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 5)):
        # Most of its structure stands at both ends.
        place = draw.choice((draw.randrange(3000), len(data) - 1 - draw.randrange(3000)))
        changed[place] = draw.randrange(256)
    return bytes(changed)


def another_value(data: bytes, draw: random.Random) -> bytes:
    """A checkpoint in which a value is one of another kind, or missing."""
    state = tree = torch.load(io.BytesIO(data), weights_only=True)
    while True:
        key = draw.choice(list(tree))
        if not isinstance(tree[key], dict) or not tree[key] or draw.random() < 0.2:
            break
        tree = tree[key]
    values: tuple[Any, ...] = (
        None,
        -1,
        2**70,
        "x" * 5000,
        [],
        {},
        {"__class__": "x"},
        float("nan"),
        torch.ones(3),
    )
    if draw.random() < 0.3:
        del tree[key]
    else:
        tree[key] = draw.choice(values)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, file: str, draw: random.Random, secret: Path) -> None:
    folder = draw.choice(
        ("a/b/s0", "../../out", str(secret), "a/../../secret", "a//b", "./a/b/s0", "\x1b[31m", "")
    )
    member = tarfile.TarInfo(f"{folder}/{file}")
    kinds = (
        tarfile.REGTYPE,
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.FIFOTYPE,
        tarfile.CHRTYPE,
        tarfile.DIRTYPE,
        tarfile.GNUTYPE_SPARSE,
    )
    member.type = draw.choice(kinds)
    member.linkname = draw.choice((str(secret / file), f"../../../secret/{file}", member.name))
    content = draw.choice((b"{}", b"", b"0" * 1_000_000, b"name: x\n", b'{"epoch": 1}\n'))
    if member.type == tarfile.REGTYPE:
        member.size = len(content)
        if draw.random() < 0.2:
            member.pax_headers = {"GNU.sparse.realsize": str(2**60), "size": "9" * 30}
    archive.addfile(member, io.BytesIO(content) if member.isreg() else None)
