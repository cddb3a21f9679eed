"""Which partition a message goes to."""

from __future__ import annotations

from collections import Counter

import pytest

from proxy.brokers.partitions import partition_of
from proxy.keys import KeyMaker, elements, single_id
from proxy.messages import Message, Station, station_named

ORDERS = station_named("orders")
THREE = [1, 2, 3]
MAKER = KeyMaker("s" * 32)
USER = MAKER.namespace("1", "root", "orders")


def at(id: str, station: Station = ORDERS, partitions: list[int] = THREE) -> int:
    """The partition of a message with that id."""
    return partition_of(station, Message(b"x", (), id), partitions)


@pytest.mark.parametrize(("key", "partition"), {"a": 1, "b": 1, "user-42": 1, "": 3, "é": 2, "key": 2}.items())
def test_a_key_means_what_it_means_to_memphis_clients(key: str, partition: int) -> None:
    """Measured with their own, for three partitions (`key`: by their rule); the id does not matter."""
    for id in ("one", "two", single_id(USER, MAKER.own("orders"))):
        assert at(id, ORDERS._replace(partition_key=key)) == partition


def test_the_partition_is_one_of_the_list() -> None:
    """The list has the numbers, which need not be in a row."""
    assert {at(single_id(USER, MAKER.own("orders")), partitions=[4, 9]) for _ in range(4)} == {4, 9}


def ids_of(key: str, payloads: list[bytes]) -> list[str]:
    """The ids of the elements of a batch."""
    return [message.key for message in elements(USER, key, payloads, (), named=False)]


def test_messages_without_a_key_take_turns() -> None:
    """One after the other, however many stations are produced to at the same time."""
    chosen = []
    for _ in range(9):
        chosen.append(at(single_id(USER, MAKER.own("orders"))))
        MAKER.own("bills")
    first = chosen[0]
    assert chosen == [(first - 1 + n) % 3 + 1 for n in range(9)]


def test_the_elements_of_a_batch_take_turns() -> None:
    """Within it, and from one batch to the next."""
    first, *rest = [at(id) for id in ids_of(MAKER.own_batch("orders"), [b"x"] * 6)]
    assert rest == [(first - 1 + n) % 3 + 1 for n in range(1, 6)]
    assert at(ids_of(MAKER.own_batch("orders"), [b"x"])[0]) == rest[0]


def test_a_repeat_goes_where_the_first_went() -> None:
    """The sender repeats with the key it was told: the partition that knows the id is asked again."""
    own = MAKER.own("orders")
    assert len({at(single_id(USER, own)) for _ in range(3)}) == 1


def test_senders_keys_are_spread() -> None:
    """A sender that counts in its own way has all partitions too."""
    counts = Counter(at(single_id(USER, f"order number {n}")) for n in range(300))
    assert set(counts) == {1, 2, 3}
    assert min(counts.values()) > 60


def test_a_batch_under_a_senders_key_takes_turns() -> None:
    """From where the key begins."""
    first, *rest = [at(id) for id in ids_of("my key", [b"x", b"y", b"z"])]
    assert rest == [first % 3 + 1, (first + 1) % 3 + 1]
