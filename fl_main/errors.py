"""Every error that this project raises on purpose.

FLError
├── SettingsError            settings: names the key, the value, what is allowed
├── WeightsError             arrays that cannot be a model (names, dtypes, sizes)
│   └── LayoutMismatchError  arrays that are not the model of this run
├── ProtocolError
│   ├── LocalProtocolError   our caller did what the protocol forbids
│   └── RemoteProtocolError  the peer did: answer with a code, close that session
├── UpdateRejectedError      an update that its task cannot use; the reason says why
├── RunFailedError           the run ended without reaching its goal
├── InvalidTransitionError   an event in a phase that has no answer to it: a bug of ours
├── StrategyError            a strategy that does not keep its contract, or cannot be loaded
├── StoreError               the model database; chained to its cause
│   ├── StoreLockedError     another process writes to this folder
│   ├── StoreVersionError    made by a newer version of this project
│   ├── StoreFullError       no room, or a read-only disk
│   ├── StoreDamagedError    a file or row that should be there is missing or altered
│   └── NotFoundError        a name that nothing in it has, or that several things have
├── ConnectionFailedError    the aggregator cannot be reached; says why and what to do
├── RefusedError             the aggregator refused this agent or operator; `code` says why
│   └── FencedError          a newer process took over this agent's identity
├── UnknownNameError         a name that nothing has, or several things
├── StateFolderError         the agent's state folder is in use or cannot be written
│   └── StateFolderFullError no room there, or a disk that fails: it may go on later
└── MissingExtraError        an optional package is not installed; names the extra
"""


class FLError(Exception):
    """Base of every error of this project; its text is one line a person can act on."""


class SettingsError(FLError):
    """A setting is unknown, of the wrong type, or out of range."""


class WeightsError(FLError):
    """Arrays that cannot be a model: a name, dtype or size that cannot be stored."""


class LayoutMismatchError(WeightsError):
    """Arrays whose names, shapes or dtypes are not those of the run's model."""


class ProtocolError(FLError):
    """The wire protocol was broken."""


class LocalProtocolError(ProtocolError):
    """Our side tried to do what the protocol forbids; nothing was changed."""


class RemoteProtocolError(ProtocolError):
    """The peer did what the protocol forbids; its session must be closed.

    Attributes:
        code: The WebSocket close code to answer with.
    """

    def __init__(self, reason: str, code: int = 1002) -> None:
        super().__init__(reason)
        self.code = code


class UpdateRejectedError(FLError):
    """An update that its task cannot use.

    Attributes:
        task_id: The task that was answered, if known.
    """

    def __init__(self, reason: str, task_id: str = "") -> None:
        super().__init__(reason)
        self.task_id = task_id


class RunFailedError(FLError):
    """The run ended without reaching its goal."""


class InvalidTransitionError(FLError):
    """An event in a phase that has no answer to it: a bug of ours."""


class StrategyError(FLError):
    """A strategy that does not keep its contract, or cannot be loaded."""


class StoreError(FLError):
    """The model database could not do what was asked."""


class StoreLockedError(StoreError):
    """Another process writes to this folder."""


class StoreVersionError(StoreError):
    """The database was made by another version of this project."""


class StoreFullError(StoreError):
    """There is no room left, or the disk is read-only."""


class StoreDamagedError(StoreError):
    """A file or row that should be there is missing or altered."""


class NotFoundError(StoreError):
    """A name that no run or model of a database has, or that several have."""


class ConnectionFailedError(FLError):
    """The aggregator cannot be reached.

    Attributes:
        lasting: Whether waiting cannot help (a wrong path, TLS against plain).
    """

    def __init__(self, reason: str, *, lasting: bool = False) -> None:
        super().__init__(reason)
        self.lasting = lasting


class RefusedError(FLError):
    """The aggregator refused this agent or operator.

    Attributes:
        code: A word for programs, e.g. `unknown_run`, `bad_token`, `layout`.
        is_lasting: Whether trying again cannot help.
        retry_s: Seconds after which the aggregator wants to be asked again, if it said so.
    """

    def __init__(
        self, reason: str, code: str = "refused", *, is_lasting: bool = True, retry_s: float | None = None
    ) -> None:
        super().__init__(reason)
        self.code = code
        self.is_lasting = is_lasting
        self.retry_s = retry_s


class FencedError(RefusedError):
    """A newer process with the same identity took over; this one stopped."""


class UnknownNameError(FLError):
    """A name that no run, agent or task has, or that several have."""


class StateFolderError(FLError):
    """The agent's state folder is in use or cannot be written."""


class StateFolderFullError(StateFolderError):
    """The agent's state folder has no room, or its disk fails at the moment."""


class MissingExtraError(FLError, ImportError):
    """An optional package is not installed."""
