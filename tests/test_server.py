"""The worker class as a part of gunicorn: TLS, unix sockets, stopping, limits, log and hooks.

Every test runs with gunicorn's own gevent worker too; tests/http_suite.py lists where that one differs."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.http_suite import OURS, STOCK, Client, chunked, get, make_certificate, post, running, wait_for

both = pytest.mark.parametrize("worker", [OURS, STOCK])


@pytest.fixture(scope="module", params=[OURS, STOCK])
def server(request):
    """A server with short deadlines and small limits."""
    with running(request.param) as server:
        yield server


def test_access_log(server):
    """Every request has its line."""
    server.ask(post(b"abc", "X-User: me", path="/echo/logged"))
    wait_for(lambda: "127.0.0.1 POST /echo/logged 200 3 me application/octet-stream" in server.log("access"))


def test_the_master_imports_little(server):
    """Nothing of the application or its broker client, which must not be there before patching and forking."""
    modules = set(server.log("modules").split())
    assert modules.isdisjoint({"flask", "nats", "tests.http_app"} | ({"asyncio"} if server.worker == OURS else set()))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate for localhost, with its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@both
@pytest.mark.slow
def test_tls(worker, certificate):
    """The same over TLS."""
    settings = f"certfile = {str(certificate / 'cert.pem')!r}\nkeyfile = {str(certificate / 'key.pem')!r}\n"
    with running(worker, settings=settings, trust=certificate / "cert.pem") as server:
        with server.connect() as client:
            assert client.send(post(b"x" * 90_000)).answer().body == b"x" * 90_000
            client.send(post(b"a") + post(b"b"))
            assert [client.answer().body, client.answer().body] == [b"a", b"b"]
            assert client.send(get("/show")).answer().json["wsgi.url_scheme"] == "https"
            assert client.send(get("/many")).answer().body == b"x" * 8_000_000
            assert client.send(chunked(b"a", b"b")).answer().body == b"ab"
            assert client.send(post(b"c", "Connection: close")).answer().closes
            assert client.ended()
        with Client(server.plain()) as client:
            client.send(get("/")).line()
        assert server.ask(post(b"still there")).body == b"still there"


@both
@pytest.mark.slow
def test_unix_socket(worker, tmp_path):
    """The same over a unix socket."""
    with running(worker, bind=f"unix:{tmp_path}/socket") as server, server.connect() as client:
        assert client.send(post(b"a")).answer().body == b"a"
        environ = client.send(get("/show")).answer().json
        assert environ["REMOTE_ADDR"] == ""
        assert environ["SERVER_NAME"]


@both
@pytest.mark.slow
def test_graceful_stop(worker):
    """What runs is finished and says that it is the last, idle connections are closed, new ones refused."""
    with running(worker) as server, server.connect() as busy, server.connect() as idle:
        idle.send(post(b"a")).answer()
        server.ask_slowly(busy)
        server.terminate()
        answer = busy.answer()
        assert answer.body == b"slow"
        assert answer.closes or server.differs("last answer")
        assert idle.ended()
        assert busy.ended()
        with pytest.raises((ConnectionError, TimeoutError)):
            server.connect()
        assert server.process.wait(10) == 0
        assert "Traceback" not in server.log()


@pytest.mark.slow
def test_a_stop_serves_what_is_on_its_way():
    """A client cannot know that its idle connection is about to be closed: it is told with its next answer."""
    settings = "def post_fork(server, worker):\n    worker.linger_seconds = 10\n"
    with running(OURS, settings=settings) as server, server.connect() as idle:
        assert not idle.send(post(b"a")).answer().closes
        server.terminate()
        wait_for(lambda: _refuses(server))
        answer = idle.send(post(b"b")).answer()
        assert (answer.body, answer.closes) == (b"b", True)
        assert idle.ended()
        assert server.process.wait(5) == 0


def _refuses(server):
    try:
        server.connect().__exit__()
    except ConnectionError:
        return True
    return False


@both
@pytest.mark.slow
def test_graceful_timeout(worker):
    """What does not end in time is cut off."""
    with running(worker, settings="graceful_timeout = 1\n") as server, server.connect() as client:
        client.send(get("/stream"))
        assert client.line().endswith(b"200 OK\r\n")
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 4
        if worker == OURS:  # the master kills the stock worker before it can say so
            assert "1 connections were cut" in server.log()


@both
@pytest.mark.slow
def test_max_requests(worker):
    """A worker that has served its share says so in its last answer, and is replaced."""
    with running(worker, settings="max_requests = 5\n") as server:
        first = server.workers()
        with server.connect() as client:
            answers = [client.send(post(b"a")).answer() for _ in range(4)]
            assert [answer.closes for answer in answers] == [False, False, False, True]
        wait_for(lambda: server.workers() not in ([], first) and server.log().count("Booting") == 2)
        assert server.ask(post(b"again")).body == b"again"


@both
@pytest.mark.slow
def test_limits_of_0(worker):
    """They stand for as much as gunicorn takes at all."""
    settings = "limit_request_line = 0\nlimit_request_fields = 0\nlimit_request_field_size = 0\n"
    with running(worker, settings=settings) as server:
        headers = [f"X-{i}: 1" for i in range(30)]
        assert server.ask(get("/" + "a" * 600, *headers, "X: " + "a" * 1500)).status == 200


@both
@pytest.mark.slow
def test_worker_connections(worker):
    """Clients beyond the limit wait until another one has gone."""
    settings = "worker_connections = 2\nkeepalive = 5\n"
    with running(worker, settings=settings) as server, server.connect() as one, server.connect() as two:
        one.send(post(b"1")).answer()
        two.send(post(b"2")).answer()
        with server.connect() as three:
            three.send(post(b"3")).sock.settimeout(0.3)
            with pytest.raises(TimeoutError):
                three.sock.recv(1)
            one.close()
            three.sock.settimeout(5)
            assert three.sock.recv(100).startswith(b"HTTP/1.1 200 OK")


@both
@pytest.mark.slow
def test_many_connections_at_once(worker):
    """They are all served."""
    with running(worker) as server, ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda i: server.ask(post(b"%d" % i, path="/echo")), range(500)))
        assert [answer.body for answer in answers] == [b"%d" % i for i in range(500)]


@pytest.mark.slow
def test_settings_that_are_not_supported_stop_the_start():
    """Better than to ignore them."""
    with (
        pytest.raises(AssertionError, match="neither HTTP/2 nor the PROXY protocol"),
        running(OURS, settings="proxy_protocol = 'v1'\n"),
    ):
        pass


@pytest.mark.slow
def test_hooks():
    """pre_request and post_request are called with what gunicorn documents."""
    hooks = """
def pre_request(worker, req):
    worker.log.info("before %s %s", req.method, req.path)
def post_request(worker, req, environ, resp):
    worker.log.info("after %s %s %s", req.uri, environ["REQUEST_METHOD"], resp.status)
"""
    with running(OURS, settings=hooks) as server:
        server.ask(get("/nothing?a"))
        assert "before GET /nothing\n" in server.log()
        wait_for(lambda: "after /nothing?a GET 200 OK" in server.log())
