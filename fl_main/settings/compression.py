"""Settings of a run about how models are made smaller on their way."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from fl_main.settings.base import Section

CodecName = Literal["none", "float16", "bfloat16", "int8", "qsgd", "top-k", "random-k"]
_OF_DELTAS = ("int8", "qsgd", "top-k", "random-k")  # codecs whose error is a part of what is sent
_SPARSE = ("top-k", "random-k")
_OPTIONS = {  # of CompressionSettings: the codecs that have them
    "fraction": _SPARSE,
    "levels": ("qsgd",),
    "block": ("int8", "qsgd"),
    "rounding": ("int8",),
}


class CompressionSettings(Section):
    """How models are made smaller on their way; off by default, see the page Compression."""

    codec: CodecName = Field(
        default="none",
        description="of updates: none; float16, bfloat16: 16 bits a value; int8: 8; qsgd: a few levels; "
        "top-k, random-k: only some of the values",
    )
    form: Literal["auto", "full", "delta"] = Field(
        default="auto",
        description="of updates: full: local models; delta: what they add to the global model; "
        "auto: delta in mode async and for int8, qsgd, top-k and random-k, else full",
    )
    fraction: Annotated[float, Field(ge=1e-6, le=1)] | None = Field(
        default=None, description="part of the values that top-k and random-k send; null: 0.01"
    )
    levels: Annotated[int, Field(ge=1, le=127)] | None = Field(
        default=None,
        description="qsgd: steps from 0 to a block's norm; up to 7 take half a byte a value; null: 127",
    )
    block: Annotated[int, Field(ge=16, le=1 << 20)] | None = Field(
        default=None, description="values that share a scale, for int8 and qsgd; null: 512"
    )
    rounding: Literal["stochastic", "nearest"] | None = Field(
        default=None,
        description="int8: stochastic: right on average; nearest: half the error; null: stochastic",
    )
    error_feedback: bool | None = Field(
        default=None,
        description="an agent adds what it could not send to its next update; form delta only; "
        "null: true for top-k, else false",
    )
    download: Literal["none", "float16", "bfloat16", "int8"] = Field(
        default="none",
        description="codec of the global model on its way to the agents; the aggregator keeps it in full",
    )
    arrays: list[Annotated[str, StringConstraints(min_length=1, max_length=200)]] = Field(
        default=[],
        max_length=100,
        description='only arrays whose names match are trained together and travel, e.g. ["*lora*"]; all '
        "others stay as each agent's initial_weights have them, the same everywhere; []: all arrays",
    )
    lossless: Literal["none", "zstd"] = Field(
        default="none",
        description="zstd: chunks of models travel packed where that saves bytes, both ways; nothing else "
        "changes; pays on lines of less than about 1 Gbit/s",
    )

    @model_validator(mode="after")
    def _has_effect(self) -> "CompressionSettings":
        """Refuse what would do nothing, instead of ignoring it in silence."""
        for option, codecs in _OPTIONS.items():
            if getattr(self, option) is not None and self.codec not in codecs:
                raise ValueError(
                    f"{option} is for the codec {' and '.join(codecs)}: leave it out with codec {self.codec}"
                )
        if self.form == "full" and self.codec in _SPARSE:
            raise ValueError(
                f"form full with codec {self.codec} would set nearly all weights of a local model to 0: "
                "leave form out, or give form: delta"
            )
        if self.error_feedback and self.codec == "none":
            raise ValueError("error_feedback is for a codec: leave it out with codec none")
        return self

    @property
    def feeds_back(self) -> bool:
        """Whether agents keep what they could not send."""
        return self.codec == "top-k" if self.error_feedback is None else self.error_feedback

    @property
    def is_of_deltas(self) -> bool:
        """Whether the codec's error is a part of what is sent, so that this should be small."""
        return self.codec in _OF_DELTAS
