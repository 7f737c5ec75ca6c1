"""Tables of a record as Markdown, and the page that they stand on."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.database.words import told_database
from bench.page import filled
from bench.rounds.compare import (
    Size,
    agent_peak_mib,
    cpu_s_per_mb,
    loop_ms,
    peak_mib,
    ratio,
    round_s,
    size_of,
)
from bench.rounds.contestants import CONTESTANTS
from bench.rounds.plan import CODECS, EMPTY, FLOORS, GROWTH, PEERS
from bench.rounds.record import Record, Run

NOTHING = "–"
NETWORKS = ("loopback", "tls", "line")
CROWD = "ours-crowd"
MEMORY = (Size(100, 10), Size(100, 50), Size(500, 2))

Cell = Callable[[str, Size], str]


def sections(record: Record) -> dict[str, str]:
    """Return the text of every section of the page, by name."""
    found = {"machine": _machine(record), "problems": _problems(record.runs)}
    for network in NETWORKS:
        found[f"rounds {network}"] = rounds_table(record.runs, network)
        found[f"peers {network}"] = peers_table(record.runs, network)
    return found | {
        "codecs line": codecs_table(record.runs, "line"),
        "floor": floor_table(record.runs),
        "memory": memory_table(record.runs),
        "growth": growth_table(record.runs),
        "small": _small(record),
        "database": told_database(record.database),
    }


def write_page(record: Record, page: Path) -> None:
    """Fill the page's places with the record's tables."""
    page.write_text(filled(page.read_text("utf-8"), sections(record)), "utf-8")


# --- tables ------------------------------------------------------------------------------


def rounds_table(runs: Sequence[Run], network: str) -> str:
    """Return seconds and memory of all contestants for all sizes over a network."""
    runs = _of_table(runs, network)

    def cell(name: str, size: Size) -> str:
        seconds, mib = round_s(runs, name, size, network), peak_mib(runs, name, size, network)
        return NOTHING if seconds is None or mib is None else f"{seconds_text(seconds)}, {mib_text(mib)}"

    return _table(runs, _contestants(runs), cell)


def floor_table(runs: Sequence[Run]) -> str:
    """Return how many times as long a round takes as the floor with the same retention."""
    runs = _of_table(runs, "loopback")

    def cell(name: str, size: Size) -> str:
        found = ratio(runs, name, FLOORS[name], size, "loopback")
        return NOTHING if found is None else f"{found:.2f}×"

    return _table(runs, [name for name in FLOORS if _ran(runs, name)], cell)


def peers_table(runs: Sequence[Run], network: str) -> str:
    """Return how many times as long a peer's round takes as ours, with the last round kept (with all)."""
    runs = _of_table(runs, network)

    def cell(name: str, size: Size) -> str:
        last, everything = (ratio(runs, name, own, size, network) for own in ("ours", "ours-keep"))
        if last is None:
            return NOTHING
        return f"{last:.1f}×" + (f" ({everything:.1f}×)" if everything is not None else "")

    return _table(runs, [name for name in PEERS if _ran(runs, name)], cell)


def codecs_table(runs: Sequence[Run], network: str) -> str:
    """Return how many times as long a round takes without a codec: ours, and the peers'."""
    runs = _of_table(runs, network)
    others = [name for name in ("ours", *PEERS) if _ran(runs, name)]
    names = [(codec, other) for codec in CODECS if _ran(runs, codec) for other in others]
    sizes = sorted({size_of(run) for run in runs if run.contestant in CODECS})
    if not names or not sizes:
        return "Not measured."
    head = [
        "MB × agents",
        *(f"{CONTESTANTS[other].title} / {CONTESTANTS[codec].title}" for codec, other in names),
    ]
    rows = [
        [str(size), *(_times(ratio(runs, other, codec, size, network)) for codec, other in names)]
        for size in sizes
    ]
    return _lines(head, rows)


def _times(found: float | None) -> str:
    return NOTHING if found is None else f"{found:.1f}×"


def memory_table(runs: Sequence[Run]) -> str:
    """Return the most memory of the server side where it is large."""
    names = [name for name in ("ours", CROWD, *PEERS) if _ran(runs, name)]

    def cell(name: str, size: Size) -> str:
        mib = peak_mib(runs, name, size, "loopback")
        return NOTHING if mib is None else mib_text(mib)

    return _rows(names, [size for size in MEMORY if any(size_of(run) == size for run in runs)], cell)


def growth_table(runs: Sequence[Run]) -> str:
    """Return what a round costs with ever more agents, and what each of them costs."""
    sizes = sorted({size_of(run) for run in runs if run.contestant == CROWD and size_of(run) in GROWTH})
    rows = []
    for size in sizes:
        seconds, mib = (of(runs, CROWD, size, "loopback") for of in (round_s, peak_mib))
        least = round_s(runs, CROWD, sizes[0], "loopback")
        if seconds is None or mib is None or least is None:
            continue
        each, first = seconds / size.agents, least / sizes[0].agents
        rows.append(
            f"| {size.agents:,} | {seconds_text(seconds)} | {1000 * each:.2f} ms | {each / first:.2f}× "
            f"| {mib_text(mib)} |"
        )
    head = "| agents | a round | for each agent | of the first row's | memory of the daemon |"
    return "\n".join([head, "|--:|--:|--:|--:|--:|", *rows]) if rows else "Not measured."


# --- lists -------------------------------------------------------------------------------


def _machine(record: Record) -> str:
    lines = [f"- {name}: {value}" for name, value in record.machine.items()]
    for name, versions in record.versions.items():
        if versions and name in ("ours", "ours-uvloop", "flower-grpc", "flare"):
            told = ", ".join(f"{package} {version}" for package, version in versions.items())
            lines.append(f"- {CONTESTANTS[name].title}: {told}")
    return "\n".join([*lines, f"- turns: {_turns(record.runs)}", f"- measured {record.began} UTC"])


def _turns(runs: Sequence[Run]) -> str:
    """Tell how many turns were made over each network, and of which sizes other ones."""
    told = []
    for network in dict.fromkeys(run.network for run in runs):
        made: dict[Size, int] = {}
        for run in runs:
            if run.network == network:
                made[size_of(run)] = max(made.get(size_of(run), 0), run.repeat + 1)
        usual = max(made.values())
        others = ", ".join(f"{size}: {turns}" for size, turns in sorted(made.items()) if turns != usual)
        told.append(f"{network} {usual}" + (f" ({others})" if others else ""))
    return "; ".join(told) or "none"


def _problems(runs: Sequence[Run]) -> str:
    """Name everybody who could not take part, once for each reason, with the sizes it is true for."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        if run.problem:
            where = f"{size_of(run)}" + (f" ({run.network})" if run.network != "loopback" else "")
            reasons.setdefault((run.contestant, run.problem), []).append(where)
    could = {run.contestant for run in runs if not run.problem}
    lines = [
        f"- {CONTESTANTS[name].title}, {'at ' + ', '.join(where) if name in could else 'nowhere'}: "
        f"{_plain(problem)}"
        for (name, problem), where in reasons.items()
    ]
    return "\n".join(lines) or "Everybody did everything."


def _small(record: Record) -> str:
    lines = []
    for name in ("ours", "ours-uvloop"):
        seconds = round_s(record.runs, name, EMPTY, "loopback")
        if seconds is not None:
            lines.append(
                f"- An empty round, 1 kB and one agent ({CONTESTANTS[name].title}): {seconds_text(seconds)}"
            )
    for size in sorted({size_of(run) for run in record.runs if run.contestant == "ours"}):
        cpu_s = cpu_s_per_mb(record.runs, "ours", size, "loopback")
        if cpu_s is not None and size.megabytes >= 1:
            lines.append(
                f"- Processor time of the daemon for a MB of update at {size}: {1000 * cpu_s:.1f} ms"
            )
    for size in MEMORY:
        mib = agent_peak_mib(record.runs, "ours", size, "loopback")
        if mib is not None:
            lines.append(f"- Memory of an agent at {size}, with the weights that it trains: {mib_text(mib)}")
    for size in MEMORY:
        if delay := loop_ms(record.runs, "ours", size, "loopback"):
            late, busy = delay
            lines.append(
                f"- The daemon's event loop at {size}: it woke {late:.0f} ms late at worst, on a machine "
                f"whose cores all work, and took {busy:.0f} ms of processor time in one go at most"
            )
    if idle := record.idle:
        lines.append(
            f"- An idle agent, of {idle.agents:,}: {idle.kib_per_agent:.0f} KiB of the daemon's memory, "
            f"{idle.threads} threads for all of them"
        )
    return "\n".join(lines) or "Not measured."


# --- parts -------------------------------------------------------------------------------


def seconds_text(seconds: float) -> str:
    """Return seconds with three digits, milliseconds where that is shorter."""
    if seconds < 0.1:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:.1f} s" if seconds >= 9.95 else f"{seconds:.2f} s"


def mib_text(mib: float) -> str:
    """Return memory in the unit that reads best."""
    return f"{mib / 1024:.1f} GiB" if mib >= 1000 else f"{mib:.0f} MiB"


def _of_table(runs: Sequence[Run], network: str) -> list[Run]:
    return [run for run in runs if run.network == network and run.megabytes >= 1 and run.contestant != CROWD]


def _contestants(runs: Sequence[Run]) -> list[str]:
    return [name for name in CONTESTANTS if any(run.contestant == name for run in runs)]


def _ran(runs: Sequence[Run], name: str) -> bool:
    return any(run.contestant == name for run in runs)


def _table(runs: Sequence[Run], names: Sequence[str], cell: Cell) -> str:
    return _rows(names, sorted({size_of(run) for run in runs}), cell)


def _rows(names: Sequence[str], sizes: Sequence[Size], cell: Cell) -> str:
    """Return a table: a row for each size, a column for each contestant."""
    if not names or not sizes:
        return "Not measured."
    head = ["MB × agents", *(CONTESTANTS[name].title for name in names)]
    rows = [[str(size), *(cell(name, size) for name in names)] for size in sizes]
    return _lines(head, rows)


def _lines(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in [head, *rows]]
    return "\n".join([lines[0], "|--:" * len(head) + "|", *lines[1:]])


def _plain(text: str) -> str:
    """Return a message of somebody else's as it can stand in Markdown: no path of this machine's folders."""
    return "`" + re.sub(r"(/[\w.+-]+)+/", "…/", text).replace("`", "'").strip() + "`"
