# ruff: noqa: RUF001 - Chinese has punctuation of its own
"""Verdicts of the reference records as the documentation tells them: tables, an answer, a picture.

Used by `results.py`; English, and Chinese for the pages in that language.
"""

import re
from collections.abc import Mapping, Sequence

from bnlab.claims import CLAIM_LEVEL, Contrast, Finding, show_effect, show_limits
from bnlab.docs import Language

LEVELS = f"{100 * CLAIM_LEVEL:g} %"

CHINESE = {
    "SUPPORTED": "成立",
    "REFUTED": "不成立",
    "INCONCLUSIVE": "尚无定论",
    "NOT TESTED": "尚未测试",
    "reversed": "方向相反",
    "real but negligible": "确有差别，但可忽略",
    "no practical difference": "无实际差别",
    "depends on the hidden layer": "取决于隐藏层",
    "depends on the initialization": "取决于初始化",
    "with BN on the hidden layer": "隐藏层也有 BN",
    "with BN on the convolutions alone": "只有卷积层有 BN",
    "depends on where the arms are compared": "取决于在何处比较",
    "at one training loss": "训练损失相同处",
    "epoch by epoch": "逐轮比较",
    "with N(0, 0.01^2)": "N(0, 0.01^2) 初始化",
    "with He's initialization": "He 初始化",
}

HEADERS: Mapping[Language, Sequence[str]] = {
    "en": ("claim", "verdict", "effect", f"{LEVELS} limits", "n"),
    "zh": ("论断", "判定", "效应", f"{LEVELS} 界限", "n"),
}


def judged(findings: Sequence[Finding]) -> list[Finding]:
    """Those with a verdict."""
    return [one for one in findings if one.verdict.label != "NOT TESTED" and one.contrast]


def told(finding: Finding, language: Language) -> str:
    """A verdict in words; in Chinese beside the word that bnlab prints."""
    if language == "en":
        return finding.verdict.words
    label, more = finding.verdict.label, finding.verdict.sublabel
    more = "，" * bool(more) + CHINESE.get(more, more)
    return f"{CHINESE[label]}（{label}{more}）"


def verdicts_table(findings: Sequence[Finding], language: Language) -> list[Sequence[str]]:
    """Header and rows: each verdict, and its effect in every place where it was measured."""
    rows = [HEADERS[language]]
    again, bracket = ("the same", " ({})") if language == "en" else ("同上", "（{}）")
    for finding in judged(findings):
        claim = finding.claim
        for number, (one, contrast) in enumerate(finding.places):
            place = one.place
            said = f": {claim.statement}" if language == "en" else ""
            name = f"`{claim.name}`{said}" if number == 0 else again
            where = CHINESE.get(place, place) if language == "zh" else place
            rows.append(
                (
                    name + (bracket.format(where) if where else ""),
                    told(finding, language) if number == 0 else "",
                    show_effect(contrast.limits.estimate, claim.unit),
                    show_limits(contrast.limits, claim.unit),
                    str(contrast.n),
                )
            )
    return rows


HEADS: Mapping[Language, Mapping[str, str]] = {
    "en": {
        "SUPPORTED": "Before.",
        "REFUTED reversed": "After.",
        "REFUTED no practical difference": "It makes no practical difference.",
        "REFUTED real but negligible": "Before, by less than matters.",
        "REFUTED depends on the hidden layer": "It depends on the hidden layer.",
        "": "Not settled yet.",
    },
    "zh": {
        "SUPPORTED": "放在激活之前",
        "REFUTED reversed": "放在激活之后",
        "REFUTED no practical difference": "没有实际差别",
        "REFUTED real but negligible": "之前略好，但差别可忽略",
        "REFUTED depends on the hidden layer": "取决于隐藏层",
        "": "尚无定论",
    },
}


def before_or_after(findings: Sequence[Finding], language: Language) -> str:
    """The answer that the verdict on `placement` gives, in a sentence or two."""
    [finding] = [one for one in findings if one.claim.name == "placement"]
    verdict, heads = finding.verdict, HEADS[language]
    head = heads.get(f"{verdict.label} {verdict.sublabel}".strip(), heads[""])
    parts = [_which(one.place, contrast, language) for one, contrast in finding.places]
    if language == "en":
        said = "; ".join(parts)
        return f"**{head}** {said[:1].upper()}{said[1:]}{'.' * bool(said)}".strip() + "\n"
    return f"**{head}**" + (f"：{'；'.join(parts)}" if parts else "") + "。\n"


def _which(place: str, contrast: Contrast, language: Language) -> str:
    limits = contrast.limits
    amount = f"{100 * abs(limits.estimate):.2f} pp"
    shown = f"{100 * limits.low:+.2f}", f"{100 * limits.high:+.2f}"
    better = "before" if limits.low > 0 else "after" if limits.high < 0 else ""
    if language == "en":
        what = f"{better} is better by {amount}" if better else "neither is shown to be better"
        return f"{place}, {what} ({LEVELS} limits of before less after: {' to '.join(shown)})"
    side = {"before": "之前", "after": "之后", "": ""}[better]
    what = f"放在激活{side}高 {amount}" if better else "看不出哪一种更好"
    return f"{CHINESE[place]} 时，{what}（“之前减之后”的 {LEVELS} 界限：{' 至 '.join(shown)}）"


def verdicts_of_page(page: str, findings: Sequence[Finding], language: Language) -> str:
    """Where the claims stand that a page's tables name, verdict by verdict."""
    named = dict.fromkeys(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE))
    groups: dict[str, list[str]] = {}
    for finding in findings:
        if finding.claim.name in named:
            groups.setdefault(told(finding, language), []).append(f"`{finding.claim.name}`")
    colon = ": " if language == "en" else "："
    return "".join(f"- {said}{colon}{', '.join(names)}\n" for said, names in groups.items())


def about_picture(findings: Sequence[Finding]) -> str:
    """What the picture shows, for readers who do not see it."""
    parts = [
        f"{f'{finding.claim.name} {one.place}'.strip()}: {told(finding, 'en')}, "
        f"{show_effect(contrast.limits.estimate, finding.claim.unit)}"
        for finding in judged(findings)
        for one, contrast in finding.places
    ]
    return "Verdicts of the reference records. " + "; ".join(parts)
