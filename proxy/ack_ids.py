"""Ack ids: where the ack of a message goes, sealed, so that only this gateway can make and read them.

An ack id is bound to the user, the account and the station it was made for, and ends when the broker gives the message
to others. Any replica with the same secret takes it.
"""

from __future__ import annotations

import json

from proxy.credentials import Credentials
from proxy.errors import BadBody, Unauthorized
from proxy.messages import Station
from proxy.sealing import derive, seal, unseal

_FORM = "$JS.ACK."  # nothing else is ever published to


class AckIds:
    """Makes ack ids with the first of the secrets that are set, and reads those of all of them."""

    def __init__(self, *secrets: str) -> None:
        self._keys = [derive(secret, "ack") for secret in secrets if secret]

    def make(self, credentials: Credentials, station: Station, subject: str, expires: float) -> str:
        """The id for an ack subject of a station, good until `expires` (Unix time)."""
        return seal(self._keys[0], f"{int(expires * 1000)} {subject}".encode(), _bound_to(credentials, station))

    def read(self, credentials: Credentials, station: Station, text: str, now: float) -> str:
        """The ack subject in an id. Raises `BadBody` for any other text, and for an id whose time is over."""
        for key in self._keys:
            try:
                expires, _, subject = unseal(key, text, _bound_to(credentials, station)).decode().partition(" ")
            except (Unauthorized, UnicodeError):
                continue
            if not subject.startswith(_FORM):
                break
            if int(expires) <= now * 1000:
                raise BadBody("this ack_id's time is over: the message is delivered again (CONSUME_ACK_WAIT_SECONDS)")
            return subject
        raise BadBody("this is no ack_id that this user was given for this station")


def _bound_to(credentials: Credentials, station: Station) -> str:
    return json.dumps(["ack", *credentials.owner, station.name])
