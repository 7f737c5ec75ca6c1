"""A strategy of a user's own over bytes: what every site sends is appended to the model."""

from collections.abc import Sequence

from fl_main.strategies import Strategy


class Bagging(Strategy):
    """The new model is the old one of the first site and what the others added."""

    takes_free = True

    def combine_free(self, payloads: Sequence[bytes]) -> bytes:
        return b"|".join(payloads)
