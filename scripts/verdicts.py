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

SAID = {
    "accuracy": "BN 提高网络的准确率",
    "caffe": "按文献 002 设置的 Caffe BatchNorm 加 Scale 层就是批归一化",
    "convergence": "BN 使训练收敛更快",
    "cost": "BN 增加计算量",
    "covariate_shift": "BN 减少内部协变量偏移：训练中各层输入的分布保持不动",
    "covariate_shift_gradients": "有 BN 时，前面各层更新后，一层的梯度变化更小",
    "covariate_shift_noise": "若用噪声打乱 BN 之后的分布，BN 对训练的帮助就变小",
    "decay_norm": "权重衰减应当放过 BN 的 gamma 和 beta",
    "decorrelation": "BN 降低特征之间的相关性",
    "depth": "BN 使更深的网络能够训练",
    "dropout": "BN 有正则化作用，因而不那么需要 dropout",
    "fc_norm": "BN 不只该放在卷积层，也该放在全连接层",
    "gradients": "BN 防止梯度在反向传播途中消失或爆炸",
    "higher_lr": "BN 允许更高的学习率",
    "inference_statistics": "测试时，滑动平均与整个训练集的统计量一样好",
    "initialization": "有 BN 时，网络对权重初始化不那么敏感",
    "input_normalization": "有 BN 的网络能适应不同尺度的输入：输入如何归一化不那么要紧",
    "insensitive": "有 BN 时，网络对权重初始化不再敏感",
    "landscape": "BN 使损失更平滑，梯度在更长的步子上仍然可靠",
    "no_decay": "有 BN 的网络不依赖正则项：不需要权重衰减",
    "placement": "BN 该放在激活之前，而不是之后",
    "shuffle_once": "有 BN 时，每一轮都必须重新打乱图像",
    "small_batch": "BN 依赖批量大小：批量太小，均值和方差就不可靠",
    "small_steps": "BN 依赖批量大小：每步图像很少时，它比不需要批量的归一化损失更多",
    "weights": "BN 约束参数的分布",
}
"""What claims state, in Chinese; of one that is not here the table has the English sentence."""

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
            said = f": {claim.statement}"
            if language == "zh":
                said = f"：{SAID.get(claim.name, claim.statement)}"
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
