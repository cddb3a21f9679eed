"""An HTTP/1 connection: reading in the event loop, requests in greenlets.

A connection has no greenlet while it waits for its client, so ten thousand idle or slow ones cost their buffers and
nothing else. Once a request is complete, body included, a greenlet runs the application; greenlets are kept for the
next request. Who calls what:

    loop -> Connection.on_readable -> RequestParser -> Service.dispatch -> greenlet -> Connection.serve -> Response

While a request runs nothing is read from its connection, so a client that sends faster than it is served waits.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextvars import Context
from typing import Any

import gevent

from proxy.hanging_up import CLIENT
from proxy.http1_repeats import Again, KnownHead, known_head
from proxy.http1_requests import Environ, Refusal, Request, RequestParser, SchemeHeaders
from proxy.http1_responses import Application, Response, error_application
from proxy.http1_service import Service
from proxy.transports import ClientGone, Transport

_READ = 1  # what libev calls EV_READ
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_INTERNAL = "something went wrong here; the gateway's log tells more under this request_id"
# How long the rest of a refused request is thrown away, so that its sender sees the answer rather than a reset.
_LINGER_SECONDS = 2.0
# A client whose heads have all differed has one remembered after so many further requests at the latest.
_DOUBTS = 64


class Connection:
    """One client's connection. `on_readable` is for the event loop, `serve` for a greenlet, one at a time.

    `peer` is the client's address and port, `base` what every environ begins with; `scheme_headers` as for the parser.
    """

    __slots__ = (
        "_accounted",
        "_asked",
        "_awaits",
        "_greenlet",
        "_known",
        "_parser",
        "_paused",
        "_peer",
        "_service",
        "_to_discard",
        "_transport",
        "_unknown",
        "_watcher",
        "busy",
        "closed",
        "deadline",
    )

    def __init__(
        self,
        service: Service,
        transport: Transport,
        peer: tuple[str, str],
        base: Environ,
        scheme_headers: SchemeHeaders = (),
    ) -> None:
        self._service = service
        self._transport = transport
        self._peer = peer
        self._parser = RequestParser(service.options.limits, base, scheme_headers)
        self._awaits, self._accounted, self._to_discard, self._unknown = "", 0, 0, 0
        self._known: KnownHead | None = None
        self._asked: tuple[KnownHead | Request, bytes] | None = None
        self._greenlet: Any = None
        self._paused = self.busy = self.closed = False
        self.deadline = time.monotonic() + service.options.header_seconds
        self._watcher = service.loop.io(transport.fileno(), _READ)
        self._watcher.start(self.on_readable)
        service.connections.add(self)

    # In the event loop.

    def on_readable(self) -> None:
        """Take in what has arrived, and have it served once a request is complete."""
        if self.busy:
            self._pause()
            return
        try:
            data = self._transport.receive()
        except BlockingIOError:
            return
        except OSError:  # reset by the client, or not TLS
            data = b""
        if not data:
            self.close()
            return
        try:
            self._take(data)
        except Exception:  # a fault of ours; one connection is enough to pay for it
            self._service.options.log.exception("Error in a connection")
            self.close()

    def expire(self) -> None:
        """The deadline has passed: refuse what is half there, close what is idle."""
        if self._awaits:
            self._parser.refuse(408, f"the {self._awaits} of the request did not arrive in time")
            self._dispatch()
        else:
            self.close()

    def tidy(self) -> None:
        """Forget what only makes the next request cheaper, so that idle connections are small."""
        self._known = None
        self._unknown = min(self._unknown, _DOUBTS)

    def wind_up(self) -> None:
        """Close, unless a request is here or on its way."""
        if self._to_discard:
            return
        if not self.busy:
            self.on_readable()
        if not self.busy and not self._awaits:
            self.close()

    def _pause(self) -> None:
        """Stop listening while a request runs. Only clients that send the next one early make it happen."""
        if not self.closed:
            self._watcher.stop()
            self._paused = True

    def _take(self, data: bytes) -> None:
        parser, known = self._parser, self._known
        body = None if known is None or parser.waiting else known.body(data)
        if known is not None and body is not None:
            self._unknown, again = 0, known.again
            if again is not None and self._ask(again, known, body):
                return
            parser.ready.append(known.request(body))
            if again is not None:  # what no longer suits this head is asked for anew with the next request
                self._known = None
                self._dispatch()
                return
        else:
            known = self._parse(parser, data)
        if parser.ready:
            if not self._ask_for(parser.ready, known):
                self._dispatch()
        elif self._transport.pending:
            self._service.loop.run_callback(self._go_on)

    def _ask_for(self, ready: list[Request | Refusal], known: KnownHead | None) -> bool:
        """Have a request served without WSGI, if the application does that for its head; false if it does not.

        `known` is that very head, if it is remembered.
        """
        item, again_for = ready[0], self._service.options.again_for
        if again_for is None or len(ready) > 1 or isinstance(item, Refusal) or item.http10 or not item.keep_alive:
            return False
        item.environ["REMOTE_ADDR"], item.environ["REMOTE_PORT"] = self._peer
        again = again_for(item.environ)
        if known is not None:
            known.again = again
        ready.clear()  # before it is declined, which makes it ready again
        if again is not None and self._ask(again, item, item.environ["wsgi.input"].getvalue()):
            return True
        ready.append(item)
        return False

    def _ask(self, again: Again, asked: KnownHead | Request, body: bytes) -> bool:
        if not self._service.asks or not self._service.keeps_alive:
            return False
        self.busy, self._awaits, self._asked = True, "", (asked, body)
        if again(body, self):  # which may have declined by now
            return True
        self.busy, self._asked = False, None
        return False

    def answer(self, head: bytes, body: bytes) -> None:
        """The answer to a request that was asked for; see `Asker`."""
        service = self._service
        service.count()
        if self.closed:
            return
        then, closing = (self._rest, b"") if service.keeps_alive else (self._part, b"Connection: close\r\n")
        data = b"%b%bContent-Length: %d\r\n%b%b" % (head, closing, len(body), service.date, body)
        try:
            rest = self._transport.begin_send(data)
        except ClientGone:
            self.close()
            return
        self._asked = None
        if rest is None:
            then()
        else:
            gevent.spawn_raw(self._send_rest, rest, then)

    def decline(self, more: Environ) -> None:
        """Serve a request that was asked for in the ordinary way; see `Asker`."""
        if self.closed or self._asked is None:
            return
        (asked, body), self._asked = self._asked, None
        request = asked if isinstance(asked, Request) else asked.request(body)
        request.environ.update(more)
        self._parser.ready.append(request)
        self._dispatch()

    def _parse(self, parser: RequestParser, data: bytes) -> KnownHead | None:
        """Take in bytes; returns the head of the request that they are, if it is remembered from now on."""
        begins = not parser.waiting
        parser.feed(data)
        if parser.waiting:
            if not parser.ready:
                self._await_rest()
        elif begins and len(parser.ready) == 1:
            self._unknown += 1
            # After 1, 2, 4, 8, ... requests: a client whose heads all differ should not pay for others.
            item = parser.ready[0]
            if self._unknown & (self._unknown - 1) == 0 and isinstance(item, Request):
                self._known = known_head(data, item, self._service.options.limits.body_bytes)
                return self._known
        return None

    def _dispatch(self) -> None:
        self.busy = True
        self._service.dispatch(self)

    def _await_rest(self) -> None:
        """A request has begun: set its deadline, and tell a client to go on that asks whether to."""
        parser, options = self._parser, self._service.options
        awaits, seconds = ("body", options.body_seconds) if parser.reads_body else ("head", options.header_seconds)
        if awaits != self._awaits:
            self._awaits = awaits
            self.deadline = time.monotonic() + seconds
        if parser.expects_continue:
            parser.expects_continue = False
            self._transport.send_now(_CONTINUE)
        self._account(parser.seen)
        if self._service.buffered > options.max_buffered_bytes:
            parser.refuse(503, "this worker holds as much of requests as it can; try again shortly")

    def _account(self, buffered: int) -> None:
        self._service.buffered += buffered - self._accounted
        self._accounted = buffered

    def _discard(self) -> None:
        """Throw away what a refused client still sends, within bounds."""
        try:
            size = self._transport.discard()
        except BlockingIOError:
            return
        except OSError:
            size = 0
        self._to_discard -= size
        if not size or self._to_discard <= 0:
            self.close()

    # In a greenlet.

    def _send_rest(self, rest: memoryview, then: Callable[[], None]) -> None:
        """Go on with an answer that the client takes slowly."""
        if self.closed:  # before this greenlet had its first turn
            return
        self._greenlet = gevent.getcurrent()
        try:
            self._transport.send_rest(rest)
        except BaseException as error:
            self.close()
            if not isinstance(error, ClientGone):
                raise
        else:
            self._greenlet = None
            then()

    def serve(self, greenlet: Any) -> None:
        """Answer what is ready, in order, and go back to reading, or close."""
        self._greenlet = greenlet
        self._awaits = ""
        ready = self._parser.ready
        try:
            keeps_alive = True
            while ready and keeps_alive:
                keeps_alive = self._answer(ready.pop(0))
        except BaseException:  # killed, or a fault of ours
            self.close()
            raise
        self._greenlet = None
        if keeps_alive:
            self._rest()
        else:
            self._part()

    def _answer(self, item: Request | Refusal) -> bool:
        """Answer one request; returns whether the connection can take another one."""
        if isinstance(item, Refusal):
            return self._refuse(item)
        if "REMOTE_ADDR" not in item.environ:  # else `again_for` was asked, which may know the client behind a proxy
            item.environ["REMOTE_ADDR"], item.environ["REMOTE_PORT"] = self._peer
        item.environ[CLIENT] = self._transport
        self._service.count()
        return self._run(item, self._service.application)

    def _refuse(self, refusal: Refusal) -> bool:
        """Answer with an error. The query is forgotten, because it may hold a token that nobody has removed yet."""
        options, environ = self._service.options, refusal.environ
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = self._peer
        environ |= {"QUERY_STRING": "", "RAW_URI": environ.get("PATH_INFO", "")}
        options.log.debug("Refused with %s: %s", refusal.status, refusal.message)
        application = error_application(refusal.status, refusal.message, options.error_answer)
        return self._run(Request(environ, keep_alive=False, http10=False), application)

    def _run(self, request: Request, application: Application) -> bool:
        service, options = self._service, self._service.options
        response = Response(request, self._transport.send, service.date, service.keeps_alive, service.ends)
        began = time.monotonic() if options.after else 0.0
        try:
            if options.before is not None:
                options.before(request)
            # A context of its own: no request sees another one's context variables.
            Context().run(response.respond, application)
        except ClientGone:
            response.keep_alive = False
        except (Exception, SystemExit):
            response = self._fail(request, response)
        if options.after is not None:
            options.after(request, response, began)
        return response.keep_alive and not self.closed

    def _fail(self, request: Request, response: Response) -> Response:
        """The application raised: answer 500, or cut off the answer that has begun."""
        options, environ = self._service.options, request.environ
        options.log.exception("Error handling %s %s", environ.get("REQUEST_METHOD"), environ.get("PATH_INFO"))
        response.keep_alive = False
        if response.started:
            return response
        answer = Response(request, self._transport.send, self._service.date, keep_alive=False)
        with contextlib.suppress(ClientGone):
            answer.respond(error_application(500, _INTERNAL, options.error_answer))
        return answer

    def _rest(self) -> None:
        """Wait for the next request, of which a part may be here already."""
        service = self._service
        self.busy = False
        self.deadline = time.monotonic() + service.options.keepalive_seconds
        if self._accounted:
            self._account(0)
        if self._parser.waiting:
            self._await_rest()
        if self._paused:
            self._paused = False
            self._watcher.start(self.on_readable)
        if self._transport.pending or self._parser.ready or service.winds_up:
            service.loop.run_callback(self._go_on)

    def _go_on(self) -> None:
        """What `_rest` leaves to the event loop, where alone things may be dispatched."""
        if self.busy or self._to_discard:
            return
        if self._parser.ready:
            self._dispatch()
        elif self._service.winds_up:
            self.wind_up()
        else:
            self.on_readable()

    def _part(self) -> None:
        """Close; a client that was refused in mid-sentence, or sends the next request early, gets the time to read."""
        if self.closed or not (self._parser.cut_short or self._paused):
            self.close()
            return
        self._transport.end()
        self._account(0)
        self._to_discard = 2 * self._service.options.limits.body_bytes
        self.deadline = time.monotonic() + _LINGER_SECONDS
        self._watcher.stop()
        self._watcher.start(self._discard)
        self.busy = False

    def close(self) -> None:
        """Close the connection; a second time does nothing."""
        if self.closed:
            return
        self.busy = self.closed = True
        self._watcher.close()
        self._transport.close()
        self._parser.close()
        self._account(0)
        self._service.forget(self)

    def abort(self) -> None:
        """Close the connection, and end the greenlet that serves it."""
        if self._greenlet is not None:
            gevent.kill(self._greenlet)
        else:
            self.close()
