"""Which GraphQL documents were found valid: not each for itself, but all that differ in plain literals alone.

A sender writes its values into the document, so no two are the same; yet no rule of validation looks at more of a
literal than here is kept as its shape: whether it is a string, an integer of 32 bits, a negative one, a fraction, and
which literals of the document are equal. Literals that could matter in another way leave a document without a shape.
"""

from __future__ import annotations

import hashlib
import re

from proxy.remembering import Remembered

MAX_REMEMBERED = 8192

# A string without escapes or control characters, or anything that begins like a number outside of names.
_LITERAL = re.compile(
    r'("[^"\\\x00-\x08\x0a-\x1f]*"|(?<![_0-9A-Za-z])-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)', re.ASCII
)
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,8})", re.ASCII)
_FRACTION = re.compile(r"-?(?:0|[1-9][0-9]{0,14})\.[0-9]{1,15}", re.ASCII)


def shape_of(text: str) -> str | None:
    """The document with each literal replaced by its kind and the place of the first that equals it.

    None for a document whose validity may hang on more than that, or whose literals cannot be told so simply: with
    comments, block strings, escapes, exponents, numbers of many digits.
    """
    if "#" in text or '"""' in text or "\x00" in text or "\\" in text:
        return None
    parts = _LITERAL.split(text)
    places: dict[str, int] = {}
    for index in range(1, len(parts), 2):
        literal = parts[index]
        kind = "s" if literal[0] == '"' else _number(literal)
        if kind is None:
            return None
        parts[index] = f"\x00{kind}{places.setdefault(literal, index)}\x00"
    shape = "".join(parts)
    # A quotation mark that is left over begins a string that is no string as above.
    return None if '"' in shape else shape


def _number(literal: str) -> str | None:
    kind = "i" if _INTEGER.fullmatch(literal) else "f" if _FRACTION.fullmatch(literal) else None
    return kind.upper() if kind and literal[0] == "-" else kind


class Shapes(Remembered[bytes, bool]):
    """The shapes of valid documents, of all schemas of this process."""

    def __init__(self, most: int = MAX_REMEMBERED) -> None:
        super().__init__(most)

    @staticmethod
    def identity(definition: str) -> bytes:
        """What stands for a schema in `key`."""
        return hashlib.blake2b(definition.encode()).digest()

    @staticmethod
    def key(identity: bytes, shape: str) -> bytes:
        """What stands for a shape of a schema: a digest, so that entries are of one size whatever was sent."""
        return hashlib.blake2b(shape.encode(), key=identity, digest_size=32).digest()

    def __contains__(self, key: bytes) -> bool:
        return self.get(key) is not None

    def add(self, key: bytes) -> None:
        """Remembers a shape."""
        self.put(key, True)
