"""A codec said in words, and read again, is the same codec."""

import pytest

from fl_main.compression import CODECS, download_codec_of, update_codec_of
from fl_main.compression.words import from_words, in_words
from fl_main.errors import SettingsError
from fl_main.settings import CompressionSettings

CHOICES = [
    *({"codec": name} for name in CODECS),
    {"codec": "int8", "block": 64, "rounding": "nearest"},
    {"codec": "qsgd", "block": 16, "levels": 7},
    {"codec": "top-k", "fraction": 0.3},
    {"codec": "random-k", "fraction": 1e-6, "error_feedback": False},
]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_codec_survives_its_words(choice: dict[str, object]) -> None:
    codec = update_codec_of(CompressionSettings.model_validate(choice))
    assert from_words(in_words(codec)) == codec


@pytest.mark.parametrize("name", ["float16", "bfloat16", "int8"])
def test_codec_of_downloads_survives_its_words(name: str) -> None:
    codec = download_codec_of(CompressionSettings.model_validate({"download": name}))
    assert from_words(in_words(codec)) == codec


def test_no_codec_has_no_words() -> None:
    assert in_words(None) == ""
    assert from_words("") is None


def test_words_are_those_of_the_settings() -> None:
    assert in_words(from_words("int8 block=512 rounding=nearest")) == "int8 block=512 rounding=nearest"
    assert in_words(from_words("top-k")) == "top-k fraction=0.01"


@pytest.mark.parametrize("words", ["zip", "int8 block=1", "int8 levels=3", "top-k fraction=2", "int8 x=1"])
def test_unknown_words_are_a_typed_error(words: str) -> None:
    with pytest.raises(SettingsError, match="there is no codec"):
        from_words(words)
