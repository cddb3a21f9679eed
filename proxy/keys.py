"""De-duplication ids: whose they are, and which message they stand for.

The broker drops a message whose id its stream has seen within the window. Ids begin with a digest of the user and the
station, so nobody reaches into another user's window, and stations may share a stream. They are short, since the broker
keeps each in memory: 22 characters at most where the sender gives none (12 of user and station, a dot, 9 of our own).
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import itertools
import secrets
import string
import zlib

from proxy.errors import GatewayError
from proxy.messages import Elements, Message, Pairs
from proxy.sealing import derive

_ALPHABET = string.ascii_letters + string.digits + "-_"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_WITH_KEY = (503, 504)
MAX_COUNTED = 10_000
_BITS = 54  # nine characters of six bits
QUICK = "-"  # what the keys that we make for batches begin with


class KeyMaker:
    """Makes ids for one process.

    Its own keys count up from a number drawn by chance, so two processes meet only by a chance of about one in a
    billion. If they do, the broker takes one message for the other's repeat; of a message sent alone it says so, and
    the sender is asked to repeat. Each station is counted for itself, as a broker with partitions chooses one by it.
    """

    def __init__(self, secret: str) -> None:
        self._key = derive(secret, "de-duplication")
        self._numbers: dict[str, itertools.count[int]] = {}

    def own(self, station: str) -> str:
        """A new key for a message to that station, for a sender that gave none."""
        numbers = self._numbers.get(station)
        if numbers is None:
            if len(self._numbers) >= MAX_COUNTED:
                self._numbers.clear()  # they begin anew elsewhere, as those of a new process do
            # Of two threads that come here at once the second takes the count of the first.
            numbers = self._numbers.setdefault(station, itertools.count(secrets.randbits(_BITS)))
        n = next(numbers)
        return (
            _PAIRS[n >> 42 & 4095]
            + _PAIRS[n >> 30 & 4095]
            + _PAIRS[n >> 18 & 4095]
            + _PAIRS[n >> 6 & 4095]
            + _ALPHABET[n & 63]
        )

    def own_batch(self, station: str) -> str:
        """A new key for a batch to that station, for a sender that gave none."""
        return QUICK + self.own(station)

    def namespace(self, account: str, user: str, station: str) -> str:
        """The 12 characters that all ids of a user's messages to a station begin with; the same in all replicas."""
        return _namespace(self._key, account, user, station)


def single_id(namespace: str, key: str) -> str:
    """The broker's id of a single message."""
    return f"{namespace}.{key}"


def elements(namespace: str, key: str, payloads: list[bytes], headers: Pairs, named: bool) -> Elements:
    """The elements of a batch with the broker's ids; other bytes in the same place have another id.

    The id ends with eight hex digits of the element's SHA-256, or of its CRC-32 under a key that begins as ours do: for
    telling what a sender has changed by mistake they are equally good, and one costs a fifth of the other.
    """
    if key.startswith(QUICK):
        marks = list(map(zlib.crc32, payloads))
    else:
        marks = [int.from_bytes(hashlib.sha256(payload).digest()[:4], "big") for payload in payloads]
    return Elements(payloads, headers, f"{namespace}.{key}.", marks, named)


def atomic_elements(namespace: str, key: str, payloads: list[bytes], headers: Pairs, named: bool) -> list[Message]:
    """The elements of an atomic batch with the broker's ids; another batch has other ids in all places."""
    digest = hashlib.sha256()
    for payload in payloads:
        digest.update(b"%d:%b" % (len(payload), payload))
    mark = f"a{digest.hexdigest()[:8]}"
    return [
        Message(payload, headers, f"{namespace}.{key}.{index}.{mark}", named) for index, payload in enumerate(payloads)
    ]


def with_key(error: GatewayError, key: str) -> GatewayError:
    """The error, telling the sender the key that makes repeating safe, where repeating can help."""
    if error.status in _WITH_KEY or error.repeat == "with-key":
        error.fields["idempotency_key"] = key
    return error


@functools.lru_cache(maxsize=4096)
def _namespace(key: bytes, account: str, user: str, station: str) -> str:
    digest = hmac.digest(key, f"{station}\0{account}\0{user}".encode(errors="surrogatepass"), hashlib.sha256)
    return base64.urlsafe_b64encode(digest[:9]).decode()
