"""gunicorn's worker class of the gateway: `worker_class = "proxy.server.Worker"`.

Made of gunicorn's gevent worker, from which it has its patching, signals and heartbeat, and of `proxy.http1`, which
serves the connections. gunicorn's master imports this module before a worker patches anything: nothing is bound here
to a name that gevent replaces.
"""

from __future__ import annotations

import _socket
import ipaddress
import os
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import gevent
import gevent.select
from gevent.server import StreamServer
from gunicorn.http.message import MAX_HEADERS
from gunicorn.http.wsgi import base_environ
from gunicorn.sock import ssl_context
from gunicorn.workers.ggevent import GeventWorker

from proxy import http1_responses
from proxy.http1 import Connection
from proxy.http1_repeats import AgainFor
from proxy.http1_requests import Environ, Limits, Request, SchemeHeaders
from proxy.http1_responses import ErrorAnswer, Response
from proxy.http1_service import Options, Service
from proxy.transports import Backlog, TlsTransport, Transport

# What `graceful_timeout` leaves for the rest of the worker's end, before gunicorn's master kills it.
_LAST_SECONDS = 0.5
# How often the end of the last connections is looked for when the worker stops.
_STOP_POLL_SECONDS = 0.02


class Worker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """Serves HTTP/1.1 and HTTP/1.0 with gevent and llhttp.

    gunicorn's settings hold as for its own gevent worker: `keepalive`, `graceful_timeout`, `worker_connections`,
    `max_requests`, `limit_request_line`, `limit_request_fields`, `limit_request_field_size`, `certfile` and the other
    TLS settings, `accesslog`, `forwarded_allow_ips`, `secure_scheme_headers`, `pre_request`, `post_request`. What it
    has none for are attributes of this class, to be set in gunicorn.conf.py before a worker starts:

        def post_fork(server, worker):
            worker.max_body_bytes = 1_000_000

    Bodies are complete, and `wsgi.input` in memory, before the application is called. Names with an underscore are
    dropped from the headers. HTTP/2, the PROXY protocol, `SCRIPT_NAME` and `wsgi.early_hints` are left to gunicorn's
    own workers; a worker whose settings ask for one of the first two does not start.
    """

    #: Largest request body; a larger one is answered 413 as soon as that is known.
    max_body_bytes = 8 * 1024 * 1024
    #: Largest request line and headers together; 431 beyond.
    max_head_bytes = 64 * 1024
    #: Heads and bodies that a worker holds at once, of requests that came in pieces; 503 beyond.
    max_buffered_bytes = 256 * 1024 * 1024
    #: From the first byte of a request to the end of its headers; 408 beyond.
    header_seconds = 10.0
    #: From the end of the headers to the end of the body; 408 beyond.
    body_seconds = 60.0
    #: How long a client may take for each 64 KiB of an answer before it is hung up on.
    send_seconds = 30.0
    #: Answers that a worker holds for clients that take them slowly; beyond, the slowest are hung up on.
    max_unsent_bytes = 256 * 1024 * 1024
    #: How long a stopping worker goes on serving what comes on connections kept alive, before it closes idle ones.
    linger_seconds = 0.5
    #: How often deadlines are looked at.
    sweep_seconds = 1.0
    #: Makes headers and body of what the server answers itself; takes status, message and the environ so far.
    error_answer: ErrorAnswer = staticmethod(http1_responses.error_answer)
    #: Serves requests without WSGI, where the application can (see `proxy.http1_repeats`).
    again_for: AgainFor | None = None

    def init_process(self) -> None:
        """Called by gunicorn in the new process."""
        if self.cfg.proxy_protocol != "off" or "h2" in self.cfg.http_protocols:
            raise RuntimeError("proxy.server.Worker has neither HTTP/2 nor the PROXY protocol; gunicorn's gevent has")
        super().init_process()

    def run(self) -> None:
        """Called by gunicorn once the application is loaded; returns when the worker has stopped."""
        service = Service(self.wsgi, self._options(), self._retire)
        backlog = Backlog(self.max_unsent_bytes)
        listeners = [Listener(sock, self, service, backlog) for sock in self.sockets]
        service.on_close = lambda: _accept_again(listeners)
        for listener in listeners:
            listener.start()
        while self.alive:
            self.notify()
            self._wait_for_signal()
        for listener in listeners:
            listener.close()
        self._finish(service)

    def _options(self) -> Options:
        cfg = self.cfg
        limits = Limits(
            request_line=cfg.limit_request_line or self.max_head_bytes,
            fields=cfg.limit_request_fields or MAX_HEADERS,
            field_bytes=cfg.limit_request_field_size or self.max_head_bytes,
            head_bytes=self.max_head_bytes,
            body_bytes=self.max_body_bytes,
        )
        logs = self.log.access_log_enabled or _is_set(cfg, "post_request")
        return Options(
            limits=limits,
            header_seconds=self.header_seconds,
            body_seconds=self.body_seconds,
            keepalive_seconds=cfg.keepalive,
            linger_seconds=self.linger_seconds,
            max_buffered_bytes=self.max_buffered_bytes,
            max_requests=self.max_requests,
            sweep_seconds=self.sweep_seconds,
            error_answer=self.error_answer,
            again_for=self.again_for,
            before=self._before_request if _is_set(cfg, "pre_request") else None,
            after=self._after_request if logs else None,
            log=self.log,
        )

    def _retire(self) -> None:
        self.log.info("Autorestarting worker after current request.")
        self.alive = False
        os.write(self.PIPE[1], b".")

    def _wait_for_signal(self) -> None:
        """Wait for a second; less if a signal comes, which writes to the pipe."""
        ready, _, _ = gevent.select.select([self.PIPE[0]], [], [], 1.0)
        if ready:
            os.read(self.PIPE[0], 4096)

    def _finish(self, service: Service) -> None:
        """Let what runs come to its end, within `graceful_timeout`."""
        service.stop()
        deadline = time.monotonic() + self.cfg.graceful_timeout - _LAST_SECONDS
        while service.connections and time.monotonic() < deadline:
            self.notify()
            gevent.sleep(_STOP_POLL_SECONDS)
        cut = service.abort()
        if cut:
            self.log.warning("Worker graceful timeout (pid:%s): %s connections were cut", self.pid, cut)
            gevent.sleep(_STOP_POLL_SECONDS)

    def _before_request(self, request: Request) -> None:
        self.cfg.pre_request(self, _as_gunicorn(request.environ))

    def _after_request(self, request: Request, response: Response, began: float) -> None:
        view = _as_gunicorn(request.environ)
        environ = {"REQUEST_METHOD": "-", "RAW_URI": "-", "SERVER_PROTOCOL": "-", **request.environ}
        self.log.access(response, view, environ, timedelta(seconds=time.monotonic() - began))
        self.cfg.post_request(self, view, environ, response)


class Listener(StreamServer):  # type: ignore[misc]  # gevent has no types
    """Accepts the connections of one listening socket, as long as the worker has fewer than `worker_connections`."""

    def __init__(self, sock: Any, worker: Worker, service: Service, backlog: Backlog) -> None:
        super().__init__(sock, handle=self.open)
        cfg = worker.cfg
        if cfg.workers > 1:
            self.max_accept = 1  # leave some to the other workers
        self._service = service
        self._limit: int = worker.worker_connections
        self._sending = worker.send_seconds, backlog
        self._tls = ssl_context(cfg) if cfg.is_ssl else None
        self._trusted = _trusted_networks(cfg)
        self._scheme_headers = _scheme_headers(cfg.secure_scheme_headers)
        self._environ = _environ(cfg, self.address)

    def full(self) -> bool:
        """Whether no more connections are taken for now; gevent stops accepting then."""
        return len(self._service.connections) >= self._limit

    def do_read(self) -> tuple[_socket.socket, Any] | None:
        """Accept a connection, without the event watchers and greenlet that gevent would give it."""
        try:
            fd, address = self.socket._accept()
        except BlockingIOError:
            return None
        sock = _socket.socket(self.socket.family, self.socket.type, self.socket.proto, fd)
        sock.setblocking(False)
        return sock, address

    def do_handle(self, *accepted: Any) -> None:
        """Called by gevent with what `do_read` returned."""
        self.open(*accepted)

    def open(self, sock: _socket.socket, address: Any) -> None:
        """Serve a new connection. TCP_NODELAY is inherited from the listening socket, where gunicorn sets it."""
        host, port = (address[0], str(address[1])) if isinstance(address, tuple) else ("", "")
        transport = TlsTransport(sock, *self._sending, self._tls) if self._tls else Transport(sock, *self._sending)
        scheme_headers = self._scheme_headers if self._trusts(host) else ()
        Connection(self._service, transport, (host, port), self._environ, scheme_headers)

    def _trusts(self, host: str) -> bool:
        """Whether this client is a proxy that may say what scheme it was asked by; those on unix sockets are."""
        if self._trusted is None or not host:
            return True
        address = ipaddress.ip_address(host)
        return any(address in network for network in self._trusted)


def _accept_again(listeners: list[Listener]) -> None:
    """A connection was closed: there is room for another one."""
    for listener in listeners:
        if listener.started and not listener.full():
            listener.start_accepting()


def _environ(cfg: Any, address: Any) -> Environ:
    """What the environs of one listening socket have in common. WSGI wants a server name on unix sockets too."""
    scheme = "https" if cfg.is_ssl else "http"
    name, port = address[:2] if isinstance(address, tuple) else ("localhost", 443 if cfg.is_ssl else 80)
    return {
        **base_environ(cfg),
        "wsgi.multithread": True,
        "wsgi.url_scheme": scheme,
        "SCRIPT_NAME": "",
        "SERVER_NAME": name,
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": "HTTP/1.1",
    }


def _scheme_headers(setting: dict[str, str]) -> SchemeHeaders:
    return tuple(("HTTP_" + name.upper().replace("-", "_"), value) for name, value in setting.items())


def _trusted_networks(cfg: Any) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network] | None:
    """The networks of `forwarded_allow_ips`; None if everyone is trusted."""
    return None if "*" in cfg.forwarded_allow_ips else list(cfg.forwarded_allow_networks())


def _is_set(cfg: Any, hook: str) -> bool:
    """Whether gunicorn.conf.py has a hook of its own."""
    setting = cfg.settings[hook]
    return bool(setting.get() is not setting.default)


def _as_gunicorn(environ: Environ) -> SimpleNamespace:
    """A request as gunicorn's hooks and access log know it."""
    headers = [(key[5:].replace("_", "-"), value) for key, value in environ.items() if key.startswith("HTTP_")]
    return SimpleNamespace(
        method=environ.get("REQUEST_METHOD", "-"),
        uri=environ.get("RAW_URI", "-"),
        path=environ.get("PATH_INFO", "-"),
        query=environ.get("QUERY_STRING", ""),
        headers=headers,
    )
