import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fl_main.settings.cli import settings
from fl_main.settings.files import load_run
from fl_main.settings.reference import KINDS, json_schema

OWN_CODE = """
import numpy as np

from fl_main.strategies import FedAvg

class Scaffold(FedAvg):
    modes = ("sync",)
    why_not = "its control variates hold for one base"

def oldest(candidates, seed):
    return []

def number():
    return 5

class Wishing(FedAvg):
    def correction(self):
        return {"name": "x", "mu": np.zeros(1)}

class Failing(FedAvg):
    def correction(self):
        return {"mu": {}["mu"]}
"""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def invoke(*args: str) -> Result:
    return CliRunner().invoke(settings, args)


def test_check_says_that_a_file_is_good() -> None:
    Path("x.yaml").write_text("name: a\nround: {quorum: 0.5}")
    result = invoke("check", "x.yaml")
    assert (result.exit_code, result.stdout) == (0, "x.yaml: run settings, no mistakes\n")


def test_check_names_the_mistakes_of_all_files() -> None:
    Path("run.yaml").write_text("name: a\nseed: x")
    Path("good.yaml").write_text("runs: []")
    Path("agent.yaml").write_text("run: a\nurl: http://a")
    result = invoke("check", "run.yaml", "good.yaml", "agent.yaml")
    assert result.exit_code == 2
    assert result.stdout == "good.yaml: aggregator settings, no mistakes\n"
    assert result.stderr.splitlines() == [
        "error: run.yaml: seed: 'x' is not allowed: "
        "must be a whole number at least 0 and less than 9223372036854775808",
        "error: agent.yaml: url: 'http://a' is not allowed: must be text that begins with ws:// or wss://",
    ]


def test_check_follows_the_files_that_a_file_names() -> None:
    Path("a.yaml").write_text("runs: [nix.yaml]")
    assert invoke("check", "a.yaml").stderr == "error: nix.yaml: no such file\n"
    Path("a.yaml").write_text("tls: {certificate: c.pem, key: k.pem}")
    assert invoke("check", "a.yaml").stderr.splitlines() == [
        "error: tls.certificate: c.pem: no such file",
        "error: tls.key: k.pem: no such file",
    ]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        (
            "strategy: own_code:Scaffold\nmode: semi-sync",
            "mode: semi-sync: the strategy own_code:Scaffold is not valid in it: its control variates hold "
            "for one base; give mode: sync, or another strategy",
        ),
        ("strategy: own_code:Nix", "strategy: 'own_code:Nix' cannot be imported: module 'own_code' has no "
            "attribute 'Nix'"),
        ("strategy: own_code:oldest", "strategy_options: own_code:oldest: missing 2 required positional "
            "arguments: 'candidates' and 'seed'; its options: candidates, seed"),
        ("strategy: own_code:number", "strategy: own_code:number gives int, not a Strategy"),
        ("strategy: subprocess:Popen\nstrategy_options: {args: [false]}", "strategy: subprocess:Popen is a "
            "class of another kind, not a Strategy"),
        ("strategy: own_code:Wishing", "strategy: own_code:Wishing: correction() must return a mapping of "
            "texts, numbers and lists: TypeError: Object of type ndarray is not JSON serializable"),
        ("strategy: own_code:Failing", "strategy: own_code:Failing: correction() must return a mapping of "
            "texts, numbers and lists: KeyError: 'mu'"),
        ("cohort: {rule: own_code:nix}", "cohort.rule: 'own_code:nix' cannot be imported: module 'own_code' "
            "has no attribute 'nix'"),
    ],
)  # fmt: skip
def test_check_looks_at_the_code_that_a_run_names(
    monkeypatch: pytest.MonkeyPatch, text: str, mistake: str
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_code", raising=False)
    Path("own_code.py").write_text(OWN_CODE)
    Path("good.yaml").write_text("name: a\nstrategy: own_code:Scaffold\ncohort: {rule: own_code:oldest}")
    assert invoke("check", "good.yaml").stdout == "good.yaml: run settings, no mistakes\n"
    Path("run.yaml").write_text(f"name: a\n{text}")
    Path("aggregator.yaml").write_text("runs: [good.yaml, run.yaml]")
    for file in ("run.yaml", "aggregator.yaml"):
        result = invoke("check", file)
        assert (result.exit_code, result.stderr) == (2, f"error: run.yaml: {mistake}\n")


def test_check_says_how_many_faulty_updates_are_borne() -> None:
    rounds = "round: {min_agents: 8, min_updates: 7}"
    Path("run.yaml").write_text(f"name: a\nstrategy: krum\nstrategy_options: {{f: 2}}\n{rounds}")
    said = "settings, no mistakes; krum bears 2 faulty of 7 updates\n"
    assert invoke("check", "run.yaml").stdout == f"run.yaml: run {said}"
    Path("aggregator.yaml").write_text("runs: [run.yaml]")
    assert invoke("check", "aggregator.yaml").stdout == f"aggregator.yaml: aggregator {said}"


def test_kind_can_be_said() -> None:
    Path("x.yaml").write_text("name: a")
    assert "say --kind" in invoke("check", "x.yaml").stderr
    assert invoke("check", "--kind", "run", "x.yaml").exit_code == 0


@pytest.mark.parametrize("kind", KINDS)
def test_schema_is_printed(kind: str) -> None:
    assert json.loads(invoke("schema", kind).stdout) == json_schema(kind)


def test_show_prints_what_loads_again(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "name: a\npurpose: 'no'\nconfig: {lr: 1e-3, a: '1e-3', b: 'null', c: [1.5, '01']}"
    Path("x.yaml").write_text(text)
    before = load_run("x.yaml")
    Path("y.yaml").write_text(invoke("show", "run", "x.yaml").stdout)
    assert load_run("y.yaml") == before
    monkeypatch.setenv("FL_RUN_SEED", "7")
    assert "seed: 7\n" in invoke("show", "run", "x.yaml").stdout
