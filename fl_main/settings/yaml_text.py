"""YAML as settings files use it: plain values only, and every mistake has a line and a column."""

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, ScalarNode, SequenceNode
from yaml.scanner import ScannerError

from fl_main.errors import SettingsError

_LARGEST_FILE_BYTES = 1 << 20  # far above any settings file; keeps a device or a model file out of memory


_TAG = "tag:yaml.org,2002:"
_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}


def _construct_int(loader: yaml.SafeLoader, node: ScalarNode) -> int:
    bases = {"0o": 8, "0x": 16}
    return int(node.value, bases.get(node.value[:2], 10))


def _construct_float(loader: yaml.SafeLoader, node: ScalarNode) -> float:
    return float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _construct_mapping(loader: yaml.SafeLoader, node: MappingNode) -> dict[str, Any]:
    """Make a mapping whose keys are text and differ; PyYAML would let the last of two equal keys win."""
    seen: set[str] = set()
    for key, _ in node.value:
        if key.tag == f"{_TAG}merge":
            continue
        if key.tag != f"{_TAG}str":
            raise ConstructorError(None, None, "a key must be text: put it in quotes", key.start_mark)
        if key.value in seen:
            raise ConstructorError(None, None, f"key {key.value!r} stands here a second time", key.start_mark)
        seen.add(key.value)
    loader.flatten_mapping(node)
    return {key.value: loader.construct_object(value, deep=True) for key, value in node.value}


def _construct_list(loader: yaml.SafeLoader, node: SequenceNode) -> list[Any]:
    return loader.construct_sequence(node, deep=True)


class _Loader(yaml.SafeLoader):
    """Reads the YAML 1.2 core schema: `1e-3` is a number, and `no` is a word.

    PyYAML by itself reads YAML 1.1, where `lr: 1e-3` is text, `no` is false, `1:30` is 90 and a
    day is an object that has no JSON form. Editors read 1.2.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's way
    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        f"{_TAG}null": yaml.SafeLoader.construct_yaml_null,
        f"{_TAG}bool": yaml.SafeLoader.construct_yaml_bool,
        f"{_TAG}str": yaml.SafeLoader.construct_yaml_str,
        f"{_TAG}int": _construct_int,
        f"{_TAG}float": _construct_float,
        f"{_TAG}seq": _construct_list,
        f"{_TAG}map": _construct_mapping,
    }

    def fetch_tag(self) -> None:
        """Refuse `!!binary` and its like: what they make has no JSON form, or fails in odd ways."""
        raise ScannerError(None, None, "a tag (!) has no meaning here", self.get_mark())


class _Dumper(yaml.SafeDumper):
    """Quotes a word if any reader, of YAML 1.1 or 1.2, could take it for something else."""


for _name, (_pattern, _first) in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), _first)
_Loader.add_implicit_resolver(f"{_TAG}merge", re.compile(r"^<<$"), ["<"])


def parse_yaml(text: str, where: str) -> Any:
    """Read one YAML document.

    Args:
        text: The document.
        where: What to call it in an error, e.g. the file's name.

    Returns:
        None, text, a number, true or false, or a list or mapping of such; keys are text.

    Raises:
        SettingsError: If it is not YAML, holds a key twice or anything that has no JSON form.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader with fewer constructors
    except yaml.MarkedYAMLError as exc:
        problem, mark = exc.problem or exc.context or "cannot be read", exc.problem_mark or exc.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise SettingsError(f"{where}: {place}not valid YAML: {problem}") from None
    except yaml.reader.ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1
        column = exc.position - text.rfind("\n", 0, exc.position)
        raise SettingsError(
            f"{where}: line {line}, column {column}: not valid YAML: U+{exc.character:04X} is not allowed"
        ) from None
    except RecursionError:
        raise SettingsError(f"{where}: not valid YAML: nested too deeply") from None
    except (ValueError, yaml.YAMLError) as exc:  # e.g. a number of more digits than Python converts
        raise SettingsError(f"{where}: not valid YAML: {exc}") from None


def format_yaml(value: object) -> str:
    """Write plain values as YAML that `parse_yaml` reads back as they were."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def read_text(path: Path, where: str) -> str:
    """Read a small text file.

    Args:
        path: The file.
        where: What to call it in an error, e.g. the setting that names it.

    Raises:
        SettingsError: If there is no such file, or it cannot be read, is large, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST_FILE_BYTES + 1)
    except FileNotFoundError:
        raise SettingsError(f"{where}: no such file") from None
    except IsADirectoryError:
        raise SettingsError(f"{where}: is a folder, not a file") from None
    except PermissionError:
        raise SettingsError(f"{where}: this user may not read it") from None
    except (OSError, ValueError) as exc:
        raise SettingsError(f"{where}: cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
    if len(raw) > _LARGEST_FILE_BYTES:
        raise SettingsError(f"{where}: is larger than {_LARGEST_FILE_BYTES} bytes")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise SettingsError(f"{where}: is not UTF-8 text (byte {exc.start})") from None
