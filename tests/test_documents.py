# ruff: noqa: RUF001 - formulas are written with their letters
"""The pages on the documents 000 to 004: worked numbers, configurations, sentences and claims."""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bnlab.claims import CLAIMS
from bnlab.config import NormConfig, build_config, differences, load_config, parse_yaml
from bnlab.config.described import describe_keys
from bnlab.docs import FOLDER
from bnlab.registry import NORMS
from bnlab.training.task import check_config

CONFIGS = FOLDER.parent.parent / "configs"
DOCUMENTS = ("000", "001", "002", "003", "004")
PAGES = [FOLDER / language / f"{name}.md" for language in ("en", "zh") for name in DOCUMENTS]
TEXT = {path: path.read_text(encoding="utf-8") for path in PAGES}

each_page = pytest.mark.parametrize(
    "path", PAGES, ids=lambda path: f"{path.parent.name}-{path.stem}"
)

Numbers = dict[str, list[float]]

X = [1.0, 3.0, 3.0, 9.0]
GAMMA, BETA = 2.0, 1.0


def numbers_of(text: str) -> Numbers:
    """The rows of a page's tables that hold numbers, by what they are called."""
    found: Numbers = {}
    for label, rest in re.findall(r"^\| `([^`]+)` \|(.*)\|$", text, flags=re.MULTILINE):
        cells = [cell.strip() for cell in rest.split("|") if cell.strip()]
        if all(re.fullmatch(r"-?[\d./]+", cell) for cell in cells):
            assert label not in found or found[label] == [float(Fraction(one)) for one in cells]
            found[label] = [float(Fraction(cell)) for cell in cells]
    return found


def build(name: str, shape: tuple[int, ...] = (1, 1, 1), momentum: float = 0.1) -> nn.Module:
    norm: nn.Module = NORMS[name](shape, NormConfig(name=name, eps=1e-9, momentum=momentum))
    return norm.double()


def normalize(
    norm: nn.Module, values: Sequence[float], images: int = 4, *, affine: bool = False
) -> list[float]:
    """What a norm makes of one channel's values, over so many images."""
    with torch.no_grad():
        norm.get_parameter("weight").fill_(GAMMA if affine else 1.0)
        norm.get_parameter("bias").fill_(BETA if affine else 0.0)
        features = torch.tensor(values, dtype=torch.float64).view(images, 1, -1, 1)
        return [float(value) for value in norm(features).flatten()]


def told_statistics(mean: float, variance: float) -> nn.Module:
    """Batch norm in eval mode, with these statistics."""
    norm = build("batch").eval()
    norm.get_buffer("running_mean").fill_(mean)
    norm.get_buffer("running_var").fill_(variance)
    return norm


def running(norm: nn.Module) -> list[float]:
    mean, variance = norm.running_mean, norm.running_var
    assert isinstance(mean, Tensor)
    assert isinstance(variance, Tensor)
    return [float(mean), float(variance)]


def numbers_000() -> Numbers:
    norm = build("batch")
    found = {"x": X, "x̂": normalize(norm, X, 2), "y": normalize(build("batch"), X, 2, affine=True)}
    found["x̂, axes=[0]"] = normalize(build("batch_tf", (1, 2, 1)), X, 2)
    found["running_mean, running_var after 1"] = running(norm)
    found["x̂, running after 1"] = normalize(norm.eval(), X, 2)
    norm.train()
    for _ in range(200):
        normalize(norm, X, 2)
    found["x̂, running after many"] = normalize(norm.eval(), X, 2)
    return found


def numbers_001() -> Numbers:
    z, test = [-2.0, 0.0, 0.0, 6.0], [11.0, 13.0, 13.0, 19.0]
    passed = [max(value, 0.0) for value in z]
    normalized = normalize(build("batch"), z)
    forgotten = told_statistics(4, 9)
    return {
        "z": z,
        "BN(z)": normalized,
        "ReLU(BN(z))": [max(value, 0.0) for value in normalized],
        "BN(ReLU(z))": normalize(build("batch"), passed),
        "y": normalize(build("batch"), z, affine=True),
        "x": test,
        "x̂, eval()": normalize(forgotten, test),
        "x̂, train()": normalize(forgotten.train(), test),
        "running_mean, running_var, train()": running(forgotten),
    }


def numbers_002() -> Numbers:
    batches = [X[:2], X[2:]]
    caffe, ours = build("caffe"), build("batch")
    alone = [build("batch", momentum=1.0) for _ in batches]
    for batch, one in zip(batches, alone, strict=True):
        normalize(caffe, batch, 2)
        normalize(ours, batch, 2)
        normalize(one, batch, 2)
    means, unbiased = (list(part) for part in zip(*map(running, alone), strict=True))
    whole = build("batch", momentum=1.0)
    normalize(whole, X)
    population = [running(whole)[0], running(whole)[1] * 3 / 4]
    document = [sum(means) / 2, sum(unbiased) / 2]
    return {
        "x": X,
        "x̂": [value for batch in batches for value in normalize(build("batch"), batch, 2)],
        "y": [v for batch in batches for v in normalize(build("batch"), batch, 2, affine=True)],
        "μ_B": means,
        "σ_B²": [value / 2 for value in unbiased],
        "σ_B² m/(m-1)": unbiased,
        "document 002": document,
        "Caffe": running(caffe),
        "torch": running(ours),
        "population": population,
        "x̂, document 002": normalize(told_statistics(*document), X),
        "x̂, population": normalize(told_statistics(*population), X),
    }


def numbers_003() -> Numbers:
    pairs = []
    for pair in combinations(X, 2):
        norm = build("batch", momentum=1.0)
        normalize(norm, pair, 2)
        pairs.append(running(norm))
    return {
        "x": X,
        "min-max": [(value - min(X)) / (max(X) - min(X)) for value in X],
        "z-score": normalize(build("batch_reference"), X),
        "decimal": [value / 10 for value in X],
        "y": normalize(build("batch_reference"), X, affine=True),
        "μ, m=2": [mean for mean, _ in pairs],
        "σ², m=2": [variance / 2 for _, variance in pairs],
    }


def numbers_004() -> Numbers:
    def with_variance(values: list[float]) -> list[float]:
        return [*values, float(torch.tensor(values).var(correction=0))]

    normalized, tenfold = normalize(build("batch"), X), [10 * value for value in X]
    return {
        "x": with_variance(X),
        "(x - μ) / σ²": with_variance([value / 3 for value in normalized]),
        "(x - μ) / σ": with_variance(normalized),
        "y": with_variance(normalize(build("batch"), X, affine=True)),
        "10 x": tenfold,
        "x̂ of 10 x": normalize(build("batch"), tenfold),
        "x̂, population": normalize(told_statistics(3, 16), X),
    }


WORKED: dict[str, Callable[[], Numbers]] = {
    "000": numbers_000,
    "001": numbers_001,
    "002": numbers_002,
    "003": numbers_003,
    "004": numbers_004,
}


@each_page
def test_worked_numbers_are_what_the_norms_give(path: Path) -> None:
    told, worked = numbers_of(TEXT[path]), WORKED[path.stem]()
    assert told.keys() == worked.keys()
    for label, values in worked.items():
        assert told[label] == pytest.approx(values, abs=6e-4), label


def configuration_of(path: Path) -> str:
    [text] = re.findall(r"^```yaml\n(.*?)^```", TEXT[path], flags=re.MULTILINE | re.DOTALL)
    return str(text)


@each_page
def test_a_documents_configuration_is_accepted_and_the_same_in_both_languages(path: Path) -> None:
    config = build_config([parse_yaml(configuration_of(path), path.name)])
    check_config(config)
    assert config.name == f"document-{path.stem}"
    twin = FOLDER / "en" / path.name
    assert config == build_config([parse_yaml(configuration_of(twin), twin.name)])


def test_document_001_is_the_shipped_configuration() -> None:
    ours = build_config([parse_yaml(configuration_of(FOLDER / "en" / "001.md"), "001.md")])
    shipped = load_config([CONFIGS / "seed_as_written.yaml"])
    assert [key for key, _, _ in differences(ours.resolved(), shipped.resolved())] == ["name"]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_caffes_fields_are_mapped_to_keys_that_there_are(language: str) -> None:
    rows = re.findall(
        r"^\| `.*` \| `(model\.norm\.\w+)", TEXT[FOLDER / language / "002.md"], re.MULTILINE
    )
    assert len(rows) == 6
    assert set(rows) <= {key.name for key in describe_keys()}


def sentences_of(path: Path) -> list[tuple[str, str]]:
    found = re.findall(r"^\| `(\w+)` \| ([^|]+) \| [^|]+ \|$", TEXT[path], flags=re.MULTILINE)
    return [(claim, sentence) for claim, sentence in found if claim in CLAIMS]


def stating(claim: str) -> set[str]:
    """The documents that a claim names as its sources."""
    said = " ".join(CLAIMS[claim].sources)
    return set(DOCUMENTS) if "000 to 004" in said else set(re.findall(r"\b00[0-4]\b", said))


@each_page
def test_a_page_has_a_sentence_for_every_claim_that_names_its_document(path: Path) -> None:
    sentences = sentences_of(path)
    assert {claim for claim, _ in sentences} == {
        claim for claim in CLAIMS if path.stem in stating(claim)
    }
    assert sentences == sentences_of(FOLDER / "en" / path.name)
    assert all(len(sentence) < 60 for _, sentence in sentences), "a sentence, not the document"
