"""Settings of the daemon: where it listens, what it takes at most, its database and its page."""

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from fl_main.settings.base import Section, only
from fl_main.settings.secret import SecretSettings


class TlsSettings(Section):
    """Encryption of the daemon's port."""

    certificate: Path = Field(
        description="PEM file with the certificate chain, relative to the settings file"
    )
    key: Path = Field(description="PEM file with the private key, relative to the settings file")


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
        json_schema_extra=only("that begins with / and has only letters, digits and / . _ ~ - in it"),
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
        json_schema_extra=only("that is empty, or begins with / and has only letters, digits and / . _ ~ -"),
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
