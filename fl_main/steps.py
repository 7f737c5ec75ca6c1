"""The steps of a strategy as settings state them: one name, or a list of names and their options."""

from typing import Any

MAX_STEPS = 8  # of a strategy; there are five kinds


def _is_step(value: object) -> bool:
    """Whether a value is a name, or a mapping of one name to its options or null."""
    if isinstance(value, dict) and len(value) == 1:
        ((name, options),) = value.items()
        return isinstance(name, str) and (options is None or isinstance(options, dict))
    return isinstance(value, str)


def stated_steps(value: Any) -> Any:
    """Refuse what is neither a name nor a list of steps, in words; options left empty are none.

    A union's own errors would be one for each of its members.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_STEPS:
        raise ValueError(f"must be a name or a list of 1 to {MAX_STEPS} steps")
    for number, step in enumerate(value):
        if not _is_step(step):
            raise ValueError(
                f"step {number} must be a name, or one name with its options: {{norm_bound: {{bound: 1.0}}}}"
            )
    return [
        {name: options or {} for name, options in step.items()} if isinstance(step, dict) else step
        for step in value
    ]


def steps_of(strategy: str | list[Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the steps of a strategy as settings state it, each a name with its options."""
    stated = [strategy] if isinstance(strategy, str) else strategy
    return [next(iter(step.items())) if isinstance(step, dict) else (step, {}) for step in stated]


def strategy_in_words(strategy: str | list[Any]) -> str:
    """Return a strategy as settings state it, in one line: `norm_bound > trimmed_mean > fedadam`."""
    return " > ".join(name for name, _ in steps_of(strategy))
