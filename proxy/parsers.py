"""How the text of an environment variable becomes a value.

Each parser takes the text and raises `ValueError` with what the value must be ("a whole number from 1 to 9").
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

BROKER_SCHEMES = ("nats", "tls", "memphis")


def text(value: str) -> str:
    """Takes the text as it is."""
    return value


def flag(value: str) -> bool:
    """Takes true or false in the usual spellings."""
    word = value.strip().lower()
    if word in ("true", "1", "yes", "on"):
        return True
    if word in ("false", "0", "no", "off"):
        return False
    raise ValueError("true or false")


def whole(low: int, high: int) -> Callable[[str], int]:
    """Makes the parser of a whole number from `low` to `high`."""

    def parse(value: str) -> int:
        message = f"a whole number from {low} to {high}"
        if not value.strip().isascii() or not value.strip().isdigit() or not low <= int(value) <= high:
            raise ValueError(message)
        return int(value)

    return parse


def number(low: float, high: float) -> Callable[[str], float]:
    """Makes the parser of a number from `low` to `high`."""

    def parse(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            raise ValueError(f"a number from {low:g} to {high:g}")
        return number

    return parse


def words(value: str) -> tuple[str, ...]:
    """Takes a list with commas."""
    return tuple(word.strip() for word in value.split(",") if word.strip())


def patterns(value: str) -> tuple[str, ...]:
    """Takes a list of header patterns, in lower case."""
    return tuple(word.lower() for word in words(value))


def one_of(*choices: str) -> Callable[[str], str]:
    """Makes the parser of a word from a list; the case of the letters does not count."""

    def parse(value: str) -> str:
        for choice in choices:
            if choice.lower() == value.strip().lower():
                return choice
        raise ValueError("one of " + ", ".join(choices))

    return parse


def urls(value: str) -> tuple[str, ...]:
    """Splits a list of servers; the scheme of the first one counts for those that name none."""
    urls: list[str] = []
    for word in words(value):
        scheme = urls[0].partition("://")[0] if urls else "nats"
        url = word if "://" in word else f"{scheme}://{word}"
        if url.partition("://")[0] not in BROKER_SCHEMES or not url.partition("://")[2] or "@" in url:
            raise ValueError(
                "nats://host:4222, tls://host:4222 or memphis://host:6666, or a list of them, without user"
            )
        urls.append(url)
    if len({url.partition("://")[0] for url in urls}) > 1:
        raise ValueError("a list of servers of one scheme")
    return tuple(urls)


def networks(value: str) -> tuple[Network, ...]:
    """Takes a list of networks; `*` is all of them."""
    if value.strip() == "*":
        return (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
    try:
        return tuple(ipaddress.ip_network(word, strict=False) for word in words(value))
    except ValueError:
        raise ValueError("* or a list of addresses and networks, as in 10.0.0.0/8, 192.0.2.7") from None


def template(value: str) -> str:
    """Takes the subject of a station, `{station}` standing for its name."""
    if value.count("{station}") != 1 or any(c in value for c in " *>\t\r\n") or value.startswith(("$", ".")):
        raise ValueError("a subject with {station} in it once and no wildcard")
    return value


def inbox(value: str) -> str:
    """Takes the first tokens of a reply subject."""
    if not value or any(c in value for c in " *>\t\r\n") or value.startswith("$") or value.endswith("."):
        raise ValueError("a subject prefix without wildcard, as in _INBOX")
    return value
