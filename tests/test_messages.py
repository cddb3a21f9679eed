"""Names of stations."""

from __future__ import annotations

import pytest

from proxy.errors import BadStationName
from proxy.messages import station_named


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
