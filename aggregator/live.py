"""The live view: what a person at the daemon's terminal sees."""

import contextlib
import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from fl_main.log_handler import takes_more
from fl_main.printable import printable
from fl_main.store import MetricRecord, Record

from .host import RunHost
from .status import status_of

if TYPE_CHECKING:
    from rich.console import Group

    from .server import Daemon

LINES = 8  # of the log, below the table


class LiveView:
    """A table of runs and the last lines of the log."""

    def __init__(self) -> None:
        self._metrics: dict[str, dict[str, float]] = {}
        self._lines: deque[str] = deque(maxlen=LINES)
        self._daemon: Daemon | None = None

    def take(self, host: RunHost, record: Record) -> None:
        """Note a stored record."""
        if isinstance(record, MetricRecord) and record.agent_id is None:
            self._metrics.setdefault(host.run.name, {})[f"{record.source} {record.name}"] = record.value

    @contextlib.contextmanager
    def shown(self, daemon: "Daemon") -> Iterator[Callable[[], None]]:
        """Show the view for as long as the context lasts; log lines go into it.

        Yields:
            What draws it anew; to be called in the event loop's thread, which changes what is drawn.
        """
        from rich.live import Live

        self._daemon = daemon
        screen = sys.stdout  # which the view replaces
        handler = _LineHandler(self._lines)
        root = logging.getLogger()
        before = root.handlers[:]
        root.handlers[:] = [handler]
        try:
            with Live(get_renderable=self._render, auto_refresh=False) as live:
                # The daemon does not wait for a terminal that was stopped (Ctrl-S).
                yield lambda: live.refresh() if takes_more(screen) else None
        finally:
            root.handlers[:] = before

    def _render(self) -> "Group":
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        daemon = self._daemon
        if daemon is None:
            return Group()
        table = Table(title=f"{daemon.url} · {len(daemon.door.sessions)} agents", title_justify="left")
        for heading in ("run", "status", "round", "metrics", "waiting for"):
            table.add_column(heading)
        for host in daemon.runs:
            status = status_of(host)
            metrics = self._metrics.get(host.run.name, {})
            cells = (
                status["run"],
                status["status"],
                f"{status['rounds_done']}/{status['rounds']}",
                "  ".join(f"{name} {value:.4g}" for name, value in metrics.items()),
                status["waiting_for"],
            )
            table.add_row(*(Text(printable(cell)) for cell in cells))  # names come from the network
        lines = list(self._lines)  # threads write to the log meanwhile
        return Group(table, Text("\n".join(map(printable, lines))))


class _LineHandler(logging.Handler):
    """Keeps the last lines of the log."""

    def __init__(self, lines: deque[str]) -> None:
        super().__init__()
        self._lines = lines
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))
