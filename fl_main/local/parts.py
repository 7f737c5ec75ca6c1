"""Which arrays of a model travel in a local run, and which stay at its sites."""

from collections.abc import Mapping, Sequence
from typing import Any

from fl_main.frozen import FrozenArrays, divided
from fl_main.personal import private_of
from fl_main.training import NamedArrays
from fl_main.weights import Array, Role, as_arrays


class Parts:
    """The parts of a model, by the weights that a run begins with.

    Args:
        weights: They.
        patterns: Shell wildcards of what is trained and travels; of none, all that is not private.

    Attributes:
        travelling: Of these weights, what travels.
        private: Of these weights, what each site has of its own; read-only.

    Raises:
        WeightsError: If these are no arrays, or nothing of them travels.
    """

    def __init__(self, weights: Mapping[str, Any], patterns: Sequence[str]) -> None:
        self._roles: dict[str, Role] = dict(getattr(weights, "roles", {}))
        self._frozen = FrozenArrays({})
        self.private = FrozenArrays(private_of(as_arrays(weights), self._roles)).arrays
        self.travelling = self._divide(weights, patterns) if patterns else weights

    def _divide(self, weights: Mapping[str, Any], patterns: Sequence[str]) -> NamedArrays:
        shared = {name: array for name, array in as_arrays(weights).items() if name not in self.private}
        trained, frozen = divided(shared, patterns)
        self._frozen = FrozenArrays(frozen)
        return NamedArrays(trained, {name: role for name, role in self._roles.items() if name in trained})

    def know(self, roles: Mapping[str, Role]) -> None:
        """Take the roles that arrays have, where training does not say."""
        self._roles |= roles

    def whole(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Return what travels as programs see it, with what is not trained."""
        return self._frozen.merged(arrays)

    def private_in(self, update: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arrays of an update that its site keeps."""
        return private_of(update, self._roles_in(update))

    def shared_of(self, update: Mapping[str, Any]) -> NamedArrays:
        """Return an update without what is not trained; its private arrays know that they are."""
        return NamedArrays(self._frozen.without(update), self._roles_in(update))

    def trained_of(self, channel: Mapping[str, Any]) -> dict[str, Array]:
        """Return an extra channel without what is not trained."""
        return self._frozen.without(as_arrays(channel))

    def _roles_in(self, update: Mapping[str, Any]) -> dict[str, Role]:
        """Return the roles of an update's arrays: what was private at first stays so, as at an agent."""
        private = {name: role for name, role in self._roles.items() if role is Role.PRIVATE}
        return {**self._roles, **getattr(update, "roles", {}), **private}
