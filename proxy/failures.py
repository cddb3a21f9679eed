"""What all errors have in common, and how an answer tells it. For `errors` alone: all others take it from there.

An error is a status and the truth about the message; the errors of a batch make one status and one truth.
"""

from __future__ import annotations

import copy
import json
import re
from http import HTTPStatus
from typing import Any, Literal

Stored = Literal["no", "unknown", "partly"]
Repeat = Literal["never", "safe", "with-key"]
Headers = list[tuple[str, str]]

# Of answers that a browser may show: they are data and no page, of this moment, and their address may hold a token.
DATA_ONLY: Headers = [
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
]


class GatewayError(Exception):
    """A refusal or failure with its HTTP status, and the truth about the message.

    `message` says what is wrong and what to do; `fields` are added to the body of the answer.
    """

    status = 500
    stored: Stored = "no"
    repeat: Repeat = "never"
    retry_after: int | None = None  # seconds
    default = "something went wrong"

    def __init__(self, message: str = "", **fields: Any) -> None:
        super().__init__(message or self.default)
        self.message = message or self.default
        self.fields = fields

    @property
    def code(self) -> str:
        """The name of the situation, as in `station-not-found`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "-", type(self).__name__).lower()

    def anew(self) -> GatewayError:
        """The same error for one who adds to it, raised by nobody yet.

        Others may be told this one, and those who raised it have the payload, and it: it forgets where that was.
        """
        own = copy.copy(self)
        own.fields = dict(self.fields)
        let_go(self)
        return own

    def headers(self) -> Headers:
        """Response headers that belong to this error: when to come back, if that is known."""
        return [("Retry-After", str(self.retry_after))] if self.retry_after is not None else []


def answer(error: GatewayError, accept: str, request_id: str, path: str) -> tuple[int, Headers, bytes]:
    """Status, headers and JSON body: ours, or as in RFC 9457 where `accept` asks for it."""
    if _wants_problem(accept):
        content_type, told = "application/problem+json", _problem(error)
    else:
        content_type, told = "application/json", _as_old_clients_know(error, path)
    truth = {"stored": error.stored, "repeat": error.repeat, "request_id": request_id, "success": False}
    headers = [("Content-Type", content_type), *DATA_ONLY, *error.headers()]
    return error.status, headers, encode({**error.fields, **truth, **told})


def _problem(error: GatewayError) -> dict[str, Any]:
    return {
        "type": f"urn:stations:error:{error.code}",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": error.message,
    }


def _as_old_clients_know(error: GatewayError, path: str) -> dict[str, Any]:
    if error.status == HTTPStatus.UNAUTHORIZED:
        return {"error": error.message, "message": HTTPStatus.UNAUTHORIZED.phrase}
    if path.startswith("/auth"):
        return {"error": error.message, "message": error.message}
    return {"error": error.message}


def _wants_problem(accept: str) -> bool:
    for item in accept.lower().split(","):
        media, _, rest = item.partition(";")
        if media.strip() == "application/problem+json" and not re.search(r"q=0(\.0*)?\s*(;|$)", rest):
            return True
    return False


def encode(body: Any) -> bytes:
    """JSON as all our answers are written: keys in order, no blanks, one line.

    Half a surrogate pair, which a payload may have brought, becomes the escape that JSON has for it.
    """
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode(errors="backslashreplace")


def let_go(error: BaseException) -> None:
    """Has an error that was told forget where it was raised.

    Those who called there had the request, and the request may have the error: none of them would go before the garbage
    collector comes, which counts objects, and not the megabytes of a body.
    """
    error.__traceback__ = error.__context__ = error.__cause__ = None


def batch_status(total: int, errors: list[GatewayError]) -> int:
    """One status for many errors: the one that all messages share, else 504 before 503 before 400."""
    statuses = {error.status for error in errors}
    if len(errors) == total and len(statuses) == 1 and statuses & {401, 403, 404, 413, 429, 503}:
        return statuses.pop()
    if any(error.stored == "unknown" for error in errors):
        return 504
    return 503 if 503 in statuses else 400


def batch_truth(total: int, errors: list[GatewayError]) -> tuple[Stored, Repeat]:
    """What is true of a batch with these errors: `partly` stored when there are fewer of them than messages."""
    repeats = any(error.repeat != "never" for error in errors)
    if len(errors) < total:
        return "partly", "with-key" if repeats else "never"
    if any(error.stored == "unknown" for error in errors):
        return "unknown", "with-key"
    return "no", "safe" if repeats else "never"


def batch_fields(total: int, failed: list[tuple[int, GatewayError]]) -> dict[str, Any]:
    """The fields of a batch's answer: counts, texts, and each failure by its index."""
    return {
        "errors": [error.message for _, error in failed],
        "fail": len(failed),
        "sent": total - len(failed),
        "failed": [_failed(index, error) for index, error in failed],
    }


def _failed(index: int, error: GatewayError) -> dict[str, Any]:
    entry = {"index": index, "error": error.message, "stored": error.stored, "status": error.status}
    return {**entry, **{k: v for k, v in error.fields.items() if k in ("violations", "dead_letter")}}
