"""De-duplication ids."""

from __future__ import annotations

import hashlib
import re
import zlib

import pytest

from proxy.keys import KeyMaker, atomic_elements, elements, single_id

SECRET = "s" * 32


def test_own_keys_are_short_and_never_the_same() -> None:
    """Nine characters of base64url, each key once."""
    maker = KeyMaker(SECRET)
    keys = [maker.own("orders") for _ in range(10_000)]
    assert len(set(keys)) == 10_000
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{9}", key) for key in keys)


def test_ids_of_ours_are_at_most_22_characters() -> None:
    """The broker keeps each id in memory."""
    maker = KeyMaker(SECRET)
    assert len(single_id(maker.namespace("1", "root", "orders"), maker.own("orders"))) == 22


def test_users_cannot_reach_into_each_others_ids() -> None:
    """Each user of each account has a namespace of 12 characters; a separator cannot be forged in a name."""
    maker = KeyMaker(SECRET)
    users = [("", "root"), ("1", "root"), ("", "app"), ("a", "b"), ("", "a\0b"), ("ab", ""), ("", "ab")]
    namespaces = {maker.namespace(account, user, "orders") for account, user in users}
    assert len(namespaces) == len(users)
    assert all(len(namespace) == 12 for namespace in namespaces)


def test_each_station_has_ids_of_its_own() -> None:
    """Several may be kept in one stream, which knows ids whatever the subject."""
    maker = KeyMaker(SECRET)
    assert maker.namespace("1", "root", "orders") != maker.namespace("1", "root", "stock")


def test_replicas_agree_on_a_users_namespace() -> None:
    """A repeat that reaches another replica is recognised; replicas with another secret have others."""
    assert KeyMaker(SECRET).namespace("1", "root", "orders") == KeyMaker(SECRET).namespace("1", "root", "orders")
    assert KeyMaker(SECRET).namespace("1", "root", "orders") != KeyMaker("t" * 32).namespace("1", "root", "orders")


def test_the_namespace_does_not_show_the_user() -> None:
    """Consumers see ids; they need not see who sent."""
    assert "root" not in KeyMaker(SECRET).namespace("", "root", "orders")


def ids(key: str, payloads: list[bytes]) -> list[str]:
    """The ids of the elements of a batch."""
    return [message.key for message in elements("namespace", key, payloads, (), named=True)]


def test_the_id_of_an_element_has_its_index_and_digest() -> None:
    """`<namespace>.<key>.<index>.<8 hex digits of its SHA-256>`."""
    digest = hashlib.sha256(b"payload").hexdigest()[:8]
    assert ids("key", [b"a", b"b", b"c", b"payload"])[3] == f"namespace.key.3.{digest}"


def test_under_a_key_of_ours_the_digest_is_a_quick_one() -> None:
    """`<namespace>.-<nine characters>.<index>.<8 hex digits of its CRC-32>`, of which none is left out."""
    own = KeyMaker(SECRET).own_batch("orders")
    assert re.fullmatch(r"-[\w-]{9}", own, re.ASCII)
    assert ids(own, [b"\x08\xda\xf9\xbc", b"payload"]) == [
        f"namespace.{own}.0.{zlib.crc32(bytes.fromhex('08daf9bc')):08x}",
        f"namespace.{own}.1.{zlib.crc32(b'payload'):08x}",
    ]


@pytest.mark.parametrize("key", ["key", "-abcdefghi"])
def test_other_bytes_in_the_same_place_have_another_id(key: str) -> None:
    """Whoever repeats a batch with one element mended stores that one anew, and no other."""
    first, again = ids(key, [b"1", b"2", b"3"]), ids(key, [b"1", b"two", b"3"])
    assert [one == other for one, other in zip(first, again, strict=True)] == [True, False, True]


def test_the_ids_of_an_atomic_batch_depend_on_all_of_it() -> None:
    """Another batch has other ids in all places; the same has the same."""
    first, again, other = (
        {message.key for message in atomic_elements("namespace", "key", payloads, (), named=False)}
        for payloads in ([b"1", b"2"], [b"1", b"2"], [b"1", b"3"])
    )
    assert first == again
    assert len(first | other) == 4
