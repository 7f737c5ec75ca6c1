"""The files under setting/ and the settings page: they run as they stand, and say what is true."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fl_main.settings import AggregatorSettings, Section, WebSettings
from fl_main.settings.files import load_agent, load_aggregator, load_run
from fl_main.settings.reference import KINDS, json_schema, keys, markdown_table

ROOT = Path(__file__).resolve().parent.parent
LOADERS: dict[str, Callable[[Path], Section]] = {
    "aggregator": load_aggregator,
    "run": load_run,
    "agent": load_agent,
}

# A key that is commented out: `# quorum: 1.0`, indented as in its section, its own section too.
COMMENTED = re.compile(r"^( *)# ( *[a-z_]+:( .*)?)$")

each_kind = pytest.mark.parametrize("kind", KINDS)


def text_of(kind: str) -> str:
    return (ROOT / "setting" / f"{kind}.yaml").read_text()


def uncommented(text: str) -> str:
    return "\n".join(COMMENTED.sub(r"\1\2", line) for line in text.splitlines())


def load_text(kind: str, text: str, folder: Path) -> Section:
    file = folder / f"{kind}.yaml"
    file.write_text(text)
    return LOADERS[kind](file)


def flat(settings: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(settings, dict) or not settings:
        return {prefix: settings}
    return {
        name: value
        for own, inner in settings.items()
        for name, value in flat(inner, f"{prefix}.{own}" if prefix else own).items()
    }


@each_kind
def test_file_loads_as_it_stands(kind: str) -> None:
    LOADERS[kind](ROOT / "setting" / f"{kind}.yaml")


def test_files_belong_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    daemon = load_aggregator()
    runs = [load_run(path) for path in daemon.runs]
    agent = load_agent("setting/agent.yaml")
    assert [run.name for run in runs] == ["quickstart"] == [agent.run]
    assert agent.url == f"ws://{daemon.listen.host}:{daemon.listen.port}"
    assert (daemon.database.folder, runs[0].round.min_agents, runs[0].end.rounds) == (Path("models"), 2, 10)


@each_kind
def test_every_key_is_in_the_file(kind: str) -> None:
    words = set(re.findall(r"([a-z_]+):", text_of(kind)))
    missing = [name for name in keys(KINDS[kind]) if name.rpartition(".")[2] not in words]
    assert not missing


@each_kind
def test_commented_keys_load_and_show_the_defaults(kind: str, tmp_path: Path) -> None:
    plain = load_text(kind, text_of(kind), tmp_path)
    full = load_text(kind, uncommented(text_of(kind)), tmp_path)
    before, after = (flat(settings.model_dump(mode="json")) for settings in (plain, full))
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    # These have no default that could be written: they show how a value looks.
    examples = {"tls", "join_token", "operator_token", "token", "web"}
    assert {name.split(".")[0] for name in changed} <= examples


def test_commented_section_of_the_page_shows_the_defaults(tmp_path: Path) -> None:
    shown = load_text("aggregator", uncommented(text_of("aggregator")), tmp_path)
    assert isinstance(shown, AggregatorSettings)
    assert shown.web is not None
    assert shown.web.model_copy(update={"tls": None, "token": None}) == WebSettings()


@each_kind
def test_no_key_of_a_section_is_left_out_when_all_are_uncommented(kind: str, tmp_path: Path) -> None:
    full = load_text(kind, uncommented(text_of(kind)), tmp_path)
    given = set(flat(full.model_dump(mode="json", exclude_unset=True)))
    # Either the one or the other may be given, and a list is empty: the file shows these in a sentence.
    in_a_sentence = re.compile(r"(token|initial)\.(file|env|model)$|config_for\.(where|config)$")
    names = [key.name for key in keys(KINDS[kind]).values() if not key.is_section]
    assert [name for name in names if name not in given and not in_a_sentence.search(name)] == []


@each_kind
def test_each_key_is_explained_on_its_line(kind: str) -> None:
    lines = [line for line in uncommented(text_of(kind)).splitlines() if re.match(r" *[a-z_]+:", line)]
    explained_above = {"tls", "join_token", "operator_token", "token", "initial", "web"}
    assert [line for line in lines if "#" not in line and line.split(":")[0] not in explained_above] == []


@each_kind
def test_schema_file_is_current(kind: str) -> None:
    schema = json.loads((ROOT / "setting" / "schema" / f"{kind}.schema.json").read_text())
    assert schema == json_schema(kind), f"fl settings schema {kind} > setting/schema/{kind}.schema.json"


@each_kind
def test_first_line_points_editors_to_the_schema(kind: str) -> None:
    assert text_of(kind).splitlines()[0] == f"# yaml-language-server: $schema=schema/{kind}.schema.json"


@each_kind
def test_settings_page_has_the_table_of_all_keys(kind: str) -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    assert markdown_table(KINDS[kind]) in page, f"put the output of fl settings table {kind} there"
