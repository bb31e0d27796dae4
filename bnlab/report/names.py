"""Names for runs that stand side by side: short, unique, made of what differs."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from bnlab.config import LATER_KEYS, UNHASHED, flatten
from bnlab.report.safe import folder_name, plain

LONGEST = 80
"""Most characters of a name; TensorBoard shows about forty on a line."""

HALF = LONGEST // 2 - 1

LONGEST_VALUE = 24
"""Most characters of one value in it."""

NORM = ["model.norm.name", "model.norm.placement"]
BARE = [*NORM, "model.name"]
"""Keys whose values speak for themselves."""

FIRST = [*BARE, "optim.lr"]
LAST = ["probes", "name", "seed"]
SEED = "seed="
UNNAMED = frozenset(UNHASHED) - {"seed", "name"}


@dataclass(frozen=True)
class Name:
    """What a run is called, and the group of all seeds like it.

    Attributes:
        run: `batch, before, lr=0.1, seed=1`.
        group: The same without the seed.
        hparams: Values by short key, of all keys that tell any two of the groups apart.
    """

    run: str
    group: str
    hparams: Mapping[str, float | str]


def name_runs(configs: Mapping[Path, Mapping[str, Any]]) -> dict[Path, Name]:
    """A name for each run: of the keys that tell it from the runs that are like it so far.

    Key by key (norm and placement first, the seed last) runs are divided by value; a key stands in
    the names of those runs alone that it divides. A path is added where nothing tells two apart.

    Args:
        configs: Resolved configurations by run directory.

    Returns:
        The names, each unique and at most `LONGEST` characters.
    """
    # A record without a later key means its default, and is told from no other by lacking it.
    flat = {run: {**LATER_KEYS, **flatten(config)} for run, config in configs.items()}
    values = {
        run: {key: _shown(key, value) for key, value in one.items()} for run, one in flat.items()
    }
    varying = _varying(values)
    words: dict[Path, list[str]] = {run: [] for run in flat}
    short = _short_keys([*varying, *NORM])
    _divide(list(flat), varying, values, short, words)
    names, groups = dict[Path, str](), dict[Path, str]()
    for run, told in words.items():
        seed = [word for word in told if word.startswith(SEED)]
        arm = [word for word in told if word not in seed]
        names[run] = _cut(arm, seed)
        groups[run] = _cut(arm or [values[run][key] for key in NORM if key in values[run]])
    names = _unique(names)
    columns = [key for key in varying if key not in LAST] or NORM
    texts = {
        key for key in columns if not all(_is_number(one.get(key, 0)) for one in flat.values())
    }
    return {
        run: Name(
            names[run],
            groups[run],
            {
                short[key]: values[run].get(key, "-") if key in texts else one[key]
                for key in columns
                if key in one or key in texts
            },
        )
        for run, one in flat.items()
    }


def _unique(names: Mapping[Path, str]) -> dict[Path, str]:
    """Where nothing tells two runs apart, their places do."""
    places = (
        {run: "-".join(run.parts[-3:]) for run in names},
        {run: _digest(str(run), 8) for run in names},
    )
    for place in places:
        counts = Counter(names.values())
        names = {
            run: name if name and counts[name] == 1 else _placed(name, place[run])
            for run, name in names.items()
        }
    return dict(names)


def _placed(name: str, place: str) -> str:
    start = f"{name[:HALF]} " if name else ""
    return folder_name(start + place[len(start) - LONGEST :])


def _varying(values: Mapping[Path, Mapping[str, str]]) -> list[str]:
    """The keys that have several values, in the order in which names are made of them."""
    found: dict[str, set[str]] = {}
    for one in values.values():
        for key, value in one.items():
            found.setdefault(key, set()).add(value)
    keys = [key for key in found if len(found[key]) > 1 and key not in UNNAMED]
    place = {key: number - len(FIRST) for number, key in enumerate(FIRST)}
    place |= {key: number + 1 for number, key in enumerate(LAST)}
    return sorted(keys, key=lambda key: place.get(key, 0))


def _divide(
    runs: Sequence[Path],
    keys: Sequence[str],
    values: Mapping[Path, Mapping[str, str]],
    short: Mapping[str, str],
    words: Mapping[Path, list[str]],
) -> None:
    """Add to the words of each run what tells it from the others of these."""
    for place, key in enumerate(keys):
        parts: dict[str | None, list[Path]] = {}
        for run in runs:
            parts.setdefault(values[run].get(key), []).append(run)
        if len(parts) > 1:
            for value, part in parts.items():
                if value is not None:  # no norm has no placement
                    for run in part:
                        words[run].append(value if key in BARE else f"{short[key]}={value}")
                _divide(part, keys[place + 1 :], values, short, words)
            return


def _cut(arm: Sequence[str], seed: Sequence[str] = ()) -> str:
    """The first words for which there is room, and the seed; all that are cut stay apart."""
    name = ", ".join([*arm, *seed])
    kept = list(arm)
    while kept and len(name) > LONGEST:
        kept.pop()
        name = ", ".join([*kept, f"..{_digest(', '.join(arm), 6)}", *seed])
    return folder_name(name) if name else ""


def _digest(text: str, digits: int) -> str:
    return sha256(text.encode(errors="backslashreplace")).hexdigest()[:digits]


def _short_keys(keys: Sequence[str]) -> dict[str, str]:
    """`model.norm.name` as `norm`, `optim.lr` as `lr`, where that is unambiguous."""
    short = {}
    for key in keys:
        *_, section, last = ["", *plain(key).split(".")]
        short[key] = section if last == "name" and section else last
    counts = Counter(short.values())
    return {key: name if counts[name] == 1 else plain(key) for key, name in short.items()}


def _shown(key: str, value: Any) -> str:
    """A value as short as it can be told; long ones end in their digest's first digits."""
    if key == "model.norm.placement":
        return str(value).removesuffix("_activation")  # as a configuration may have it, too
    text = plain(value) if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    if len(text) <= LONGEST_VALUE:
        return text
    return f"{text[: LONGEST_VALUE - 6]}..{_digest(text, 4)}"


def _is_number(value: Any) -> bool:
    # TensorBoard would show booleans as 0.0000 and 1.0000.
    return isinstance(value, (int, float)) and not isinstance(value, bool)
