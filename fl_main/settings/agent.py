"""Settings of an agent that is started by `fl agent`."""

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat

from fl_main.settings.base import Section, only
from fl_main.settings.run_name import RunName
from fl_main.settings.secret import SecretSettings


class AgentSettings(Section):
    """An agent started by `fl agent`."""

    url: str = Field(
        default="ws://127.0.0.1:8765",
        pattern=r"^wss?://",
        description="where the aggregator listens",
        json_schema_extra=only("that begins with ws:// or wss://"),
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
