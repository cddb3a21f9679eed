"""What the lane offers for further requests with the same head: the rules are asked for each of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import pytest
from flask import signals
from structlog.testing import capture_logs
from werkzeug.test import EnvironBuilder

from proxy import shaping
from proxy.edge import USER
from proxy.errors import AckTimeout, BrokerAway, GatewayError
from proxy.extension import OUTCOME
from proxy.http1_requests import Request
from proxy.http1_responses import Response
from proxy.lane import Again
from proxy.messages import Ack
from tests.test_lane import BATCH, EXTENSIONS, JSON, SINGLE, TEXT, Site, make, url
from tests.uncollected import uncollected

__all__ = ["make", "url"]  # fixtures


class Asker:
    """Who is answered."""

    def __init__(self) -> None:
        self.answers: list[tuple[bytes, bytes]] = []
        self.declined: list[dict[str, Any]] = []

    def answer(self, head: bytes, body: bytes) -> None:
        """An answer."""
        self.answers.append((head, body))

    def decline(self, more: dict[str, Any]) -> None:
        """None from here."""
        self.declined.append(more)


class Posts:
    """Stands in for the producer's `post` and `post_batch`, which need gevent: keeps what is posted."""

    def __init__(self, site: Site) -> None:
        self.payloads: list[bytes | list[bytes]] = []
        self.done: list[tuple[Callable[..., None], Any]] = []
        producer = site.app.extensions["stations"].producer
        producer.post = producer.post_batch = self

    def __call__(self, credentials: Any, station: Any, payload: Any, headers: Any, done: Any, tag: Any) -> None:
        """Takes a message, or those of a batch."""
        self.payloads.append(payload)
        self.done.append((done, tag))


@pytest.fixture
def site(make: Callable[..., Site]) -> Site:
    """A site that has served one request."""
    site = make()
    site.post(SINGLE, b"x")
    return site


def environ_of(
    site: Site, body: bytes = b"x", content_type: str = TEXT, path: str = SINGLE, **headers: str
) -> dict[str, Any]:
    """A request as our own server makes it."""
    given = {"Authorization": f"Bearer {site.token}", **{k.replace("_", "-"): v for k, v in headers.items()}}
    builder = EnvironBuilder(path, method="POST", data=body, content_type=content_type, headers=given)
    return {**builder.get_environ(), "REMOTE_ADDR": "127.0.0.1"}


def offer(site: Site, *args: Any, **headers: str) -> Any:
    """What is offered for the head of a request."""
    return site.app.extensions["stations"].edge.again_for(environ_of(site, *args, **headers))


def head_of_whole_way(site: Site, **headers: str) -> bytes:
    """The head of the answer to such a request, as it is sent when it goes the whole way."""
    sent: list[bytes] = []
    request = Request(environ_of(site, **headers), keep_alive=True, http10=False)
    Response(request, sent.append, b"\r\n", keep_alive=True).respond(site.app)
    return sent[0].partition(b"Content-Length")[0]


def test_what_was_served_is_offered_again(site: Site) -> None:
    """The next body is produced, and the answer has the same head and body, with a request id of its own."""
    offered, head = offer(site), head_of_whole_way(site)
    posts, asker = Posts(site), Asker()
    assert isinstance(offered, Again)
    assert offered(b"next", asker)
    assert posts.payloads == [b"next"]
    done, tag = posts.done[0]
    done(tag, Ack(None, False))
    ((again_head, body),) = asker.answers
    assert body == b'{"error":null,"success":true}'
    before, _, id = head.partition(b"X-Request-Id: ")
    again_before, _, again_id = again_head.partition(b"X-Request-Id: ")
    assert before == again_before
    assert id != again_id
    assert id.partition(b"\r\n")[2] == again_id.partition(b"\r\n")[2]


def test_a_request_id_that_was_given_is_kept(site: Site) -> None:
    """It is part of the head that repeats."""
    offered, head = offer(site, X_Request_Id="r-1"), head_of_whole_way(site, X_Request_Id="r-1")
    posts, asker = Posts(site), Asker()
    assert offered(b"next", asker)
    posts.done[0][0](posts.done[0][1], Ack(None, False))
    assert asker.answers[0][0] == head
    assert b"X-Request-Id: r-1\r\n" in head


def test_a_failure_is_for_flask_to_answer(site: Site) -> None:
    """The application gets the request, and what became of the message."""
    offered = offer(site)
    posts, asker, error = Posts(site), Asker(), BrokerAway()
    assert offered(b"next", asker)
    posts.done[0][0](posts.done[0][1], error)
    assert asker.declined == [{OUTCOME: error, USER: "root"}]
    assert not asker.answers


def test_what_was_declined_is_not_produced_again(site: Site) -> None:
    """A message that may be stored would be stored twice, under another id."""
    site.post(SINGLE, b"x")
    produced: list[Any] = []
    site.app.extensions["stations"].producer.single = lambda *args: produced.append(args)
    answer = site.post(SINGLE, b"next", environ={OUTCOME: AckTimeout()})
    assert (answer.status, produced) == ("504 GATEWAY TIMEOUT", [])


@pytest.mark.parametrize(
    ("content_type", "body"), [(JSON, b"{nope"), (JSON, b'"\xff"'), (TEXT, b""), (TEXT, b"x" * 5001)]
)
def test_bad_bodies_are_for_flask_to_answer(site: Site, content_type: str, body: bytes) -> None:
    """Whatever would be refused is never handed over."""
    offered = offer(site, b"{}", content_type)
    posts, asker = Posts(site), Asker()
    assert not offered(body, asker) or isinstance(asker.declined[0][OUTCOME], GatewayError)
    assert not posts.payloads


def test_a_bad_body_is_looked_at_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not cost more than a good one: whoever answers is told what was found, and looks no further."""
    looked: list[bytes] = []
    single = shaping.single
    monkeypatch.setattr(shaping, "single", lambda *args: looked.append(args[1]) or single(*args))
    offered, asker = offer(site, b"{}", JSON), Asker()
    assert offered(b"{nope", asker)
    answer = site.post(SINGLE, b"{nope", JSON, environ=asker.declined[0])
    assert answer.status == "400 BAD REQUEST"
    assert looked == [b"{nope"]


def test_what_a_limit_refuses_is_counted_once(make: Callable[..., Site]) -> None:
    """Of one that is over the limit of its user, the address has a right to the next one all the same."""
    site = make(RATE_LIMIT_PER_ADDRESS="100/hour", RATE_LIMIT_PER_USER="1/hour")
    site.post(SINGLE, b"x")
    offered, asker, limits = offer(site), Asker(), site.app.extensions["stations"].limits
    before = limits._address._table.get(limits._address._item.key_for("127.0.0.1"))
    assert offered(b"x", asker)
    answer = site.post(SINGLE, b"x", environ=asker.declined[0])
    assert answer.status == "429 TOO MANY REQUESTS"
    assert limits._address._table.get(limits._address._item.key_for("127.0.0.1")) == before + 1


def test_what_is_declined_has_its_user_in_the_log(make: Callable[..., Site]) -> None:
    """The whole way does not ask for the token once more."""
    site = make(LOG_LEVEL="info")
    site.post(SINGLE, b"x")
    offered, asker = offer(site, b"{}", JSON), Asker()
    with capture_logs() as lines:
        assert offered(b"{nope", asker)
        site.post(SINGLE, b"{nope", JSON, environ=asker.declined[0])
    assert [line["user"] for line in lines if line["event"] == "request"] == ["root"]


def test_a_batch_is_offered_again(site: Site) -> None:
    """Its elements are produced as one, and the answer is the one of the whole way."""
    site.post(BATCH, b"[1]", JSON)
    offered, posts, asker = offer(site, b"[]", JSON, BATCH), Posts(site), Asker()
    assert offered(b'[{"a":1}, 2]', asker)
    assert posts.payloads == [[b'{"a":1}', b"2"]]
    posts.done[0][0](posts.done[0][1], Ack(None, False))
    assert asker.answers[0][1] == b'{"error":null,"success":true}'


@pytest.mark.parametrize("body", [b"[]", b"{}", b"[1", b'["\xff"]', b"[" + b"1," * 10_000 + b"1]"])
def test_bad_batches_are_for_flask_to_answer(site: Site, body: bytes) -> None:
    """Whatever would be refused is never handed over."""
    site.post(BATCH, b"[1]", JSON)
    offered, posts, asker = offer(site, b"[]", JSON, BATCH), Posts(site), Asker()
    assert not offered(body, asker) or isinstance(asker.declined[0][OUTCOME], GatewayError)
    assert not posts.payloads


@pytest.mark.parametrize("path", [SINGLE, BATCH])
@pytest.mark.parametrize(
    "headers", [{"Idempotency_Key": "k"}, {"Prefer": "return=representation"}, {"Prefer": "atomic"}]
)
def test_heads_that_ask_for_more_are_not_offered(site: Site, path: str, headers: dict[str, str]) -> None:
    """A key names one message; an ack has its own sequence in it; all or none is a way of its own."""
    site.post(BATCH, b"[1]", JSON)
    assert offer(site, b"[1]", JSON, path, **headers) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer nope"},
        {"Authorization": "Basic cm9vdDptZW1waGlz"},
        {"Content_Encoding": "gzip"},
        {"X_Note": "a\u00e9\r"},
        {"Idempotency_Key": "a b"},
    ],
)
def test_heads_that_may_be_refused_are_not_offered(site: Site, headers: dict[str, str]) -> None:
    """They are for Flask to judge."""
    environ = environ_of(site)
    environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    assert site.app.extensions["stations"].edge.again_for(environ) is None


def test_other_methods_and_paths_are_not_offered(site: Site) -> None:
    """Only a produce that Flask has served can be served without it."""
    edge = site.app.extensions["stations"].edge
    assert edge.again_for({**environ_of(site), "REQUEST_METHOD": "PUT"}) is None
    assert edge.again_for({**environ_of(site), "PATH_INFO": "/stations/other/produce/single"}) is None
    assert edge.again_for({**environ_of(site), "PATH_INFO": "/stations/orders/produce/batch"}) is None


def test_without_the_lane_nothing_is_offered(make: Callable[..., Site]) -> None:
    """`LANE=false` means that Flask serves all."""
    site = make(LANE="false")
    site.post(SINGLE, b"x")
    assert offer(site) is None


def test_a_request_that_was_offered_first_is_prepared_once(site: Site) -> None:
    """What is declined goes to the application, which does not look for a client behind the client."""
    edge = site.app.extensions["stations"].edge
    environ = environ_of(site)
    edge.again_for(environ)
    prepared = environ["stations.request_id"]
    sent: list[bytes] = []
    Response(Request(environ, keep_alive=True, http10=False), sent.append, b"\r\n", keep_alive=True).respond(site.app)
    assert b"X-Request-Id: " + prepared.encode() + b"\r\n" in sent[0]


@pytest.mark.parametrize("extend", EXTENSIONS.values(), ids=list(EXTENSIONS))
def test_an_extension_is_never_bypassed(site: Site, extend: Callable[[Site, list[int]], object]) -> None:
    """One that comes while requests are served sees all that follow."""
    offered = offer(site)
    posts = Posts(site)
    assert offered(b"one", Asker())
    site.app._got_first_request = False
    extend(site, [])
    assert not offered(b"two", Asker())
    assert posts.payloads[:1] == [b"one"]
    assert b"two" not in posts.payloads


@pytest.mark.parametrize("name", ["request_started", "request_finished", "got_request_exception"])
def test_a_receiver_of_signals_is_never_bypassed(site: Site, name: str) -> None:
    """Connected while requests are served, it sees all that follow."""
    offered = offer(site)
    Posts(site)

    def receive(*args: Any, **kwargs: Any) -> None:
        """Hears of it."""

    with getattr(signals, name).connected_to(receive, site.app):
        assert not offered(b"x", Asker())
    assert offered(b"x", Asker())


def test_what_is_wrapped_around_the_application_is_never_bypassed(site: Site) -> None:
    """Whether it comes before the offer or after it."""
    offered = offer(site)
    Posts(site)
    inner = site.app.wsgi_app
    site.app.wsgi_app = lambda *args: inner(*args)  # type: ignore[method-assign]
    assert not offered(b"x", Asker())
    assert not offer(site)(b"x", Asker())
    site.app.wsgi_app = inner  # type: ignore[method-assign]
    assert offered(b"x", Asker())


def test_a_token_that_ends_is_not_taken(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expired, or forgotten because it was revoked: it is for Flask to judge."""
    offered = offer(site)
    Posts(site)
    now = time.time()
    with monkeypatch.context() as later:
        later.setattr(time, "time", lambda: now + 3600)
        assert not offered(b"x", Asker())
    assert not offered(b"x", Asker())


def test_a_path_that_is_forgotten_is_not_taken(site: Site) -> None:
    """What Flask has proved is asked for each time."""
    offered = offer(site)
    Posts(site)
    site.app.extensions["stations"].proved.clear()
    assert not offered(b"x", Asker())


def test_without_gevent_nothing_is_posted(site: Site) -> None:
    """Threads have nobody who could be called; the request takes the whole way."""
    offered = offer(site)
    assert not offered(b"x", Asker())


def test_each_answer_has_its_line_in_the_log(make: Callable[..., Site]) -> None:
    """As for any other request, with its own lengths and request id."""
    site = make(LOG_LEVEL="info")
    site.post(SINGLE, b"x")
    offered = offer(site)
    posts, asker = Posts(site), Asker()
    with capture_logs() as lines:
        assert offered(b"four", asker)
        posts.done[0][0](posts.done[0][1], Ack(None, False))
    (line,) = lines
    assert (line["bytes_in"], line["bytes_out"], line["status"]) == (4, 29, 200)
    assert (line["route"], line["station"]) == ("/stations/<station:station>/produce/single", "orders")
    assert line["user"] == "root"
    assert line["request_id"].encode() in asker.answers[0][0]


def test_an_answer_that_cannot_be_made_is_for_flask_to_give(site: Site) -> None:
    """Whoever asked must hear something, although the log cannot be written."""
    offered = offer(site)
    posts, asker = Posts(site), Asker()
    assert offered(b"next", asker)

    def fail(*args: Any) -> bytes:
        raise OSError

    offered.head = fail
    posts.done[0][0](posts.done[0][1], Ack(None, False))
    assert not asker.answers
    assert isinstance(asker.declined[0][OUTCOME], OSError)


def test_an_offer_leaves_nothing_to_the_garbage_collector(site: Site) -> None:
    """A client whose heads all differ gets an offer with each, and the collector stops the worker while it looks."""
    posts, asker = Posts(site), Asker()

    def ask() -> None:
        offered = offer(site)
        assert offered(b"x", asker)
        posts.done.pop()[0]((asker, time.perf_counter(), 1), Ack(None, False))

    ask()
    with uncollected():
        for _ in range(20):
            ask()
        assert gc.collect() < 20
    assert len(asker.answers) == 21
