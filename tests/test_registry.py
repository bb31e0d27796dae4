import pytest

from bnlab.errors import ConfigError
from bnlab.registry import Registry


def registry() -> Registry[int]:
    made: Registry[int] = Registry("color")
    made.register("red", reads=("shade", "gloss"), facts=("warm",))(1)
    made.register("blue", reads=("shade",))(2)
    return made


def test_a_registered_plug_in_is_found_by_its_name() -> None:
    colors = registry()
    assert (colors["red"], colors["blue"]) == (1, 2)
    assert list(colors) == ["red", "blue"]
    assert len(colors) == 2
    assert "warm" in colors.entry("red").facts


def test_an_unknown_name_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown color 'bleu'; did you mean 'blue'\?.*red"):
        registry()["bleu"]


def test_a_name_is_registered_only_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        registry().register("red")(3)


def test_fields_that_only_others_read_are_idle() -> None:
    assert registry().idle_fields("blue") == {"gloss"}
    assert registry().idle_fields("red") == set()
