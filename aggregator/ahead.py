"""What is said without being asked for: a round trip takes as long as some hundred kilobytes.

A small model that the agent cannot have follows its task. The bytes of a small update follow their
offer, where there is room for them: that is granted with the task, out of the receive budget.
"""

from collections.abc import Collection

from fl_main.messages import Assign, Offer
from fl_main.training import Kind
from fl_main.weights import Layout

from .uploads import SMALL_BYTES, Budget


class Ahead:
    """What may go ahead in the session of one agent.

    Args:
        takes_models: Whether the agent does.
        known: Digests of the models that were there when it joined: it may have them.
        layout: Of the run's model, as the agent was told.
        budget: The daemon's receive budget.
    """

    def __init__(
        self, *, takes_models: bool, known: Collection[str], layout: Layout | None, budget: Budget
    ) -> None:
        self._takes_models = takes_models
        self._known = set(known)
        self._layout = layout.digest if layout else ""
        self._budget = budget
        self._task_id = ""
        self.granted = 0  # bytes for the answer to that task

    def said(self, assign: Assign, layout: Layout | None) -> Assign:
        """Return a task as it is to be said: with what follows it, and what may follow its answer.

        Args:
            assign: The task.
            layout: Of the weights of an update on their way.
        """
        payloads = []
        for payload in assign.payloads:
            is_new = payload.digest not in self._known
            follows = self._takes_models and is_new and payload.size <= SMALL_BYTES
            payloads.append(payload.model_copy(update={"follows": follows}))
            self._known.add(payload.digest)
        self._known = {payload.digest for payload in payloads}  # an agent forgets all others
        size = layout.nbytes if layout is not None and assign.kind == Kind.TRAIN else 0
        return assign.model_copy(update={"payloads": payloads, "credit": self._grant(assign.task_id, size)})

    def needs_rows(self, layout: Layout, channel: str) -> bool:
        """Whether the layout of a model that follows has to be described; once it was, it is known."""
        is_known = layout.digest == self._layout
        if channel == "weights":
            self._layout = layout.digest
        return not is_known

    def _grant(self, task_id: str, size: int) -> int:
        self.give_back()
        if size <= SMALL_BYTES and self._budget.take_early(size):
            self._task_id, self.granted = task_id, size
        return self.granted

    def claimed(self, offer: Offer) -> int:
        """Return what was granted for an update whose bytes follow: from here on it is the upload's."""
        if offer.task_id != self._task_id:
            return 0
        if len(offer.payloads) != 1 or not 0 < offer.payloads[0].size <= self.granted:
            self.give_back()
            return 0
        granted, self.granted, self._task_id = self.granted, 0, ""
        return granted

    def give_back(self) -> None:
        """Return what was granted, and not used, to the budget."""
        self._budget.give_early_back(self.granted)
        self.granted, self._task_id = 0, ""
