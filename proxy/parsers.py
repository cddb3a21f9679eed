"""How the text of an environment variable becomes a value.

Each parser takes the text and raises `ValueError` with what the value must be ("a whole number from 1 to 9").
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

BROKER_SCHEMES = ("nats", "tls", "memphis")

_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_RATE = re.compile(r"([1-9][0-9]{0,8}) ?(?:/|per) ?(?:([1-9][0-9]{0,2}) )?(second|minute|hour|day)s?", re.ASCII)


class Rate(NamedTuple):
    """So many in so many seconds."""

    amount: int
    seconds: int


def text(value: str) -> str:
    """Takes the text as it is."""
    return value


def flag(value: str) -> bool:
    """Takes true or false in the usual spellings."""
    word = value.strip().lower()
    if word in ("true", "t", "1", "yes", "on"):
        return True
    if word in ("false", "f", "0", "no", "off"):
        return False
    raise ValueError("true or false")


def whole(low: int, high: int) -> Callable[[str], int]:
    """Makes the parser of a whole number from `low` to `high`."""

    def parse(value: str) -> int:
        digits = value.strip()
        if not digits.isascii() or not digits.isdigit() or len(digits) > 20 or not low <= int(digits) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(digits)

    return parse


def port_beside_a_service(value: str) -> int:
    """Takes the port 1 to 65535 of a Memphis broker; 6666 for a URL with `tcp://`.

    Kubernetes sets `MEMPHIS_PORT=tcp://...` by itself in all pods beside a service named `memphis`.
    """
    return 6666 if value.startswith("tcp://") else whole(1, 65535)(value)


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


def interval(low: float, high: float) -> Callable[[str], float]:
    """Makes the parser of seconds from `low` to `high`, or `always`, which is 0."""
    seconds = number(low, high)

    def parse(value: str) -> float:
        try:
            return 0.0 if value.strip().lower() == "always" else seconds(value)
        except ValueError as error:
            raise ValueError(f"always, or {error}") from None

    return parse


def rate(value: str) -> Rate:
    """Takes a number of requests in a time, as in 100/second or 5000 per 10 minutes."""
    match = _RATE.fullmatch(value.strip().lower())
    if match is None:
        raise ValueError("a number of requests in a time, as in 100/second, 6000/minute or 5000/10 minutes")
    return Rate(int(match[1]), int(match[2] or 1) * _UNITS[match[3]])


def words(value: str) -> tuple[str, ...]:
    """Takes a list with commas."""
    return tuple(word.strip() for word in value.split(",") if word.strip())


def patterns(value: str) -> tuple[str, ...]:
    """Takes a list of header names in lower case, where `*` at the end of one stands for any rest."""
    patterns = tuple(word.lower() for word in words(value))
    if not patterns or any(re.fullmatch(r"[!#$%&'+.^_`|~0-9a-z-]*\*?", pattern) is None for pattern in patterns):
        raise ValueError("a list of header names, where * may stand at the end, as in content-type, x-*")
    return patterns


def origins(value: str) -> tuple[str, ...]:
    """Takes `*` or a list of web origins, in lower case as browsers send them."""
    origins = tuple(word.lower() for word in words(value))
    if not origins or any(re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^/?#@\s]+", origin) is None for origin in origins):
        raise ValueError("* or a list of origins without path, as in https://shop.example, http://127.0.0.1:3000")
    return origins


def readable_file(value: str) -> str:
    """Takes the path of a file that can be read."""
    try:
        with open(value, "rb"):
            return value
    except OSError as error:
        raise ValueError(f"a file that can be read; {value!r}: {error.strerror}") from None


def host(value: str) -> str:
    """Takes one host name or address; an IPv6 address may stand in brackets and loses them."""
    name = value.strip()
    if name.startswith("[") and name.endswith("]"):
        name = str(ipaddress.IPv6Address(name[1:-1])) if _is_ipv6(name[1:-1]) else ""
    if not _is_ipv6(name) and not re.fullmatch(r"[A-Za-z0-9_.-]{1,253}", name):
        raise ValueError("the name or address of one host, without port")
    return name


def bracketed(host: str) -> str:
    """Writes a host as it stands in a URL: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host


def _is_ipv6(value: str) -> bool:
    try:
        ipaddress.IPv6Address(value)
    except ValueError:
        return False
    return True


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
        urls.append(_server(word if "://" in word else f"{scheme}://{word}"))
    if len({url.partition("://")[0] for url in urls}) != 1:
        raise ValueError("a list of servers of one scheme")
    return tuple(urls)


def _server(url: str) -> str:
    """One server's URL, its scheme in lower case."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in BROKER_SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.path not in ("", "/") or re.search(r"[@\s]", url) or parts.query or parts.fragment:
        raise ValueError("nats://host:4222, tls://host:4222 or memphis://host:6666, or a list of them, without user")
    return f"{parts.scheme}://{parts.netloc}"


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
    rest = value.replace("{station}", "station", 1)
    if "{station}" not in value or any(c in rest for c in "{}") or not _is_subject(rest):
        raise ValueError("a subject with {station} in it once and no wildcard")
    return value


def inbox(value: str) -> str:
    """Takes the first tokens of a reply subject."""
    if not _is_subject(value):
        raise ValueError("a subject prefix without wildcard, as in _INBOX")
    return value


def _is_subject(value: str) -> bool:
    """Whether one could publish to it: no empty token, wildcard or blank, and none of the server's own (`$...`)."""
    return all(value.split(".")) and not value.startswith("$") and not any(c in value for c in " *>\t\r\n")
