"""Log lines for a Memphis broker's own log, which its dashboard shows.

Lines are left here by whatever thread writes them, and sent by the loop: a `deque` needs no lock for that. They are in
the form of Memphis' own gateway, `[pid] date time [INF] text`, and are lost rather than waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from proxy.brokers import frames
from proxy.brokers.memphis_connection import MemphisConnection
from proxy.errors import GatewayError

SUBJECT = "$memphis_syslogs.rest-gateway.extern."
MAX_LINES = 1000  # the oldest are lost
MAX_CHARACTERS = 2000
RETRY_SECONDS = 5.0
_LEVELS = {"info": ("info", "INF"), "warning": ("warn", "WRN"), "error": ("err", "ERR"), "critical": ("err", "ERR")}
_NOT_TOLD = ("event", "level", "timestamp", "exc_info", "exception")


class Syslog:
    """The way of log lines to the broker; `open_log` connects."""

    def __init__(self, open_log: Callable[[], Awaitable[MemphisConnection]]) -> None:
        self._open_log = open_log
        self._lines: deque[tuple[str, str]] = deque(maxlen=MAX_LINES)
        self._connection: MemphisConnection | None = None
        self._opening: asyncio.Task[None] | None = None
        self._retry_at = 0.0

    def hear(self, level: str, event: Mapping[str, Any]) -> None:
        """A line that was logged; those of requests that went well are not for the broker. For any thread."""
        if event.get("event") == "request" and level == "info":
            return
        facts = " ".join(f"{name}={value}" for name, value in event.items() if name not in _NOT_TOLD)
        self.write(level, f"{event.get('event')} {facts}".rstrip())

    def write(self, level: str, text: str) -> None:
        """Leaves a line to be sent. For any thread."""
        if level in _LEVELS:
            subject, label = _LEVELS[level]
            now = datetime.datetime.now().strftime("%Y/%m/%d %H:%M:%S.%f")
            line = " ".join(text.split())[:MAX_CHARACTERS]
            self._lines.append((subject, f"[{os.getpid()}] {now} [{label}] {line}\n"))

    def tick(self, now: float) -> None:
        """Sends what was left; connects first if need be."""
        if not self._lines:
            return
        if self._connection is not None and self._connection.alive:
            self._send(self._connection)
        elif self._opening is None and now >= self._retry_at:
            self._retry_at = now + RETRY_SECONDS
            self._opening = asyncio.get_running_loop().create_task(self._open())

    async def close(self) -> None:
        """Sends what is left, if there is a connection, and closes it."""
        if self._opening is not None:
            self._opening.cancel()
        if self._connection is not None:
            self._send(self._connection)
            with contextlib.suppress(GatewayError):
                await self._connection.settled()
            await self._connection.close()

    async def _open(self) -> None:
        try:
            with contextlib.suppress(GatewayError):
                self._connection = await self._open_log()
                self._send(self._connection)
        finally:
            self._opening = None

    def _send(self, connection: MemphisConnection) -> None:
        while self._lines and connection.alive:
            subject, line = self._lines.popleft()
            connection.emit(frames.publish_only(SUBJECT + subject, line.encode(errors="replace")))
