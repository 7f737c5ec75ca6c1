"""From files, environment variables and the command line to settings; from mistakes to lines.

Later layers win: defaults, the file, `FL_RUN_…` (`FL_AGGREGATOR_…`, `FL_AGENT_…`) variables, the
command line. Every mistake is one line of a `SettingsError`: where it stands, the key, its value,
and what is allowed.
"""

import difflib
import ipaddress
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fl_main.errors import SettingsError
from fl_main.messages import MAX_TEXT
from fl_main.printable import printable
from fl_main.settings import (
    AgentSettings,
    AggregatorSettings,
    RunSettings,
    SecretSettings,
    Section,
    TlsSettings,
    WebSettings,
)
from fl_main.settings.reference import KINDS, Key, keys, one_of
from fl_main.settings.yaml_text import parse_yaml, read_text

AGGREGATOR_FILE = Path("setting/aggregator.yaml")  # what `fl aggregator` reads if it is there

_LONGEST_VALUE = 60  # characters of a wrong value that an error repeats
_S = TypeVar("_S", bound=Section)


def load_run(path: Path | str, overrides: Mapping[str, object] | None = None) -> RunSettings:
    """Read the settings of a run.

    Args:
        path: The YAML file.
        overrides: Values of the command line by dotted key, e.g. `{"end.rounds": 3}`.

    Raises:
        SettingsError: With one line for each mistake.
    """
    return _load(RunSettings, "FL_RUN_", Path(path), overrides)


def load_aggregator(
    path: Path | str | None = None, overrides: Mapping[str, object] | None = None
) -> AggregatorSettings:
    """Read the settings of the daemon.

    Args:
        path: The YAML file; None for `setting/aggregator.yaml` if it is there, or else the defaults.
        overrides: Values of the command line by dotted key, e.g. `{"listen.port": 0}`.

    Raises:
        SettingsError: With one line for each mistake.
    """
    if path is None and AGGREGATOR_FILE.is_file():
        path = AGGREGATOR_FILE
    return _load(AggregatorSettings, "FL_AGGREGATOR_", Path(path) if path else None, overrides)


def load_agent(path: Path | str | None, overrides: Mapping[str, object] | None = None) -> AgentSettings:
    """Read the settings of an agent.

    Args:
        path: The YAML file; None if environment and command line say everything.
        overrides: Values of the command line by dotted key, e.g. `{"name": "st-mary"}`.

    Raises:
        SettingsError: With one line for each mistake.
    """
    return _load(AgentSettings, "FL_AGENT_", Path(path) if path else None, overrides)


def parse_run(mapping: Mapping[str, object], where: str) -> RunSettings:
    """Check the settings of a run that came from elsewhere than a file; no variable overrides them.

    Args:
        mapping: Plain values: text, numbers, true, false, None, lists and mappings. Left as it is.
        where: What to call it in an error.

    Raises:
        SettingsError: With one line for each mistake.
    """
    known = keys(RunSettings)
    return _validate(RunSettings, known, _prepared(mapping, known, where, None), where, {})


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping, or nothing, without a look at its keys.

    Raises:
        SettingsError: If it cannot be read, is not YAML, or holds something else.
    """
    value = parse_yaml(read_text(path, str(path)), str(path))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise SettingsError(f"{path}: must hold keys and values, not {_shown(value)}")
    return value


def detect_kind(path: Path, mapping: Mapping[str, object]) -> str:
    """Tell what a settings file is for: by its keys, and if they do not say, by its name.

    Returns:
        A key of `fl_main.settings.reference.KINDS`.

    Raises:
        SettingsError: If neither tells.
    """
    fits = {kind: sum(name in model.model_fields for name in mapping) for kind, model in KINDS.items()}
    best = [kind for kind, count in fits.items() if count == max(fits.values())]
    named = [kind for kind in best if kind in path.stem.lower()] or best
    if len(named) == 1:
        return named[0]
    raise SettingsError(f"{path}: could be settings of {one_of(best)}: say --kind")


def read_secret(settings: SecretSettings, what: str) -> str:
    """Read a secret, without the line end that editors put after it.

    Args:
        settings: Where it is.
        what: What to call it in an error, e.g. `join_token`; the secret itself is never shown.

    Raises:
        SettingsError: If its file or variable is not there, cannot be read, is empty or too long.
    """
    if settings.file is not None:
        place = f"file {settings.file}"
        secret = read_text(settings.file, f"{what}: {place}")
    else:
        place = f"environment variable {settings.env}"
        if settings.env is None or settings.env not in os.environ:
            raise SettingsError(f"{what}: {place} is not set")
        secret = os.environ[settings.env]
    if not secret.strip():
        raise SettingsError(f"{what}: {place} is empty")
    secret = secret.rstrip("\r\n")
    if len(secret) > MAX_TEXT:  # a message would cut it, and it would be no token of anybody
        raise SettingsError(f"{what}: {place} has {len(secret)} characters; it may have {MAX_TEXT}")
    return secret


def check_binding(settings: AggregatorSettings, insecure: bool) -> None:
    """Let the daemon be reached from other machines only with encryption and a join token.

    Args:
        settings: The daemon's.
        insecure: Whether its operator said that it may be reached without.

    Raises:
        SettingsError: If it could be reached without.
    """
    needed = [name for name in ("tls", "join_token") if getattr(settings, name) is None]
    if needed:
        _check_host("listen.host", settings.listen.host, f"set {' and '.join(needed)}", insecure)
    if settings.web is not None:
        check_web_binding(settings.web, insecure)


def check_web_binding(
    settings: WebSettings, insecure: bool, name: str = "web.host", needed: str = "set web.tls"
) -> None:
    """Let the page be reached from other machines only with encryption; a token it then has anyway.

    Args:
        settings: The page's.
        insecure: Whether its operator said that it may be reached without.
        name: What its operator calls the host, and `needed`: what is to be done.

    Raises:
        SettingsError: If it could be reached without.
    """
    if settings.tls is None:
        _check_host(name, settings.host, needed, insecure)


def _check_host(name: str, host: str, needed: str, insecure: bool) -> None:
    if not (insecure or is_loopback(host)):
        raise SettingsError(
            f"{name}: {host!r} can be reached from other machines: {needed}, or say --insecure"
        )


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_files(settings: AggregatorSettings | AgentSettings) -> None:
    """See to it that the files for TLS and those of tokens are there and are what they should be.

    Raises:
        SettingsError: With one line for each that is not.
    """
    mistakes = _mistakes_of_agent(settings) if isinstance(settings, AgentSettings) else _mistakes_of(settings)
    if any(mistakes):
        raise SettingsError("\n".join(filter(None, mistakes)))


def _mistakes_of_agent(settings: AgentSettings) -> list[str]:
    from fl_main.certificates import pem_mistake

    return [
        pem_mistake("ca_file", settings.ca_file, "CERTIFICATE") if settings.ca_file else "",
        _secret_mistake("token", settings.token),
    ]


def _mistakes_of(settings: AggregatorSettings) -> list[str]:
    web = settings.web
    return [
        _tls_mistakes("tls", settings.tls),
        _tls_mistakes("web.tls", web.tls if web else None),
        _secret_mistake("join_token", settings.join_token),
        _secret_mistake("operator_token", settings.operator_token),
        _secret_mistake("web.token", web.token if web else None),
    ]


def _tls_mistakes(section: str, tls: TlsSettings | None) -> str:
    """Say what is wrong with a certificate and key, as the daemon will: it makes the same of them."""
    from fl_main.certificates import server_context

    try:
        if tls is not None:
            server_context(tls, section)
    except SettingsError as exc:
        return str(exc)
    return ""


def _secret_mistake(name: str, secret: SecretSettings | None) -> str:
    """Say what is wrong with a token's file; a variable may be set only where the program will run."""
    try:
        if secret is not None and secret.file is not None:
            read_secret(secret, name)
    except SettingsError as exc:
        return str(exc)
    return ""


@dataclass(frozen=True, slots=True)
class _Override:
    """A value from outside the file, and what to call its place in an error."""

    path: tuple[str, ...]
    value: object
    where: str


def _load(model: type[_S], prefix: str, file: Path | None, overrides: Mapping[str, object] | None) -> _S:
    known = keys(model)
    where = str(file) if file else "settings"
    data = _prepared(read_mapping(file) if file else {}, known, where, file.parent if file else None)
    changes = [*_from_environment(prefix, known), *_from_command_line(overrides or {})]
    for change in changes:
        _put(data, change.path, change.value)
    return _validate(model, known, data, where, {change.path: change.where for change in changes})


def _prepared(
    data: Mapping[str, object], known: Mapping[str, Key], where: str, folder: Path | None, prefix: str = ""
) -> dict[str, Any]:
    """Copy a file's values: paths related to its folder, sections with nothing in them left out."""
    prepared: dict[str, Any] = {}
    for name, value in data.items():
        key = known.get(f"{prefix}{name}")
        if key and key.is_section and isinstance(value, Mapping):
            prepared[name] = _prepared(value, known, where, folder, f"{prefix}{name}.")
        elif key and key.is_path and folder and "relative to the settings file" in key.description:
            prepared[name] = _placed(value, folder)
        elif not (key and value is None and (key.is_section or key.item or key.is_free)):
            prepared[name] = value
    return prepared


def _placed(value: object, folder: Path) -> object:
    if isinstance(value, list):
        return [_placed(item, folder) for item in value]
    return str(folder / value) if isinstance(value, str) else value


def _from_environment(prefix: str, known: Mapping[str, Key]) -> Iterator[_Override]:
    """Find the variables that are meant for us, sections before what is in them.

    Not every variable with our prefix is: beside a service named fl-aggregator Kubernetes sets
    FL_AGGREGATOR_PORT. One that names no key is an error only if it looks like a misspelled one.
    """
    names = [name for name, value in os.environ.items() if name.startswith(prefix) and value]
    for name in sorted(names, key=lambda name: (name.count("__"), name)):
        path = tuple(name.removeprefix(prefix).lower().split("__"))
        where = f"environment variable {name}"
        if ".".join(path) in known or len(path) > 1 or difflib.get_close_matches(path[0], known, cutoff=0.75):
            yield _Override(path, _parsed(os.environ[name], known.get(".".join(path)), where), where)


def _parsed(text: str, key: Key | None, where: str) -> object:
    """Take text for a key of text as it is; read anything else as a file would."""
    if key and key.is_text:
        return None if key.is_optional and text == "null" else text
    return parse_yaml(text, where)


def _from_command_line(overrides: Mapping[str, object]) -> Iterator[_Override]:
    for name, value in overrides.items():
        yield _Override(tuple(name.split(".")), value, "command line")


def _put(data: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    """Set a value deep in a mapping; where the file has no mapping on the way, its own error will tell."""
    name, *rest = path
    # Variables are upper case: let FL_RUN_CONFIG__LR change the file's `LR`, if that is how it is written.
    name = next((own for own in data if str(own).lower() == name.lower()), name)
    if not rest:
        data[name] = value
        return
    inner = data.setdefault(name, {})
    if isinstance(inner, dict):
        _put(inner, tuple(rest), value)


def _validate(
    model: type[_S],
    known: Mapping[str, Key],
    data: Mapping[str, Any],
    where: str,
    places: Mapping[tuple[str, ...], str],
) -> _S:
    """Turn plain values into settings; strictly: `true` is not 1, and "3" is not 3."""
    try:
        text = json.dumps(data, default=os.fspath)
    except (TypeError, ValueError, RecursionError) as exc:
        raise SettingsError(
            f"{where}: holds something other than text, numbers, lists and mappings: {exc}"
        ) from exc
    try:
        return model.model_validate_json(text, strict=True)
    except ValidationError as exc:
        report = _Report(known, data, where, places)
        raise SettingsError("\n".join(report.lines(exc.errors(include_url=False)))) from None


@dataclass(frozen=True, slots=True)
class _Report:
    """Turns pydantic's errors into lines for people."""

    known: Mapping[str, Key]
    data: Mapping[str, Any]
    where: str
    places: Mapping[tuple[str, ...], str]

    def lines(self, errors: Sequence[ErrorDetails]) -> list[str]:
        """One line for each key with a mistake, in the order of pydantic's findings."""
        return list(dict.fromkeys(printable(self._line(error)) for error in errors))

    def _line(self, error: ErrorDetails) -> str:
        path = self._path(error)
        name = ".".join(path)
        match error["type"]:
            case "json_invalid":
                said = f"cannot be used: {error['msg'].removeprefix('Invalid JSON: ')}"
            case "extra_forbidden":
                said = f"unknown key {name!r}{self._nearest(path)}"
            case "missing":
                said = f"{name} is missing: {self.known[_unnumbered(path)].description}"
            case "value_error":
                said = ": ".join(filter(None, [name, str(error["ctx"]["error"])]))
            case kind:
                return self._wrong_value(path, name, error["input"], kind)
        return f"{self._place(path) or self.where}: {said}"

    def _wrong_value(self, path: tuple[str, ...], name: str, value: object, kind: str) -> str:
        place = self._place(path)
        start = place if place and place != "command line" else f"{place or self.where}: {name}"
        key = self._key(path)
        if key and key.is_section:  # its value stays unsaid: it may be a secret in the wrong place
            inner = [other.rpartition(".")[2] for other in self.known if other.rpartition(".")[0] == name]
            return f"{start} must be a section with keys of its own: {', '.join(inner)}"
        return f"{start}: {_shown(value)} is not allowed: must be {self._allowed(path, kind)}"

    def _key(self, path: tuple[str, ...]) -> Key | None:
        """The key that a path names; None for an item of a list or mapping."""
        return None if path[-1:] and path[-1].isdigit() else self.known.get(_unnumbered(path))

    def _allowed(self, path: tuple[str, ...], kind: str) -> str:
        key = self._key(path)
        if key is None:  # inside a list or mapping
            return self.known[".".join(path[:-1])].item
        if kind.startswith(("greater_than", "less_than")):
            return key.limits
        return "a finite number" if kind == "finite_number" else key.allowed

    def _path(self, error: ErrorDetails) -> tuple[str, ...]:
        """The key's names, without what pydantic adds for the members of a union."""
        path: list[str] = []
        value: Any = self.data
        for part in error["loc"]:
            is_inside = (
                part in value if isinstance(value, dict) else isinstance(value, list) and type(part) is int
            )
            if not is_inside and error["type"] != "missing":
                break
            path.append(str(part))
            value = value[part] if is_inside else None
        return tuple(path)

    def _place(self, path: tuple[str, ...]) -> str:
        """What the value was overridden by, if it was."""
        return next((where for own, where in self.places.items() if own == path[: len(own)]), "")

    def _nearest(self, path: tuple[str, ...]) -> str:
        prefix = "".join(f"{part}." for part in path[:-1] if not part.isdigit())
        siblings = [
            name.removeprefix(prefix)
            for name in self.known
            if name.startswith(prefix) and "." not in name.removeprefix(prefix)
        ]
        elsewhere = [name for name in self.known if name.rpartition(".")[2] == path[-1]]
        near = difflib.get_close_matches(path[-1], siblings, n=1) or elsewhere[:1]
        return f"; did you mean {near[0]!r}?" if near else f"; the keys here are {', '.join(siblings)}"


def _unnumbered(path: Sequence[str]) -> str:
    """The name of a key in a list of sections: what stands in the first is known as in any other."""
    return ".".join(part for part in path if not part.isdigit())


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"
