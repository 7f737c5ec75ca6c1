"""Settings of a run: its rounds, whom they ask, how updates become a model, and when it ends."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from fl_main.settings.base import Condition, Fraction, Options, Section, Steps, only
from fl_main.settings.compression import CompressionSettings
from fl_main.settings.run_name import RunName
from fl_main.steps import steps_of, strategy_in_words


class CohortSettings(Section):
    """Which of the eligible agents are asked in a round; in mode async, how many are at work at once."""

    rule: str = Field(
        default="all",
        pattern=r"^(all|fraction|number|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$",
        description="all: every eligible agent; fraction, number: a part of them; "
        "package.module:function: a rule of your own",
        json_schema_extra=only("that is all, fraction, number or package.module:function"),
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
        return "delta" if self.mode == "async" or self.compression.is_of_deltas else "full"

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
