"""Did all of it happen? Every round, every update, every measurement, by the model database."""

from prepare import RUN
from processes import DemoError

from fl_main.db import Model, ModelDB


def check_database(db: ModelDB, rounds: int, agents: int) -> Model:
    """Return the final model if the database has everything that should be in it."""
    run = db.run(RUN)
    if run.status != "finished":
        raise DemoError(f"the run {run.status}: {run.facts.reason}")
    done = {entry.round_id: entry for entry in run.rounds() if entry.status == "done"}
    if missing := [number for number in range(rounds + 1) if number not in done]:
        raise DemoError(f"round {missing[0]} is not in the database")
    counted = {(update.kind, update.counted_in, update.agent_id) for update in run.updates()}
    names = {agent.agent_id: agent.name for agent in run.agents()}
    if len(names) != agents:
        raise DemoError(f"{len(names)} agents are in the database, not {agents}")
    for number in range(rounds + 1):
        kind = "train" if number else "statistics"
        for agent_id, name in names.items():
            if (kind, number, agent_id) not in counted:
                raise DemoError(f"the update of {name} was not counted in round {number}")
        if number and {mean.agents for mean in done[number].evaluate.values()} != {agents}:
            raise DemoError(f"the model of round {number} was not measured by all agents")
    return run.final
