"""What `Agent` and `AsyncAgent` share: set-up, the network thread, and the tasks' facts."""

import asyncio
import contextlib
import math
import random
import socket
import threading
import time
import traceback
import uuid
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from pydantic import ValidationError

from fl_main.disk import REAL_DISK
from fl_main.errors import RefusedError, RunFailedError, SettingsError, UpdateRejectedError
from fl_main.links import dial
from fl_main.messages import Assign, Join, Verdict
from fl_main.personal import PrivateArrays, private_of
from fl_main.ports import Disk, Link, Ports
from fl_main.printable import dotted
from fl_main.strategies.fold import as_channel
from fl_main.threads import Threads
from fl_main.training import Kind, TrainResult, as_count, as_evaluation, as_metrics, counts_of
from fl_main.weights import Array, Layout, Role, as_arrays

from .client import Client
from .exchange import Ending, Policy, Profile, Work
from .outgoing import Outgoing, outgoing
from .own_model import OwnModel
from .progress import StatusLine
from .state_folder import OutboxEntry, StateFolder, default_folder

T = TypeVar("T")

GOODBYE_S = 3.0


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """How an agent was set up; the parameters of `Agent` say what each means."""

    url: str
    run: str
    name: str
    token: str
    attributes: Mapping[str, Any]
    ca_file: Path | None
    state_folder: Path | None
    roles: Mapping[str, Role]
    policy: Policy | None
    tell_errors: bool
    progress: bool
    durability: Literal["process", "power"]
    connection: Literal["stay", "poll"] = "stay"
    poll_s: float = 60.0

    def __post_init__(self) -> None:
        """Check what no type says.

        Raises:
            SettingsError: If one of them cannot be what it is.
        """
        if self.connection not in ("stay", "poll"):
            raise SettingsError(f"connection: {self.connection!r} is neither stay nor poll")
        if self.durability not in ("process", "power"):  # else a misspelt one would promise less in silence
            raise SettingsError(f"durability: {self.durability!r} is neither process nor power")
        poll_s: object = self.poll_s  # whatever a program says
        if not isinstance(poll_s, int | float) or not 0 < poll_s < math.inf:
            raise SettingsError(f"poll_s: {self.poll_s!r} is not a number of seconds above 0")
        try:  # else it would be found only when the agent joins, in its network thread
            told = {"run": self.run, "name": self.name, "attributes": dict(self.attributes)}
            Join.model_validate({**told, "token": self.token, "agent_id": "-", "instance_id": "-"})
        except ValidationError as error:
            raise SettingsError(_fault_in(error)) from None


def _fault_in(error: ValidationError) -> str:
    """Say what of an agent's facts cannot be told to an aggregator."""
    first = error.errors(include_url=False)[0]
    place, said = first["loc"], f"{first['msg']}, not {repr(first['input'])[:60]}"
    if place[0] == "attributes" and place[2:] not in ((), ("[key]",)):  # each type has an error of its own
        place = place[:2]
        if first["type"] != "string_too_long":
            said = f"{repr(first['input'])[:60]} is no text, finite number, true or false"
    if place[0] == "token":  # a secret is never shown
        said = first["msg"]
    return f"{dotted(place)}: {said}"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of an update.

    Attributes:
        verdict: `accepted` (stored for good) or `discarded`; a rejected one raises.
        reason: Why, if it was discarded.
        is_late: It came after its round; accepted all the same, a later round counts it.
    """

    verdict: str
    reason: str = ""
    is_late: bool = False


@dataclass(frozen=True, slots=True)
class Final:
    """What a run came to.

    Attributes:
        weights: The final global model; empty if there never was one.
        statistics: The sums over all sites, if the run had a statistics step.
        status: `finished` or `stopped`.
        reason: Why it ended.
    """

    weights: Mapping[str, Array]
    statistics: Mapping[str, Array]
    round_id: int
    status: str
    reason: str


class NetworkThread:
    """An event loop in a thread of its own, so that training cannot starve the connection."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(_settled(self.loop))
        self.loop.close()

    def start(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Run a coroutine there."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def stop(self) -> None:
        """End the thread; what still runs there is cancelled."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(5.0)


async def _settled(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop) - {asyncio.current_task()}
    await asyncio.gather(*tasks, return_exceptions=True)


# Agents of this process by state folder: a notebook cell that is run again replaces its predecessor.
_OPEN: "weakref.WeakValueDictionary[Path, Connection]" = weakref.WeakValueDictionary()


class Network(Protocol):
    """Where the conversation with the aggregator goes on beside the program."""

    def start(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Run a coroutine there."""

    def stop(self) -> None:
        """End; what still runs there is cancelled."""


@dataclass(frozen=True, slots=True)
class Outside:
    """Everything from outside that an agent needs.

    Attributes:
        ports: Clocks, threads, chance.
        disk: Where the state folder lies.
        network: Where the conversation goes on.
        dial: Opens a link to the aggregator.
        close: Frees what was made for the agent.
    """

    ports: Ports
    disk: Disk
    network: Network
    dial: Callable[[], Awaitable[Link]]
    close: Callable[[], None]


def real_outside(options: AgentOptions) -> Outside:
    """Return the real clocks, threads, disk and network."""
    threads = Threads(2, "fl-agent-files")
    return Outside(
        Ports(time.time, time.monotonic, threads.run, threads.run, lambda: uuid.uuid4().hex, random.random),
        REAL_DISK,
        NetworkThread(f"fl-agent {options.name}"),
        lambda: dial(options.url, ca_file=options.ca_file),
        lambda: threads.shutdown(wait=False),
    )


class Connection:
    """The state folder, the network and the client of one agent.

    Args:
        options: How the agent was set up.
        kinds: What it can do.
        model: What its program gave as initial weights.
        outside: What it gets from outside; freed at the end.
    """

    def __init__(
        self, options: AgentOptions, kinds: tuple[Kind, ...], model: OwnModel, outside: Outside
    ) -> None:
        owner = None if options.state_folder else (options.run, options.name)
        path = (options.state_folder or default_folder(options.run, options.name, outside.disk)).resolve()
        if (older := _OPEN.get(path)) is not None:
            older.close("replaced by a newer agent in the same program")
        self.options = options
        self.ports = outside.ports
        self._outside = outside
        self._is_closed = False
        try:
            self.folder = StateFolder(
                path,
                outside.disk,
                self.ports.new_id,
                durable=options.durability == "power",
                default_of=owner,
            )
        except BaseException:
            outside.network.stop()
            outside.close()
            raise
        self._line = StatusLine(f"{options.name} · {options.run}", is_on=options.progress)
        profile = Profile(
            options.run,
            options.name,
            self.ports.new_id(),
            self.folder.start_number,
            options.token,
            options.attributes,
            tuple(str(kind) for kind in kinds),
            options.poll_s if options.connection == "poll" else None,
        )
        self.client = Client(
            profile,
            self.folder,
            self.ports,
            outside.dial,
            options.policy,
            lambda: self._line.show(self.client.line),
            model,
        )
        self._running = outside.network.start(self.client.run())
        _OPEN[path] = self

    def start(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Run a coroutine of the client's beside the program.

        Raises:
            RefusedError: If the agent was closed.
        """
        try:
            self.require_open()
        except RefusedError:
            work.close()
            raise
        return self._outside.network.start(work)

    def require_open(self) -> None:
        """Check that the agent takes part.

        Raises:
            RefusedError: If it was closed.
        """
        if self._is_closed:
            raise RefusedError("this agent was closed", "closed")

    def close(self, reason: str = "the program ended") -> None:
        """Say goodbye and free the state folder; may be called twice."""
        if (goodbye := self.leave(reason)) is not None:
            try:
                with contextlib.suppress(TimeoutError):
                    goodbye.result(GOODBYE_S)
            finally:  # also after Ctrl-C: a notebook lives on, and runs its cell again
                self.end()

    def leave(self, reason: str = "the program ended") -> "Future[None] | None":
        """Begin to say goodbye; None if that was done before. `end` must follow."""
        if self._is_closed:
            return None
        self._is_closed = True
        return self._outside.network.start(self.client.leave(reason))

    def end(self) -> None:
        """End the conversation, said goodbye or not, and free the state folder."""
        self._running.cancel()
        self._outside.network.stop()
        self._outside.close()
        self.folder.close()
        self._line.end()

    # --- answers --------------------------------------------------------------------------

    def entry_of(self, work: Work, result: TrainResult, seconds: float) -> OutboxEntry:
        """Write an answer to the outbox and return it.

        Raises:
            WeightsError: If its arrays or facts cannot be sent, or not be encoded.
            StateFolderError: If there is no room.
        """
        assign = work.assign
        self.client.model.check_trained(result.weights)
        arrays = {"weights": self._in_form(work, *self._sendable(result.weights))} | {
            channel: Outgoing.of(*self._channel(values)) for channel, values in result.channels.items()
        }
        state, metrics = self._kept(result), as_metrics(result.metrics)
        return self.folder.put(assign.task_id, *counts_of(result), metrics, arrays, state, seconds)

    @property
    def private(self) -> PrivateArrays:
        """Where this agent's private arrays lie among what it keeps."""
        return PrivateArrays(self.client.run_id, self.client.model.private)

    @property
    def _own_roles(self) -> dict[str, Role]:
        """Roles that the program has given: what was private once stays here, however it is handed in."""
        return {**dict.fromkeys(self.client.model.private, Role.PRIVATE), **self.options.roles}

    def _kept(self, result: TrainResult) -> dict[str, Array] | None:
        """Return what is to be kept with an update; None to let be what is kept."""
        private = private_of(result.weights, roles_of(result.weights, self._own_roles))
        own = {name for name, role in self._own_roles.items() if role is Role.PRIVATE}
        needs_kept = bool(private) if result.state is None else not own <= private.keys()
        return self.private.to_keep(self.folder.state() if needs_kept else {}, private, result.state)

    def _in_form(self, work: Work, arrays: dict[str, Array], layout: Layout) -> Outgoing:
        """Return a local model as it is to travel; one that does not fit its base is refused as it is."""
        if layout != self.client.layout:
            return Outgoing.of(arrays, layout)
        assign, run_id = work.assign, self.client.run_id
        return outgoing(
            assign,
            work.arrays["weights"],
            arrays,
            layout,
            lambda: self.folder.residual(run_id, assign.uncounted),
        )

    def entry_of_evaluation(self, assign: Assign, answer: object, seconds: float) -> OutboxEntry:
        """Write the answer to an evaluate task to the outbox and return it."""
        measured = as_evaluation(answer)
        metrics = as_metrics(measured.metrics)
        examples = as_count(measured.num_examples, "num_examples")
        return self.folder.put(assign.task_id, examples, None, metrics, {}, None, seconds)

    def entry_of_arrays(self, assign: Assign, values: Mapping[str, Any], seconds: float) -> OutboxEntry:
        """Write first weights or local sums to the outbox and return it."""
        sendable = self._sendable(values) if assign.kind == Kind.INITIALISE else _plain(values)
        out = {"weights": Outgoing.of(*sendable)}
        entry = self.folder.put(assign.task_id, 0, None, {}, out, None, seconds)
        if assign.kind == Kind.INITIALISE:  # it will be the base of round 1
            self.client.hold(entry.payloads[0].digest, *sendable)
        return entry

    def _sendable(self, values: Mapping[str, Any]) -> tuple[dict[str, Array], Layout]:
        """Return arrays and the layout of what may leave the agent."""
        arrays = self.client.model.to_send(as_arrays(values))
        roles = roles_of(values, self._own_roles, self.client.layout)
        kept = {name: role for name, role in roles.items() if name in arrays}
        return arrays, Layout.of(arrays, kept).without_private()

    def _channel(self, values: Mapping[str, Any]) -> tuple[dict[str, Array], Layout]:
        """Return extra arrays in the precision and order that the strategy computes in."""
        arrays = self.client.model.to_send(as_arrays(values))
        if self.client.layout is not None:
            arrays = as_channel(arrays, self.client.layout)
        return arrays, Layout.of(arrays)


def roles_of(
    values: Mapping[str, Any], given: Mapping[str, Role], run: Layout | None = None
) -> dict[str, Role]:
    """Return the roles of arrays: as given, else as the arrays know, else as the run's model has."""
    known = {spec.name: spec.role for spec in run.arrays} if run else {}
    roles = known | dict(getattr(values, "roles", {})) | dict(given)
    return {name: role for name, role in roles.items() if name in values}


def _plain(values: Mapping[str, Any]) -> tuple[dict[str, Array], Layout]:
    arrays = as_arrays(values)
    return arrays, Layout.of(arrays)


def receipt_of(verdict: Verdict) -> Receipt:
    """Return a verdict as programs see it.

    Raises:
        UpdateRejectedError: If the update was rejected.
    """
    if verdict.verdict == "rejected":
        raise UpdateRejectedError(verdict.reason, verdict.task_id)
    return Receipt(verdict.verdict, verdict.reason, verdict.late)


def final_of(ending: Ending) -> Final:
    """Return how a run ended as programs see it.

    Raises:
        RunFailedError: If it failed.
    """
    if ending.status == "failed":
        raise RunFailedError(f"the run failed: {ending.reason}")
    return Final(ending.weights, ending.statistics, ending.round_id, ending.status, ending.reason)


def place_of(error: BaseException, *, with_message: bool) -> str:
    """Return an exception's type and the code's location; its message may quote data.

    Args:
        error: Raised by a training program.
        with_message: Whether the site allows the message to leave it.
    """
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""
    text = f"{type(error).__name__}{place}"
    return f"{text}: {error}" if with_message else text


def default_name() -> str:
    """Return this machine's name."""
    return socket.gethostname() or "agent"
