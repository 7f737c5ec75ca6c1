"""What was measured of the database, as Markdown."""

from bench.database.figures import Crowd, Database, Groups, Readers


def told_database(found: Database | None) -> str:
    """Return the section about the database."""
    if found is None:
        return "Not measured."
    holds = ", ".join(f"{number:,} {what}" for what, number in found.holds.items())
    lines = [
        f"On a database of {holds}; `fl.db` has {found.megabytes:.0f} MB:",
        "",
        "| command | seconds |",
        "|---|--:|",
        *(f"| {_as_code(command)} | {seconds:.2f} |" for command, seconds in found.commands.items()),
        f"| `fl db verify` | {found.verify_s:.1f} |",
        f"| `fl aggregator`, until it listens | {found.start_s:.1f} |",
    ]
    if found.pages:
        lines += ["", "| page or answer of `fl db serve` | seconds |", "|---|--:|"]
        lines += [f"| `{path}` | {seconds:.2f} |" for path, seconds in found.pages.items()]
    if found.groups:
        lines += ["", _of_groups(found.groups)]
    if found.readers:
        lines += ["", _of_readers(found.readers)]
    if found.crowd:
        lines += ["", told_crowd(found.crowd)]
    return "\n".join(lines)


def _as_code(command: str) -> str:
    """Return a command in the type of code, without what stands behind it in brackets."""
    text, bracket, remark = command.partition("(")
    code = f"`{text.strip()}`" if text.strip() else ""
    return f"{code} {bracket}{remark}".strip()


def _of_groups(found: Groups) -> str:
    return (
        f"A round of {found.agents:,} updates that come as fast as they can takes {found.round_s:.2f} s and "
        f"{found.transactions} transactions, which take {found.commit_s:.2f} s of it: {found.records:,} "
        f"records, {found.largest:,} in the largest transaction, "
        f"{found.records / found.commit_s:,.0f} a second."
    )


def _of_readers(found: Readers) -> str:
    return (
        f"{found.readers} readers ask one question after the other while {found.updates_per_s:.0f} updates a "
        f"second are written, each in a transaction of its own: {found.reads:,} answers, {found.errors} "
        f"errors. The longest transaction took {_ms(found.longest_commit_s)} "
        f"({_ms(found.longest_commit_alone_s)} without readers), the longest answer "
        f"{_ms(found.longest_read_s)} ({_ms(found.longest_read_alone_s)} while nobody wrote)."
    )


def told_crowd(found: Crowd) -> str:
    """Return what came of everybody at once."""
    return (
        f"{found.readers} readers, `fl db prune` and `fl db export` at once, while {found.updates_per_s:.0f} "
        f"updates a second are written: {found.reads:,} answers, {found.pruned:,} files deleted, "
        f"{found.exports:,} models exported, {found.errors} errors. The longest that pruning kept others "
        f"from writing is {_ms(found.longest_lock_s)}; the longest transaction of the daemon's store took "
        f"{_ms(found.longest_commit_s)}, its wait included, the longest answer {_ms(found.longest_read_s)}."
    )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"
