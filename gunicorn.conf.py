"""How gunicorn runs the gateway: its settings, the embedded broker around the workers, the bridge inside each worker.

SIGHUP replaces the workers (they read settings and secret files anew) and leaves the broker alone; where a setting has
gone bad, it says so and leaves the workers alone too. SIGUSR2, which starts a second master beside the first, works
with `BROKER_URL` only: the embedded broker's data has one owner.
"""

import contextlib
import functools
import gc
import ipaddress
import math
import os
import resource
import signal
import sys
import threading
import time

from proxy import processors
from proxy.brokers import embedded
from proxy.errors import BadSetting, GatewayError
from proxy.gunicorn_log import Log
from proxy.old_settings import read_settings
from proxy.parsers import bracketed

_START_SECONDS = 10.0
_STOP_SECONDS = 2.0
_LOOK_SECONDS = 0.25
_AGAIN_SECONDS = 1.0  # before a worker that cannot start is tried again
_LAST_SWITCH_SECONDS = 0.0005  # a thread that runs in circles must not keep the others from their last answers
_SHARE_SECONDS, _CHOOSE_SECONDS = 1.0, 0.02  # the threads on one core, and on any
_MOST_FILES = 1 << 20
_OBJECTS_BETWEEN_COLLECTIONS = 50_000

try:
    _config = read_settings(os.environ)
except BadSetting as error:
    sys.exit(f"stations: {error}")

bind = f"{bracketed(_config.http_host)}:{_config.http_port}"
workers = _config.web_concurrency
worker_class = _config.gunicorn_worker_class
worker_connections = 20_000
threads = 64  # of the gthread worker
graceful_timeout = math.ceil(_config.graceful_timeout_seconds)
timeout = 60  # a worker that shows no sign of life for so long is replaced
keepalive = 75  # longer than the 60 s after which common load balancers close idle connections
limit_request_line = 8190
limit_request_fields = 100
limit_request_field_size = 8190

# The application alone judges X-Forwarded-*, by TRUSTED_PROXIES.
forwarded_allow_ips = ""
secure_scheme_headers = {}
forwarder_headers = ""

logger_class = Log
loglevel = {"debug": "info", "info": "warning"}.get(_config.log_level, _config.log_level)
accesslog = None  # the application writes it

# Its socket needs a writable HOME, and its thread would run in the master, which forks.
control_socket_disable = True
if os.access("/dev/shm", os.W_OK):  # noqa: S108 - on a disk, the workers' signs of life wait for it
    worker_tmp_dir = "/dev/shm"  # noqa: S108


def on_starting(server):
    """In the master, before anything else: many connections are allowed, the embedded broker is started."""
    _allow_many_files()
    server.broker = None
    if not _config.embedded:
        return
    try:
        server.broker = embedded.start(_config)
        if not server.broker.await_ready(_START_SECONDS):
            _say(f"The embedded broker is not ready yet; its log: {server.broker.data_dir}/nats-server.log")
    except BadSetting as error:
        sys.exit(f"stations: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def when_ready(server):
    """In the master, once it listens: says where, and how to try it."""
    if _config.default_credentials and not all(map(_is_of_this_machine, server.LISTENERS)):
        for listener in server.LISTENERS:
            listener.close()
        sys.exit("stations: CONNECTION_TOKEN must be set to one of your own when the address is not 127.0.0.1")
    server.reload = functools.partial(_reload, server.reload)
    url = str(server.LISTENERS[0]).replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    _say(f"Stations listens on {url}")
    _say(
        f"Messages are kept in {server.broker.data_dir}"
        if server.broker
        else f"Broker: {', '.join(_config.broker_url)}"
    )
    _say(_how_to_try(url))


def post_fork(server, worker):
    """In a new worker: it must not keep a killed master's broker alive, nor miss a signal while it boots."""
    if server.broker:
        server.broker.forget()
    worker.max_body_bytes = _config.max_body_bytes  # of proxy.server.Worker; the others leave it to the application
    for number in (signal.SIGTERM, signal.SIGQUIT):  # until then they would land in a copy of the master's queue
        signal.signal(number, lambda *_: os._exit(0))
    if _replaces_another(worker):
        try:
            read_settings(os.environ)
        except BadSetting as error:
            _give_up(worker, error)


def post_worker_init(worker):
    """In a worker that has loaded the application: starts its connection to the broker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the master, which tells the workers, once
    edge = worker.wsgi.extensions["stations"].edge
    worker.error_answer, worker.again_for = edge.refuse, edge.again_for
    try:
        worker.wsgi.extensions["stations"].start(_START_SECONDS)
    except (BadSetting, GatewayError) as error:
        _give_up(worker, error)
    _watch(worker)
    if _is_to_share(worker):
        _share_a_core(worker)
    # What is loaded stays: the collector need not look at it again, nor so often at what requests leave behind.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, 20, 100)


def worker_exit(server, worker):
    """In a worker that has answered its last request (or in the master, for one that is gone)."""
    if hasattr(worker, "wsgi"):
        worker.wsgi.extensions["stations"].stop(_STOP_SECONDS)


def on_exit(server):
    """In the master, after the last worker."""
    if server.broker:
        server.broker.stop()


def _give_up(worker, error):
    """Ends a worker that cannot start. If it is one of the first, that stops the gateway; one that takes the place of
    another is tried again, since those beside it work.
    """
    _say(f"stations: {error}", sys.stderr)
    if not _replaces_another(worker):
        sys.exit(3)  # gunicorn's code for a worker that cannot boot
    time.sleep(_AGAIN_SECONDS)
    sys.exit(1)


def _replaces_another(worker):
    return worker.age > worker.cfg.workers


def _watch(worker):
    """Sees that the worker can still produce. One whose asyncio thread stands still or has ended stops as at SIGTERM,
    with an answer to what it has, and is replaced.
    """
    stations = worker.wsgi.extensions["stations"]

    def look():
        while stations.alive():
            time.sleep(_LOOK_SECONDS)
            if not worker.alive:
                return
        _say(f"stations: worker {worker.pid} can produce no more, and is replaced", sys.stderr)
        sys.setswitchinterval(_LAST_SWITCH_SECONDS)
        os.kill(worker.pid, signal.SIGTERM)

    stations.leaving = lambda: not worker.alive
    threading.Thread(target=look, name="look", daemon=True).start()  # with gevent's workers it is a greenlet


def _share_a_core(worker):
    """Keeps the worker's threads together. Now and then they are let go for a moment, in which the system may find a
    better core for them.
    """
    if not processors.supported():
        return
    company = processors.Company()

    def share():
        while worker.alive:
            for step, seconds in ((company.gather, _SHARE_SECONDS), (company.scatter, _CHOOSE_SECONDS)):
                with contextlib.suppress(OSError):  # it is about speed alone: the worker goes without
                    step()
                time.sleep(seconds)

    threading.Thread(target=share, name="share", daemon=True).start()


def _is_to_share(worker):
    """Programs and threads that code of a team's own starts would get the worker's one core."""
    wanted = _config.worker_cpu_affinity
    return worker.wsgi.extensions["stations"].plain() if wanted is None else wanted


def _reload(reload):
    """At SIGHUP: replaces the workers. With a setting that has gone bad all would end, and none could start."""
    try:
        config = read_settings(os.environ)
        if config.embedded and (config.root_user, config.connection_token) != (
            _config.root_user,
            _config.connection_token,
        ):
            raise BadSetting("CONNECTION_TOKEN", "that of the start, as long as the gateway's own broker runs")
    except BadSetting as error:
        _say(f"stations: the workers stay as they are: {error}", sys.stderr)
    else:
        reload()


def _is_of_this_machine(listener):
    """Whether nobody else can connect. gunicorn's own options and variables may name other addresses than ours."""
    address = listener.sock.getsockname()
    return not isinstance(address, tuple) or ipaddress.ip_address(address[0]).is_loopback


def _allow_many_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS has a lower limit than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _how_to_try(url):
    known = _config.default_credentials and _config.root_user == "root"
    user, token = ("root", _config.connection_token) if known else ("<user>", "<connection token>")
    return f"""Try it:
  TOKEN=$(curl -s {url}/auth/authenticate -H 'Content-Type: application/json' \\
    -d '{{"username": "{user}", "connection_token": "{token}"}}' | sed -E 's/.*"jwt": ?"([^"]*)".*/\\1/')
  curl {url}/stations/orders/produce/single -H "Authorization: Bearer $TOKEN" \\
    -H 'Content-Type: application/json' -d '{{"id": 1}}'"""


def _say(text, stream=None):
    with contextlib.suppress(OSError):  # nobody reads it, as in `gunicorn wsgi:app | head`
        print(text, file=stream, flush=True)
