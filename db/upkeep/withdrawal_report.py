"""The report on a withdrawal, for the site that withdraws and for whoever keeps records: Markdown."""

from collections.abc import Iterator
from datetime import UTC, datetime

from .withdraw import Influenced, Withdrawal, WithdrawnRun

_MOST = 20  # shared files that are named

_WHAT = {
    "global": "global models",
    "local": "local models of other agents, which were trained from such global models",
    "channel": "further arrays that other agents sent, which were made with such global models",
    "download": "global models as they were sent to agents",
    "state": "arrays of the strategy",
    "statistics": "sums of statistics over the agents",
    "initial": "models that runs began with",
}


def report(found: Withdrawal) -> str:
    """Return what a withdrawal removed, what it did not, and what can be done about that."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Withdrawal) -> Iterator[str]:
    at = datetime.fromtimestamp(found.at, UTC)
    yield f"# Withdrawal of {found.agent}"
    yield ""
    if found.is_done:
        yield f"Done on {at:%Y-%m-%d at %H:%M:%S} UTC."
    else:
        yield f"What would be done, as of {at:%Y-%m-%d at %H:%M:%S} UTC; nothing has been changed."
    for run in found.runs:
        yield from ("", f"## Run {run.run}", "", "Removed" if found.is_done else "To be removed", "")
        yield from _removed(run)
        yield from ("", "Not removed", "")
        yield from _left(run, found.agent)
        yield from ("", "Ways on", "")
        yield from _ways(run, found.agent)


def _removed(run: WithdrawnRun) -> Iterator[str]:
    yield (
        f"- {run.files} files with {run.size} bytes of what it sent: {run.models} models, whose rows say "
        "that they were withdrawn, and when."
    )
    if run.gone_before:
        yield f"- {run.gone_before} more of its models were not stored any more; their rows say why."


def _left(run: WithdrawnRun, agent: str) -> Iterator[str]:
    for shared in run.shared[:_MOST]:
        yield f"- The file {shared.digest}, which is also that of {', '.join(shared.others)}."
    if len(run.shared) > _MOST:
        yield f"- {len(run.shared) - _MOST} more files that others have, too."
    if run.counted:
        yield (
            f"- What the models learned from it: rounds {_numbers(run.counted)} count an update of it, and "
            "every model after the first of them was made from models that contain it. These are:"
        )
        yield from map(_influenced, run.influenced)
        if run.arrays:
            yield f"- Its part of the strategy's arrays, which sum over agents: {', '.join(run.arrays)}."
    elif run.influenced:
        yield "- What was made from what it sent, though no round counts an update of it:"
        yield from map(_influenced, run.influenced)
    else:
        yield f"- Nothing that was learned: no model of this database was made from what {agent} sent."
    yield (
        "- The records: its name and attributes, when it took part, its numbers of examples, the metrics "
        "that it reported. They are part of the history that `fl db verify` holds together."
    )
    yield "- Whatever lies elsewhere: backups, exported models, the models that agents were sent."


def _influenced(found: Influenced) -> str:
    rounds = f"round {found.first_round}"
    if found.last_round != found.first_round:
        rounds = f"rounds {found.first_round} to {found.last_round}"
    return (
        f"    - {found.models} {_WHAT.get(found.kind, found.kind)} of run {found.run}, {rounds}, "
        f"{found.stored} of them stored"
    )


def _ways(run: WithdrawnRun, agent: str) -> Iterator[str]:
    if not run.counted:
        yield "- None is needed for the global models."
    else:
        yield (
            f"- `fl db replay {run.run} --without {agent}` combines the updates of the others again. That is "
            f"not unlearning: after round {run.counted[0]} they were trained from models that contain it."
        )
        yield _retraining(run)
    yield (
        f"- `fl run quarantine {run.run} {agent}` keeps it out of this run from now on; a join token that "
        "only it has can be taken back."
    )


def _retraining(run: WithdrawnRun) -> str:
    if not run.is_in_last:
        return "- None is needed for the latest model: the run was rolled back, and trained on without it."
    if run.roll_back_to is None:
        return (
            "- Only another run takes it out: this one began with a model that came from it "
            "(`fl run create` with an initial model of other origin)."
        )
    return (
        f"- `fl run rollback {run.run} --to {run.roll_back_to}` and training on without it takes it out: "
        f"round {run.roll_back_to} is the last one whose model has nothing of it."
    )


def _numbers(rounds: tuple[int, ...]) -> str:
    """Return round numbers as ranges: 1-3, 5."""
    parts: list[list[int]] = []
    for number in rounds:
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)
