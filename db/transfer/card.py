"""A model's card: Markdown with the YAML front matter that the Hugging Face hub reads.

What is in it is in the database. Agents are numbered, in the order in which they first joined, unless
their names are asked for: a card is made to be published, and who took part is for the sites to say.
"""

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from fl_main import __version__
from fl_main.errors import StoreError
from fl_main.steps import strategy_in_words
from fl_main.store import Verdict
from fl_main.training import Kind

from ..model_db import ModelDB
from ..records import Metric, Round
from ..runs_and_models import Model, Run
from .export import appearing

_MOST_ROUNDS = 20  # that are listed
_MOST_AGENTS = 50


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a card says that no database knows.

    Attributes:
        license: As the hub names it (`apache-2.0`); empty: none is stated.
        name: Of the model; empty: that of its run.
        task: As the hub names it (`image-classification`).
        dataset: What the data are called.
        tags: Besides those that every card of ours has.
        with_agents: Whether agents have their names.
    """

    license: str = ""
    name: str = ""
    task: str = "other"
    dataset: str = ""
    tags: tuple[str, ...] = ()
    with_agents: bool = False


def model_card(db: ModelDB, model: Model, wishes: Wishes | None = None) -> str:
    """Return the card of a model of a run."""
    wishes = wishes or Wishes()
    run = db.run(model.run_id)
    parts = [
        _front_matter(run, model, wishes),
        _introduction(run, model, wishes),
        _results(model),
        _rounds(run, model),
        _agents(run, wishes),
        _training(run, wishes),
        _origin(db, run, model),
    ]
    return "\n".join(part for part in parts if part)


def write_card(text: str, target: Path | str, *, overwrite: bool = False) -> Path:
    """Write a card to a file.

    Raises:
        StoreError: If it exists, or cannot be written.
    """
    target = Path(target)
    with appearing(target, "write a model card", overwrite=overwrite) as part:
        part.write_text(text, "utf-8")
    return target


def card_model(db: ModelDB, reference: str) -> Model:
    """Return the model that a card of a run or a model is about: of a run the final one, else the last.

    Raises:
        StoreError: If there is none.
    """
    run = db.find_run(reference)
    if run is None:
        return db.model(reference)
    found = run.final or run.last
    if found is None:
        raise StoreError(f"run {run.name!r} has no model yet")
    return found


# --- the front matter -----------------------------------------------------------------------


def _front_matter(run: Run, model: Model, wishes: Wishes) -> str:
    steps = strategy_in_words(run.facts.settings.get("strategy", "")).split(" > ")
    tags = dict.fromkeys(["federated-learning", "fl_main", *filter(None, steps), *wishes.tags])
    facts: dict[str, Any] = {"license": wishes.license} if wishes.license else {}
    facts |= {"library_name": "fl_main", "tags": list(tags)}
    if metrics := _means(model, "evaluate") or _means(model, "train"):
        task = {"type": wishes.task, "name": wishes.task.replace("-", " ")}
        dataset = {"type": "private", "name": wishes.dataset or "the agents' own data"}
        measured = [
            {"type": one.name, "value": float(f"{one.value:.6g}"), "name": _measured(one)} for one in metrics
        ]
        results = [{"task": task, "dataset": dataset, "metrics": measured}]
        facts["model-index"] = [{"name": wishes.name or run.name, "results": results}]
    return f"---\n{yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)}---\n"


def _means(model: Model, source: str) -> list[Metric]:
    """Return the means over agents that are numbers: YAML of the hub has no other."""
    return [
        metric
        for metric in model.metrics()
        if metric.agent_id is None and metric.source == source and math.isfinite(metric.value)
    ]


def _measured(metric: Metric) -> str:
    agents = "1 agent" if metric.agents == 1 else f"{metric.agents} agents"
    kind = "held-out" if metric.source == "evaluate" else "training"
    return f"{metric.name}, mean over {agents}, weighted by {metric.num_examples} {kind} examples"


# --- for people -----------------------------------------------------------------------------


def _introduction(run: Run, model: Model, wishes: Wishes) -> str:
    way = {entry.round_id for entry in _way_to(run, model)}
    agents = len({update.agent_id for update in run.updates() if update.counted_in in way})
    where = f"the {model.kind} model of round {model.round_id} of run *{_plain(run.name)}*"
    lines = [
        f"# {_plain(wishes.name or run.name)}",
        "",
        f"This is {where}, trained by federated learning with fl_main: {_agents_in_words(agents)} trained "
        "on data of their own and sent models, which the aggregator combined.",
    ]
    if purpose := str(run.facts.settings.get("purpose", "")):
        lines += ["", f"Purpose, as the run's settings state it: {_plain(purpose)}"]
    return "\n".join([*lines, ""])


def _agents_in_words(number: int) -> str:
    return "one agent" if number == 1 else f"{number} agents"


def _results(model: Model) -> str:
    found = [*_means(model, "evaluate"), *_means(model, "train")]
    rows = [(m.name, m.source, _number(m.value), m.agents, m.num_examples) for m in found]
    head = ("metric", "measured", "mean over agents", "agents", "examples")
    return _section("Results", head, rows)


def _rounds(run: Run, model: Model) -> str:
    """List rounds up to the model's own: all, or some of them evenly spaced, the last among them."""
    done = _way_to(run, model)
    names = list(
        dict.fromkeys((s, n) for entry in done for s in ("train", "evaluate") for n in getattr(entry, s))
    )
    step = max(1, math.ceil(len(done) / _MOST_ROUNDS))
    chosen = done[::-1][::step][::-1]
    rows = [
        (
            entry.round_id,
            entry.effort.counted or entry.accepted,
            *(_number(_value(entry, source, name)) for source, name in names),
        )
        for entry in chosen
    ]
    head = ("round", "updates", *(f"{name} ({source})" for source, name in names))
    left_out = len(done) - len(chosen)
    note = f"{left_out} rounds between them are left out." if left_out else ""
    return _section("Rounds", head, rows, note)


def _way_to(run: Run, model: Model) -> list[Round]:
    """Return the rounds up to a model's own; without undone ones, unless its own is among them."""
    done = [entry for entry in run.rounds() if entry.status == "done" and entry.round_id <= model.round_id]
    is_undone = any(entry.is_undone for entry in done if entry.round_id == model.round_id)
    return [entry for entry in done if entry.round_id > 0 and (is_undone or not entry.is_undone)]


def _value(entry: Round, source: str, name: str) -> float | None:
    means = entry.train if source == "train" else entry.evaluate
    return means[name].value if name in means else None


def _agents(run: Run, wishes: Wishes) -> str:
    accepted: dict[str, int] = {}
    examples: dict[str, int] = {}
    for update in run.updates():
        if update.kind is Kind.TRAIN and update.verdict is Verdict.ACCEPTED:
            accepted[update.agent_id] = accepted.get(update.agent_id, 0) + 1
            examples[update.agent_id] = update.num_examples
    rows = [
        (
            agent.name if wishes.with_agents else f"agent {n}",
            accepted[agent.agent_id],
            examples[agent.agent_id],
        )
        for n, agent in enumerate(run.agents(), 1)
        if agent.agent_id in accepted
    ]
    more = len(rows) - _MOST_AGENTS
    notes = [f"{more} more agents took part." if more > 0 else ""]
    notes += [] if wishes.with_agents else ["Agents are numbered; their names are not part of this card."]
    head = ("agent", "updates", "examples behind the last")
    return _section("Agents", head, rows[:_MOST_AGENTS], " ".join(filter(None, notes)))


def _training(run: Run, wishes: Wishes) -> str:
    facts, settings = run.facts, dict(run.facts.settings)
    if not wishes.with_agents:  # what may say who they are
        settings = {name: value for name, value in settings.items() if name not in ("cohort", "config_for")}
        settings = _numbered(settings, _numbers(run))
    began, ended = (
        datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
        for at in (facts.created_at, facts.changed_at)
    )
    rows = [
        ("strategy", strategy_in_words(settings.get("strategy", "")) or None),
        ("mode", settings.get("mode")),
        ("rounds", facts.rounds_done),
        ("status", str(facts.status)),
        ("reason", (facts.reason or None) if wishes.with_agents else None),  # it may name some
        ("began", began),
        ("last change", ended),
        ("run time", f"{facts.run_time_s:.0f} s"),
    ]
    text = json.dumps(settings, ensure_ascii=False, indent=2, default=str).replace("```", "` ` `")
    table = _section("Training", ("", ""), [row for row in rows if row[1] is not None])
    which = "All settings" if wishes.with_agents else "Settings, but for those that tell agents apart"
    return f"{table}\n{which}:\n\n```json\n{text}\n```\n"


def _numbers(run: Run) -> dict[str, str]:
    """Return what agents are called in a card without their names, by name and id."""
    agents = list(enumerate(run.agents(), 1))
    return {word: f"agent {n}" for n, agent in agents for word in (agent.agent_id, agent.name)}


def _numbered(value: Any, numbers: Mapping[str, str]) -> Any:
    """Return settings with numbers in place of agents: a strategy's options may name one, as fltrust's do."""
    if isinstance(value, str):
        return numbers.get(value, value)
    if isinstance(value, Mapping):
        return {key: _numbered(inner, numbers) for key, inner in value.items()}
    return [_numbered(inner, numbers) for inner in value] if isinstance(value, list | tuple) else value


def _origin(db: ModelDB, run: Run, model: Model) -> str:
    values = sum(spec.size for spec in model.layout.arrays)
    types = ", ".join(sorted({str(spec.dtype) for spec in model.layout.arrays}))
    rows = [
        ("model", model.model_id),
        ("digest of its file", model.digest),
        ("arrays", f"{len(model.layout.arrays)}, of {values} numbers ({types})"),
        ("made of", f"{len(model.parents)} models" if model.parents else None),
        ("stored", "yes" if model.is_stored else f"no, because {model.not_stored_reason}"),
        ("head of the run's history", next(str(note) for note in db.heads() if note.run_id == run.run_id)),
    ]
    how = "`fl db verify --against` the head tells whether the history that led here is still what it was."
    table = _section("Where it comes from", ("", ""), [row for row in rows if row[1]], how)
    return f"{table}\nWritten by fl_main {__version__}.\n"


def _section(title: str, head: Sequence[str], rows: Iterable[Sequence[object]], note: str = "") -> str:
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    if not lines:
        return ""
    line = f"|{' --- |' * len(head)}"
    end = [note, ""] if note else []
    return "\n".join([f"## {title}", "", f"| {' | '.join(map(_plain, head))} |", line, *lines, "", *end])


def _number(value: float | None) -> str | None:
    return None if value is None or not math.isfinite(value) else f"{value:.6g}"


def _cell(value: object) -> str:
    return "–" if value is None else _plain(str(value))


def _plain(text: str) -> str:
    """Return a text that means nothing in Markdown or HTML: names come from outside."""
    text = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{letter}" if letter in "|[]*_`\\#" else letter for letter in text)
