"""Who a caller is to the broker."""

from __future__ import annotations

import hashlib
import hmac
import os
import re

_PROCESS_KEY = os.urandom(32)


class Credentials:
    """A user of an account of the broker, and the secret that proves it (connection token or password).

    `identity` is the same for the same three, in this process only, and tells nothing of the secret. Where a broker
    has no `tenants` it is the same whatever account is named, beside the user or behind it: to the broker all of these
    are one, who gets one connection. The secret is in no `repr`.
    """

    __slots__ = ("account", "identity", "secret", "user")

    def __init__(self, user: str, secret: str, account: str = "", tenants: bool = True) -> None:
        self.user = user
        self.secret = secret
        self.account = account
        digest = hmac.digest(_PROCESS_KEY, secret.encode(errors="surrogatepass"), hashlib.sha256)
        self.identity = (account, user, digest) if tenants else ("", bare(user), digest)

    @property
    def owner(self) -> tuple[str, str]:
        """Account and user that the broker takes the caller for: whose what the caller has is, whatever the secret."""
        return self.identity[0], self.identity[1]

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r}, account={self.account!r})"


def bare(user: str) -> str:
    """The user without an account behind it, as in `user$7`."""
    return re.sub(r"\$[0-9]+\Z", "", user) if "$" in user else user
