"""`Agent`: federated training in an ordinary, blocking program."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from fl_main.errors import ConnectionFailedError, RefusedError, StateFolderFullError, UpdateRejectedError
from fl_main.training import Kind, TrainResult

from .base import AgentBase
from .connection import Final, Receipt, receipt_of
from .exchange import Ending, Work
from .state_folder import OutboxEntry
from .tasks import Answering, TaskFacts, submission

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Task(TaskFacts):
    """A training task; answer it with `submit` or `skip`."""

    _agent: "Agent"
    _answering: Answering

    def submit(
        self,
        weights: Mapping[str, Any],
        num_examples: int,
        metrics: Mapping[str, Any] | None = None,
        *,
        num_steps: int | None = None,
        channels: Mapping[str, Mapping[str, Any]] | None = None,
        state: Mapping[str, Any] | None = None,
        wait: bool = True,
    ) -> Receipt | None:
        """Hand in the local model; it is copied, and safe on disk, before anything is sent.

        Args:
            weights: The full local model, by array name.
            num_examples: Distinct local examples trained on, at least 1.
            metrics: Named numbers about it on the training data.
            num_steps: Optimizer steps taken; some strategies need it.
            channels: Extra arrays by channel, where the run's strategy wants them.
            state: Arrays to keep for the next task, once this update was counted.
            wait: Wait until the aggregator has answered; else return None at once.

        Raises:
            UpdateRejectedError: If the aggregator cannot use it; the text says why.
            WeightsError: If the arrays, or the numbers beside them, cannot be sent.
            LocalProtocolError: If the task was answered before.
        """
        answering = self._answering
        result = answering.result(weights, num_examples, metrics, num_steps, channels, state)
        work, seconds, connection = answering.work, answering.seconds, self._agent._connected
        self._agent._tell_ignored(answering)
        entry = self._agent._store(lambda: connection.entry_of(work, result, seconds))
        answering.is_answered = True
        return self._agent._hand_in(entry, wait=wait)

    def skip(self, reason: str = "") -> None:
        """Decline this task; the round goes on without this site."""
        self._answering.is_answered = True
        self._agent._decline(self.task_id, "skipped", reason)


class Agent(AgentBase):
    """Takes part in a run from an ordinary, blocking program.

    Use it as a context manager; the network lives in a thread of its own, so training may
    block as long as it likes, and a notebook's running loop does not matter.

    Args:
        url: Where the aggregator listens: `ws://host:8765` or `wss://…`.
        run: The run to take part in.
        name: How people name this site; default: the machine's name.
        initial_weights: The model to start from, or a function that returns it; used if the
            run has none yet, and checked against the run's model when joining.
        evaluate: Measures a global model on held-out data of this site; a parameter `state` gets
            what was kept here with the last update that was counted.
        statistics: Returns sums and counts of the local data, to be added up over all sites.
        token: The join token, if the aggregator wants one.
        attributes: Facts about this site, shown to operators.
        ca_file: Certificate authority to trust for `wss://`.
        state_folder: Identity and outbox; default: a folder of this run and name under the
            user's state folder (`FL_STATE_HOME`).
        roles: Roles of arrays that are not plain parameters, by name.
        policy: Allows (True or None) or denies (False, or the reason as text) an `Invitation`
            or a task before anything is sent. It is called in another thread.
        tell_errors: Send the message of an exception too; it may quote data.
        progress: Show one line of status on a terminal or in a notebook.
        durability: `process`: a finished update outlives the death of any process; `power`: of
            the machine too, at the cost of waiting for the disk.
        connection: `stay`: one lasting connection; `poll`: connect only to fetch a task or to
            hand in an update, then hang up.
        poll_s: Seconds between two visits at most, for `poll`; not more than a round may last.

    Raises:
        SettingsError: If a parameter cannot be what it is: `connection`, `poll_s`, `attributes`, …

    Attributes:
        final: What the run came to, once it ended.
    """

    _current: Task | None = None
    _asked: "Future[Work | Ending] | None" = None  # for work, and not answered yet

    def __enter__(self) -> "Agent":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and self._current and not isinstance(error, RefusedError):
            self._report(self._current, error)
        self.close()

    def close(self) -> None:
        """Leave; may be called twice."""
        if self._connection is not None:
            self._connection.close()

    # --- training -------------------------------------------------------------------------

    def tasks(self) -> Iterator[Task]:
        """Yield each training task as it comes; end when the run ends.

        Evaluations and the other handlers run in between. Taking the next task without an
        answer to the last declines that one.

        Raises:
            RefusedError: If the aggregator refuses this agent for good.
            ConnectionFailedError: If the aggregator cannot be there at all (a wrong path).
            RunFailedError: If the run failed.
        """
        self.start()
        while True:
            self._decline_unanswered()
            work = self._next_work()
            if isinstance(work, Ending):
                self.final = self._final_of(work)
                return
            if work.assign.kind == Kind.TRAIN:
                self._current = self._task(work)
                yield self._current
            else:
                self._handle(work)

    def run(self, train: Callable[[Task], TrainResult], *, keep_going: bool = False) -> Final:
        """Answer every task with a function, until the run ends.

        Args:
            train: One task in, one `TrainResult` out.
            keep_going: After an exception, or an update that was rejected, log it and go on with
                the next task instead of raising it.

        Returns:
            What the run came to.
        """
        self._keeps_going = keep_going
        for task in self.tasks():
            try:
                task.submit(**submission(train(task)))
            except (RefusedError, ConnectionFailedError):
                raise
            except Exception as error:
                self._report(task, error)
                if not self._goes_on(error):
                    raise
        if self.final is None:
            raise RefusedError("the agent was closed before the run ended", "closed")
        return self.final

    def _next_work(self) -> Work | Ending:
        """Wait for the next task; who is interrupted meanwhile (Ctrl-C in a notebook) may ask again."""
        asked = self._asked = self._asked or self._connected.start(self._connected.client.next_work())
        try:
            work = self._wait(asked)
        except Exception:
            self._asked = None
            raise
        self._asked = None
        return work

    def _task(self, work: Work) -> Task:
        facts = self._facts_of(work)
        return Task(**facts, _agent=self, _answering=self._answering(work, facts["correction"]))

    def _handle(self, work: Work) -> None:
        """Answer an evaluate, statistics or initialise task with the site's handler."""
        begun = self._connected.ports.monotonic()
        try:
            answer = self._handler(work)()
            entry = self._store(lambda: self._entry(work, answer, begun))
        except Exception as error:
            self._decline(work.assign.task_id, "error", self._place(error))
            if not self._goes_on(error):
                raise
            return
        try:
            self._hand_in(entry, wait=True)
        except UpdateRejectedError as error:
            if not self._goes_on(error):
                raise

    # --- answering ------------------------------------------------------------------------

    def _store(self, write: Callable[[], OutboxEntry]) -> OutboxEntry:
        """Write an update in the program's own thread; where there is no room, wait for some."""
        self._connected.require_open()
        try:
            return write()
        except StateFolderFullError:
            return self._wait(self._connected.start(self._connected.client.store(write)))

    def _hand_in(self, entry: OutboxEntry, *, wait: bool) -> Receipt | None:
        future = self._connected.start(self._connected.client.hand_in(entry))
        return receipt_of(self._wait(future)) if wait else None

    def _decline(self, task_id: str, code: str, reason: str) -> None:
        self._wait(self._connected.start(self._connected.client.decline(task_id, code, reason)))

    def _decline_unanswered(self) -> None:
        current, self._current = self._current, None
        if current is not None and not current._answering.is_answered:
            current.skip("the program went on to the next task")

    def _report(self, task: Task, error: Exception) -> None:
        if not task._answering.is_answered:
            task._answering.is_answered = True
            self._decline(task.task_id, "error", self._place(error))

    def _wait(self, future: "Future[T]") -> T:
        """Wait for the network thread in a way that Ctrl-C can interrupt everywhere."""
        while True:
            try:
                return future.result(1.0)
            except TimeoutError:
                if future.done():
                    raise
            except CancelledError:
                raise RefusedError("this agent was closed", "closed") from None
