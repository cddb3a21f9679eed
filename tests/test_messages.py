"""Names of stations, and the messages of a batch."""

from __future__ import annotations

import pytest

from proxy.errors import BadStationName
from proxy.messages import Elements, Message, station_named


@pytest.mark.parametrize(
    ("text", "name", "internal"),
    [
        ("orders", "orders", "orders"),
        ("Orders-EU_1", "orders-eu_1", "orders-eu_1"),
        ("a.b.C", "a.b.c", "a#b#c"),
        ("7", "7", "7"),
        ("a" * 128, "a" * 128, "a" * 128),
    ],
)
def test_names_of_stations_are_lower_case_and_dots_become_hashes(text: str, name: str, internal: str) -> None:
    """One station has one name, whatever the case of the letters, and one name at the broker."""
    assert station_named(text)[:2] == (name, internal)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a b",
        " a",
        "a ",
        ".a",
        "a.",
        "-a",
        "a-",
        "_a",
        "a_",
        ".",
        "a*",
        "a*b",
        "a>b",
        "a$b",
        "*",
        ">",
        "a.>",
        "$JS",
        "$SYS.a",
        "..",
        "a/b",
        "../a",
        "a#b",
        "a\r\nb",
        "a\n",
        "\na",
        "a\0",
        "a\tb",
        "é",
        "aé",
        "\u212a",
        "\uff21",
        "٣",
        "a" * 129,
        "a:b",
        "a%20b",
        "a\\b",
    ],
)
def test_other_names_are_refused(text: str) -> None:
    """What could be a wildcard, a system subject, a path or a line break is no name."""
    with pytest.raises(BadStationName):
        station_named(text)


def test_the_elements_of_a_batch_are_messages() -> None:
    """Each with the headers they share and a key of its own, from either end; outside there are none."""
    batch = Elements([b"a", b"b"], (("x-a", "1"),), "user.key.", [1, 0xABCDEF01], named=True)
    second = Message(b"b", (("x-a", "1"),), "user.key.1.abcdef01", named=True)
    assert list(batch) == [Message(b"a", (("x-a", "1"),), "user.key.0.00000001", named=True), second]
    assert (batch[-1], len(batch)) == (second, 2)
    with pytest.raises(IndexError):
        batch[2]


def test_a_part_of_a_batch_is_no_batch() -> None:
    """Its messages would have other keys."""
    with pytest.raises(TypeError):
        Elements([b"a", b"b"], (), "user.key.", [1, 2], named=True)[:1]
