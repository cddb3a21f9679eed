"""gunicorn's own log without secrets: its lines quote request lines, URLs and headers, and these hold tokens."""

from __future__ import annotations

import logging
import re
from typing import Any

from gunicorn.glogging import Logger

_SECRETS = (
    (re.compile(r"\?[^\s'\"]+"), "?..."),  # a query string, whole: `authorization` may be written in many ways
    (re.compile(r"(?i)\b(authorization|cookie)\b\W.*"), r"\1: ..."),
    (re.compile(r"(?i)\b(bearer|basic) .*"), r"\1 ..."),
    (re.compile(r"\beyJ[\w.=-]*"), "..."),  # a token, wherever it stands
)


def without_secrets(text: str) -> str:
    """The text with query strings, tokens and what follows the name of a credential header replaced by `...`."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


class Log(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's log (`logger_class`), formatted as ever and then without secrets, tracebacks included."""

    def setup(self, cfg: Any) -> None:
        """Applies gunicorn's settings, then our formatter."""
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(_Formatter(self.error_fmt, self.datefmt))
