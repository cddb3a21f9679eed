"""Everything that can go wrong, one class for each situation that a caller can tell apart.

    Exception
    ├── BadSetting                       a setting stops the start
    └── GatewayError                     becomes an answer through `to_response`
        ├── BadRequest              400
        │   ├── BadBody                  not the JSON, UTF-8 or shape that was asked for
        │   ├── BadStationName
        │   ├── BadHeader                a header that cannot be stored, or a bad Idempotency-Key
        │   ├── BadSchema                a definition that does not compile, or is too large or too deep
        │   ├── BadSchemaName
        │   └── SchemaViolation          the station's schema refuses the payload
        ├── Unauthorized            401
        ├── Forbidden               403  the broker denies this user this
        ├── RouteNotFound           404
        ├── StationNotFound         404
        ├── SchemaNotFound          404
        ├── RegistryOff             404  this gateway asks for no schemas
        ├── MethodNotAllowed        405
        ├── SlowBody                408
        ├── Conflict                409  what is to be changed is in use, or was changed by others meanwhile
        ├── LengthRequired          411
        ├── TooLarge                413  body, message or batch
        ├── UnsupportedMediaType    415
        │   └── UnsupportedEncoding      a Content-Encoding that is not undone here
        ├── KeyReused               422  the Idempotency-Key belongs to another message
        ├── RateLimited             429
        │   └── TooManyStations          this user has created as many as it may, for now
        ├── HeadersTooLarge         431
        ├── Internal                500  unexpected; the log has the details
        ├── LogOutOff               501  this gateway has nowhere to keep what was revoked
        ├── Unavailable             503
        │   ├── Overloaded               a bounded queue is full
        │   ├── Stopping                 this worker is on its way out
        │   ├── BrokerAway               no connection to the broker
        │   ├── BrokerRefused            the broker answered that it cannot store this now
        │   ├── BadRegistry              what the registry holds for a station cannot be used
        │   └── OpenBroker               the broker lets everyone in
        ├── AckTimeout              504  sent, and not answered in time
        ├── ChangeUnconfirmed       504  the same for a change of the registry
        └── BatchFailed                  some messages of a batch, or some acks, failed; the status follows from theirs

Every error says whether the message was stored (`stored`) and whether repeating the request is safe (`repeat`), as in
`failures`. `to_response` is the one place where an error becomes a body, and where the unexpected is logged.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from proxy import failures
from proxy.failures import DATA_ONLY as DATA_ONLY
from proxy.failures import GatewayError as GatewayError
from proxy.failures import encode as encode
from proxy.failures import let_go as let_go


class BadSetting(Exception):
    """A setting that the gateway cannot start with: `variable`, and what it `must` be."""

    def __init__(self, variable: str, must: str) -> None:
        super().__init__(f"{variable} must be {must}")
        self.variable, self.must = variable, must


class BadRequest(GatewayError):
    """The request is wrong; sending it again will not help."""

    status = 400
    default = "the request cannot be understood"


class BadBody(BadRequest):
    """The body is not the JSON, UTF-8 or shape that this route takes."""


class BadStationName(BadRequest):
    """No station can have this name."""

    default = (
        "a station name has 1 to 128 letters, digits, '_', '-' and '.', and begins and ends with a letter or digit"
    )


class BadHeader(BadRequest):
    """A request header cannot be stored as a message header, or is no de-duplication id."""


class BadSchema(BadRequest):
    """A schema's definition cannot be used: the message says why, and where it can, at which line."""


class BadSchemaName(BadRequest):
    """No schema can have this name."""

    default = "a schema's name has 1 to 128 letters, digits, '_' and '-'"


class SchemaViolation(BadRequest):
    """The station's schema refuses the payload; the field `violations` lists why."""


class Unauthorized(GatewayError):
    """No valid token, or wrong credentials. What exactly was wrong is never told."""

    status = 401
    default = "Unauthorized"

    def headers(self) -> failures.Headers:
        """The challenge that RFC 9110 asks for."""
        return [("WWW-Authenticate", "Bearer")]


class Forbidden(GatewayError):
    """The broker does not let this user do this."""

    status = 403
    default = "the broker does not allow this user to do this"


class RouteNotFound(GatewayError):
    """There is no such route."""

    status = 404
    default = "there is no such route; see the links at /"


class StationNotFound(GatewayError):
    """The broker says that no such station exists."""

    status = 404
    default = "there is no such station"


class SchemaNotFound(GatewayError):
    """The registry has no such schema, or not this version of it."""

    status = 404
    default = "there is no such schema"


class RegistryOff(GatewayError):
    """This gateway asks for no schemas, so it cannot change them either."""

    status = 404
    default = "this gateway runs without schemas (SCHEMA_REGISTRY=false)"


class MethodNotAllowed(GatewayError):
    """The route exists and does not take this method; `allowed` are those it takes."""

    status = 405
    default = "this route does not take that method"

    def __init__(self, message: str = "", *, allowed: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.allowed = allowed

    def headers(self) -> failures.Headers:
        """The methods that the route takes."""
        return [("Allow", ", ".join(sorted(self.allowed)))] if self.allowed else []


class SlowBody(GatewayError):
    """The body did not arrive in time."""

    status = 408
    repeat = "safe"
    default = "the request did not arrive in time"


class Conflict(GatewayError):
    """What is to be changed is in use, or others have changed it meanwhile."""

    status = 409
    default = "this was changed at the same time; look at it and try again"


class LengthRequired(GatewayError):
    """A body without a length."""

    status = 411
    default = "send a Content-Length, or the body in chunks"


class TooLarge(GatewayError):
    """A body, message or batch above the limit."""

    status = 413
    default = "the body is too large"


class UnsupportedMediaType(GatewayError):
    """A content type that this route does not take."""

    status = 415


class UnsupportedEncoding(UnsupportedMediaType):
    """A Content-Encoding that the gateway does not undo."""

    default = "send the body as it is, or with Content-Encoding: gzip"

    def headers(self) -> failures.Headers:
        """The encodings that are undone (RFC 9110 12.5.3)."""
        return [("Accept-Encoding", "gzip")]


class KeyReused(GatewayError):
    """The Idempotency-Key was used for another message."""

    status = 422
    default = "this Idempotency-Key was used for a message with other bytes; take a new key for a new message"


class RateLimited(GatewayError):
    """More requests than this sender may make. `retry_after` is in seconds.

    `policy` is what it may make, in the form of the header field `RateLimit-Policy`; of one such policy nothing is left
    (draft-ietf-httpapi-ratelimit-headers-10).
    """

    status = 429
    repeat = "safe"
    default = "too many requests; try again later"

    def __init__(self, message: str = "", *, retry_after: int = 1, policy: str = "") -> None:
        super().__init__(message)
        self.retry_after, self.policy = retry_after, policy

    def headers(self) -> failures.Headers:
        """When to come back, and of what there was too much."""
        headers = super().headers()
        if self.policy:
            name = self.policy.partition(";")[0]
            headers += [("RateLimit-Policy", self.policy), ("RateLimit", f"{name};r=0;t={self.retry_after}")]
        return headers


class TooManyStations(RateLimited):
    """The station is absent, and this user has created as many stations as it may in a minute."""

    default = "there is no such station, and this user has created as many as it may for now; try again in a minute"

    def __init__(self, message: str = "") -> None:
        super().__init__(message, retry_after=60)


class HeadersTooLarge(GatewayError):
    """More header bytes or fields than the gateway takes."""

    status = 431
    default = "the request's headers are too large"


class Internal(GatewayError):
    """Something that nobody expected; whether the message was stored is not known."""

    status = 500
    stored = "unknown"
    repeat = "with-key"
    default = "something went wrong here; the gateway's log tells more under this request_id"


class LogOutOff(GatewayError):
    """Tokens cannot be revoked here; they end by themselves. The message says why."""

    status = 501
    default = "log-out is off"


class Unavailable(GatewayError):
    """Nothing was stored, and trying again later may work. `retry_after` is in seconds."""

    status = 503
    repeat = "safe"
    retry_after = 1


class Overloaded(Unavailable):
    """A bounded queue is full."""

    default = "the gateway has as much under way as it takes; try again shortly"


class Stopping(Unavailable):
    """This worker is stopping, or has not started."""

    default = "this worker is stopping; try again"


class BrokerAway(Unavailable):
    """There is no connection to the broker."""

    default = "the broker cannot be reached; nothing was stored"
    retry_after = 2


class BrokerRefused(Unavailable):
    """The broker answered, and the answer is that it did not store this."""

    default = "the broker refused to store the message"
    retry_after = 2


class BadRegistry(Unavailable):
    """The registry holds something for a station that cannot be used; whoever may write there has to put it right."""

    retry_after = 10


class OpenBroker(Unavailable):
    """The broker lets everyone in, so tokens would prove nothing."""

    default = "the broker takes any credentials; set up its authentication (or ALLOW_OPEN_BROKER=true)"
    retry_after = 10


class AckTimeout(GatewayError):
    """Sent to the broker, and no answer came in time: it may be stored."""

    status = 504
    stored = "unknown"
    repeat = "with-key"
    default = "the broker did not confirm in time; repeat the request with the same Idempotency-Key"


class ChangeUnconfirmed(GatewayError):
    """A change of the registry was sent, and no answer came in time: it may be made. Making it again does no harm."""

    status = 504
    stored = "unknown"
    repeat = "with-key"
    default = "the broker did not confirm the change in time; it may be made: repeat the request"


class BatchFailed(GatewayError):
    """Some or all messages of a batch failed; `failed` are (index, error) in order."""

    def __init__(self, total: int, failed: list[tuple[int, GatewayError]], **fields: Any) -> None:
        super().__init__(f"{len(failed)} of {total} messages failed", **fields)
        errors = [error for _, error in failed]
        self.status = failures.batch_status(total, errors)
        self.stored, self.repeat = failures.batch_truth(total, errors)
        self._typical = next((error for error in errors if error.status == self.status), None)
        self.fields |= failures.batch_fields(total, failed)

    def headers(self) -> failures.Headers:
        """Those of the first failure that has the status of the whole: the challenge, when to come back."""
        return self._typical.headers() if self._typical is not None else []


class CheckFailed(BatchFailed):
    """As `BatchFailed`, of a batch that was checked only: nothing of it is stored, the good messages neither."""

    def __init__(self, total: int, failed: list[tuple[int, GatewayError]]) -> None:
        super().__init__(total, failed)
        self.stored = "no"
        self.fields["sent"] = 0


class AcksFailed(BatchFailed):
    """As `BatchFailed`, of acks: what `stored` and `sent` tell is which of them the broker has taken."""

    def __init__(self, total: int, failed: list[tuple[int, GatewayError]]) -> None:
        super().__init__(total, failed)
        self.message = f"{len(failed)} of {total} acks failed"
        self.repeat = "never" if self.repeat == "never" else "safe"  # an ack that was taken is taken again


def of_status(status: int, message: str = "") -> GatewayError:
    """The error for an HTTP status that others found: a server, or a framework."""
    error = _BY_STATUS.get(status, BadRequest)(message)
    error.status = status
    return error


def to_response(
    error: BaseException, *, accept: str = "", request_id: str = "", path: str = ""
) -> tuple[int, failures.Headers, bytes]:
    """The answer to a failed request: status, headers and JSON body (RFC 9457 where `accept` asks for it).

    What is no `GatewayError` was not expected: it is logged with the request id, and answered without detail.
    """
    if not isinstance(error, GatewayError):
        import structlog  # here, as it imports asyncio, which gunicorn's master must not have before workers patch it

        structlog.get_logger().error("unexpected", request_id=request_id, exc_info=error)
        error = Internal()
    return failures.answer(error, accept, request_id, path)


_FOUND_BY_OTHERS: list[type[GatewayError]] = [
    *(Unauthorized, Forbidden, RouteNotFound, SlowBody, LengthRequired, TooLarge, UnsupportedMediaType),
    *(RateLimited, HeadersTooLarge, Internal, Overloaded, AckTimeout),
]
_BY_STATUS: dict[int, type[GatewayError]] = {error.status: error for error in _FOUND_BY_OTHERS}
_BY_STATUS[HTTPStatus.BAD_GATEWAY] = Internal
