"""Keys from secrets, and credentials sealed with them.

HKDF-SHA256 (RFC 5869) makes one key for each purpose out of a secret; AES-256-GCM (RFC 5116) seals, so that what was
sealed can be neither read nor changed without the key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from proxy.errors import Unauthorized

ENOUGH_BYTES = 32
NONCE_BYTES = 12


def derive(secret: str, purpose: str) -> bytes:
    """A key of 32 bytes for one purpose; keys of other purposes tell nothing about it."""
    return HKDF(SHA256(), 32, salt=None, info=purpose.encode()).derive(secret.encode())


def key_id(secret: str) -> str:
    """The first 8 hex digits of the secret's SHA-256: tells replicas and rotations apart."""
    return hashlib.sha256(secret.encode()).hexdigest()[:8]


def signing_key(secret: str) -> bytes:
    """What tokens are signed with: the secret itself, or a key stretched from it if it is short."""
    raw = secret.encode()
    return raw if len(raw) >= ENOUGH_BYTES else derive(secret, "sign")


def seal(key: bytes, content: bytes, bound_to: str) -> str:
    """Seals content for whoever has the key; base64url. It opens only together with the same `bound_to`."""
    nonce = os.urandom(NONCE_BYTES)
    sealed = AESGCM(key).encrypt(nonce, content, bound_to.encode())
    return base64.urlsafe_b64encode(nonce + sealed).rstrip(b"=").decode()


def unseal(key: bytes, text: str, bound_to: str) -> bytes:
    """Opens what `seal` made. Raises `Unauthorized` for anything else."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return AESGCM(key).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], bound_to.encode())
    except (InvalidTag, binascii.Error, ValueError):
        raise Unauthorized from None
