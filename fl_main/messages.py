"""The messages of the wire protocol: this file is its specification.

Agent and aggregator exchange binary WebSocket messages under the subprotocol `fl-main.v1`;
each is one msgpack map with the fields of one class below, told apart by `type`. A new field
has a default; a new meaning has a new message; an unknown field is ignored. A change that an
older peer cannot follow gets a new subprotocol.

Beside its fields a map has `n`: 1 for the first message of its sender on this connection, and
so on; whoever gets another one than the next closes the connection. Chunks have none: they say
their place. A peer may leave `n` out everywhere; then it relies on the order of its network.

    agent                         aggregator
    Join ───────────────────────▶
         ◀─────────────────────── Welcome, or Refuse
         ◀─────────────────────── Assign
    Fetch ──────────────────────▶
         ◀─────────────────────── Sending, Chunk, Chunk, …
    Offer ──────────────────────▶
         ◀─────────────────────── Send (from byte N, with credit C)
    Chunk, Chunk, … ────────────▶
         ◀─────────────────────── Credit, …, Verdict
         ◀─────────────────────── RunEnded

What is small is not asked for: a model that the agent cannot have, and an update for which there is room.

    agent                         aggregator
         ◀─────────────────────── Assign, Sending, Chunk, …
    Offer, Chunk, … ────────────▶
         ◀─────────────────────── Verdict

An agent that does not stay connected hangs up whenever there is nothing to do, and comes again
once per `Join.poll_s`, or when it has something to say:

    agent                         aggregator
    Join, Offer, Decline … ─────▶
         ◀─────────────────────── Welcome, Send, Verdict, …
    Poll ───────────────────────▶ (as soon as nothing is under way)
         ◀─────────────────────── Assign, Cancel, RunEnded: what was decided until then
         ◀─────────────────────── Nothing
    close, code 1000 ───────────▶ (unless it has something to fetch now; then it polls again after that)

An operator sends `Operate` in place of `Join`, then `Ask`, each answered by `Reply`.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

SUBPROTOCOL = "fl-main.v1"

MAX_FRAME_BYTES = 4 << 20  # a layout of some ten thousand arrays still fits
MAX_FRAME_VALUES = 1 << 18  # each costs up to 72 bytes of memory, whatever it takes on the wire
MAX_NAME = 200  # characters
MAX_TEXT = 2000  # characters of a sentence
MAX_METRICS = 1000  # of one update: each is a row in the database
MAX_MAP_ENTRIES = 10_000  # of one map: each wrong one costs kilobytes of errors
MAX_CHUNK_BYTES = 1 << 20  # larger WebSocket messages cost several times as much per byte
CHUNK_BYTES = 512 << 10  # what we send: about half of a core's second-level cache
MIN_PACKED_BYTES = (
    4 << 10
)  # of plain bytes: a smaller chunk travels as it is, and many cannot be promised in one
ALIGNMENT = 8  # offsets are multiples of it, so that no number is cut in two


def _cut(text: object) -> object:
    return text[:MAX_TEXT] if isinstance(text, str) else text


AgentId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME)]
# A sentence may tell of somebody else's words, such as the name of an array: it is cut, not refused.
ShortText = Annotated[str, BeforeValidator(_cut), StringConstraints(max_length=MAX_TEXT)]
Digest = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{3,12}:[0-9a-f]{32,128}$")]
TaskId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16,64}$")]
Natural = Annotated[int, Field(ge=0, lt=2**63)]  # what msgpack can say again, and a file can have
# One error is enough: a frame full of wrong rows must not cost memory for a million errors.
LayoutRows = Annotated[list[tuple[str, str, list[Natural], str]], Field(fail_fast=True)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # what the database can hold
MetricName = Annotated[str, StringConstraints(max_length=MAX_NAME)]
Metrics = Annotated[dict[MetricName, float], Field(max_length=MAX_METRICS)]
# What an agent says of itself is stored as it is said: refused where it is too long, not cut.
Fact = Annotated[str, StringConstraints(max_length=MAX_TEXT)] | Integer | Finite | bool


class Message(BaseModel):
    """Base of all messages: immutable, unknown fields ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)
    type: str


class Payload(BaseModel):
    """One set of arrays that belongs to a task or an update.

    Attributes:
        channel: `weights`, or a name that the run's strategy declares.
        layout: Digest of its layout.
        digest: Digest of the whole `.safetensors` file (header and data).
        size: Bytes of the data part: what travels.
        rows: The layout itself, where the receiver cannot know it.
        codec: What decodes it to arrays of the run's model, as a name and options
            (`int8 block=512 rounding=nearest`); empty: it is as it is.
        follows: It is sent behind this message, unasked: a task's model with its `Sending`, an
            update's bytes from the first to the last.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)
    channel: Name = "weights"
    layout: Digest
    digest: Digest
    size: Natural
    rows: LayoutRows | None = None
    codec: ShortText = ""
    follows: bool = False


class Frozen(BaseModel):
    """What an agent says of its arrays that the run does not train (`compression.arrays`).

    Attributes:
        digest: SHA-256 of the `.safetensors` file that would hold them, all as parameters.
        layout: Digest of its layout.
        arrays: How many they are.
        size: Bytes of their data.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)
    digest: Digest
    layout: Digest
    arrays: Natural
    size: Natural


# --- from an agent -----------------------------------------------------------------------


class Join(Message):
    """An agent asks to take part in a run.

    Attributes:
        agent_id: Stable identity, kept in the agent's state folder.
        instance_id: Which process this is; a newer instance fences the older one.
        start_number: How often the agent was started before: which instance is the newer,
            whatever the clocks say.
        rows: The layout of the model that it can train, if it knows one: all of it, or with
            `frozen` what the run trains of it.
        held: Tasks it still works on or has a finished update of.
        uncounted: Tasks whose update was accepted, as far as it knows not counted yet.
        kinds: Kinds of tasks that it can do.
        poll_s: Seconds between two visits of an agent that does not stay connected.
        follows: Whether it takes a model that follows its task unasked.
        packings: How chunks may be packed that it gets or sends.
        digest_algorithms: Algorithms that it can name model files by.
        codecs: Names of the codecs that it knows.
        frozen: Of the arrays that it keeps, once the run has said by `Refuse.arrays` which.
    """

    type: Literal["join"] = "join"
    run: Name
    agent_id: AgentId
    instance_id: AgentId
    start_number: Natural = 0
    name: Name
    token: ShortText = ""
    attributes: Annotated[dict[Name, Fact], Field(max_length=100)] = {}
    kinds: Annotated[list[Name], Field(max_length=20)] = ["train"]
    rows: LayoutRows | None = None
    held: Annotated[list[TaskId], Field(max_length=10_000)] = []
    uncounted: Annotated[list[TaskId], Field(max_length=10_000)] = []
    software: ShortText = ""
    poll_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    follows: bool = False
    packings: Annotated[list[Name], Field(max_length=20)] = []
    digest_algorithms: Annotated[list[Name], Field(max_length=20)] = ["sha256"]
    codecs: Annotated[list[Name], Field(max_length=100)] = []
    frozen: Frozen | None = None


class Fetch(Message):
    """An agent asks for a stored payload, from a byte on.

    Attributes:
        layout: Digest of a layout that the agent knows and expects.
    """

    type: Literal["fetch"] = "fetch"
    digest: Digest
    offset: Natural = 0
    layout: Digest | None = None


class Offer(Message):
    """An agent has the answer to a task; its payloads follow when the aggregator says so."""

    type: Literal["offer"] = "offer"
    task_id: TaskId
    payloads: Annotated[list[Payload], Field(max_length=20)] = []
    num_examples: Integer  # judged by the round machine, so that a wrong one is recorded as rejected
    num_steps: Natural | None = None
    metrics: Metrics = {}
    seconds: Finite = 0.0  # that the work took


class Decline(Message):
    """An agent will not, or cannot, answer a task.

    Attributes:
        code: `policy`, `skipped`, `error`, `unsupported` or `lost`.
        reason: One sentence; of an exception only its type and the code's location.
    """

    type: Literal["decline"] = "decline"
    task_id: TaskId
    code: Literal["policy", "skipped", "error", "unsupported", "lost"]
    reason: ShortText = ""


class Poll(Message):
    """An agent that does not stay asks whether there is something to do; each is answered by `Nothing`."""

    type: Literal["poll"] = "poll"


class Leave(Message):
    """An agent goes for good; nobody needs to wait for its return."""

    type: Literal["leave"] = "leave"
    reason: ShortText = ""


# --- from the aggregator -----------------------------------------------------------------


class Welcome(Message):
    """The answer to Join: what the agent would take part in.

    Attributes:
        rows: The layout of the run's model, if one is there yet.
        counted: Of the tasks the agent holds: the round in which its update was counted.
        stores_local_models: Whether, and for how long, updates stay in the database.
        packing: How the run wants chunks packed where that pays; both do so if the agent can.
        digest_algorithm: Algorithm that the aggregator names model files by.
        form: What updates of training tasks are, see `Assign`; and so `codec` and `feeds_back`.
        download: Codec of the global models, see `Payload`; empty: they travel as they are.
    """

    type: Literal["welcome"] = "welcome"
    session_id: Name
    run: Name
    run_id: Name
    purpose: ShortText = ""
    settings_digest: Digest
    kinds: Annotated[list[Name], Field(max_length=20)]
    stores_local_models: ShortText = ""
    round_id: int
    rows: LayoutRows | None = None
    counted: dict[TaskId, int] = {}
    ping_interval_s: Finite = 20.0
    software: ShortText = ""
    packing: Name | None = None
    digest_algorithm: Name = "sha256"
    form: Literal["full", "delta"] = "full"
    codec: ShortText = ""
    feeds_back: bool = False
    download: ShortText = ""


class Refuse(Message):
    """The aggregator will not serve this session.

    Attributes:
        lasting: Whether trying again cannot help.
        arrays: The run trains only arrays whose names these shell wildcards match: the agent is
            to join again, and to say what it has of the others.
    """

    type: Literal["refuse"] = "refuse"
    code: Name
    reason: ShortText
    lasting: bool = True
    retry_s: Finite = 5.0
    arrays: Annotated[list[Name], Field(max_length=100)] = []


class Assign(Message):
    """A task for this agent.

    Attributes:
        model_round: The round that made the base model.
        correction: What the run's strategy asks of the training, as a `name` and options
            (`{name: fedprox, mu: 0.1}`); empty: nothing.
        form: What the answer's weights are to be: `full`, or `delta`: float parameters less those
            of the base model, all else as it is.
        codec: How the answer's weights are to be encoded, as a name and options
            (`top-k fraction=0.01`); empty: not at all.
        feeds_back: Whether the agent adds what it could not send before.
        uncounted: Tasks of this agent whose updates were accepted and will still be counted, where
            it matters for what it adds.
        deadline_s: Seconds left until the round ends, if it has a deadline.
        credit: Up to so many bytes the answer's only payload may follow its `Offer` at once, on
            this connection; 0: it waits for `Send`.
        rollbacks: How often the run was rolled back to an earlier round until then. If that is
            another number than with the last task, the agent forgets what it keeps with its updates
            of this run (control variates, what it could not send, private arrays): they were undone.
    """

    type: Literal["assign"] = "assign"
    task_id: TaskId
    kind: Name
    round_id: int
    model_round: int = 0
    payloads: Annotated[list[Payload], Field(max_length=20)] = []
    config: dict[str, Any] = {}
    correction: dict[str, Any] = {}
    seed: int = 0
    deadline_s: Finite | None = None
    form: Literal["full", "delta"] = "full"
    codec: ShortText = ""
    feeds_back: bool = False
    uncounted: Annotated[list[TaskId], Field(max_length=10_000)] = []
    credit: Natural = 0
    rollbacks: Natural = 0


class Send(Message):
    """Go on with a payload of an offered update, from byte `offset`, as far as `credit`."""

    type: Literal["send"] = "send"
    task_id: TaskId
    channel: Name
    offset: Natural
    credit: Natural


class Hold(Message):
    """An offer or a fetch has to wait; the agent need do nothing."""

    type: Literal["hold"] = "hold"
    task_id: TaskId
    reason: ShortText


class Nothing(Message):
    """An agent that polled has heard all that there is; it may hang up until its next visit.

    Attributes:
        reason: What it waits for, or what it is at work on.
    """

    type: Literal["nothing"] = "nothing"
    reason: ShortText


class Waiting(Message):
    """What an agent without a task waits for, whenever that changes; it need do nothing."""

    type: Literal["waiting"] = "waiting"
    reason: ShortText


class Verdict(Message):
    """What became of an update.

    Attributes:
        verdict: `accepted` (stored for good), `rejected` (its own fault) or `discarded`.
        late: Whether its round was over; accepted all the same, a later round counts it.
    """

    type: Literal["verdict"] = "verdict"
    task_id: TaskId
    verdict: Literal["accepted", "rejected", "discarded"]
    reason: ShortText = ""
    late: bool = False


class Counted(Message):
    """An accepted update became part of a global model."""

    type: Literal["counted"] = "counted"
    task_id: TaskId
    round_id: int


class Cancel(Message):
    """A task's answer is no longer waited for."""

    type: Literal["cancel"] = "cancel"
    task_id: TaskId
    reason: ShortText


class RunEnded(Message):
    """The run is over; its final model may be fetched.

    Attributes:
        status: `finished`, `stopped` or `failed`.
        rollbacks: As in `Assign`: what the agent keeps of rounds that were undone is no part of the end.
    """

    type: Literal["run_ended"] = "run_ended"
    status: Name
    reason: ShortText = ""
    round_id: int
    final: Payload | None = None
    statistics: Payload | None = None
    rollbacks: Natural = 0


# --- both ways ---------------------------------------------------------------------------


class Sending(Message):
    """Chunks of a fetched payload follow.

    Attributes:
        rows: Its layout, unless the agent said that it knows it; if it is encoded, the layout of the
            run's model, from which its own follows.
    """

    type: Literal["sending"] = "sending"
    transfer: Name
    offset: Natural
    size: Natural
    rows: LayoutRows | None = None


PLAIN_CHUNK = ("type", "transfer", "offset", "data")


class Chunk(Message):
    """Bytes of a transfer, in order, without holes.

    Attributes:
        transfer: A fetched payload's digest, or `TASK_ID/CHANNEL` of an update.
        offset: Place in the data, a multiple of 8. Places, sizes and credit are of plain bytes.
        packed: How the data are packed, as agreed in Join and Welcome; `zstd`: their bytes are
            shuffled by `width`, then one Zstandard frame that says its content's size.
        size: Plain bytes of packed data.
        width: Bytes of each number in them: first come all first bytes, then all second ones, …;
            what is left behind the last whole number comes last.
    """

    type: Literal["chunk"] = "chunk"
    transfer: Name
    offset: Natural
    packed: Literal["zstd"] | None = None
    size: Annotated[int, Field(ge=0, le=MAX_CHUNK_BYTES)] = 0
    width: Annotated[int, Field(ge=1, le=8)] = 1
    data: Annotated[bytes, Field(max_length=MAX_CHUNK_BYTES)]  # or where they were read to, see `wire`

    @model_validator(mode="after")
    def _pays(self) -> "Chunk":
        """Packed data are paid for by their plain size: they must not take more, nor be very small."""
        if self.packed and (self.size < MIN_PACKED_BYTES or len(self.data) > self.size):
            raise ValueError(f"{len(self.data)} packed bytes cannot be {self.size} plain ones")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Say nothing of packing where there is none."""
        fields: dict[str, Any] = write(self)
        return fields if self.packed else {name: fields[name] for name in PLAIN_CHUNK}

    @property
    def plain_size(self) -> int:
        """How many bytes of the transfer it brings."""
        return self.size if self.packed else len(self.data)


class Credit(Message):
    """The sender may go on as far as byte `credit`."""

    type: Literal["credit"] = "credit"
    transfer: Name
    credit: Natural


class Ping(Message):
    """Are you there?"""

    type: Literal["ping"] = "ping"


class Pong(Message):
    """Yes."""

    type: Literal["pong"] = "pong"


# --- operators ---------------------------------------------------------------------------


class Operate(Message):
    """An operator asks to look at, or to steer, the daemon's runs."""

    type: Literal["operate"] = "operate"
    token: ShortText = ""
    actor: Name = "operator"


class Ask(Message):
    """One question or order of an operator.

    Attributes:
        run: What it is about; for `create` the new run's name, where `settings` are not to say it.
        about: What `why` is asked of: a run, an agent or a task; empty for everything. The agent that
            is to be put in quarantine or released, by its name or id. For `create` the model that the
            run begins with, as `fl db show` takes one; empty: as the settings say.
        settings: Of the run to create; empty: those of the run that made the model in `about`.
        to: For `rollback` the round whose model the run goes on from; and so the following.
        rounds: How many rounds are to follow; None: as many as the run still has to make.
        reason: Why, in a sentence: it stays with the run.
        fresh_state: Whether the strategy's state begins anew.
    """

    type: Literal["ask"] = "ask"
    number: Natural
    order: Literal["status", "why", "create", "stop", "pause", "resume", "quarantine", "release", "rollback"]
    run: str = ""
    about: ShortText = ""
    settings: dict[str, Any] = {}
    to: Natural = 0
    rounds: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    reason: ShortText = ""
    fresh_state: bool = False


class Reply(Message):
    """The answer to an Ask.

    Attributes:
        error: One sentence if it could not be done.
        content: What was asked for.
    """

    type: Literal["reply"] = "reply"
    number: Natural
    error: str = ""
    content: dict[str, Any] = {}


FROM_AGENT: tuple[type[Message], ...] = (Join, Fetch, Offer, Decline, Poll, Leave, Chunk, Ping, Pong)
FROM_OPERATOR: tuple[type[Message], ...] = (Operate, Ask, Ping, Pong)
FROM_AGGREGATOR: tuple[type[Message], ...] = (
    *(
        Welcome,
        Refuse,
        Assign,
        Sending,
        Chunk,
        Send,
        Hold,
        Waiting,
        Nothing,
        Credit,
        Verdict,
        Counted,
        Cancel,
        RunEnded,
    ),
    *(Reply, Ping, Pong),
)
BY_TYPE: dict[str, type[Message]] = {
    message.model_fields["type"].default: message
    for message in (*FROM_AGENT, *FROM_OPERATOR, *FROM_AGGREGATOR)
}
