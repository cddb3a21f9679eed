"""De-duplication ids."""

from __future__ import annotations

import hashlib
import re

from proxy.keys import KeyMaker, element_ids, single_id

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
    assert len(single_id(maker.namespace("1", "root"), maker.own("orders"))) == 22


def test_users_cannot_reach_into_each_others_ids() -> None:
    """Each user of each account has a namespace of 12 characters; a separator cannot be forged in a name."""
    maker = KeyMaker(SECRET)
    users = [("", "root"), ("1", "root"), ("", "app"), ("a", "b"), ("", "a\0b"), ("ab", ""), ("", "ab")]
    namespaces = {maker.namespace(account, user) for account, user in users}
    assert len(namespaces) == len(users)
    assert all(len(namespace) == 12 for namespace in namespaces)


def test_replicas_agree_on_a_users_namespace() -> None:
    """A repeat that reaches another replica is recognised; replicas with another secret have others."""
    assert KeyMaker(SECRET).namespace("1", "root") == KeyMaker(SECRET).namespace("1", "root")
    assert KeyMaker(SECRET).namespace("1", "root") != KeyMaker("t" * 32).namespace("1", "root")


def test_the_namespace_does_not_show_the_user() -> None:
    """Consumers see ids; they need not see who sent."""
    assert "root" not in KeyMaker(SECRET).namespace("", "root")


def test_the_id_of_an_element_has_its_index_and_digest() -> None:
    """`<namespace>.<key>.<index>.<8 hex digits of its SHA-256>`."""
    digest = hashlib.sha256(b"payload").hexdigest()[:8]
    assert element_ids("namespace", "key", [b"a", b"b", b"c", b"payload"])[3] == f"namespace.key.3.{digest}"
