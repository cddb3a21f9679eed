"""The settings of consuming, as fields of `Config`."""

from __future__ import annotations

from proxy.parsers import number, whole
from proxy.setting import setting

MAX_CONSUMES = setting(
    "MAX_CONSUMES",
    whole(1, 1_000_000),
    1000,
    "Most consumes under way in a worker, from the request to the last byte of the answer, else 503.",
)
MAX_WAIT_SECONDS = setting(
    "CONSUME_MAX_WAIT_SECONDS",
    number(1, 3600),
    300.0,
    "Longest wait that a consume may ask for; 400 beyond.",
)
MAX_BYTES = setting(
    "CONSUME_MAX_BYTES",
    whole(1, 1 << 30),
    8 << 20,
    "Most bytes of messages in the answer to one consume, one message aside; the rest stays for the next.",
)
ACK_WAIT_SECONDS = setting(
    "CONSUME_ACK_WAIT_SECONDS",
    number(1, 86_400),
    30.0,
    "A consumed message that is not acked for so long is delivered again; for groups that the gateway makes.",
)
MAX_DELIVERIES = setting(
    "CONSUME_MAX_DELIVERIES",
    whole(0, 1_000_000),
    0,
    "How often a message is delivered to a group that does not ack it; 0: without end. "
    "`memphis://`: 10 at most, and for 0; the broker keeps the message as a dead letter then.",
)
