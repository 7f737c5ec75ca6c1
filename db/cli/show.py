"""`fl db show`: all that is known of a model or a run."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from fl_main.console import Output, print_table

from ..model_db import ModelDB
from ..records import Effort
from ..runs_and_models import Model, Run
from .common import as_json, form_of, parts_of, print_facts, print_json, print_section, when, with_database


@click.command()
@click.argument("what", metavar="MODEL|RUN")
@as_json
@with_database
def show(database: ModelDB, what: str, output: Output | None) -> None:
    """Show a model or a run with all that is known of it."""
    run = database.find_run(what)
    if run is not None:
        _show_run(run, output)
    else:
        _show_model(database, database.model(what), output)


def _show_run(run: Run, output: Output | None) -> None:
    effort = run.effort()
    (form, codec), (size, plain_size) = run.way(), run.traffic()
    facts = {**asdict(run.facts), "tags": run.tags(), **asdict(effort)}
    facts |= {"form": form, "codec": codec, "bytes": size, "plain_bytes": plain_size}
    agents = [asdict(agent) for agent in run.agents()]
    if output == "json":
        print_json({**facts, "members": agents})
        return
    for time in ("created_at", "changed_at"):
        facts[time] = when(facts[time], None)
    facts["tags"] = ", ".join(f"{tag} = {model_id}" for tag, model_id in run.tags().items())
    facts["frozen"] = _frozen_in_words(run.facts.frozen)
    facts["settings"] = json.dumps(facts["settings"], ensure_ascii=False)
    print_facts(facts | _effort_in_words(effort))
    click.echo("\nagents")
    columns = ["name", "agent_id", "is_present", "poll_s", "accepted", "refused", "software"]
    left_out = [name for name in ("outlying", "quarantined") if any(agent[name] for agent in agents)]
    print_table(agents, columns + left_out)


def _frozen_in_words(frozen: Mapping[str, Any]) -> str | None:
    """Return what people read of the arrays that a run does not train."""
    if not frozen:
        return None
    return f"{frozen['arrays']} arrays of {frozen['size']} bytes stay at the agents, {frozen['digest']}"


def _effort_in_words(effort: Effort) -> dict[str, str | None]:
    """Return what people read instead of the numbers."""
    times = ", ".join(f"{part} {name}" for name, part in parts_of(effort).items() if part)
    total = effort.busy_s + effort.idle_s + effort.wasted_s
    stale = None if effort.staleness is None else f"{effort.staleness:.1f} on average"
    return {
        **dict.fromkeys(asdict(effort)),
        "staleness": stale
        and f"{stale}, {effort.max_staleness} at most, of {effort.counted} counted updates",
        "agents' time": times and f"{times} of {total:.0f} s",
    }


def _show_model(database: ModelDB, model: Model, output: Output | None) -> None:
    run = database.run(model.run_id)
    names = run.agent_names()
    facts = {
        "model": model.model_id,
        "kind": str(model.kind),
        "run": run.name,
        "round": model.round_id,
        "agent": names.get(model.agent_id or "", model.agent_id),
        "tags": ", ".join(model.tags),
        "form": model.form if output == "json" else form_of(model),
        "codec": model.codec or None,
        "digest": model.digest,
        "path": str(model.path) if model.is_stored else f"not stored: {model.not_stored_reason}",
        "bytes": model.size,
        "created": when(model.created_at, output),
    }
    parents = [asdict(parent) for parent in model.parents]
    arrays = _arrays(model)
    metrics = [
        {**asdict(metric), "agent": names.get(metric.agent_id or "", metric.agent_id or "all (mean)")}
        for metric in model.metrics()
    ]
    if output == "json":
        base = {"base": model.base_id}
        print_json({**facts, **base, "parents": parents, "arrays": arrays, "metrics": metrics})
        return
    print_facts(facts)
    print_section("parents", parents, ["model_id", "share"])
    shapes = [{**entry, "shape": "×".join(map(str, entry["shape"])) or "scalar"} for entry in arrays]
    columns = {name: name for name in ("name", "dtype", "shape", "role")}
    numbers = {"least": "min", "mean": "mean", "largest": "max", "norm": "norm", "not_finite": "not finite"}
    print_section(_whose_arrays(model), shapes, {**columns, **numbers})
    print_section("metrics", metrics, ["source", "name", "agent", "value", "num_examples", "agents"])


def _whose_arrays(model: Model) -> str:
    if model.codec:
        return f"arrays as encoded by {model.codec}"
    return "arrays of the delta" if model.base_id else "arrays"


def _arrays(model: Model) -> list[dict[str, Any]]:
    """Return the arrays in numbers, or without them where the file is not there."""
    if model.is_stored:
        return [asdict(entry) for entry in model.arrays()]
    return [
        {"name": spec.name, "dtype": str(spec.dtype), "shape": spec.shape, "role": str(spec.role)}
        for spec in model.layout.arrays
    ]
