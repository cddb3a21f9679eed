"""Keys from secrets, and what only their holder can open."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

import pytest

from proxy.errors import Unauthorized
from proxy.sealing import ENOUGH_BYTES, derive, key_id, seal, signing_key, unseal

KEY = derive("s" * 32, "cred/access")


def _raw(sealed: str) -> bytes:
    return base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.mark.parametrize("content", [b"", b"x", b'["root","memphis",""]', bytes(range(256)) * 20])
def test_what_was_sealed_opens_again(content: bytes) -> None:
    """Sealing and unsealing with the same key and binding gives the content back."""
    assert unseal(KEY, seal(KEY, content, "id"), "id") == content


def test_sealed_text_fits_into_a_token() -> None:
    """It is base64url without padding."""
    assert re.fullmatch(r"[A-Za-z0-9_-]+", seal(KEY, bytes(range(256)), "id"))


def test_the_same_content_never_looks_the_same() -> None:
    """Each sealing has a nonce of its own."""
    assert len({seal(KEY, b"x", "id") for _ in range(100)}) == 100


def test_sealed_text_tells_nothing_of_its_content() -> None:
    """The content is in it neither as it is nor in base64."""
    assert b"memphis" not in _raw(seal(KEY, b"memphis" * 3, "id"))


def test_it_opens_with_its_own_key_only() -> None:
    """Another secret, or another purpose of the same secret, does not open it."""
    sealed = seal(KEY, b"x", "id")
    for other in (derive("t" * 32, "cred/access"), derive("s" * 32, "cred/refresh")):
        with pytest.raises(Unauthorized):
            unseal(other, sealed, "id")


def test_it_opens_only_where_it_belongs() -> None:
    """What was sealed for one token does not open in another."""
    with pytest.raises(Unauthorized):
        unseal(KEY, seal(KEY, b"x", "id"), "other id")


def test_a_change_of_any_bit_is_seen() -> None:
    """Nonce, content and tag: with one bit changed anywhere it does not open."""
    raw = _raw(seal(KEY, b"content", "id"))
    for place in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(Unauthorized):
            unseal(KEY, _text(bytes(changed)), "id")


@pytest.mark.parametrize(
    "text", ["", "A", "AAAA", "=", "====", "a b", "é", "\0", "A" * 15, "A" * 37, "!" * 40, "+/" * 20]
)
def test_what_was_never_sealed_is_refused(text: str) -> None:
    """Anything else is no credential, and no crash."""
    with pytest.raises(Unauthorized):
        unseal(KEY, text, "id")


def test_a_shortened_text_is_refused() -> None:
    """However much is missing at the end."""
    sealed = seal(KEY, b"content", "id")
    for length in range(len(sealed)):
        with pytest.raises(Unauthorized):
            unseal(KEY, sealed[:length], "id")


def test_derived_keys_are_as_in_rfc_5869() -> None:
    """HKDF-SHA256 without salt, 32 bytes, so that replicas of any version agree."""
    assert derive("secret", "purpose").hex() == _hkdf(b"secret", b"purpose").hex()


def _hkdf(secret: bytes, info: bytes) -> bytes:
    """One block of HKDF-SHA256, by the two HMACs of RFC 5869."""
    extracted = hmac.digest(bytes(32), secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def test_the_key_id_is_part_of_the_secrets_digest() -> None:
    """The first 8 hex digits of its SHA-256, as the contract says."""
    assert key_id("secret") == hashlib.sha256(b"secret").hexdigest()[:8]


def test_a_long_secret_signs_as_it_is() -> None:
    """Other programs that know the secret can verify."""
    assert signing_key("s" * ENOUGH_BYTES) == b"s" * ENOUGH_BYTES


def test_a_short_secret_is_stretched() -> None:
    """A short one signs with a key of 32 bytes made from it."""
    assert signing_key("short") == derive("short", "sign")


def test_bytes_count_and_not_letters() -> None:
    """A secret of 31 bytes is short, one of 16 letters of two bytes is not."""
    assert signing_key("s" * 31) != b"s" * 31
    assert signing_key("é" * 16) == ("é" * 16).encode()
