"""What is written comes back from Hydra's own parser, and from OmegaConf, as what it was."""

import itertools
import string
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from experiments.overrides import override

PARSER = OverridesParser.create()


def read(text: str):
    (parsed,) = PARSER.parse_overrides([text])
    return OmegaConf.create({"value": parsed.value()}).value


def test_every_printable_character_survives():
    characters = [chr(code) for code in range(sys.maxunicode + 1) if chr(code).isprintable()]
    # All of them at once, and those that grammars care about one by one.
    assert read(override("a.b", "".join(characters))) == "".join(characters)
    for character in ["", *characters[:400], "\t", "\n"]:
        assert read(override("a.b", character)) == character


def test_every_order_of_special_characters_survives():
    for pair in itertools.product(string.punctuation + " a0é", repeat=2):
        assert read(override("a.b", "".join(pair))) == "".join(pair)
    for text in map("".join, itertools.product("\\'\"${}a", repeat=4)):
        assert read(override("a.b", text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("true", "False", "null", "nan", "-inf", "0", "1e-5", "1_0", ".5", "[a]", "{a: b}", "a,b", "glob(*)"),
        *("${oc.env:HOME}", "\\${a}", "/data/my runs (2)/é", "/it's/a=b#c", "C:\\runs\\"),
    ],
)
def test_a_text_stays_a_text(text):
    assert read(override("a.b", text)) == text


@pytest.mark.parametrize("value", [None, True, False, 0, -3, 1e-5, 0.5, 1e300, [], [1, "a b", None], ["it's", 1e-6]])
def test_other_values_keep_their_type(value):
    result = read(override("a.b", value))
    assert result == value
    assert type(result) is type(value) or isinstance(value, list)


def test_plain_values_look_plain():
    assert override("actor_rollout_ref.model.path", "Qwen/Qwen3-8B") == "actor_rollout_ref.model.path=Qwen/Qwen3-8B"
    assert override("a.lr", 1e-5) == "a.lr=1e-5"
    assert override("a", "a b") == "a='a b'"
