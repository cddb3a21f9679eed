"""Who a caller is to the broker."""

from __future__ import annotations

import hashlib
import hmac
import os

_PROCESS_KEY = os.urandom(32)


class Credentials:
    """A user of an account of the broker, and the secret that proves it (connection token or password).

    `identity` is the same for the same three, in this process only, and tells nothing of the secret. The secret is in
    no `repr`.
    """

    __slots__ = ("account", "identity", "secret", "user")

    def __init__(self, user: str, secret: str, account: str = "") -> None:
        self.user = user
        self.secret = secret
        self.account = account
        digest = hmac.digest(_PROCESS_KEY, secret.encode(errors="surrogatepass"), hashlib.sha256)
        self.identity = (account, user, digest)

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r}, account={self.account!r})"
