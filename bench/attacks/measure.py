"""Train by every rule under every attack."""

import statistics
from collections.abc import Callable, Iterator

from bench.attacks.cases import ATTACKERS, ATTACKS, NONE, RULES
from bench.attacks.record import Record, Training, begun
from bench.attacks.tasks import TASKS, Federation, attacked


def measure(seeds: int, tell: Callable[[str], None] = print) -> Record:
    """Return the accuracy that every rule comes to under every attack."""
    record = begun()
    for task_name, task in TASKS.items():
        dealt = [task.deal(seed) for seed in range(seeds)]
        for rule in RULES:
            found = [one for seed, each in enumerate(dealt) for one in trainings(task_name, rule, each, seed)]
            record.trainings += found
            calm = [one.accuracy for one in found if one.attack == NONE]
            worst = min(found, key=lambda one: one.accuracy)
            tell(
                f"{task_name}: {rule}: {statistics.median(calm):.1%} without attackers, at worst "
                f"{worst.accuracy:.1%} ({worst.attackers} attackers, {worst.attack})"
            )
    return record


def trainings(task: str, rule: str, dealt: Federation, seed: int) -> Iterator[Training]:
    """Yield what comes of one rule on one way to deal, without attackers and under every attack."""
    yield Training(task, rule, NONE, 0, seed, attacked(dealt, RULES[rule], None, 0, seed))
    for name, attack in ATTACKS.items():
        for attackers in ATTACKERS:
            accuracy = attacked(dealt, RULES[rule], attack, attackers, seed)
            yield Training(task, rule, name, attackers, seed, accuracy)
