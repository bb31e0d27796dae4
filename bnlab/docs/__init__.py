"""The pages that `bnlab explain` prints: Markdown, a file a topic, in English and partly Chinese.

`en/` has every topic. A page of the same name in another language's folder stands for it there. A
page's title is also its line in the list of topics.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

Language: TypeAlias = Literal["en", "zh"]

FOLDER = Path(__file__).parent


def find_language(environment: Mapping[str, str]) -> Language:
    """Chinese where the environment's language is, by the variables that POSIX asks in turn."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if environment.get(name):
            return "zh" if environment[name].startswith("zh") else "en"
    return "en"


def find_pages(language: Language) -> dict[str, Path]:
    """The file of every topic, those on the documents (000 to 004) last."""
    found = {path.stem: path for folder in ("en", language) for path in (FOLDER / folder).glob("*")}
    return {name: found[name] for name in sorted(found, key=lambda name: (name.isdigit(), name))}


def find_title(page: str) -> str:
    """What a page is about, in a line."""
    return next(line.removeprefix("# ") for line in page.splitlines() if line.startswith("# "))
