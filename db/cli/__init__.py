"""`fl db`: look into a model database from the command line, a module for each topic."""

import os
from pathlib import Path

import click

from fl_main.console import Lazy, LazyGroup

from .common import folder_option

COMMANDS = {
    "runs": Lazy("fl_main.db.cli.listing:runs", "List runs."),
    "rounds": Lazy("fl_main.db.cli.listing:rounds", "List the rounds of RUN with what came of them."),
    "agents": Lazy("fl_main.db.cli.agents:agents", "List everyone who ever joined RUN."),
    "models": Lazy("fl_main.db.cli.models:models", "List the models of RUN."),
    "updates": Lazy(
        "fl_main.db.cli.models:updates", "List the training updates of RUN: what became of each."
    ),
    "events": Lazy("fl_main.db.cli.events:events", "List what happened in RUN, in order."),
    "best": Lazy("fl_main.db.cli.best:best", "List the best models, by what metric, and since when."),
    "show": Lazy("fl_main.db.cli.show:show", "Show a model or a run with all that is known of it."),
    "stats": Lazy("fl_main.db.cli.statistics:stats", "Show how the values of a model's arrays are spread."),
    "diff": Lazy("fl_main.db.cli.diff:diff", "Show how two models differ, or two runs."),
    "lineage": Lazy(
        "fl_main.db.cli.lineage:lineage", "Show where a model comes from, and what became of it."
    ),
    "serve": Lazy("fl_main.db.cli.serve:serve", "Show the database on a web page, with a JSON API."),
    "replay": Lazy(
        "fl_main.db.cli.whatif:replay",
        "Combine RUN's stored updates again: another strategy, without agents.",
    ),
    "contributions": Lazy(
        "fl_main.db.cli.whatif:contributions", "Say what each agent contributed to RUN, by a metric."
    ),
    "export": Lazy("fl_main.db.cli.export:export", "Write MODEL to a .safetensors, .npz or .pt file."),
    "card": Lazy("fl_main.db.cli.card:card", "Write a model card in the format of the Hugging Face hub."),
    "archive": Lazy("fl_main.db.cli.importing:archive", "Write RUN to one file for another database."),
    "import": Lazy(
        "fl_main.db.cli.importing:import_", "Take in an archived run, or a model of another program."
    ),
    "tag": Lazy("fl_main.db.cli.upkeep:tag", "Give MODEL a name, by which it is found and kept."),
    "prune": Lazy("fl_main.db.cli.upkeep:prune", "Delete model files, after a look at what would go."),
    "withdraw": Lazy("fl_main.db.cli.upkeep:withdraw", "Delete what AGENT sent, with a report."),
    "verify": Lazy("fl_main.db.cli.verify:verify", "Look for damage: every row, file and digest."),
    "du": Lazy("fl_main.db.cli.asking:du", "Print how many bytes the models take, and what may go."),
    "sql": Lazy("fl_main.db.cli.asking:sql", "Answer a SELECT."),
    "head": Lazy("fl_main.db.cli.verify:head", "Print the end of history, to be noted elsewhere."),
}


@click.group(
    cls=LazyGroup, lazy=COMMANDS, name="db", context_settings={"help_option_names": ["-h", "--help"]}
)
@folder_option
@click.pass_context
def db(ctx: click.Context, folder: Path | None) -> None:
    """Look into a model database.

    A RUN is its name; it may be left out where there is only one. A MODEL is its id, the
    beginning of its id or digest, or RUN:12 (round 12), RUN:best, RUN:final, RUN:last.
    """
    variable = os.environ.get("FL_DB")
    ctx.obj = folder or (Path(variable) if variable else None)
