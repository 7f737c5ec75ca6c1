"""What is to be known of a replay, in plain words: what is exact in it, and what is not."""

from collections.abc import Iterator, Sequence

from fl_main.strategies import strategy_of
from fl_main.strategies.base import Strategy

from .planning import Plan
from .records import ReplayedRound

_MOST = 10  # rounds that are named


def remarks_on(plan: Plan, rounds: Sequence[ReplayedRound]) -> Iterator[str]:
    """Yield what is to be known of a replay, a sentence each."""
    strategy, before = strategy_of(plan.settings), strategy_of(plan.before)
    yield from _of_exactness(plan, rounds, strategy)
    if len(plan.rounds) > 1 and plan.is_changed:
        yield _of_bases(plan, strategy)
    if plan.left_out:
        yield (
            f"This is not unlearning: the other agents' updates were trained from models that "
            f"{', '.join(plan.left_out.values())} had a part in; only training again from before its first "
            "update is (`fl run rollback`)."
        )
    if strategy.is_random:
        yield "The noise of this strategy was drawn anew: nobody keeps it, so no two replays are alike."
    if strategy.state and not plan.keeps_state:
        when = "before every round" if plan.bases == "stored" else "before the first round"
        yield f"The strategy's own arrays ({', '.join(strategy.state)}) began anew {when}."
    if strategy.correction() != before.correction() or strategy.down != before.down:
        yield (
            f"The agents trained as {plan.before.strategy_name} asked them to, not as "
            f"{plan.settings.strategy_name} would have."
        )
    if failed := [found for found in rounds if found.reason]:
        yield f"{_rounds(failed)} made no model, the one before stayed: {failed[0].reason}."


def _of_exactness(plan: Plan, rounds: Sequence[ReplayedRound], strategy: Strategy) -> Iterator[str]:
    others = [found for found in rounds if not found.is_same]
    if plan.is_changed and len(rounds) == 1:
        yield "It is exact: the round's own updates, in their order, on the model that they were folded into."
    elif plan.is_changed:
        yield (
            "It is no training: the stored updates were trained from the original models, and only the first "
            "round is exact."
        )
    elif not others:
        yield "Nothing was changed, and every model is the stored one, bit for bit."
    elif not strategy.is_random:
        yield (
            f"Nothing was changed, and yet {_rounds(others)} differ from the stored models: they were made "
            "by another version of fl_main or NumPy, or on another kind of machine."
        )


def _of_bases(plan: Plan, strategy: Strategy) -> str:
    if plan.bases == "stored":
        return "Each round was made by itself, on the stored model before it: they do not follow each other."
    if strategy.wants == "deltas":
        return (
            "Each round went on from the replayed model: to it was added what each update differs from the "
            "stored model that it was trained on."
        )
    return (
        "Each round went on from the replayed model; the local models that it combines are those that were "
        "trained from the stored ones."
    )


def _rounds(found: Sequence[ReplayedRound]) -> str:
    numbers = ", ".join(str(entry.round_id) for entry in found[:_MOST])
    more = f" and {len(found) - _MOST} more" if len(found) > _MOST else ""
    return f"round{'s' if len(found) > 1 else ''} {numbers}{more}"
