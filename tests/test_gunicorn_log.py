"""What is cut from the lines of gunicorn's log."""

from __future__ import annotations

import pytest

from proxy.gunicorn_log import without_secrets


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("Error handling request GET /x?authorization=secret", "Error handling request GET /x?..."),
        ("Invalid request line: '/x?a=b&authorization=secret'", "Invalid request line: '/x?...'"),
        ("Invalid HTTP Header: 'AUTHORIZATION: Bearer secret'", "Invalid HTTP Header: 'AUTHORIZATION: ..."),
        ("Cookie: a=b; jwt-refresh-token=secret", "Cookie: ..."),
        ("sent bearer secret", "sent bearer ..."),
        ("a token eyJhbGciOiJIUzI1NiJ9.e30.secret alone", "a token ... alone"),
        ("first?secret\n  second", "first?...\n  second"),
        ("Worker was sent SIGKILL! Perhaps out of memory?", "Worker was sent SIGKILL! Perhaps out of memory?"),
    ],
)
def test_secrets_are_cut(line: str, shown: str) -> None:
    """Query strings whole, credential headers to the end of the line, tokens anywhere; the rest stays."""
    assert without_secrets(line) == shown
