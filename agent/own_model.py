"""The model that an agent's program gave: what of it travels, and what stays here."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fl_main.errors import RefusedError, WeightsError
from fl_main.frozen import FrozenArrays, arrays_setting, divided, facts_of
from fl_main.messages import Frozen
from fl_main.personal import private_of
from fl_main.weights import Array, Layout, Role, as_arrays

logger = logging.getLogger("fl_main.agent")


class OwnModel:
    """The model that an agent's program gave, until the run has said which of its arrays it trains.

    Args:
        weights: The whole model; None if the program gave none.
        roles: Of its arrays.

    Attributes:
        layout: Of what the agent can train and send, if it knows.
        facts: What it says of its frozen arrays, once it knows that there are some.
        private: Its private arrays as the program gave them, read-only.

    Raises:
        WeightsError: If the weights cannot be sent.
    """

    def __init__(
        self, weights: Mapping[str, Any] | None = None, roles: Mapping[str, Role] | None = None
    ) -> None:
        self.layout: Layout | None = None
        self.facts: Frozen | None = None
        self.private: dict[str, Array] = {}
        self._whole: dict[str, Array] = {}
        self._frozen = FrozenArrays({})
        self._is_checked = False
        if weights is not None:
            arrays = as_arrays(weights)
            layout = Layout.of(arrays, roles)
            self.layout = layout.without_private()
            self.private = FrozenArrays(private_of(arrays, roles or {})).arrays
            self._whole = {spec.name: arrays[spec.name] for spec in self.layout.arrays}

    def train_all(self) -> None:
        """Let go of the arrays: the run let this agent join, and so trains all that it does not keep."""
        self._whole = {}

    def train_only(self, patterns: Sequence[str]) -> None:
        """Keep a copy of the arrays that no pattern matches, and find out their digest: it takes a while.

        Raises:
            RefusedError: If this agent has no whole model, or nothing of it matches.
        """
        if not self._whole or self.layout is None:
            raise RefusedError(
                f"the run trains only arrays of {arrays_setting(patterns)}, and it has no others to keep: "
                "give it initial_weights, the whole model, and start it again",
                "frozen",
            )
        try:
            trained, frozen = divided(self._whole, patterns)
        except WeightsError as error:
            raise RefusedError(str(error), "frozen") from error
        specs = [spec for spec in self.layout.arrays if spec.name in trained]
        self._frozen = FrozenArrays(frozen)
        self.facts, self.layout, self._whole = facts_of(self._frozen.arrays), Layout(specs), {}
        logger.info(
            "trains arrays=%d; frozen and kept here: arrays=%d bytes=%d digest=%s",
            len(specs),
            self.facts.arrays,
            self.facts.size,
            self.facts.digest,
        )

    def merged(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Return a model of the run as programs see it: whole."""
        return self._frozen.merged(arrays)

    def to_send(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Return what travels of a model that a program gave: the whole one, or its trained part."""
        return self._frozen.without(arrays)

    def check_trained(self, arrays: Mapping[str, Any]) -> None:
        """Tell in the log if a program has trained what is frozen."""
        if not self._is_checked and (name := self._frozen.first_changed(arrays)) is not None:
            logger.warning(
                "array %r was changed by the training, but is frozen in this run (compression.arrays): "
                "the change is not sent, and every task begins with the array as it was",
                name,
            )
        self._is_checked = True  # once: it reads as much as the whole model
