"""The hash by which Memphis' clients choose partitions."""

from __future__ import annotations

import pytest

from proxy.brokers.murmur import murmur3

# Measured with memphis-py 1.3.1, whose seed is 31.
WITH_SEED_31 = {
    "a": 3387765255,
    "b": 279955767,
    "user-42": 660284634,
    "": 1257683291,
    "é": 3323909962,
    "key": 2580712894,
}
# Test vectors that are published with the algorithm's implementations.
KNOWN = {
    (b"", 0): 0,
    (b"", 1): 0x514E28B7,
    (b"", 0xFFFFFFFF): 0x81F16F39,
    (b"\xff\xff\xff\xff", 0): 0x76293B50,
    (b"!Ce\x87", 0): 0xF55B516B,
    (b"!Ce", 0): 0x7E4A8634,
    (b"!C", 0): 0xA0F7B07A,
    (b"!", 0): 0x72661CF4,
    (b"\0\0\0\0", 0): 0x2362F9DE,
    (b"Hello, world!", 0x9747B28C): 0x24884CBA,
}


@pytest.mark.parametrize("text", WITH_SEED_31)
def test_it_is_that_of_memphis_clients(text: str) -> None:
    """Else a key's messages would be in two partitions."""
    assert murmur3(text.encode(), 31) == WITH_SEED_31[text]


@pytest.mark.parametrize(("data", "seed"), KNOWN)
def test_it_is_murmur3(data: bytes, seed: int) -> None:
    """All lengths of a tail, and seeds of 32 bits."""
    assert murmur3(data, seed) == KNOWN[data, seed]
