"""`fl db stats`: how the values of a model's arrays are spread."""

from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase

import click

from fl_main.console import Output, output_options, print_table
from fl_main.printable import printable

from ..insight.statistics import ArrayHistogram
from ..model_db import ModelDB
from .common import print_json, with_database

_LEVELS = "▁▂▃▄▅▆▇█"
_WIDTH = 40  # of the longest bar


@click.command()
@click.argument("model")
@click.option("--array", "patterns", multiple=True, help="Only arrays of this name; * is anything.")
@click.option("--bins", type=click.IntRange(1, 200), default=20, show_default=True, help="Of each histogram.")
@click.option("--bars", is_flag=True, help="Draw each histogram large, below the table.")
@click.option("--as-stored", is_flag=True, help="Of what was received: a delta, or arrays of a codec.")
@output_options
@with_database
def stats(
    database: ModelDB,
    model: str,
    patterns: tuple[str, ...],
    bins: int,
    bars: bool,
    as_stored: bool,
    output: Output | None,
) -> None:
    """Show how the values of MODEL's arrays are spread, and whether one is NaN or infinite.

    All numbers are of the finite values: the least, the mean and standard deviation, the largest, the
    L2 norm, how many are zero. `spread` is the histogram from the least value to the largest.
    A delta is taken with its base, and what is encoded is decoded, unless --as-stored is given.
    """
    found = database.model(model)
    names = [spec.name for spec in (found.layout if as_stored else found.decoded_layout).arrays]
    chosen = chosen_arrays(names, patterns)
    histograms = found.histograms(bins, chosen, as_stored)
    if output == "json":
        print_json([asdict(entry) for entry in histograms])
        return
    rows = [_row(entry) for entry in histograms]
    if output == "csv":
        print_table(rows, [*_FACTS, "size", "edges", "counts"], output)
        return
    never = [name for name in ("nan", "infinite") if not any(row[name] for row in rows)]
    columns = {**_FACTS, "spread": "spread"}
    print_table(rows, {name: words for name, words in columns.items() if name not in never})
    if bars:
        for entry in histograms:
            _draw(entry)


_FACTS = {
    **{name: name for name in ("name", "dtype", "shape", "role")},
    **{"least": "min", "mean": "mean", "deviation": "std", "largest": "max", "norm": "norm"},
    **{"zeros": "zeros", "nan": "NaN", "infinite": "infinite"},
}


def chosen_arrays(names: Sequence[str], patterns: Sequence[str]) -> list[str] | None:
    """Return the names that fit a pattern, None if there is none; a pattern that fits none is a name."""
    if not patterns:
        return None
    fitting = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    lonely = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]
    return [*fitting, *lonely]


def _row(entry: ArrayHistogram) -> dict[str, object]:
    shape = "×".join(map(str, entry.shape)) or "scalar"
    return {**asdict(entry), "shape": shape, "spread": _spark(entry.counts) or None}


def _spark(counts: Sequence[int]) -> str:
    """Return a letter for each bin; a bin that has a value is seen."""
    most = max(counts, default=0)
    return "".join(_LEVELS[-(-count * (len(_LEVELS) - 1) // most)] if count else " " for count in counts)


def _draw(entry: ArrayHistogram) -> None:
    click.echo(f"\n{printable(entry.name)}")
    most = max(entry.counts, default=0)
    width = max((len(str(count)) for count in entry.counts), default=0)
    edges = [f"{edge:.4g}" for edge in entry.edges]
    left = max(map(len, edges), default=0)
    for place, count in enumerate(entry.counts):
        bar = "█" * round(_WIDTH * count / most) or ("▏" if count else "")
        click.echo(f"{edges[place]:>{left}} … {edges[place + 1]:>{left}}  {count:>{width}}  {bar}".rstrip())
