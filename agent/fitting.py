"""Tells in one line why weights do not fit into a model object of a training framework."""

from collections.abc import Collection, Mapping

from fl_main.errors import LayoutMismatchError

Shape = tuple[int, ...]


def require_fit(
    given: Mapping[str, Shape], wanted: Mapping[str, Shape], what: str, optional: Collection[str] = ()
) -> None:
    """Check names and shapes before anything is changed.

    Args:
        given: Shapes of the weights, by array name.
        wanted: Shapes of the model's own arrays, by array name.
        what: What to call the model: "the module".
        optional: Arrays of the model that may stay as they are.

    Raises:
        LayoutMismatchError: With the first difference.
    """
    if missing := [name for name in wanted if name not in given and name not in optional]:
        raise LayoutMismatchError(
            f"array {missing[0]!r} of {what} is missing ({len(missing)} missing in all)"
        )
    if extra := [name for name in given if name not in wanted]:
        raise LayoutMismatchError(f"array {extra[0]!r} is not part of {what} ({len(extra)} too many in all)")
    for name, shape in given.items():
        if shape != wanted[name]:
            raise LayoutMismatchError(
                f"array {name!r} has shape {list(shape)}, but in {what} it has {list(wanted[name])}"
            )
