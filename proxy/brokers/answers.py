"""What a stream answers to a publish, as JSON.

Source: NATS ADR-1 (JetStream API and its errors) and ADR-50 (batches).
"""

from __future__ import annotations

import msgspec


class ApiError(msgspec.Struct):
    """The error of a JetStream answer; `code` is like an HTTP status, `err_code` names the situation."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class Answer(msgspec.Struct):
    """An ack (`stream`, `seq`), an ack of a batch (`batch`, `count` too), an error, or news of a batch (`type`).

    A gap in a batch (`gap`): message `seq` came where `last_seq` was expected.
    """

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    batch: str = ""
    count: int = 0
    type: str = ""
    last_seq: int = 0
    error: ApiError | None = None


_decode = msgspec.json.Decoder(Answer).decode


def decode(data: bytes) -> Answer | None:
    """The stream's answer; None for what is not one, such as a core subscriber's."""
    try:
        return _decode(data)
    except msgspec.MsgspecError:
        return None
