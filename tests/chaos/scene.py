"""Everything that lives while the chaos goes on, and the service manager that starts it again."""

import random
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

from tests.chaos import moments
from tests.chaos.lanes import ChaosRun, Lane, Site, Surroundings, rounds_in
from tests.chaos.options import Options
from tests.chaos.processes import DaemonUnderFire, Supervised
from tests.chaos.proxy import Network
from tests.chaos.small_disk import SmallDisk
from tests.chaos.story import Story
from tests.system.daemons import write_yaml

STATES_MB = 64  # for the few updates that wait in outboxes
AFTERMATH_S = 20.0  # a program may still end because of a disk that was full so long ago
TROUBLE_OF_DAEMON = ("full disk", "read-only disk", "locked database")
TROUBLE_OF_SITES = ("full disk of sites",)
BAD_WORDS = re.compile(r"Traceback|bug of ours|CRITICAL")
_WAIT_S = 0.02


@dataclass(frozen=True, slots=True)
class Lasting:
    """A fault that lasts until it is undone."""

    kind: str
    until: float  # monotonic seconds
    undo: Callable[[], None]


class Scene:
    """The daemon on its small disk, the runs and their sites, and the faults in force.

    Attributes:
        lasting: Faults that are in force.
        rounds: The last round of each run that the daemon told of.
        progress_at: When the last round or run was over.
    """

    def __init__(self, options: Options, story: Story, chance: random.Random) -> None:
        self.options = options
        self.story = story
        self.chance = chance
        self.lasting: list[Lasting] = []
        self.rounds: dict[str, int] = {}
        self.progress_at = time.monotonic()
        self._opened = ExitStack()
        self._seen_at: dict[str, float] = {}  # when a kind of fault was last in force
        self._log_place = 0
        self.disk = self._mounted("disk", options.disk_mb)
        self.states = self._mounted("states", STATES_MB)
        self.network = Network()
        self._opened.callback(self.network.close)
        self.database = self.disk.folder / "models"
        port = _free_port()
        self.daemon = self._daemon(port)
        around = Surroundings(options.folder, self.states, self.database, self.network, port)
        self.lanes = [Lane(shape, options.sites, options.seed, around) for shape in options.shapes]
        self.around = around
        self._opened.callback(self._kill_all)

    def _mounted(self, name: str, size_mb: int) -> SmallDisk:
        disk = SmallDisk(self.options.folder / name, size_mb << 20)
        self._opened.callback(disk.close)
        return disk

    def _daemon(self, port: int) -> DaemonUnderFire:
        settings = {
            "listen": {"port": port},
            "database": {"folder": str(self.database), "retention": {"warn_free_bytes": 0}},
            "limits": {
                "ping_interval_s": 1.0,
                "ping_timeout_s": 3.0,
                "receive_bytes": 8 << 20,
                "stop_s": 5.0,
            },
        }
        folder = self.options.folder
        return DaemonUnderFire(folder / "daemon.log", write_yaml(folder / "aggregator.yaml", settings))

    def __enter__(self) -> "Scene":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def _kill_all(self) -> None:
        self.undo_all()
        for run in self.runs():
            for order in run.orders:
                order.close()
        for process in self.processes():
            process.kill()

    # --- who is there -------------------------------------------------------------------------

    def runs(self) -> list[ChaosRun]:
        """Return all runs so far."""
        return [run for lane in self.lanes for run in lane.runs]

    def current(self) -> list[ChaosRun]:
        """Return the runs that are under way."""
        return [run for lane in self.lanes if (run := lane.current)]

    def sites(self) -> list[Site]:
        """Return the sites whose run is under way."""
        return [site for run in self.current() for site in run.sites if run.is_created and not site.is_over]

    def processes(self) -> list[Supervised]:
        """Return the daemon and the programs of those sites."""
        return [self.daemon, *(site.process for site in self.sites())]

    # --- looking after it ---------------------------------------------------------------------

    def look(self, *, may_begin: bool) -> None:
        """Do what is due: start what is gone, undo faults, begin runs; then wait a moment."""
        self._undo(lambda fault: fault.until <= time.monotonic())
        self._watch_daemon()
        for lane in self.lanes:
            if lane.current is None and may_begin and not any(map(self.is_in_force, TROUBLE_OF_DAEMON)):
                self.disk.make_room(self.options.disk_mb << 20)
                self.story.tell(f"run {lane.begin().name} begins")
        for run in self.current():
            self._watch_run(run)
        time.sleep(_WAIT_S)

    def _watch_daemon(self) -> None:
        daemon = self.daemon
        if (code := daemon.ended()) is not None:
            self._daemon_ended(code)
        if not daemon.is_running and time.monotonic() >= daemon.next_start_at:
            daemon.start()
        daemon.measure()
        self._read_log()

    def _daemon_ended(self, code: int) -> None:
        if self.daemon.is_stopping and code == 0:
            self.story.tell("the daemon stopped in order")
            self._start_later(self.daemon)
        else:
            self._gave_up(self.daemon, code, TROUBLE_OF_DAEMON)

    def _gave_up(self, program: Supervised, code: int, excuses: Sequence[str]) -> None:
        """Tell of a program that ended by itself: it may, with one line, where its disk is of no use."""
        last = (program.output.strip().splitlines() or ["nothing said"])[-1]
        text = self._plain(last.partition("rror: ")[2] or last)
        now = time.monotonic()
        if code > 0 and any(now - self._seen_at.get(kind, -AFTERMATH_S) < AFTERMATH_S for kind in excuses):
            self.story.tell(f"{program.name} cannot start: {text}")
        else:
            self.story.problem(f"{program.name} ended by itself with code {code}: {text}")
        self._start_later(program)

    def _start_later(self, program: Supervised) -> None:
        program.next_start_at = time.monotonic() + self.chance.uniform(0, 0.5)

    def _read_log(self) -> None:
        with open(self.daemon.log, encoding="utf-8", errors="replace") as file:
            file.seek(self._log_place)
            text = file.read()
            whole = text.rpartition("\n")[0]
            self._log_place += len(whole.encode())
        for run, number in rounds_in(whole).items():
            if number > self.rounds.get(run, 0):
                self.rounds[run], self.progress_at = number, time.monotonic()
        for line in whole.splitlines():
            if BAD_WORDS.search(line):
                self.story.problem(f"the daemon's log: {self._plain(line)}")

    def _watch_run(self, run: ChaosRun) -> None:
        if run.orders and run.orders[0].is_done():
            self.story.tell(f"ordered: {run.orders.popleft().text} {run.name}")
            run.is_created = True
        if not run.is_created:
            return
        for site in run.sites:
            self._watch_site(site)
        if run.is_over:
            self._over(run)

    def _watch_site(self, site: Site) -> None:
        program = site.process
        if (code := program.ended()) == 0:
            site.is_over = True
        elif code is not None:
            self._gave_up(program, code, TROUBLE_OF_SITES)
        if not site.is_over and not program.is_running and time.monotonic() >= program.next_start_at:
            program.start()

    def _over(self, run: ChaosRun) -> None:
        self.progress_at = time.monotonic()
        self.story.tell(f"run {run.name} is over")
        for site in run.sites:
            site.line.close()

    def _plain(self, text: str) -> str:
        """Return a text without the folder's place on this machine."""
        return text.replace(str(self.options.folder), "…")

    # --- faults -------------------------------------------------------------------------------

    def last_for(self, kind: str, seconds: float, undo: Callable[[], None]) -> None:
        """Keep a fault in force for a while."""
        self.lasting.append(Lasting(kind, time.monotonic() + seconds, undo))

    def undo_all(self) -> None:
        """End every fault that is in force."""
        self._undo(lambda fault: True)

    def _undo(self, is_due: Callable[[Lasting], bool]) -> None:
        self._seen_at |= {fault.kind: time.monotonic() for fault in self.lasting}
        due = [fault for fault in self.lasting if is_due(fault)]
        self.lasting = [fault for fault in self.lasting if fault not in due]
        for fault in due:
            fault.undo()

    def is_in_force(self, kind: str) -> bool:
        return any(fault.kind == kind for fault in self.lasting)

    def kill_daemon(self, how: str = "") -> None:
        """Stop the daemon where it is, see what it was doing, and kill it."""
        self.daemon.freeze()
        moment = moments.of_daemon(self.daemon, self.database, self.sites())
        self.daemon.kill()
        self._start_later(self.daemon)
        self.story.kill("daemon", "the daemon", moment, how)

    def kill_site(self, site: Site, how: str = "") -> None:
        """Stop a site where it is, see what it was doing, kill it, and note what its disk has."""
        site.process.freeze()
        moment = moments.of_site(site)
        site.process.kill()
        site.journal.note("killed", kept=site.kept())
        self._start_later(site.process)
        self.story.kill("site", site.process.name, moment, how)

    def alive_sites(self) -> Iterator[Site]:
        """Yield the sites whose programs run."""
        yield from (site for site in self.sites() if site.process.is_running)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
