"""The reference of all strategies, from their docstrings and signatures."""

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from fl_main.strategies import STRATEGIES

# Every name of the table, in the order in which a reader meets them.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "Averages": ("fedavg", "fedsgd", "fednova", "qfedavg", "cyclic"),
    "Late updates": ("fedbuff", "fedasync"),
    "Server optimizers": ("fedavgm", "fedadagrad", "fedadam", "fedyogi"),
    "Corrections of local training": ("fedprox", "scaffold", "feddyn", "fedcurv"),
    "Faulty and hostile agents": (
        *("median", "trimmed_mean", "geometric_median", "krum", "multi_krum", "bulyan"),
        *("centred_clipping", "fltrust"),
    ),
    "Scaling and noise": ("norm_bound", "noise"),
}
_KINDS = {
    "rule": "",
    "scaling": "A scaling step: it goes before the rule.",
    "optimizer": "A server optimizer: it goes after the rule, which is `fedavg` if none is named.",
    "noise": "It goes last.",
}


def sections() -> dict[str, str]:
    """Return the generated texts of the page, by name."""
    return {"strategies list": overview(), "strategies reference": reference()}


def overview() -> str:
    """Return a table of all names: what each is in one line, and where it comes from."""
    lines = ["| strategy | step | modes | bears | source |", "|---|---|---|---|---|"]
    for names in GROUPS.values():
        for name in names:
            made: Any = STRATEGIES[name]
            step = "selecting rule" if made.selects else made.step
            bears = _marked(_paragraphs(made).get("Bears", "–")).removesuffix(".")
            cells = [f"[`{name}`](#{name})", step, ", ".join(made.modes), bears, _short(_source(made))]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def reference() -> str:
    """Return a section for each group, and in it one for each strategy."""
    parts = []
    for group, names in GROUPS.items():
        parts.append(f"### {group}")
        parts += [_entry(name) for name in names]
    return "\n\n".join(parts)


def _entry(name: str) -> str:
    made: Any = STRATEGIES[name]
    text = _paragraphs(made)
    lines = [f"#### `{name}` {{ #{name} }}", f"`{text['formula']}`"]
    lines += [_marked(paragraph) for paragraph in text["prose"].split("\n\n") if paragraph]
    lines += [f"**{word}:** {_marked(text[word])}" for word in ("Bears", "Cost") if word in text]
    if table := _options(made, text.get("Args", "")):
        lines.append(table)
    lines += list(_facts(made))
    lines.append(f"Source: {_source(made)}")
    return "\n\n".join(lines)


def _paragraphs(made: Any) -> dict[str, str]:
    """Return the parts of a class docstring: formula, prose, Bears, Cost, Args."""
    head, _, arguments = inspect.cleandoc(made.__doc__ or "").partition("\n\nArgs:\n")
    formula, *others = head.split("\n\n")
    found = {"formula": _joined(formula).removesuffix("."), "Args": arguments}
    prose = []
    for paragraph in others:
        word, colon, rest = _joined(paragraph).partition(": ")
        if colon and word in ("Bears", "Cost"):
            found[word] = rest
        else:
            prose.append(_joined(paragraph))
    return found | {"prose": "\n\n".join(prose)}


def _options(made: Any, arguments: str) -> str:
    """Return a table of what a constructor takes."""
    said = dict(_arguments(arguments))
    lines = ["| option | default | is |", "|---|---|---|"]
    for name, parameter in inspect.signature(made).parameters.items():
        is_required = parameter.default is inspect.Parameter.empty
        default = "required" if is_required else f"`{_as_yaml(parameter.default)}`"
        lines.append(f"| `{name}` | {default} | {_marked(said[name]).replace('None', 'null')} |")
    return "\n".join(lines) if said else ""


def _arguments(text: str) -> Iterator[tuple[str, str]]:
    """Yield each argument of an Args section with what is said of it."""
    for found in re.finditer(r"^(?: {4})?(\w+): (.*(?:\n {4,}.*)*)", inspect.cleandoc(text), re.MULTILINE):
        yield found[1], _joined(found[2])


def _facts(made: Any) -> Iterator[str]:
    """Yield what a strategy asks of its run, where that is more than usual."""
    if kind := _KINDS[made.step]:
        yield kind
    said = []
    if set(made.modes) != {"sync", "semi-sync"}:
        said.append(f"Modes: {', '.join(made.modes)}.")
    if made.needs:
        said.append(f"Updates must report {' and '.join(f'`{need}`' for need in made.needs)}.")
    if made.state:
        said.append(f"Kept between rounds: {', '.join(f'`{name}`' for name in made.state)}.")
    if made.alone:
        said.append(f"It goes with no other step but noise: {made.alone}.")
    if said:
        yield " ".join(said)


def _source(made: Any) -> str:
    text = sys.modules[made.__module__].__doc__ or ""
    return _joined(text.partition("Source: ")[2].partition("\n\n")[0])


def _short(source: str) -> str:
    """Return the first author and the year of a source."""
    first = re.split(r"[,:]", source)[0]
    years = re.findall(r"\b(?:19|20)\d\d\b(?![.\d])", source)
    return f"{first} {years[0]}" if years else first


def _joined(text: str) -> str:
    return " ".join(text.split())


def _marked(text: str) -> str:
    """Return prose as Markdown: no bar may end a cell, no star begin emphasis."""
    return text.replace("|", "\\|").replace("*", "\\*")


def _as_yaml(value: object) -> str:
    names = {None: "null", True: "true", False: "false"}
    return names[value] if value is None or isinstance(value, bool) else str(value)
