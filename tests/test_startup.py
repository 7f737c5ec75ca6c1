"""What an import drags in: an agent runs inside somebody else's program and must stay light."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

SERVER_SIDE = {"fl_main.aggregator", "fl_main.db", "fl_main.rounds", "sqlalchemy", "sqlite3"}
FRAMEWORKS = {"ml_dtypes", "scipy", "sklearn", "torch"}
SLOW_FOR_A_LISTING = {"numpy", "pydantic", "sqlalchemy"}  # each takes longer to load than runs to be listed
COMMAND_LINE = {"click", "pydantic_settings", "rich", "yaml"}


def modules_after(statement: str) -> set[str]:
    """The names of all modules that a new interpreter has loaded after the statement."""
    program = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import fl_main", FRAMEWORKS | SERVER_SIDE | COMMAND_LINE | {"fl_main.agent", "websockets"}),
        ("import fl_main.agent", FRAMEWORKS | SERVER_SIDE | COMMAND_LINE),
        ("from fl_main.agent import Agent, AsyncAgent", FRAMEWORKS | SERVER_SIDE | COMMAND_LINE),
        ("from fl_main.db import Model, ModelDB, Run", FRAMEWORKS | SLOW_FOR_A_LISTING),
        ("import fl_main.db", FRAMEWORKS | {"fl_main.agent", "fl_main.aggregator"}),
        ("import fl_main.aggregator", FRAMEWORKS | {"fl_main.agent"}),
        ("import fl_main.cli", FRAMEWORKS | {"fl_main.agent", "fl_main.aggregator", "fl_main.db"}),
    ],
)
def test_import_loads_only_what_it_needs(statement: str, unwanted: set[str]) -> None:
    assert not modules_after(statement) & unwanted
