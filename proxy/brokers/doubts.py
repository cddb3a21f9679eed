"""Which messages may be stored although no ack has come."""

from __future__ import annotations

from collections.abc import Iterable


class Doubts(set[int]):
    """The places of such messages among those of a delivery.

    There are two reasons: an attempt got no answer, so that it may arrive and be stored whenever; or the leader of the
    stream knows the message's id, maybe from another request, and has not told yet what becomes of that. The second is
    over as soon as the same leader says that it does not store the message, since it looks for ids before all else.
    """

    def __init__(self) -> None:
        super().__init__()
        self._known: set[int] = set()  # for no other reason than the second

    def update(self, *others: Iterable[int]) -> None:
        """Attempts got no answer."""
        super().update(*others)
        self._known.difference_update(*others)

    def add(self, place: int) -> None:
        """An attempt got no answer."""
        self.update((place,))

    def add_known(self, place: int) -> None:
        """The leader knows the id."""
        if place not in self:
            self._known.add(place)
        super().add(place)

    def leader_left(self, place: int) -> None:
        """There may be another leader, which knows less."""
        self._known.discard(place)

    def refused(self, place: int) -> None:
        """The leader does not store the message."""
        if place in self._known:
            self._known.remove(place)
            self.remove(place)
