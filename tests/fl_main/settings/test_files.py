from pathlib import Path

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_main.errors import SettingsError
from fl_main.settings import (
    AgentSettings,
    AggregatorSettings,
    ListenSettings,
    RunSettings,
    SecretSettings,
    TlsSettings,
    WebSettings,
)
from fl_main.settings.files import (
    check_binding,
    check_files,
    detect_kind,
    load_agent,
    load_aggregator,
    load_run,
    parse_run,
    read_mapping,
    read_secret,
)
from fl_main.settings.run_name import numbered_name

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(text: str, name: str = "run.yaml") -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def run_error(text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load_run(written(text))
    return str(caught.value)


def test_a_name_is_all_that_a_run_needs() -> None:
    assert load_run(written("name: a")) == RunSettings(name="a")


def test_an_empty_aggregator_file_means_the_defaults() -> None:
    assert load_aggregator(written("# nothing\n", "a.yaml")) == AggregatorSettings()


def test_a_section_with_nothing_in_it_means_its_defaults() -> None:
    assert load_run(written("name: a\nround:\nconfig:\n")) == RunSettings(name="a")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "round: {quorum: 1.5}",
            "round.quorum: 1.5 is not allowed: must be greater than 0 and at most 1",
        ),
        ("round: {quorum: .nan}", "round.quorum: NaN is not allowed: must be a finite number"),
        (
            "round: {quorum: x}",
            "round.quorum: 'x' is not allowed: must be a number greater than 0 and at most 1",
        ),
        ("round: {quorm: 1}", "unknown key 'round.quorm'; did you mean 'quorum'?"),
        ("quorum: 1", "unknown key 'quorum'; did you mean 'round.quorum'?"),
        ("end: {zzz: 1}", "unknown key 'end.zzz'; the keys here are rounds, target, patience, max_s"),
        (
            'end: {rounds: "3"}',
            "end.rounds: '3' is not allowed: must be a whole number greater than 0",
        ),
        ("end: {rounds: true}", "end.rounds: true is not allowed: must be a whole number greater than 0"),
        ("end: {rounds: 2.5}", "end.rounds: 2.5 is not allowed: must be a whole number greater than 0"),
        ("end: {rounds: 0}", "end.rounds: 0 is not allowed: must be greater than 0"),
        ("end: {rounds: null}", "end.rounds: null is not allowed: must be a whole number greater than 0"),
        ("end: 3", "end must be a section with keys of its own: rounds, target, patience, max_s"),
        ("statistics: yes", "statistics: 'yes' is not allowed: must be true or false"),
        ("best: {direction: up}", "best.direction: 'up' is not allowed: must be min or max"),
        (
            "cohort: {rule: some}",
            "cohort.rule: 'some' is not allowed: "
            "must be text that is all, fraction, number or package.module:function",
        ),
        ("config: [1]", "config: [1] is not allowed: must be a mapping"),
        ("config: {a: [1, .inf]}", "config: a.1 is inf, which is not a finite number"),
        (
            "config: {a: {b: 99999999999999999999}}",
            "config: a.b is a whole number of more than 64 bits",
        ),
        ("round: {min_agents: 1}", "round: min_updates (2) is larger than min_agents (1)"),
        (
            "round: {buffer: 5}",
            "round.buffer is for the modes semi-sync and async: leave it out, or give mode; "
            "what ends a round of mode sync early is round.quorum",
        ),
        (
            "mode: semi-sync\nround: {buffer: 1}",
            "round.buffer (1) is smaller than round.min_updates (2), below which no model is published: "
            "make them equal",
        ),
        (
            "mode: async\nround: {adaptive_deadline: 2}",
            "round.adaptive_deadline is for the modes sync and semi-sync, whose rounds wait for a cohort: "
            "leave it out in mode async",
        ),
        (
            "mode: async\ncohort: {rule: number, over_selection: 1.3}",
            "cohort.over_selection is for the modes sync and semi-sync, whose rounds ask a cohort: "
            "leave it out in mode async",
        ),
        (
            "cohort: {over_selection: 1.3}",
            "cohort: over_selection (1.3) is for the rules fraction and number, which say how many answers "
            "are wanted: leave it out with rule all",
        ),
        (
            "cohort: {over_selection: 0.9}",
            "cohort.over_selection: 0.9 is not allowed: must be at least 1 and at most 10",
        ),
        (
            "cohort: {where: region = 5}",
            "cohort.where: 'region = 5' is not a condition (invalid syntax); e.g. region == \"eu\" and gpu",
        ),
        (
            "compression: {fraction: 0.1}",
            "compression: fraction is for the codec top-k and random-k: leave it out with codec none",
        ),
        (
            "compression: {codec: int8, levels: 7}",
            "compression: levels is for the codec qsgd: leave it out with codec int8",
        ),
        (
            "compression: {codec: float16, block: 64}",
            "compression: block is for the codec int8 and qsgd: leave it out with codec float16",
        ),
        (
            "compression: {codec: qsgd, rounding: nearest}",
            "compression: rounding is for the codec int8: leave it out with codec qsgd",
        ),
        (
            "compression: {codec: top-k, form: full}",
            "compression: form full with codec top-k would set nearly all weights of a local model to 0: "
            "leave form out, or give form: delta",
        ),
        (
            "compression: {error_feedback: true}",
            "compression: error_feedback is for a codec: leave it out with codec none",
        ),
        (
            "compression: {error_feedback: true, codec: float16}",
            "compression.error_feedback adds up what differences left out: give compression.form: delta",
        ),
        (
            "mode: async\ncompression: {form: full}",
            "compression.form: full is for the modes sync and semi-sync: the updates of mode async are "
            "differences; leave it out",
        ),
        (
            "payload: free\ncompression: {download: int8}",
            "compression is for arrays, and payload: free has none that are known: "
            "leave out all of it but lossless",
        ),
        (
            "compression: {codec: qsgd, levels: 128}",
            "compression.levels: 128 is not allowed: must be at least 1 and at most 127",
        ),
        ("staleness: {a: 0}", "staleness.a: 0 is not allowed: must be greater than 0 and at most 20"),
        (
            "config_for: {where: gpu}",
            'config_for: {"where": "gpu"} is not allowed: must be a list, each a section',
        ),
        ("config_for: [5]", "config_for.0: 5 is not allowed: must be a section"),
        ("config_for: [{where: 5, config: {}}]", "config_for.0.where: 5 is not allowed: must be text"),
        (
            "config_for: [{where: f(1), config: {}}]",
            "config_for.0.where: 'f(1)' is not part of a condition, which is made of names of attributes, "
            "numbers, texts in quotes, lists, comparisons, and, or, not, in",
        ),
        (
            "config_for: [{config: {}}]",
            "config_for.0.where is missing: which agents: by their attributes, or slowness > 2 (of the usual "
            "time of all)",
        ),
        (
            "config_for: [{where: gpu, config: {}, konfig: 5}]",
            "unknown key 'config_for.0.konfig'; did you mean 'config'?",
        ),
        (
            "config_for: [{where: gpu, config: {a: .nan}}]",
            "config_for.0.config: a is nan, which is not a finite number",
        ),
        ("initial: {file: a, model: b}", "initial: give a file or a model, not both"),
        ("name: b", "line 2, column 1: not valid YAML: key 'name' stands here a second time"),
        ("1: b", "line 2, column 1: not valid YAML: a key must be text: put it in quotes"),
        ("purpose: a: b", "line 2, column 11: not valid YAML: mapping values are not allowed here"),
        ("purpose: !!binary aa", "line 2, column 10: not valid YAML: a tag (!) has no meaning here"),
        (
            "purpose: [",
            "line 2, column 11: not valid YAML: expected the node content, but found '<stream end>'",
        ),
        ("purpose: \x07", "line 2, column 10: not valid YAML: U+0007 is not allowed"),
        (
            f"purpose: {'x' * 2001}",
            f"purpose: '{'x' * 58}… is not allowed: must be text of at most 2000 characters",
        ),
    ],
)
def test_mistake_is_one_line_that_says_what_is_allowed(line: str, expected: str) -> None:
    assert run_error(f"name: a\n{line}") == f"run.yaml: {expected}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "run.yaml: name is missing: how agents and commands name this run"),
        ("- a", 'run.yaml: must hold keys and values, not ["a"]'),
        ("just words", "run.yaml: must hold keys and values, not 'just words'"),
        (
            "name: /etc",
            "run.yaml: name: '/etc' is not allowed: must be text of 1 to 100 letters, digits, "
            "'.', '_' or '-', beginning with a letter or digit",
        ),
        ("name: 5", "run.yaml: name: 5 is not allowed: must be text of 1 to 100 letters, digits, "
            "'.', '_' or '-', beginning with a letter or digit"),
        ("[" * 5000, "run.yaml: not valid YAML: nested too deeply"),
    ],
)  # fmt: skip
def test_mistake_in_the_file_as_a_whole(text: str, expected: str) -> None:
    assert run_error(text) == expected


def test_each_mistake_has_its_line() -> None:
    assert run_error("nam: a\nseed: -1\nround: {quorum: 0}").splitlines() == [
        "run.yaml: name is missing: how agents and commands name this run",
        "run.yaml: seed: -1 is not allowed: must be at least 0 and less than 9223372036854775808",
        "run.yaml: round.quorum: 0 is not allowed: must be greater than 0 and at most 1",
        "run.yaml: unknown key 'nam'; did you mean 'name'?",
    ]


def test_union_of_types_is_one_mistake() -> None:
    with pytest.raises(SettingsError) as caught:
        load_agent(written("run: a\nattributes: {beds: [1]}", "agent.yaml"))
    assert str(caught.value) == (
        "agent.yaml: attributes.beds: [1] is not allowed: "
        "must be text, a whole number, a number or true or false"
    )


def test_item_of_a_list_is_named_by_its_place() -> None:
    with pytest.raises(SettingsError) as caught:
        load_aggregator(written("runs: [a.yaml, 5]", "a.yaml"))
    assert str(caught.value) == "a.yaml: runs.1: 5 is not allowed: must be a path"


def test_token_written_in_place_of_its_section_is_not_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        load_aggregator(written("join_token: hunter2", "a.yaml"))
    assert str(caught.value) == "a.yaml: join_token must be a section with keys of its own: file, env"


def test_yaml_is_that_of_version_1_2() -> None:
    config = load_run(written("name: a\nconfig: {lr: 1e-3, no: no, day: 2024-01-01, oct: 010}")).config
    assert config == {"lr": 0.001, "no": "no", "day": "2024-01-01", "oct": 10}


def test_file_that_is_not_there() -> None:
    with pytest.raises(SettingsError, match=r"^nix\.yaml: no such file$"):
        load_run("nix.yaml")


def test_folder_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r": is a folder, not a file$"):
        load_run(tmp_path)


def test_file_that_is_not_text() -> None:
    Path("run.yaml").write_bytes(b"name: \xff")
    with pytest.raises(SettingsError, match=r"^run\.yaml: is not UTF-8 text \(byte 6\)$"):
        load_run("run.yaml")


def test_file_that_is_too_large() -> None:
    with pytest.raises(SettingsError, match="is larger than 1048576 bytes"):
        load_run(written("#" * (1 << 20) + "#"))


def test_paths_are_relative_to_their_file() -> None:
    Path("sub").mkdir()
    text = "runs: [run.yaml, /abs.yaml]\ntls: {certificate: c.pem, key: k.pem}\njoin_token: {file: t}"
    daemon = load_aggregator(written(text, "sub/a.yaml"))
    assert daemon.runs == [Path("sub/run.yaml"), Path("/abs.yaml")]
    assert daemon.tls == TlsSettings(certificate=Path("sub/c.pem"), key=Path("sub/k.pem"))
    assert daemon.join_token == SecretSettings(file=Path("sub/t"))
    assert daemon.database.folder == Path("models")


def test_variables_override_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FL_AGGREGATOR_LISTEN__PORT", "9000")
    monkeypatch.setenv("FL_AGGREGATOR_RUNS", "[a.yaml]")
    monkeypatch.setenv("FL_AGGREGATOR_JOIN_TOKEN__ENV", "T")
    daemon = load_aggregator(written("listen: {port: 1, host: localhost}", "a.yaml"))
    assert daemon.listen == ListenSettings(port=9000, host="localhost")
    assert daemon.runs == [Path("a.yaml")]
    assert daemon.join_token == SecretSettings(env="T")


def test_variables_of_text_need_no_quotes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FL_AGENT_NAME", "42")
    monkeypatch.setenv("FL_AGENT_RUN", "a")
    monkeypatch.setenv("FL_AGENT_URL", "")  # as if not set
    monkeypatch.setenv("FL_AGENT_STATE_FOLDER", "null")
    assert load_agent(None) == AgentSettings(run="a", name="42")


def test_variables_reach_into_free_mappings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FL_RUN_CONFIG__LR", "1e-3")
    monkeypatch.setenv("FL_RUN_CONFIG__DEEP__ER", "[1]")
    assert load_run(written("name: a\nconfig: {LR: 1}")).config == {"LR": 0.001, "deep": {"er": [1]}}


def test_whole_sections_come_before_what_is_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FL_RUN_END", "{rounds: 5, target: 1}")
    monkeypatch.setenv("FL_RUN_END__TARGET", "null")
    end = load_run(written("name: a\nend: {patience: 3}")).end
    assert (end.rounds, end.target, end.patience) == (5, None, None)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("FL_RUN_ROUND__QUORUM", "1.5", ": 1.5 is not allowed: must be greater than 0 and at most 1"),
        ("FL_RUN_ROUND__QUORM", "1", ": unknown key 'round.quorm'; did you mean 'quorum'?"),
        ("FL_RUN_STRATEGI", "a", ": unknown key 'strategi'; did you mean 'strategy'?"),
        ("FL_RUN_SEED", "a: b: c", ": line 1, column 5: not valid YAML: mapping values are not allowed here"),
        ("FL_RUN_END", "5", " must be a section with keys of its own: rounds, target, patience, max_s"),
    ],
)  # fmt: skip
def test_mistake_in_a_variable_names_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(name, value)
    assert run_error("name: a") == f"environment variable {name}{expected}"


def test_variables_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FL_AGGREGATOR_PORT", "tcp://10.0.0.1:8765")
    monkeypatch.setenv("FL_AGGREGATOR_SERVICE_HOST", "10.0.0.1")
    assert load_aggregator() == AggregatorSettings()


def test_command_line_overrides_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FL_AGGREGATOR_LISTEN__PORT", "9000")
    assert load_aggregator(overrides={"listen.port": 0}).listen.port == 0


def test_mistake_on_the_command_line() -> None:
    with pytest.raises(SettingsError) as caught:
        load_aggregator(overrides={"listen.port": 65536})
    expected = "command line: listen.port: 65536 is not allowed: must be at least 0 and at most 65535"
    assert str(caught.value) == expected


def test_aggregator_file_is_found_by_itself() -> None:
    Path("setting").mkdir()
    written("listen: {port: 7}", "setting/aggregator.yaml")
    assert load_aggregator().listen.port == 7


def test_run_from_elsewhere_is_checked_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FL_RUN_SEED", "5")
    assert parse_run({"name": "a"}, "fl run create").seed == 0
    with pytest.raises(SettingsError, match=r"^fl run create: seed: 'x' is not allowed"):
        parse_run({"name": "a", "seed": "x"}, "fl run create")


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, object()])
def test_run_from_elsewhere_holds_plain_values_only(value: object) -> None:
    with pytest.raises(SettingsError, match="other than text, numbers, lists and mappings"):
        parse_run({"name": "a", "config": {"x": value}}, "here")


def test_mapping_given_is_left_as_it_is() -> None:
    mapping: dict[str, object] = {"name": "a", "round": None}
    parse_run(mapping, "here")
    assert mapping == {"name": "a", "round": None}


@given(st.text() | st.text(alphabet="ab:-[]{},&*!#|>'\"\n 01.e?~<%@\\\t"))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_ends_in_settings_or_one_error(text: str) -> None:
    file = Path("any.yaml")
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    for load in (load_run, load_aggregator, load_agent):
        try:
            load(file)
        except SettingsError as exc:
            assert str(exc).startswith("any.yaml: ")  # noqa: PT017 - an error is one of two good ends


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(list(RunSettings.model_fields)) | st.text(), plain))
def test_any_mapping_ends_in_settings_or_one_error(mapping: dict[str, object]) -> None:
    try:
        loaded = parse_run(mapping, "here")
    except SettingsError as exc:
        assert all(line.startswith("here: ") for line in str(exc).splitlines())  # noqa: PT017
    else:
        assert parse_run(loaded.model_dump(mode="json"), "again") == loaded


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("x.yaml", "runs: []", "aggregator"),
        ("x.yaml", "name: a\nround: {}", "run"),
        ("x.yaml", "url: ws://a\nname: b", "agent"),
        ("my-agent.yaml", "name: a", "agent"),
        ("aggregator.yaml", "", "aggregator"),
    ],
)
def test_kind_is_told_by_keys_or_name(name: str, text: str, kind: str) -> None:
    path = written(text, name)
    assert detect_kind(path, read_mapping(path)) == kind


def test_kind_that_cannot_be_told() -> None:
    path = written("name: a", "x.yaml")
    with pytest.raises(SettingsError, match=r"^x\.yaml: could be settings of run or agent: say --kind$"):
        detect_kind(path, read_mapping(path))


def test_secret_from_a_file_has_no_line_end() -> None:
    assert read_secret(SecretSettings(file=written(" s3cret\r\n", "t")), "join_token") == " s3cret"


def test_secret_from_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T", "s3cret")
    assert read_secret(SecretSettings(env="T"), "join_token") == "s3cret"


@pytest.mark.parametrize(
    ("secret", "expected"),
    [
        (SecretSettings(file=Path("nix")), "token: file nix: no such file"),
        (SecretSettings(file=Path("empty")), "token: file empty is empty"),
        (SecretSettings(env="NIX"), "token: environment variable NIX is not set"),
        (SecretSettings(env="EMPTY"), "token: environment variable EMPTY is empty"),
    ],
)
def test_secret_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, secret: SecretSettings, expected: str
) -> None:
    written("\n", "empty")
    monkeypatch.setenv("EMPTY", "")
    with pytest.raises(SettingsError) as caught:
        read_secret(secret, "token")
    assert str(caught.value) == expected


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_own_machine_needs_no_protection(host: str) -> None:
    check_binding(AggregatorSettings(listen=ListenSettings(host=host)), insecure=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "fl.example.org"])
def test_other_machines_need_tls_and_token(host: str) -> None:
    tls = TlsSettings(certificate=Path("c"), key=Path("k"))
    bare = AggregatorSettings(listen=ListenSettings(host=host))
    half = bare.model_copy(update={"tls": tls})
    full = half.model_copy(update={"join_token": SecretSettings(env="T")})
    check_binding(full, insecure=False)
    check_binding(bare, insecure=True)
    with pytest.raises(SettingsError, match=r": set tls and join_token, or say --insecure$"):
        check_binding(bare, insecure=False)
    with pytest.raises(SettingsError, match=r": set join_token, or say --insecure$"):
        check_binding(half, insecure=False)


def issued(name: str) -> TlsSettings:
    made = trustme.CA().issue_cert("localhost")
    certificate, key = Path(f"{name}.pem"), Path(f"{name}.key.pem")
    made.cert_chain_pems[0].write_to_path(certificate)
    made.private_key_pem.write_to_path(key)
    return TlsSettings(certificate=certificate, key=key)


def test_tls_files_that_are_good() -> None:
    tls = issued("c")
    check_files(AggregatorSettings(tls=tls))
    check_files(AggregatorSettings())
    check_files(AgentSettings(run="a", ca_file=Path("c.pem")))


def test_tls_files_that_are_not() -> None:
    tls = TlsSettings(certificate=Path("nix.pem"), key=written(CERTIFICATE, "k.pem"))
    with pytest.raises(SettingsError) as caught:
        check_files(AggregatorSettings(tls=tls))
    assert str(caught.value).splitlines() == [
        "tls.certificate: nix.pem: no such file",
        "tls.key: k.pem: holds no PEM block 'PRIVATE KEY'",
    ]


def test_certificate_and_key_that_are_no_pair() -> None:
    tls = issued("a").model_copy(update={"key": issued("b").key})
    with pytest.raises(SettingsError) as caught:
        check_files(AggregatorSettings(tls=tls, web=WebSettings(tls=tls)))
    assert str(caught.value).splitlines() == [
        f"{section}: a.pem and b.key.pem do not belong together: the key is that of another certificate"
        for section in ("tls", "web.tls")
    ]


def test_certificate_that_is_none_inside() -> None:
    tls = TlsSettings(certificate=written(CERTIFICATE, "c.pem"), key=written(KEY, "k.pem"))
    with pytest.raises(SettingsError, match=r"^tls: c\.pem and k\.pem are no certificate and key: "):
        check_files(AggregatorSettings(tls=tls))


def test_key_with_a_password_is_refused() -> None:
    encrypted = written(KEY.replace("PRIVATE", "ENCRYPTED PRIVATE"), "k.pem")
    tls = TlsSettings(certificate=written(CERTIFICATE, "c.pem"), key=encrypted)
    with pytest.raises(SettingsError, match=r"^tls\.key: k\.pem: is encrypted"):
        check_files(AggregatorSettings(tls=tls))


def test_files_of_tokens_that_are_not() -> None:
    written("\n", "empty.token")
    settings = AggregatorSettings(
        join_token=SecretSettings(file=Path("nix.token")),
        operator_token=SecretSettings(file=Path("empty.token")),
        web=WebSettings(token=SecretSettings(env="SET_ELSEWHERE")),
    )
    with pytest.raises(SettingsError) as caught:
        check_files(settings)
    assert str(caught.value).splitlines() == [
        "join_token: file nix.token: no such file",
        "operator_token: file empty.token is empty",
    ]
    with pytest.raises(SettingsError, match=r"^token: file empty\.token is empty$"):
        check_files(AgentSettings(run="a", token=SecretSettings(file=Path("empty.token"))))
    check_files(AgentSettings(run="a", token=SecretSettings(file=written("sesame", "good.token"))))


def test_token_that_a_message_would_cut_is_refused() -> None:
    longest = SecretSettings(file=written("t" * 2000 + "\n", "longest.token"))
    assert read_secret(longest, "token") == "t" * 2000
    longer = SecretSettings(file=written("t" * 2001, "longer.token"))
    with pytest.raises(SettingsError, match=r"longer\.token has 2001 characters; it may have 2000$"):
        read_secret(longer, "token")


def test_file_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SettingsError, match=r"^run\.yaml: this user may not read it$"):
        load_run("run.yaml")


# --- names of runs ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hearts", "h" * 99, "h" * 100])
def test_numbered_names_are_names_of_runs_that_are_not_taken(name: str) -> None:
    taken = [name]
    for _ in range(12):
        taken.append(numbered_name(name, taken.__contains__))
        assert RunSettings.model_validate({"name": taken[-1]}).name == taken[-1]
    assert len(set(taken)) == len(taken)
    assert (taken[1][-3:], taken[12][-3:]) == (f"{name[-1]}-2", "-13")
