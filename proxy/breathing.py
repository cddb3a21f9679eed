"""How long work lets others run. gevent and threads both know it as a short sleep."""

from __future__ import annotations

import time

BREATH_SECONDS = 0.0001


def breathe() -> None:
    """Lets others run, also those whose requests have not been read yet.

    After a sleep of nothing gevent goes on with whoever else sleeps so, fifty of them, before it looks at any socket.
    """
    time.sleep(BREATH_SECONDS)
