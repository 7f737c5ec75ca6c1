"""Records survive the way through rows and facts unchanged."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_main.db import ModelStore, rows, schema
from fl_main.db.batch import upsert
from fl_main.store import (
    AgentRecord,
    MetricRecord,
    RoundRecord,
    RunRecord,
    StepRecord,
    TaskRecord,
    UpdateRecord,
)
from tests.db.building import RUN

text = st.text(st.characters(codec="utf-8"), max_size=10)
integers = st.integers(-(2**63) + 1, 2**63 - 1)
numbers = st.floats(allow_nan=False)

values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | integers | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


def of_type(hint: Any) -> st.SearchStrategy[Any]:
    known: dict[Any, st.SearchStrategy[Any]] = {
        str: text,
        int: integers,
        float: numbers,
        bool: st.booleans(),
        type(None): st.none(),
        Mapping[str, Any]: st.dictionaries(text, values, max_size=3),
        Mapping[str, str]: st.dictionaries(text, text, max_size=3),
        Mapping[str, float]: st.dictionaries(text, numbers, max_size=3),
        tuple[str, ...]: st.lists(text, max_size=3).map(tuple),
    }
    if hint in known:
        return known[hint]
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return st.sampled_from(hint)
    return st.one_of(*map(of_type, get_args(hint)))


def records(record: type[Any]) -> st.SearchStrategy[Any]:
    made = {name: of_type(hint) for name, hint in get_type_hints(record).items()}
    if record is MetricRecord:
        made["agent_id"] = st.none() | text.filter(bool)
    return st.builds(record, **made)


@pytest.mark.parametrize(
    "record", [RunRecord, RoundRecord, StepRecord, TaskRecord, UpdateRecord, MetricRecord, AgentRecord]
)
@given(data=st.data())
def test_a_record_comes_back_from_its_row(record: type[Any], data: st.DataObject) -> None:
    form = rows.FORMS[record]
    given_record = data.draw(records(record))
    facts = form.facts(given_record)
    row = rows.row_of(form, given_record, facts, 1.0)
    assert form.read(row) == given_record
    assert rows.canonical(form.facts_of_row(row)) == rows.canonical(facts)
    columns = {column.name for column in schema.metadata.tables[form.table].columns}
    assert row.keys() | {"update_id"} == columns | {"update_id"}


@settings(max_examples=25)  # each opens a database
@given(record=records(RunRecord))
def test_a_run_comes_back_from_the_database(
    tmp_path_factory: pytest.TempPathFactory, record: RunRecord
) -> None:
    counts = ("round_id", "best_round", "rounds_done", "failed_rounds", "run_time_s")
    possible = {name: abs(getattr(record, name)) for name in counts}
    record = replace(record, **possible, model_id=None, statistics_id=None, best_model_id=None)
    with ModelStore(tmp_path_factory.getbasetemp() / "round-trip") as store:
        store.commit([record], 1.0)
        assert record in [snapshot.run for snapshot in store.snapshots()]


@given(value=values)
def test_canonical_text_is_json_and_the_same_for_any_order(value: Any) -> None:
    found = rows.canonical({"b": value, "a": 1})
    assert found == rows.canonical({"a": 1, "b": value})
    assert json.loads(found) == {"a": 1, "b": value}


def test_canonical_text_has_no_json_that_others_cannot_read() -> None:
    text = rows.canonical({"x": [math.nan, math.inf, -math.inf]})
    assert text == '{"x":["NaN","Infinity","-Infinity"]}'


def test_of_the_settings_the_chain_keeps_the_digest() -> None:
    facts = rows.RUN.facts(RUN)
    assert facts["settings"] == rows.digest_of(rows.canonical(RUN.settings))


def test_the_first_time_of_a_row_is_kept() -> None:
    sql = upsert(schema.runs)
    assert "ON CONFLICT (run_id) DO UPDATE" in sql
    assert "changed_at = excluded.changed_at" in sql
    assert "created_at = excluded" not in sql


def test_tables_state_their_rules(store: ModelStore, folder: Path) -> None:
    with store._readers.connect() as connection:
        sql = "SELECT sql FROM sqlite_master WHERE name = 'updates'"
        text = connection.exec_driver_sql(sql).scalar_one()
    assert "CHECK (verdict IN ('accepted', 'rejected', 'discarded'))" in text
