"""Records as rows of tables, and as the facts that the chain keeps of them.

How a field is written follows from its type in the record. `facts` are JSON values under the
names of the table's columns; a row is the same with lists and mappings as canonical JSON text.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, get_args, get_type_hints

from fl_main.store import (
    AgentRecord,
    EventRecord,
    MetricRecord,
    ModelKind,
    ModelRecord,
    Record,
    RoundRecord,
    RunRecord,
    StepRecord,
    StoredPayload,
    TagRecord,
    TaskRecord,
    UpdateRecord,
)

if TYPE_CHECKING:
    from fl_main.weights import Layout

Facts: TypeAlias = dict[str, Any]


class Row(Protocol):
    """A row of a table, whoever read it: values by the names of columns."""

    def __getitem__(self, name: str, /) -> Any:
        """Return the value of a column."""


_LARGEST = 2**63 - 1  # SQLite's integers; an agent may claim more examples than that

_encode = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False, default=str
).encode


_EMPTY: tuple[dict[str, Any], list[Any]] = ({}, [])


def canonical(value: object) -> str:
    """Return JSON text that is the same for equal values; NaN and infinities become texts."""
    if value in _EMPTY:  # most of them are, and the encoder takes a while to begin
        return "{}" if isinstance(value, dict) else "[]"
    try:
        return _encode(value)
    except ValueError:
        return _encode(_without_nan(value))


def _without_nan(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return value


def digest_of(text: str) -> str:
    """Return the tagged SHA-256 of a text."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Field:
    """How one field is written and read."""

    name: str
    to_fact: Callable[[Any], Any]
    from_row: Callable[[Any], Any]
    is_json: bool = False

    def is_canonical(self, value: Any) -> bool:
        """Whether a value in a row is written as ours are."""
        if self.is_json:
            return canonical(json.loads(value)) == str(value)
        return self.to_fact is not bool or value in (0, 1)


def _integer(value: Any) -> int:
    return max(-_LARGEST, min(_LARGEST, int(value)))


def _real(value: Any) -> float:
    return math.nan if value is None else float(value)


def _reals(value: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): float(number) for name, number in value.items()}


_SCALARS: dict[Any, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    str: (str, str),
    int: (_integer, int),
    float: (float, _real),
    bool: (bool, bool),
}
_JSON: dict[Any, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    Mapping[str, Any]: (dict, dict),
    Mapping[str, str]: (dict, dict),
    Mapping[str, float]: (_reals, _reals),
    tuple[str, ...]: (list, tuple),
}


def _field(name: str, hint: Any) -> _Field:
    if hint in _JSON:
        to_fact, convert = _JSON[hint]
        return _Field(name, to_fact, _from_json(convert), is_json=True)
    if hint in _SCALARS:
        return _Field(name, *_SCALARS[hint])
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _Field(name, str, hint)
    inner = _field(name, next(kind for kind in get_args(hint) if kind is not type(None)))
    return _Field(name, _or_none(inner.to_fact), _or_none(inner.from_row))


def _from_json(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda text: convert({} if text == "{}" else json.loads(text))  # most of them are


def _or_none(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None or value != value else convert(value)  # NaN is not itself


@dataclass(frozen=True, slots=True)
class Form:
    """How records of one type are kept.

    Attributes:
        word: What the chain calls such a record.
        table: Its name.
        key: Columns that identify a row within its run.
        first_at: Column with the time of the first commit of a row; `last_at`: of the latest.
    """

    word: str
    record: type[Any]
    table: str
    key: tuple[str, ...]
    first_at: str = "created_at"
    last_at: str = "changed_at"

    def facts(self, record: Any) -> Facts:
        """Return what the chain keeps of a record."""
        return {field.name: field.to_fact(getattr(record, field.name)) for field in _fields(self.record)}

    def row(self, facts: Facts, at: float) -> dict[str, Any]:
        """Return the row for facts that are committed at a wall time."""
        row: dict[str, Any] = {**facts, self.first_at: at, self.last_at: at}
        for field in _fields(self.record):
            if field.is_json:
                row[field.name] = canonical(row[field.name])
        return row

    def read(self, row: Row) -> Any:
        """Return the record that a row keeps."""
        return self.record(*[field.from_row(row[field.name]) for field in _fields(self.record)])

    def is_canonical(self, row: Row) -> bool:
        """Whether a row that can be read is written as we write it: equal values look the same."""
        return all(field.is_canonical(row[field.name]) for field in _fields(self.record))

    def facts_of_row(self, row: Row) -> Facts:
        """Return the facts that a row says, to be compared with the chain's."""
        return self.facts(self.read(row))

    def key_of(self, facts: Facts) -> str:
        """Return which row facts are about."""
        if len(self.key) == 1:
            return str(facts[self.key[0]])
        return canonical([facts[name] for name in self.key])


_KNOWN: dict[type[Any], tuple[_Field, ...]] = {}


def _fields(record: type[Any]) -> tuple[_Field, ...]:
    if record not in _KNOWN:
        hints = get_type_hints(record)
        _KNOWN[record] = tuple(_field(field.name, hints[field.name]) for field in fields(record))
    return _KNOWN[record]


class _RunForm(Form):
    """Of the settings, which are long and never change, the chain keeps the digest."""

    __slots__ = ()

    def facts(self, record: RunRecord) -> Facts:
        facts = Form.facts(self, record)
        facts["settings"] = _settings_of(record)[1]
        return facts

    def row_of(self, record: RunRecord, facts: Facts, at: float) -> dict[str, Any]:
        """Return the row, which keeps the settings themselves."""
        return self.row(facts, at) | {"settings": _settings_of(record)[0]}


_SETTINGS: dict[str, tuple[Mapping[str, Any], tuple[str, str]]] = {}
_MAX_SETTINGS = 100


def _settings_of(record: RunRecord) -> tuple[str, str]:
    """Return a run's settings as JSON, and their digest: made once, as a run is in every transaction."""
    known = _SETTINGS.get(record.run_id)
    if known is None or known[0] is not record.settings:
        text = canonical(dict(record.settings))
        if len(_SETTINGS) >= _MAX_SETTINGS:  # whoever reads a database of many runs
            _SETTINGS.clear()
        known = _SETTINGS[record.run_id] = record.settings, (text, digest_of(text))
    return known[1]


class _MetricForm(Form):
    """An agent of '' is the mean over agents: a key cannot be empty."""

    __slots__ = ()

    def facts(self, record: MetricRecord) -> Facts:
        return {**Form.facts(self, record), "agent_id": record.agent_id or ""}

    def read(self, row: Row) -> Any:
        values = {field.name: row[field.name] for field in _fields(self.record)}
        return Form.read(self, {**values, "agent_id": values["agent_id"] or None})


class _AgentForm(Form):
    __slots__ = ()

    def row(self, facts: Facts, at: float) -> dict[str, Any]:
        return {**Form.row(self, facts, at), "left_at": None if facts["is_present"] else at}


class _ModelForm(Form):
    """A model's payload and parents are spread over several tables."""

    __slots__ = ()

    def facts(self, record: ModelRecord) -> Facts:
        payload = record.payload
        return {
            "model_id": str(record.model_id),
            "run_id": str(record.run_id),
            "round_id": _integer(record.round_id),
            "kind": str(record.kind),
            "agent_id": record.agent_id,
            "channel": str(payload.channel),
            "form": str(record.form),
            "codec": str(record.codec),
            "digest": str(payload.digest),
            "size": _integer(payload.size),
            "layout_digest": payload.layout.digest,
            "is_stored": True,
            "not_stored_reason": "",
            "parents": [
                [str(parent), None if share is None else float(share)] for parent, share in record.parents
            ],
        }

    def row(self, facts: Facts, at: float) -> dict[str, Any]:
        row = {**facts, self.first_at: at, self.last_at: at}
        del row["parents"]
        return row

    def is_canonical(self, row: Row) -> bool:
        return row["is_stored"] in (0, 1)


_MODEL_COLUMNS = (
    *("model_id", "run_id", "round_id", "kind", "agent_id", "channel", "form", "codec"),
    *("digest", "size", "layout_digest", "is_stored", "not_stored_reason"),
)


def model_facts(row: Row, parents: list[tuple[str, float | None]]) -> Facts:
    """Return the facts that a row of `models` and its parents say."""
    facts = {name: row[name] for name in _MODEL_COLUMNS}
    return {**facts, "is_stored": bool(row["is_stored"]), "parents": [list(parent) for parent in parents]}


def model_record(row: Row, layout: "Layout", parents: list[tuple[str, float | None]]) -> ModelRecord:
    """Return the record that a row of `models` and its parents keep."""
    return ModelRecord(
        row["model_id"],
        row["run_id"],
        row["round_id"],
        ModelKind(row["kind"]),
        StoredPayload(row["channel"], row["digest"], row["size"], layout),
        row["agent_id"],
        tuple(parents),
        row["form"],
        row["codec"],
    )


RUN = _RunForm("run", RunRecord, "runs", ("run_id",))
ROUND = Form("round", RoundRecord, "rounds", ("round_id",))
STEP = Form("step", StepRecord, "steps", ("round_id", "kind", "attempt"))
TASK = Form("task", TaskRecord, "tasks", ("task_id",))
UPDATE = Form("update", UpdateRecord, "updates", ("task_id", "agent_id", "digests"), first_at="received_at")
MODEL = _ModelForm("model", ModelRecord, "models", ("model_id",))
TAG = Form("tag", TagRecord, "tags", ("tag",))
METRIC = _MetricForm(
    "metric", MetricRecord, "metrics", ("round_id", "model_id", "source", "agent_id", "name")
)
AGENT = _AgentForm("agent", AgentRecord, "agents", ("agent_id",), first_at="joined_at", last_at="seen_at")
FORMS: dict[type[Any], Form] = {
    form.record: form for form in (RUN, ROUND, STEP, TASK, UPDATE, MODEL, TAG, METRIC, AGENT)
}
EVENT = "event"

# Kinds of models that may go, as they came from agents or were sent to them.
PASSING = (ModelKind.LOCAL.value, ModelKind.CHANNEL.value, ModelKind.DOWNLOAD.value)


def event_facts(event: EventRecord) -> Facts:
    """Return what the chain keeps of an event."""
    return {
        "kind": str(event.kind),
        "round_id": event.round_id,
        "agent_id": event.agent_id,
        "actor": str(event.actor),
        "details": dict(event.details),
    }


def row_of(form: Form, record: Record, facts: Facts, at: float) -> dict[str, Any]:
    """Return the row of a record whose facts are known."""
    if isinstance(form, _RunForm) and isinstance(record, RunRecord):
        return form.row_of(record, facts, at)
    return form.row(facts, at)
