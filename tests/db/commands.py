"""`fl db`, typed in a test."""

from typing import Any

from click.testing import CliRunner, Result

from fl_main.db.cli import db


def fl_db(*args: object, **options: Any) -> Result:
    return CliRunner().invoke(db, [str(arg) for arg in args], prog_name="fl db", **options)
