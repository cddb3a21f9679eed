"""Logs: one structured line an event; JSON, or text in colours on a terminal. No line ever holds a token."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, TextIO, cast

import msgspec
import structlog

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_TOKEN = re.compile(r"(authorization=)[^&\s]*|\beyJ[\w.=-]+", re.IGNORECASE)
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_encode = msgspec.json.Encoder(enc_hook=repr).encode
# These two would log from the asyncio thread, which must not take the locks of logging handlers.
_SILENT = ("nats.aio.client", "asyncio")


Listener = Callable[[str, Mapping[str, Any]], None]
_listeners: list[Listener] = []


def listen(function: Listener) -> None:
    """Has `function(level, event)` called for each line, in whatever thread writes it; it must be quick."""
    _listeners.append(function)


def unlisten(function: Listener) -> None:
    """Ends that, if it was so."""
    if function in _listeners:
        _listeners.remove(function)


def _tell(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for function in tuple(_listeners):
        function(str(event.get("level", method)), event)
    return event


def _harmless(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A terminal does what control characters tell it, and senders may have written them; JSON escapes them anyway."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = value.encode("unicode_escape").decode()
    return event


class _Output:
    """Standard output as it is now. What it does not take is lost: requests must not fail where nobody reads the log
    any more, or its disk is full.
    """

    def write(self, text: str) -> None:
        """Writes at once, in ASCII where the output knows no more."""
        output = sys.stdout
        try:
            try:
                output.write(text)
            except UnicodeEncodeError:
                output.write(_NOT_ASCII.sub(lambda match: json.dumps(match[0])[1:-1], text))
            output.flush()
        except (OSError, ValueError, AttributeError):  # broken or full, closed, None
            pass

    def flush(self) -> None:
        """Nothing is left to write."""


def _is_terminal() -> bool:
    try:
        return sys.stdout.isatty()
    except (ValueError, AttributeError):  # closed, None
        return False


def configure(level: str) -> None:
    """Sets up structlog to write to standard output, unless the application around us has set it up already."""
    for name in _SILENT:
        logging.getLogger(name).disabled = True
    logging.getLogger("werkzeug").addFilter(_without_tokens)
    if structlog.is_configured():
        return
    terminal = _is_terminal()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _tell,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _harmless if terminal else structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(_as_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Output())),
        cache_logger_on_first_use=True,
    )


def keep_out_of_output() -> None:
    """For commands, whose standard output is what they were asked for: errors alone, on standard error."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )


def _as_json(event: dict[str, Any], **_: Any) -> str:
    """One line of JSON. The quick encoder takes no half of a surrogate pair, which the standard library escapes."""
    try:
        return _encode(event).decode()
    except UnicodeEncodeError:
        return json.dumps(event, default=repr)


def _without_tokens(record: logging.LogRecord) -> bool:
    """Flask's development server prints the request line, with the token of those who cannot set headers."""
    if isinstance(record.args, tuple):
        record.args = tuple(_scrubbed(value) for value in record.args)
    record.msg = _scrubbed(record.msg)
    return True


def _scrubbed(value: Any) -> Any:
    return _TOKEN.sub(r"\1...", value) if isinstance(value, str) else value
