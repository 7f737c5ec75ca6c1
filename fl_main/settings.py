"""Settings of a run, the daemon and an agent: typed, bounded, explained.

The classes are the reference: `setting/*.yaml`, the JSON Schemas and the settings page of the
docs say what stands here. How files and environment variables become these objects is in
`fl_main.settings_files`.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    model_validator,
)

from fl_main.steps import MAX_STEPS, stated_steps, steps_of, strategy_in_words
from fl_main.where import condition


def _only(words: str) -> dict[str, Any]:
    """Say a pattern in words: for our errors, and under the name that editors look for."""
    return {"patternErrorMessage": words}


def _with_plain_values(mapping: dict[str, Any]) -> dict[str, Any]:
    """Let only that pass which is the same after a way through JSON, msgpack and the database."""
    _check_plain(mapping, "")
    return mapping


def _check_plain(value: object, place: str) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise ValueError(f"{place or 'it'} has the key {name!r}, which is not text")
            _check_plain(inner, f"{place}.{name}" if place else name)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check_plain(inner, f"{place}.{index}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{place} is {value}, which is not a finite number")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{place} is a whole number of more than 64 bits")
    elif not isinstance(value, str | int | float | None):
        raise ValueError(
            f"{place} is of type {type(value).__name__}: only text, numbers, true, false, null, "
            "lists and mappings of such are allowed"
        )


_MAX_NAME = 100  # characters, of a run

RunName = Annotated[
    str,
    StringConstraints(pattern=rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,{_MAX_NAME - 1}}}$"),
    Field(
        json_schema_extra=_only(
            f"of 1 to {_MAX_NAME} letters, digits, '.', '_' or '-', beginning with a letter or digit"
        )
    ),
]
Fraction = Annotated[float, Field(gt=0, le=1)]
Options = Annotated[dict[str, Any], AfterValidator(_with_plain_values)]

Step = str | Annotated[dict[str, Options], Field(min_length=1, max_length=1)]
Steps = Annotated[
    str | Annotated[list[Step], Field(min_length=1, max_length=MAX_STEPS)], BeforeValidator(stated_steps)
]


def _is_condition(text: str) -> str:
    condition(text)
    return text


Condition = Annotated[str, AfterValidator(_is_condition)]


def numbered_name(name: str, is_taken: Callable[[str], bool]) -> str:
    """Return NAME-2, or the first of NAME-3, NAME-4, … that no run has; of a long name, the beginning."""
    endings = (f"-{number}" for number in count(2))
    names = (name[: _MAX_NAME - len(ending)] + ending for ending in endings)
    return next(free for free in names if not is_taken(free))


class Section(BaseModel):
    """Base of all settings: an unknown key is an error, nothing changes after reading.

    A number is finite: an endless deadline would let a round hang in silence.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CohortSettings(Section):
    """Which of the eligible agents are asked in a round; in mode async, how many are at work at once."""

    rule: str = Field(
        default="all",
        pattern=r"^(all|fraction|number|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$",
        description="all: every eligible agent; fraction, number: a part of them; "
        "package.module:function: a rule of your own",
        json_schema_extra=_only("that is all, fraction, number or package.module:function"),
    )
    fraction: Fraction = Field(default=1.0, description="part of the eligible agents, for rule fraction")
    number: PositiveInt = Field(default=10, description="agents per round, for rule number")
    where: Condition = Field(
        default="",
        description='only agents whose attributes meet a condition, e.g. region == "eu" and gpu',
    )
    choose: Literal["random", "least_recent", "in_turn"] = Field(
        default="random",
        description="random: drawn by the run's seed; least_recent: those that were not asked for longest; "
        "in_turn: the same, and by name where that does not decide",
    )
    over_selection: float = Field(
        default=1.0,
        ge=1,
        le=10,
        description="so many times the agents are asked, and the first that answer are taken; 1.3 for 130 %",
    )

    @model_validator(mode="after")
    def _possible(self) -> "CohortSettings":
        if self.over_selection > 1 and self.rule not in ("fraction", "number"):
            raise ValueError(
                f"over_selection ({self.over_selection:g}) is for the rules fraction and number, which say "
                f"how many answers are wanted: leave it out with rule {self.rule}"
            )
        return self


class RoundSettings(Section):
    """How one round is run."""

    min_agents: PositiveInt = Field(
        default=2,
        description="agents that must be here and free before a round starts; in mode async, be here",
    )
    min_updates: PositiveInt = Field(
        default=2,
        description="updates below which no global model is published: "
        "one site's model must not go to the others",
    )
    quorum: Fraction = Field(
        default=1.0, description="fraction of the cohort whose answers end the round early"
    )
    grace_s: NonNegativeFloat = Field(
        default=0.0, description="seconds to wait for the rest once the quorum is there"
    )
    rejoin_s: NonNegativeFloat = Field(
        default=10.0, description="seconds that a round waits for an agent whose connection broke"
    )
    deadline_s: PositiveFloat = Field(
        default=600.0,
        description="seconds of run time until a round ends anyway; extended once if updates are too few",
    )
    buffer: PositiveInt | None = Field(
        default=None,
        description="modes semi-sync and async: updates that make a new global model; "
        "default: semi-sync the quorum; async 10, or half of the agents if that is less",
    )
    adaptive_deadline: float | None = Field(
        default=None,
        ge=1,
        description="a deadline of so many times what the cohort usually takes, at most deadline_s; "
        "null: deadline_s",
    )
    max_failed_rounds: PositiveInt = Field(
        default=3, description="failed rounds in a row after which the run is failed"
    )

    @model_validator(mode="after")
    def _possible(self) -> "RoundSettings":
        if self.min_updates > self.min_agents:
            raise ValueError(
                f"min_updates ({self.min_updates}) is larger than min_agents ({self.min_agents})"
            )
        return self


class StalenessSettings(Section):
    """What an update counts that was trained on an older global model (modes semi-sync and async)."""

    discount: Literal["polynomial", "hinge", "none"] = Field(
        default="polynomial",
        description="of an update that is t versions late: polynomial 1 / (1 + t)^a; "
        "hinge 1 up to t = b, then 1 / (a (t - b) + 1); none 1",
    )
    a: Annotated[float, Field(gt=0, le=20)] | None = Field(
        default=None, description="how steep it is; null: 0.5 for polynomial, 10 for hinge"
    )
    b: NonNegativeInt = Field(default=4, description="versions that cost nothing, for hinge")
    most: NonNegativeInt | None = Field(
        default=None, description="an update that is more versions late is discarded; null: none is"
    )


class QuarantineSettings(Section):
    """Which agents are left out (strategies that measure distances); until `fl run release`."""

    rounds: NonNegativeInt = Field(
        default=0,
        description="rounds in a row in which an agent's updates were outliers, after which it is left out "
        "until an operator releases it; 0: nobody is left out",
    )
    factor: Annotated[float, Field(gt=1, le=1000)] = Field(
        default=2.0,
        description="an update is an outlier if its distance to what came of all is more than this many "
        "times the median distance of its round, or its norm, before norm_bound scaled it, the median norm",
    )


class ConfigRule(Section):
    """What some agents get instead of the run's `config`."""

    where: Condition = Field(
        description="which agents: by their attributes, or slowness > 2 (of the usual time of all)"
    )
    config: Options = Field(description="keys that replace those of the run's config")


class TargetSettings(Section):
    """A metric of the global model and which way is better."""

    metric: str = Field(default="loss", description="name of the metric as the agents report it")
    source: Literal["evaluate", "train"] = Field(
        default="evaluate", description="evaluate: on held-out data; train: as reported with the updates"
    )
    direction: Literal["min", "max"] = Field(default="min", description="which way is better")


class EndSettings(Section):
    """When the run ends: whichever comes first."""

    rounds: PositiveInt = Field(default=10, description="global models to make")
    target: float | None = Field(default=None, description="end when the `best` metric reaches this value")
    patience: PositiveInt | None = Field(
        default=None, description="end after so many rounds without a better value of the `best` metric"
    )
    max_s: PositiveFloat | None = Field(default=None, description="end after so many seconds of run time")


class InitialSettings(Section):
    """Where the weights of round 1 come from: one of these, or the first agent that offers some."""

    file: Path | None = Field(
        default=None, description="a .safetensors or .npz file, relative to the settings file"
    )
    model: str | None = Field(default=None, description="id of a model in the daemon's database")

    @model_validator(mode="after")
    def _one(self) -> "InitialSettings":
        if self.file and self.model:
            raise ValueError("give a file or a model, not both")
        return self


class EvaluateSettings(Section):
    """When agents measure the global model on held-out data of their own."""

    every: NonNegativeInt = Field(default=1, description="after every n-th round, and the last; 0: never")
    deadline_s: PositiveFloat = Field(
        default=120.0, description="seconds until the evaluation ends with what is there"
    )


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


class RunSettings(Section):
    """One training of one model."""

    name: RunName = Field(description="how agents and commands name this run")
    purpose: str = Field(default="", max_length=2000, description="one sentence for the people at the sites")
    mode: Literal["sync", "semi-sync", "async"] = Field(
        default="sync",
        description="sync: a round waits for its cohort; semi-sync: for the first updates, late ones "
        "count in the next; async: agents work all the time, every few updates make a new global model",
    )
    strategy: Steps = Field(
        default="fedavg",
        description="how updates become a model: a name of docs/strategies.md or package.module:Class of "
        "your own, or a list of steps, each a name or one name with its options; in mode async the default "
        "is fedbuff",
    )
    strategy_options: Options = Field(
        default={},
        description="options of a strategy that is one name; docs/strategies.md lists them",
    )
    seed: NonNegativeInt = Field(
        default=0, lt=2**63, description="cohorts and the agents' seeds follow from it"
    )
    round: RoundSettings = Field(default=RoundSettings(), description="how one round is run")
    cohort: CohortSettings = Field(default=CohortSettings(), description="who is asked in a round")
    staleness: StalenessSettings = Field(
        default=StalenessSettings(), description="what updates on older models count"
    )
    quarantine: QuarantineSettings = Field(
        default=QuarantineSettings(), description="which agents are left out because of their updates"
    )
    end: EndSettings = Field(default=EndSettings(), description="when the run ends")
    best: TargetSettings = Field(
        default=TargetSettings(), description="by which metric the best model is tagged"
    )
    initial: InitialSettings = Field(
        default=InitialSettings(), description="where the first weights come from"
    )
    statistics: bool = Field(
        default=False, description="begin with a step that adds up sums and counts over the sites"
    )
    evaluate: EvaluateSettings = Field(
        default=EvaluateSettings(), description="when the global model is measured"
    )
    config: Options = Field(default={}, description="passed to the training function as task.config")
    config_for: list[ConfigRule] = Field(
        default=[], description="changes of config for some agents; where several fit, the last one wins"
    )
    compression: CompressionSettings = Field(
        default=CompressionSettings(), description="how models are made smaller on their way"
    )
    payload: Literal["fixed", "free"] = Field(
        default="fixed",
        description="fixed: named arrays of one layout; "
        "free: bytes of any length, if the strategy takes them",
    )

    @model_validator(mode="before")
    @classmethod
    def _fitting_strategy(cls, data: Any) -> Any:
        """One setting is enough to make a run asynchronous."""
        if isinstance(data, dict) and data.get("mode") == "async" and "strategy" not in data:
            return {**data, "strategy": "fedbuff"}
        return data

    @model_validator(mode="after")
    def _fitting_options(self) -> "RunSettings":
        if self.strategy_options and not isinstance(self.strategy, str):
            raise ValueError(
                "strategy_options is for a strategy that is one name: write a step's options beside its name"
            )
        return self

    @model_validator(mode="after")
    def _fitting_mode(self) -> "RunSettings":
        """Refuse what has no meaning in the run's mode, instead of ignoring it in silence."""
        if self.mode == "sync" and self.round.buffer is not None:
            raise ValueError(
                "round.buffer is for the modes semi-sync and async: "
                "leave it out, or give mode; what ends a round of mode sync early is round.quorum"
            )
        if self.mode == "async" and self.cohort.over_selection > 1:
            raise ValueError(
                "cohort.over_selection is for the modes sync and semi-sync, whose rounds ask a cohort: "
                "leave it out in mode async"
            )
        if self.mode == "async" and self.round.adaptive_deadline is not None:
            raise ValueError(
                "round.adaptive_deadline is for the modes sync and semi-sync, whose rounds wait for a "
                "cohort: leave it out in mode async"
            )
        if self.payload == "free" and self.compression.arrays:
            raise ValueError("compression.arrays is for payload fixed, whose arrays have names: leave it out")
        if self.round.buffer is not None and self.round.buffer < self.round.min_updates:
            raise ValueError(
                f"round.buffer ({self.round.buffer}) is smaller than round.min_updates "
                f"({self.round.min_updates}), below which no model is published: make them equal"
            )
        return self

    @model_validator(mode="after")
    def _fitting_compression(self) -> "RunSettings":
        compression = self.compression
        if compression.form == "full" and self.mode == "async":
            raise ValueError(
                "compression.form: full is for the modes sync and semi-sync: the updates of mode async "
                "are differences; leave it out"
            )
        if compression.error_feedback and self.form == "full":
            raise ValueError(
                "compression.error_feedback adds up what differences left out: give compression.form: delta"
            )
        if self.payload == "free" and compression != CompressionSettings(lossless=compression.lossless):
            raise ValueError(
                "compression is for arrays, and payload: free has none that are known: "
                "leave out all of it but lossless"
            )
        return self

    @property
    def steps(self) -> list[tuple[str, dict[str, Any]]]:
        """The strategy's steps in order, each a name with its options."""
        if isinstance(self.strategy, str):
            return [(self.strategy, self.strategy_options)]
        return steps_of(self.strategy)

    @property
    def strategy_name(self) -> str:
        """The strategy in one line: `norm_bound > trimmed_mean > fedadam`."""
        return strategy_in_words(self.strategy)

    @property
    def form(self) -> Literal["full", "delta"]:
        """What updates are: local models, or what these add to the model they were trained on."""
        if self.compression.form != "auto":
            return self.compression.form
        return "delta" if self.mode == "async" or self.compression.codec in _OF_DELTAS else "full"

    @property
    def digest(self) -> str:
        """Tagged SHA-256 of these settings: what an agent's custodian can agree to."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> "RunSettings":
        """Read what a run was created with, by this version or an older one.

        Before there were modes, `round.late_updates: count` was what is now semi-sync without a
        discount, and `discard` was sync.
        """
        of_round = dict(values.get("round", {}))
        if of_round.pop("late_updates", "discard") == "count":
            values = {**values, "mode": "semi-sync", "staleness": {"discount": "none"}}
        return cls.model_validate({**values, "round": of_round})


class TlsSettings(Section):
    """Encryption of the daemon's port."""

    certificate: Path = Field(
        description="PEM file with the certificate chain, relative to the settings file"
    )
    key: Path = Field(description="PEM file with the private key, relative to the settings file")


class SecretSettings(Section):
    """A secret from a file or an environment variable, never from the settings themselves."""

    file: Path | None = Field(
        default=None, description="file that holds the token, relative to the settings file"
    )
    env: str | None = Field(default=None, description="environment variable that holds the token")

    @model_validator(mode="after")
    def _one(self) -> "SecretSettings":
        if bool(self.file) == bool(self.env):
            raise ValueError("give either file or env")
        return self


class ListenSettings(Section):
    """Where the daemon listens."""

    host: str = Field(
        default="127.0.0.1", description="address; any other than this machine's own needs TLS and a token"
    )
    port: int = Field(default=8765, ge=0, le=65535, description="TCP port; 0 takes a free one")
    path: str = Field(
        default="/",
        pattern=r"^/[A-Za-z0-9/._~-]*$",
        description="path of the WebSocket",
        json_schema_extra=_only("that begins with / and has only letters, digits and / . _ ~ - in it"),
    )
    origins: list[str] = Field(
        default=[], description="browser origins that may connect; programs send none and always may"
    )


class LimitSettings(Section):
    """What the daemon takes at most."""

    agents: PositiveInt = Field(default=10_000, description="connected agents")
    strangers: PositiveInt = Field(
        default=1000,
        description="connections that have not said who they are; when one more comes, the oldest is dropped",
    )
    joins_per_s: PositiveFloat = Field(
        default=200.0,
        description="agents that may join per second; the others are told when it is their turn",
    )
    model_bytes: PositiveInt = Field(default=64 << 30, description="bytes of one model")
    receive_bytes: int = Field(
        default=64 << 20,
        ge=8 << 20,
        description="bytes of updates in memory at once, for all agents together",
    )
    join_s: PositiveFloat = Field(default=10.0, description="seconds for a new connection to say who it is")
    ping_interval_s: PositiveFloat = Field(
        default=20.0, description="seconds of silence after which a peer is asked for a sign of life"
    )
    ping_timeout_s: PositiveFloat = Field(
        default=60.0, description="seconds of silence after which a peer is taken for gone"
    )
    min_bytes_per_s: PositiveInt = Field(
        default=64,
        description="a connection that moves more bytes per second than this is never taken for gone",
    )
    stop_s: PositiveFloat = Field(default=10.0, description="seconds that an ordered stop may take")


class RetentionSettings(Section):
    """Which models stay on disk; rows always stay."""

    keep: Literal["all", "rounds", "bytes"] = Field(
        default="all",
        description="all: every model; rounds: local models of the last n rounds; bytes: up to a limit",
    )
    rounds: PositiveInt = Field(
        default=2, description="for keep rounds: rounds of a run whose local models stay"
    )
    bytes: PositiveInt = Field(
        default=10 << 30, description="for keep bytes: limit for all local models together"
    )
    warn_free_bytes: NonNegativeInt = Field(
        default=1 << 30, description="warn when less than this is free on the disk"
    )


class DatabaseSettings(Section):
    """The model database."""

    folder: Path = Field(default=Path("models"), description="folder, relative to the working directory")
    durability: Literal["process", "power"] = Field(
        default="process",
        description="process: survives the death of any process; power: of the machine, at a cost",
    )
    digest: Literal["blake3", "sha256"] = Field(
        default="blake3",
        description="what names model files; decided when the database is made, and never changed",
    )
    retention: RetentionSettings = Field(default=RetentionSettings(), description="which models stay on disk")


class WebSettings(Section):
    """The page over the model database, in a process of its own beside the daemon (extra `web`)."""

    host: str = Field(
        default="127.0.0.1",
        description="address; any other than this machine's own needs TLS, and then a token",
    )
    port: int = Field(default=8766, ge=0, le=65535, description="TCP port; 0 takes a free one")
    root_path: str = Field(
        default="",
        pattern=r"^(/[A-Za-z0-9._~-]+)*/?$",
        description="path that a web server in front puts before every path",
        json_schema_extra=_only("that is empty, or begins with / and has only letters, digits and / . _ ~ -"),
    )
    tls: TlsSettings | None = Field(default=None, description="encryption of the page")
    token: SecretSettings | None = Field(
        default=None,
        description="what visitors must know; default: nothing if host is this machine's own, else a token "
        "that is made at each start and told with the page's address",
    )


class AggregatorSettings(Section):
    """The daemon."""

    listen: ListenSettings = Field(default=ListenSettings(), description="where it listens")
    tls: TlsSettings | None = Field(default=None, description="encryption")
    join_token: SecretSettings | None = Field(default=None, description="what agents must know to join")
    operator_token: SecretSettings | None = Field(
        default=None,
        description="what operators must know; without it a file in the database folder is made and used",
    )
    database: DatabaseSettings = Field(default=DatabaseSettings(), description="the model database")
    limits: LimitSettings = Field(default=LimitSettings(), description="what it takes at most")
    web: WebSettings | None = Field(default=None, description="the page over its database; null: none")
    runs: list[Path] = Field(
        default=[], description="run settings files to start with, relative to the settings file"
    )


class AgentSettings(Section):
    """An agent started by `fl agent`."""

    url: str = Field(
        default="ws://127.0.0.1:8765",
        pattern=r"^wss?://",
        description="where the aggregator listens",
        json_schema_extra=_only("that begins with ws:// or wss://"),
    )
    run: RunName = Field(description="run to take part in")
    name: str = Field(
        default="", max_length=200, description="how people name this site; default: the machine's name"
    )
    state_folder: Path | None = Field(
        default=None,
        description="identity and outbox; default: a folder of this run and name in the user's state folder",
    )
    token: SecretSettings | None = Field(default=None, description="the join token")
    ca_file: Path | None = Field(
        default=None,
        description="PEM file of an own certificate authority, for wss://; relative to the settings file",
    )
    connection: Literal["stay", "poll"] = Field(
        default="stay",
        description="stay: one lasting connection; poll: connect only to fetch a task or hand in an update",
    )
    poll_s: PositiveFloat = Field(default=60.0, description="seconds between two polls, for connection poll")
    attributes: dict[str, str | int | float | bool] = Field(
        default={}, description="facts about this site, shown to operators, and for cohort.where"
    )
    keep_going: bool = Field(
        default=False, description="after an error in training, go on with the next task"
    )
    tell_errors: bool = Field(
        default=False,
        description="send the message of such an error too; "
        "it may quote data, so without this only type and place are sent",
    )
    progress: bool = Field(default=True, description="one line of status on a terminal")
    durability: Literal["process", "power"] = Field(
        default="process",
        description="process: a finished update survives the death of any process; "
        "power: of the machine, at a cost",
    )
