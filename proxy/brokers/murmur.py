"""MurmurHash3, x86, 32 bit, by Austin Appleby, who placed it in the public domain.

It is not for secrets: Memphis' clients choose a station's partition by it.
"""

from __future__ import annotations

_C1, _C2 = 0xCC9E2D51, 0x1B873593
_MASK = 0xFFFFFFFF


def murmur3(data: bytes, seed: int) -> int:
    """The hash, from 0 to 2**32 - 1."""
    hashed, whole = seed, len(data) & ~3
    for place in range(0, whole, 4):
        hashed ^= _mixed(int.from_bytes(data[place : place + 4], "little"))
        hashed = (_rotated(hashed, 13) * 5 + 0xE6546B64) & _MASK
    if whole < len(data):
        hashed ^= _mixed(int.from_bytes(data[whole:], "little"))
    return _spread(hashed ^ len(data))


def _mixed(block: int) -> int:
    return _rotated(block * _C1 & _MASK, 15) * _C2 & _MASK


def _rotated(number: int, bits: int) -> int:
    return (number << bits | number >> (32 - bits)) & _MASK


def _spread(hashed: int) -> int:
    """Lets each bit of what was read touch each bit of the result."""
    hashed = (hashed ^ hashed >> 16) * 0x85EBCA6B & _MASK
    hashed = (hashed ^ hashed >> 13) * 0xC2B2AE35 & _MASK
    return hashed ^ hashed >> 16
