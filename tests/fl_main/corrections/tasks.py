"""Training tasks as agents see them, made by hand; and sites whose optimum is known."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fl_main.corrections import correction_of
from fl_main.local import LocalTask
from fl_main.training import TrainResult
from fl_main.weights import Array

Site = tuple[float, float]  # a and b of f(w) = a/2 (w - b)²


def task_of(
    correction: Mapping[str, Any],
    weights: Mapping[str, Array],
    *,
    trained: tuple[str, ...] | None = None,
    channels: Mapping[str, Mapping[str, Array]] | None = None,
    state: Mapping[str, Array] | None = None,
    run_id: str = "run",
    round_id: int = 1,
    base_round: int = 0,
) -> LocalTask:
    names = tuple(weights) if trained is None else trained
    return LocalTask(
        *("site", None, run_id, round_id, base_round, weights, names, {}),
        *(correction, 0, {}, channels or {}, state or {}),
    )


def descend(learning_rate: float, steps: int) -> Callable[[LocalTask], TrainResult]:
    """Return the training of a site: plain gradient descent on a/2 (w - b)², corrected as asked."""

    def train(task: LocalTask) -> TrainResult:
        a, b = task.data
        weights = {"w": task.weights["w"].copy()}
        correction = correction_of(task)
        for _ in range(steps):
            gradients = {"w": a * (weights["w"] - b)}
            correction.add_to(gradients, weights)
            weights["w"] -= learning_rate * gradients["w"]
        return TrainResult(
            weights,
            1,
            **correction.answer(
                weights,
                num_steps=steps,
                learning_rate=learning_rate,
                gradient=lambda: {"w": a * (task.weights["w"] - b)},
                fisher=lambda: {"w": np.full_like(weights["w"], a)},
            ),
        )

    return train


def optimum(sites: Mapping[str, Site]) -> float:
    """Return where Σ_k a_k/2 (w - b_k)² is least: Σ a_k b_k / Σ a_k."""
    return sum(a * b for a, b in sites.values()) / sum(a for a, _ in sites.values())
