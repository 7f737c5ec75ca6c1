"""Codecs in words, as messages, the database and people have them: `int8 block=512 rounding=nearest`.

The options are those of the settings.
"""

from dataclasses import asdict
from typing import Any

from pydantic import ValidationError

from fl_main.compression import Codec, update_codec_of
from fl_main.errors import SettingsError
from fl_main.settings import CompressionSettings


def in_words(codec: Codec | None) -> str:
    """Return the name of a codec and its options; of none an empty text."""
    if codec is None:
        return ""
    options: dict[str, Any] = asdict(codec)  # type: ignore[call-overload]  # every codec is a dataclass
    return " ".join([codec.name, *(f"{option}={value}" for option, value in options.items())])


def from_words(words: str) -> Codec | None:
    """Return the codec that `in_words` said.

    Raises:
        SettingsError: If there is no such codec.
    """
    if not words:
        return None
    name, *options = words.split() or [""]
    stated = dict(option.partition("=")[::2] for option in options)
    try:
        return update_codec_of(CompressionSettings.model_validate({**stated, "codec": name}))
    except ValidationError as error:
        raise SettingsError(f"there is no codec {words[:80]!r}; upgrade fl_main") from error
