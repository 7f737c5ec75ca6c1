"""What `Agent` and `AsyncAgent` have in common: their parameters, handlers and errors."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from fl_main.errors import LocalProtocolError, StateFolderError
from fl_main.training import Asked, Kind, evaluation_of
from fl_main.weights import Array, Role

from .connection import (
    AgentOptions,
    Connection,
    Final,
    Outside,
    default_name,
    final_of,
    place_of,
    real_outside,
    roles_of,
)
from .exchange import AgentState, Ending, Policy, Work
from .own_model import OwnModel
from .state_folder import OutboxEntry
from .tasks import Answering, facts_of

logger = logging.getLogger("fl_main.agent")

InitialWeights = Mapping[str, Any] | Callable[[], Mapping[str, Any]]


class AgentBase:
    """An agent's set-up; see `Agent` for blocking programs and `AsyncAgent` for asyncio.

    The parameters are those that `Agent` documents.

    Attributes:
        final: What the run came to, once it ended.
    """

    def __init__(
        self,
        url: str,
        run: str,
        name: str = "",
        *,
        initial_weights: InitialWeights | None = None,
        evaluate: Callable[..., Any] | None = None,
        statistics: Callable[..., Any] | None = None,
        token: str = "",
        attributes: Mapping[str, Any] | None = None,
        ca_file: Path | str | None = None,
        state_folder: Path | str | None = None,
        roles: Mapping[str, Role] | None = None,
        policy: Policy | None = None,
        tell_errors: bool = False,
        progress: bool = True,
        durability: Literal["process", "power"] = "process",
        connection: Literal["stay", "poll"] = "stay",
        poll_s: float = 60.0,
    ) -> None:
        self._options = AgentOptions(
            url,
            run,
            name or default_name(),
            token,
            dict(attributes or {}),
            Path(ca_file) if ca_file else None,
            Path(state_folder) if state_folder else None,
            dict(roles or {}),
            policy,
            tell_errors,
            progress,
            durability,
            connection,
            poll_s,
        )
        self._initial_weights = initial_weights
        self._evaluate = evaluate
        self._statistics = statistics
        self._connection: Connection | None = None
        self.final: Final | None = None
        self._keeps_going = False
        self._has_told = False

    def start(self) -> None:
        """Connect, in the background; entering the context does it too.

        Raises:
            StateFolderError: If another process uses this agent's state folder.
            WeightsError: If the initial weights cannot be sent.
        """
        if self._connection is None:
            kinds, model = self._kinds(), self._own_model()
            self._connection = Connection(self._options, kinds, model, self._make_outside())

    def _make_outside(self) -> Outside:
        """Return what the agent gets from outside; a simulation returns its own."""
        return real_outside(self._options)

    @property
    def state(self) -> AgentState:
        """What the agent is doing."""
        return self._connection.client.state if self._connection else AgentState.CONNECTING

    @property
    def _connected(self) -> Connection:
        if self._connection is None:
            raise LocalProtocolError("the agent is not started: use `with Agent(...) as agent:`")
        return self._connection

    def _kinds(self) -> tuple[Kind, ...]:
        """Return what it can do, by the handlers that it was given."""
        handlers = {
            Kind.TRAIN: True,
            Kind.INITIALISE: self._initial_weights,
            Kind.EVALUATE: self._evaluate,
            Kind.STATISTICS: self._statistics,
        }
        return tuple(kind for kind, handler in handlers.items() if handler is not None)

    def _own_model(self) -> OwnModel:
        """Return what is known of the initial weights, if there are some."""
        if self._initial_weights is None:
            return OwnModel()
        initial = self._first_weights()
        return OwnModel(initial, roles_of(initial, self._options.roles))

    def _first_weights(self) -> Mapping[str, Any]:
        initial = self._initial_weights
        return (initial() if callable(initial) else initial) or {}

    def _answering(self, work: Work, asked: Asked) -> Answering:
        return Answering(work, self._connected.ports.monotonic, asked)

    def _tell_ignored(self, answering: Answering) -> None:
        """Tell once that a strategy gets less than it asks for: it becomes another one, or worse."""
        if (said := answering.warning) and not self._has_told:
            self._has_told = True
            logger.warning("%s", said)

    def _facts_of(self, work: Work) -> dict[str, Any]:
        """Return what a training task says."""
        client, private = self._connected.client, self._connected.private
        kept = self._connected.folder.state()
        return facts_of(work, private.of(kept), private.others(kept), client.run_id, client.layout)

    def _final_of(self, ending: Ending) -> Final:
        """Return how the run ended, with this agent's private arrays."""
        final = final_of(ending)
        if not final.weights:
            return final
        try:
            kept = self._connected.folder.state()
        except StateFolderError as error:  # no reason to withhold what the run came to
            logger.warning("the final model comes without what this agent kept: %s", error)
            kept = {}
        return replace(final, weights={**final.weights, **self._connected.private.of(kept)})

    def _handler(self, work: Work) -> Callable[[], Any]:
        """Return the site's answer to an evaluate, statistics or initialise task, yet to be called."""
        if work.assign.kind == Kind.EVALUATE and (evaluate := self._evaluate):
            return lambda: self._evaluated(evaluate, work.arrays["weights"])
        if work.assign.kind == Kind.STATISTICS and self._statistics:
            return self._statistics
        return self._first_weights

    def _evaluated(self, evaluate: Callable[..., Any], weights: Mapping[str, Array]) -> Any:
        kept, private = self._connected.folder.state(), self._connected.private
        whole = {**weights, **private.of(kept)}
        return evaluation_of(evaluate, whole, state=lambda: private.others(kept))

    def _entry(self, work: Work, answer: Any, begun: float) -> OutboxEntry:
        """Write what a handler returned to the outbox."""
        seconds = self._connected.ports.monotonic() - begun
        if work.assign.kind == Kind.EVALUATE:
            return self._connected.entry_of_evaluation(work.assign, answer, seconds)
        return self._connected.entry_of_arrays(work.assign, answer, seconds)

    def _goes_on(self, error: Exception) -> bool:
        """Whether the agent goes on after an error of the program; if so, it is logged."""
        if self._keeps_going:
            logger.warning("going on after %s", place_of(error, with_message=True))
        return self._keeps_going

    def _place(self, error: Exception) -> str:
        return place_of(error, with_message=self._options.tell_errors)
