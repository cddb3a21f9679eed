"""`DELETE /auth/tokens`: a family of tokens ends, in every worker and replica, for good."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from werkzeug.wrappers import Response

from proxy import tokens as tokens_module
from proxy.brokers import revocations
from proxy.credentials import Credentials
from proxy.errors import Unauthorized
from proxy.tokens import Issued, Tokens
from tests.application import JSON, Api, add_team_routes, running, settings
from tests.brokers.tools import Operator
from tests.clients import logged_on, with_tokens_of
from tests.faults.network import TcpProxy
from tests.servers import ROOT as REPOSITORY
from tests.servers import Gateway, NatsServer, eventually

PATH = "/auth/tokens"
BUCKET = "KV_station-revocations"
AS_ROOT = {"ROOT_USER": "root", "CONNECTION_TOKEN": "memphis"}
USERS = {"root": "memphis", "shop": "s"}

Make = Callable[..., Flask]


@pytest.fixture
def server(nats_server: Callable[..., NatsServer]) -> NatsServer:
    """A server with the gateway's own user and another one."""
    return nats_server(users=USERS)


@pytest.fixture
def make(server: NatsServer) -> Iterator[Make]:
    """Makes replicas: applications at the server with the same secrets, started."""
    made: list[Any] = []

    def make(**env: str) -> Flask:
        context = running(settings(server.url, **{**AS_ROOT, **env}))
        made.append(context)
        app = context.__enter__()
        add_team_routes(app)
        app.extensions["stations"].start()
        return app

    yield make
    for context in made:
        context.__exit__(None, None, None)


def _issued(app: Flask, user: str = "shop", secret: str = "s", **options: Any) -> Issued:
    issued: Issued = app.extensions["stations"].tokens.issue(Credentials(user, secret), **options)
    return issued


def _with(app: Flask, token: str, method: str = "DELETE", path: str = PATH, **options: Any) -> Response:
    return Api(app).request(method, path, headers={"Authorization": f"Bearer {token}"}, **options)


def _statuses(app: Flask, issued: Issued) -> list[int]:
    """What each way of using the tokens is answered: produce, a team's routes, refresh."""
    produced = _with(app, issued.access, "POST", "/stations/orders/produce/single", data=b"x")
    team = [_with(app, issued.access, "GET", f"/team/{route}") for route in ("claims", "caller")]
    refreshed = _with(app, issued.refresh, "POST", "/auth/refreshToken")
    return [answer.status_code for answer in (produced, *team, refreshed)]


# ---- what is known -------------------------------------------------------------------------------------------------


def test_a_revoked_family_is_refused_whether_its_tokens_are_remembered_or_not(make_app: Make) -> None:
    """By our routes and a team's, access and refresh tokens; other families go on."""
    app = make_app()
    add_team_routes(app)
    known: Tokens = app.extensions["stations"].tokens
    seen, unseen, other = _issued(app), _issued(app), _issued(app)
    for issued in (seen, other):
        assert [_with(app, issued.access, "GET", f"/team/{route}").status_code for route in ("claims", "caller")] == [
            200
        ] * 2
    with app.app_context():
        families = {known.verify(issued.access).family: int(time.time()) + 100 for issued in (seen,)}
        families[known._verify(unseen.access, "access").family] = int(time.time()) + 100
    assert known.remembered(seen.access) is not None
    known.revoke(families)
    assert known.remembered(seen.access) is None
    for issued in (seen, unseen):
        assert [_with(app, issued.access, "GET", f"/team/{route}").status_code for route in ("claims", "caller")] == [
            401
        ] * 2
        with app.app_context():
            assert known.verify_refresh(issued.refresh) is None
    assert known.remembered(other.access) is not None
    assert _with(app, other.access, "GET", "/team/claims").status_code == 200


def test_a_token_that_is_verified_while_it_is_revoked_is_not_remembered(make_app: Make) -> None:
    """Whichever comes first, in the end nobody takes it."""
    app = make_app()
    known: Tokens = app.extensions["stations"].tokens
    issued, verify = _issued(app), known._verify

    def meanwhile(token: str, kind: Any) -> Any:
        caller = verify(token, kind)
        known.revoke({caller.family: int(time.time()) + 100})
        return caller

    known._verify = meanwhile  # type: ignore[method-assign]
    with app.app_context(), pytest.raises(Unauthorized):
        known.verify(issued.access)
    assert known.remembered(issued.access) is None


def test_the_memory_of_families_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """And they are forgotten when no token of theirs can live any more."""
    monkeypatch.setattr(tokens_module, "MAX_REVOKED", 10)
    known, now = Tokens(settings()), int(time.time())
    known.revoke({f"old-{n}.1": now - 1 for n in range(10)})
    assert not known.can_revoke
    known._swept = 0.0
    known.revoke({"new.1": now + 100})
    assert known.can_revoke
    known.revoke({f"more-{n}.1": now + 100 for n in range(30)})
    assert len(known._revoked) == 10


def test_without_room_nobody_is_logged_out_and_told_otherwise(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """503, and the tokens stay what they are."""
    app = make()
    monkeypatch.setattr(tokens_module, "MAX_REVOKED", 0)
    issued = _issued(app)
    assert _with(app, issued.access).status_code == 503
    assert _with(app, issued.access, "GET", "/team/claims").status_code == 200


# ---- logging out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["access", "refresh", "body", "cookie"])
def test_any_token_of_the_family_ends_it(make: Make, place: str) -> None:
    """Access and refresh token, wherever it stands; the cookie goes too, and another log-on of the user stays."""
    app = make()
    issued, other = _issued(app), _issued(app)
    options: dict[str, Any] = {"headers": {"Authorization": f"Bearer {getattr(issued, place, '')}"}}
    if place == "body":
        options = {"data": json.dumps({"jwt_refresh_token": issued.refresh}), "content_type": JSON}
    if place == "cookie":
        options = {"headers": {"Cookie": f"jwt-refresh-token={issued.refresh}"}}
    answer = Api(app).request("DELETE", PATH, **options)
    assert (answer.status_code, answer.get_json()) == (200, {"error": None, "success": True})
    assert answer.headers["Cache-Control"] == "no-store"
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("jwt-refresh-token=;")
    assert all(word in cookie for word in ("Max-Age=0", "Path=/auth", "HttpOnly", "SameSite=Strict"))
    assert _statuses(app, issued) == [401] * 4
    assert _statuses(app, other) == [200] * 4
    assert Api(app).request("DELETE", PATH, **options).status_code == 401


def test_tokens_made_from_a_token_end_with_it(make: Make) -> None:
    """The family, not the one token: those that a thief has refreshed meanwhile as well."""
    app = make()
    issued = _issued(app)
    fresh = _with(app, issued.refresh, "POST", "/auth/refreshToken").get_json()
    assert _with(app, issued.access).status_code == 200
    assert _with(app, fresh["jwt"], "GET", "/team/claims").status_code == 401
    assert _with(app, fresh["jwt_refresh_token"], "POST", "/auth/refreshToken").status_code == 401


@pytest.mark.parametrize("token", ["", "nonsense"])
def test_without_a_token_nobody_is_logged_out(make: Make, token: str) -> None:
    """401, as for everything else."""
    app = make()
    assert _with(app, token).status_code == 401
    assert Api(app).request("DELETE", PATH, data=b"{nope", content_type=JSON).status_code == 400


def test_every_replica_knows_within_a_second(make: Make) -> None:
    """Those that have taken the token before, too."""
    first, second = make(), make()
    issued = _issued(first)
    assert _statuses(second, issued) == [200] * 4
    assert _with(first, issued.access).status_code == 200
    eventually(lambda: _statuses(second, issued) == [401] * 4, within=1)


def test_a_replica_that_starts_later_knows_from_the_start(make: Make) -> None:
    """What was revoked is read before it is ready."""
    first = make()
    issued = [_issued(first) for _ in range(20)]
    assert {_with(first, one.access).status_code for one in issued} == {200}
    later = make()
    assert [_statuses(later, one) for one in issued] == [[401] * 4] * 20
    assert _statuses(later, _issued(later)) == [200] * 4


def test_what_is_kept_ends_with_the_last_token(make: Make, server: NatsServer) -> None:
    """The key says when, and the broker removes it then; no token of the family can be good for longer."""
    app = make(MAX_TOKEN_EXPIRY_IN_MINUTES="10")
    assert _with(app, _issued(app).access).status_code == 200
    operator = Operator(server)
    (subject,) = operator.api(f"STREAM.INFO.{BUCKET}", subjects_filter=">")["state"]["subjects"]
    assert int(subject.rpartition(".")[2]) == pytest.approx(time.time() + 600, abs=5)
    before = operator.api(f"STREAM.INFO.{BUCKET}")["state"]["messages"]
    app.extensions["stations"].producer.revoke("short.1", int(time.time()) + 1)
    assert operator.api(f"STREAM.INFO.{BUCKET}")["state"]["messages"] == before + 1
    eventually(lambda: operator.api(f"STREAM.INFO.{BUCKET}")["state"]["messages"] == before, 10)


# ---- where it cannot be done ---------------------------------------------------------------------------------------


def test_without_a_user_of_its_own_the_gateway_cannot_log_out(make: Make) -> None:
    """501 says why; everything else works."""
    app = make(ROOT_USER="", CONNECTION_TOKEN="")
    answer = _with(app, _issued(app).access)
    assert answer.status_code == 501
    assert "ROOT_USER" in answer.get_json()["error"]
    assert Api(app).request("GET", "/monitoring/ready").status_code == 200
    assert _statuses(app, _issued(app)) == [200] * 4


RIGHTS = {
    "no right to read": 'users: [{ user: root, password: memphis, permissions: { publish: ["$JS.API.INFO"] } }, %s]',
    "no right to listen": "users: [{ user: root, password: memphis, permissions: { subscribe: ['_INBOX.>'] } }, %s]",
}
SHOP = "{ user: shop, password: s }"


@pytest.mark.parametrize("what", RIGHTS)
def test_a_user_without_rights_to_the_bucket_is_no_reason_not_to_start(
    nats_server: Callable[..., NatsServer], make_app: Make, what: str
) -> None:
    """501 names the bucket: until now such a user was good enough for readiness."""
    url = nats_server(f"authorization {{ {RIGHTS[what] % SHOP} }}").url
    app = make_app(url, **AS_ROOT)
    app.extensions["stations"].start()
    assert Api(app).request("GET", "/monitoring/ready").status_code == 200
    answer = _with(app, _issued(app).access)
    assert answer.status_code == 501
    assert "station-revocations" in answer.get_json()["error"]


def test_rights_that_come_back_are_noticed(
    nats_server: Callable[..., NatsServer], make_app: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that looked at the wrong moment knows in the end what the others know."""
    monkeypatch.setattr(revocations, "READ_AGAIN_SECONDS", 0.2)
    server = nats_server(f"authorization {{ {RIGHTS['no right to read'] % SHOP} }}")
    deaf, other = make_app(server.url, **AS_ROOT), make_app(server.url, **AS_ROOT)
    add_team_routes(deaf)
    deaf.extensions["stations"].start()
    issued = _issued(deaf)
    assert _with(deaf, issued.access).status_code == 501
    server.config(f"authorization {{ users: [{{ user: root, password: memphis }}, {SHOP}] }}")
    server.reload()
    other.extensions["stations"].start()
    assert _with(other, issued.access).status_code == 200
    eventually(lambda: _with(deaf, issued.access, "GET", "/team/claims").status_code == 401, 10)
    assert _with(deaf, _issued(deaf).access).status_code == 200


def test_the_rights_that_the_readme_lists_are_enough(nats_server: Callable[..., NatsServer], make_app: Make) -> None:
    """For a user of the gateway who may do nothing else."""
    listed = re.search(r"^publish: (.*?)^subscribe: (.*?)^```", (REPOSITORY / "README.md").read_text(), re.S | re.M)
    assert listed is not None
    publish, subscribe = (json.dumps([right.strip() for right in rights.split(",")]) for rights in listed.groups())
    rights = f"permissions: {{ publish: {publish}, subscribe: {subscribe} }}"
    users = f"users: [{{ user: root, password: memphis, {rights} }}, {SHOP}]"
    url = nats_server(f"authorization {{ {users} }}").url
    first, second = make_app(url, **AS_ROOT), make_app(url, **AS_ROOT)
    for app in (first, second):
        add_team_routes(app)
        app.extensions["stations"].start()
    issued = _issued(first)
    assert _statuses(second, issued) == [200] * 4
    assert _with(first, issued.access).status_code == 200
    eventually(lambda: _statuses(second, issued) == [401] * 4, within=1)


def test_an_account_without_jetstream_is_no_reason_not_to_start(
    nats_server: Callable[..., NatsServer], make_app: Make
) -> None:
    """The gateway's own user may be in another account than those who produce."""
    accounts = f"A {{ jetstream: enabled, users: [{SHOP}] }}, B {{ users: [{{ user: root, password: memphis }}] }}"
    app = make_app(nats_server(f"accounts {{ {accounts} }}").url, **AS_ROOT)
    app.extensions["stations"].start()
    assert Api(app).request("GET", "/monitoring/ready").status_code == 200
    assert _with(app, _issued(app).access).status_code == 501


@pytest.mark.slow
def test_a_replica_without_the_broker_is_not_ready_and_catches_up(make: Make, server: NatsServer) -> None:
    """Known tokens are taken meanwhile, as far as that goes without a broker; log-out and refresh wait for it."""
    first, second = make(), make()
    known, gone = _issued(second), _issued(second)
    assert _statuses(second, known) == [200] * 4
    server.stop()
    eventually(lambda: Api(second).request("GET", "/monitoring/ready").status_code == 503, 10)
    assert _with(second, known.access, "GET", "/team/claims").status_code == 200
    assert _with(second, known.access).status_code == 503
    assert _with(second, known.refresh, "POST", "/auth/refreshToken").status_code == 503
    server.start()
    eventually(lambda: _with(first, gone.access).status_code == 200, 10)
    eventually(lambda: _statuses(second, gone) == [401] * 4, 5)
    eventually(lambda: Api(second).request("GET", "/monitoring/ready").status_code == 200, 5)
    assert _statuses(second, known) == [200] * 4


@pytest.mark.slow
def test_a_replica_that_starts_without_the_broker_takes_no_token_until_it_knows(make: Make, server: NatsServer) -> None:
    """What was logged out before is refused from the first request on, whoever reaches the broker first."""
    first = make()
    gone, good = _issued(first), _issued(first)
    assert _with(first, gone.access).status_code == 200
    server.stop()
    later = make()
    assert _statuses(later, gone) == [503] * 4
    server.start()
    seen: set[int] = set()
    eventually(lambda: seen.update(_statuses(later, gone)) or 401 in seen, 10)
    assert 200 not in seen
    assert _statuses(later, good) == [200] * 4


@pytest.mark.slow
def test_a_replica_far_away_from_the_broker_takes_tokens_from_its_first_request_on(
    make: Make, server: NatsServer
) -> None:
    """What it reads before does not take one way to the broker after the other."""
    good = _issued(make())
    with TcpProxy(server.port) as network:
        network.delay = 0.08
        far = make(BROKER_URL=f"nats://127.0.0.1:{network.port}")
        assert _statuses(far, good) == [200] * 4


def test_a_user_of_its_own_who_is_not_let_in_keeps_nobody_from_producing(make: Make) -> None:
    """Nobody can tell then what was revoked: readiness says so, and refreshing waits."""
    app = make(CONNECTION_TOKEN="wrong")
    assert Api(app).request("GET", "/monitoring/ready").status_code == 503
    assert _statuses(app, _issued(app)) == [200, 200, 200, 503]


@pytest.mark.slow
def test_all_workers_of_a_gateway_know(gateway: Callable[..., Gateway]) -> None:
    """With the embedded broker, whose user is there by itself; on connections to whichever worker."""
    started = gateway({"WEB_CONCURRENCY": "2"}).start()
    with logged_on(started.host) as sender:
        senders = [with_tokens_of(sender, started.host) for _ in range(12)]
        opened = [context.__enter__() for context in senders]
        try:
            for _ in range(3):
                assert {one.single("orders", b"1").status for one in opened} == {200}
            assert sender.request("DELETE", PATH, b"", {"Authorization": f"Bearer {sender.token}"}).status == 200
            eventually(lambda: {one.single("orders", b"1").status for one in opened} == {401}, within=1)
            assert sender.refresh().status == 401
        finally:
            for context in senders:
                context.__exit__(None, None, None)
