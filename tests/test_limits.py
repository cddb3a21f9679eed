"""How much senders may ask for: by address, by user, of log-ons that fail; and what those get who ask for more."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from werkzeug.wrappers import Response

from proxy import limits
from proxy.credentials import Credentials
from proxy.errors import RateLimited, Unauthorized
from proxy.limits import Limits, Quota, Table
from proxy.parsers import Rate
from tests.application import JSON, NOWHERE, Api, add_team_routes, payloads, running, settings
from tests.clients import logged_on, with_tokens_of
from tests.servers import Gateway, NatsServer

ALICE, BOB = Credentials("alice", "a"), Credentials("bob", "b")
HERE, THERE = "192.0.2.1", "192.0.2.2"


class Clock:
    """A clock that the test sets."""

    now = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still until the test sets it."""
    return Clock()


def _admitted(limits: Limits, times: int = 100, **whom: Any) -> int:
    """How many of so many requests are let in."""
    count = 0
    for _ in range(times):
        try:
            limits.admit(**whom)
        except RateLimited:
            continue
        count += 1
    return count


def _fail(limits: Limits, address: str, credentials: Credentials | None = None, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(Unauthorized), limits.log_on(address, credentials):
            raise Unauthorized


# ---- what is counted -----------------------------------------------------------------------------------------------


def test_where_nothing_is_set_everything_is_let_in() -> None:
    """The limits on requests are off by default."""
    assert _admitted(Limits(settings()), address=HERE, credentials=ALICE) == 100


def test_an_address_may_make_so_many_requests_in_a_window(clock: Clock) -> None:
    """Others are not concerned, and the next window is a new one."""
    known = Limits(settings(RATE_LIMIT_PER_ADDRESS="7/10 seconds"), clock)
    assert (_admitted(known, address=HERE), _admitted(known, address=THERE)) == (7, 7)
    clock.now += 9.9
    assert _admitted(known, address=HERE) == 0
    clock.now += 0.2
    assert _admitted(known, address=HERE) == 7


def test_a_user_may_make_so_many_requests_from_wherever(clock: Clock) -> None:
    """Whatever the account is called on a broker that knows none, the user stays the same."""
    known = Limits(settings(RATE_LIMIT_PER_USER="7/second"), clock)
    assert _admitted(known, 3, credentials=ALICE) == 3
    assert _admitted(known, 3, credentials=Credentials("alice", "a", "12")) == 3
    assert _admitted(known, credentials=Credentials("alice$9", "a", "9")) == 1
    assert _admitted(known, address=HERE, credentials=BOB) == 7


def test_accounts_of_a_broker_that_has_them_are_apart(clock: Clock) -> None:
    """Users of the same name in two accounts of a Memphis broker are two."""
    known = Limits(settings("memphis://broker:6666", RATE_LIMIT_PER_USER="7/second"), clock)
    first, second = Credentials("alice", "a", "1"), Credentials("alice", "a", "2")
    assert (_admitted(known, credentials=first), _admitted(known, credentials=second)) == (7, 7)


@pytest.mark.parametrize("broker", [NOWHERE, "memphis://broker:6666"])
def test_naming_accounts_gives_no_more_guesses(clock: Clock, broker: str) -> None:
    """A Memphis broker is asked without the account where it does not take it, so all of them are guesses at one."""
    known = Limits(settings(broker, AUTH_FAILURES_PER_MINUTE="3"), clock)
    for number in range(3):
        _fail(known, f"192.0.2.{number}", Credentials("alice", str(number), str(number)))
    with pytest.raises(RateLimited), known.log_on("192.0.2.9", Credentials("alice$7", "x")):
        pass
    with known.log_on("192.0.2.9", BOB):
        pass


def test_what_goes_another_way_is_counted_once(clock: Clock) -> None:
    """A request that was admitted, and has to start anew, is not two."""
    known = Limits(settings(RATE_LIMIT_PER_USER="3/second", RATE_LIMIT_PER_ADDRESS="3/second"), clock)
    for _ in range(10):
        known.admit(HERE, ALICE)
        known.withdraw(HERE, ALICE)
    assert _admitted(known, address=HERE, credentials=ALICE) == 3


def test_a_sender_of_ipv6_is_a_network(clock: Clock) -> None:
    """One customer has 64 bits of addresses to choose from; an IPv4 address in IPv6 form stays the same."""
    known = Limits(settings(RATE_LIMIT_PER_ADDRESS="2/second"), clock)
    assert [_admitted(known, 1, address=f"2001:db8::{n}") for n in range(4)] == [1, 1, 0, 0]
    assert _admitted(known, address="2001:db8:0:1::1") == 2
    assert _admitted(known, 1, address=HERE) + _admitted(known, address=f"::ffff:{HERE}") == 2
    assert _admitted(known, address="fe80::1%eth0") == 2


@pytest.mark.parametrize("address", ["", "no address"])
def test_a_client_may_have_no_address(clock: Clock, address: str) -> None:
    """One on a unix socket has none, and is not limited; what is none counts as it is."""
    known = Limits(settings(RATE_LIMIT_PER_ADDRESS="2/second"), clock)
    assert _admitted(known, address=address) == (2 if address else 100)


@pytest.mark.parametrize(("workers", "share"), [(1, 10), (2, 5), (4, 3), (20, 1)])
def test_a_worker_allows_its_share(clock: Clock, workers: int, share: int) -> None:
    """Rounded up, so that nothing is forbidden which was allowed."""
    env = {"RATE_LIMIT_PER_USER": "10/second", "WEB_CONCURRENCY": str(workers), "AUTH_FAILURES_PER_MINUTE": "10"}
    known = Limits(settings(**env), clock)
    assert _admitted(known, credentials=ALICE) == share
    _fail(known, HERE, times=share)
    with pytest.raises(RateLimited), known.log_on(HERE):
        pass


def test_a_refusal_says_when_to_come_back(clock: Clock) -> None:
    """In seconds, as `Retry-After` and in the fields of the IETF's draft; a moment is one second."""
    quota = Quota("user", Rate(5, 60), clock=clock)
    quota.hit("alice")
    clock.now += 20.5
    headers = dict(quota.refusal("alice", "too many").headers())
    assert headers == {
        "Retry-After": "40",
        "RateLimit-Policy": '"user";q=5;w=60',
        "RateLimit": '"user";r=0;t=40',
    }
    clock.now += 39.4
    assert quota.refusal("alice", "too many").retry_after == 1


def test_the_table_is_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one whose window began first goes; a sender with many addresses pushes out its own."""
    monkeypatch.setattr(limits, "MAX_SENDERS", 10)
    table = Table(clock)
    for number in range(100):
        clock.now += 0.001
        assert table.incr(f"sender-{number}", 60) == 1
        assert len(table) <= 10
    assert (table.get("sender-99"), table.get("sender-0")) == (1, 0)


def test_the_table_forgets_what_has_ended(clock: Clock) -> None:
    """A crowd that has gone leaves no rows behind for long."""
    table = Table(clock)
    for number in range(1000):
        table.incr(f"sender-{number}", 1)
    clock.now += 2
    for number in range(600):
        table.incr(f"other-{number}", 1)
    assert len(table) == 600
    assert (table.get("sender-999"), table.get("other-1")) == (0, 1)


def test_the_table_is_one_of_the_packages_storages(clock: Clock) -> None:
    """What the package may ask of a storage is answered."""
    table = Table(clock)
    table.incr("a", 5, 3)
    table.incr("b", 5)
    assert (table.check(), table.get("a"), table.get_expiry("a"), table.get_expiry("c")) == (True, 3, 1005, 1000)
    table.clear("a")
    assert (table.get("a"), table.reset(), len(table)) == (0, 1, 0)


# ---- log-ons -------------------------------------------------------------------------------------------------------


def test_failed_log_ons_are_counted_by_address(clock: Clock) -> None:
    """Thirty in a minute, whoever they were for; then that address has to wait, with good credentials too."""
    known = Limits(settings(AUTH_FAILURES_PER_MINUTE=""), clock)
    for number in range(30):
        _fail(known, HERE, Credentials(f"user-{number}", "x"))
    with pytest.raises(RateLimited) as refused, known.log_on(HERE, ALICE):
        pass
    assert refused.value.retry_after == 60
    with known.log_on(THERE, ALICE):
        pass
    clock.now += 61
    with known.log_on(HERE, ALICE):
        pass


def test_failed_log_ons_are_counted_by_user(clock: Clock) -> None:
    """From thirty addresses too; other users of these may log on."""
    known = Limits(settings(AUTH_FAILURES_PER_MINUTE=""), clock)
    for number in range(30):
        _fail(known, f"192.0.2.{number}", Credentials("alice$7", "x", "7") if number % 2 else ALICE)
    with pytest.raises(RateLimited), known.log_on(THERE, ALICE):
        pass
    with known.log_on(THERE, BOB):
        pass
    with known.log_on(THERE):  # a refresh
        pass


def test_log_ons_that_succeed_or_meet_no_broker_are_not_counted(clock: Clock) -> None:
    """A sender that logs on often is no attacker, and neither is one whose broker is away."""
    known = Limits(settings(), clock)
    for _ in range(100):
        with known.log_on(HERE, ALICE):
            pass
        with pytest.raises(RateLimited), known.log_on(HERE, ALICE):
            raise RateLimited


# ---- in the application --------------------------------------------------------------------------------------------


@pytest.fixture
def make(broker: NatsServer) -> Iterator[Callable[..., Flask]]:
    """Makes applications at the shared broker, with a route of a team."""
    made: list[Any] = []

    def make(**env: str) -> Flask:
        context = running(settings(broker.url, **env))
        made.append(context)
        app = context.__enter__()
        add_team_routes(app)
        return app

    yield make
    for context in made:
        context.__exit__(None, None, None)


def _assert_limited(answer: Response, policy: str) -> None:
    body = answer.get_json()
    assert (answer.status_code, body["stored"], body["repeat"]) == (429, "no", "safe")
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.headers["RateLimit-Policy"] == policy
    assert answer.headers["RateLimit"].startswith(policy.partition(";")[0] + ";r=0;t=")


@pytest.mark.parametrize("lane", ["true", "false"])
def test_too_many_requests_of_a_user_are_refused(
    make: Callable[..., Flask], broker: NatsServer, station: str, lane: str
) -> None:
    """Whichever way they go; a batch is one, and nothing of the refused ones is stored."""
    app = make(RATE_LIMIT_PER_USER="5/day", LANE=lane)
    api, other = Api(app), Api(app, "app1", "Passw0rd!")
    assert [api.single(station, b"1").status_code for _ in range(4)] == [200] * 4
    assert api.batch(station, b"[1,1]").status_code == 200
    for answer in (api.single(station, b"2"), api.batch(station, b"[2]")):
        _assert_limited(answer, '"user";q=5;w=86400')
    assert other.single(station, b"1").status_code == 200
    assert api.request("GET", "/team/caller", headers={"Authorization": f"Bearer {api.token}"}).status_code == 429
    assert payloads(broker, station) == [b"1"] * 7


@pytest.mark.parametrize("lane", ["true", "false"])
def test_too_many_requests_of_an_address_are_refused(make: Callable[..., Flask], station: str, lane: str) -> None:
    """Before anything is looked at, and whoever it is; those who watch over the gateway are let in."""
    api = Api(make(RATE_LIMIT_PER_ADDRESS="3/day", LANE=lane))
    assert [api.single(station).status_code for _ in range(3)] == [200] * 3
    headers = {"Authorization": "Bearer nonsense"}
    for answer in (
        api.single(station),
        api.post(f"/stations/{station}/produce/single", b"1", headers=headers),
        api.request("GET", "/nowhere"),
        api.authenticate({"username": "root", "connection_token": "memphis"}),
    ):
        _assert_limited(answer, '"address";q=3;w=86400')
    for path in ("/monitoring/status", "/monitoring/ready"):
        assert api.request("GET", path).status_code == 200
    assert api.request("GET", "/", environ_overrides={"REMOTE_ADDR": THERE}).status_code == 200


def test_the_address_is_that_of_the_client_behind_a_trusted_proxy(make: Callable[..., Flask]) -> None:
    """Of one that is not trusted nothing is believed, so nobody gets more by naming other addresses."""
    trusting, wary = (
        Api(make(RATE_LIMIT_PER_ADDRESS="2/day", **env)) for env in ({"TRUSTED_PROXIES": "127.0.0.1"}, {})
    )
    for api, expected in ((trusting, [200] * 5), (wary, [200, 200, 429, 429, 429])):
        answers = [api.request("GET", "/", headers={"X-Forwarded-For": f"192.0.2.{n}"}) for n in range(5)]
        assert [answer.status_code for answer in answers] == expected


def test_a_route_that_asks_twice_who_calls_counts_once(make: Callable[..., Flask]) -> None:
    """A team's route may ask for the caller and then produce."""
    app = make(RATE_LIMIT_PER_USER="4/day")

    @app.get("/team/twice")
    def twice() -> dict[str, str]:
        extension = app.extensions["stations"]
        return {"first": extension.caller().credentials.user, "second": extension.caller().credentials.user}

    api = Api(app)
    headers = {"Authorization": f"Bearer {api.token}"}
    statuses = [api.request("GET", "/team/twice", headers=headers).status_code for _ in range(5)]
    assert statuses == [200] * 4 + [429]


def test_failed_log_ons_are_limited(make: Callable[..., Flask]) -> None:
    """By address, then by user from another one; a live token is not concerned, and neither is its refresh."""
    app = make(AUTH_FAILURES_PER_MINUTE="2")
    api = Api(app)
    good = {"username": "root", "connection_token": "memphis"}
    tokens = api.authenticate(good).get_json()
    wrong = {**good, "connection_token": "wrong"}
    assert [api.authenticate(wrong).status_code for _ in range(4)] == [401, 401, 429, 429]
    answer = api.authenticate(good)
    _assert_limited(answer, '"failed-log-ons-of-address";q=2;w=60')
    assert answer.get_json()["message"] == answer.get_json()["error"]
    there = {"environ_overrides": {"REMOTE_ADDR": THERE}}
    _assert_limited(api.authenticate(good, **there), '"failed-log-ons-of-user";q=2;w=60')
    other = {"username": "app1", "connection_token": "Passw0rd!"}
    assert api.authenticate(other, **there).status_code == 200
    body = json.dumps({"jwt_refresh_token": tokens["jwt_refresh_token"]})
    refresh = {"data": body, "content_type": JSON}
    assert api.request("POST", "/auth/refreshToken", **refresh, **there).status_code == 200
    assert api.request("POST", "/auth/refreshToken", **refresh).status_code == 429


def test_refreshes_that_fail_are_limited_by_address(make: Callable[..., Flask]) -> None:
    """Whoever tries out tokens is kept out like whoever tries out passwords."""
    api = Api(make(AUTH_FAILURES_PER_MINUTE="3"))
    headers = {"Authorization": "Bearer nonsense"}
    answers = [api.request("POST", "/auth/refreshToken", headers=headers) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [401, 401, 401, 429, 429]


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["RATE_LIMIT_PER_USER", "RATE_LIMIT_PER_ADDRESS"])
def test_heads_that_repeat_are_counted(gateway: Callable[..., Gateway], broker: NatsServer, setting: str) -> None:
    """The shortest way that a request can go is limited as the others are."""
    env = {"BROKER_URL": broker.url, "JWT_SECRET": "s" * 32, setting: "40/day", "AUTO_CREATE_STATIONS": "true"}
    started = gateway({**env, "WEB_CONCURRENCY": "1"}).start()
    station = f"repeating-{setting.lower().replace('_', '-')}"
    with logged_on(started.host) as sender:
        statuses = [sender.single(station, b"1").status for _ in range(60)]
    allowed = 40 if setting == "RATE_LIMIT_PER_USER" else 39  # the log-on is a request too
    assert statuses == [200] * allowed + [429] * (60 - allowed)
    assert len(payloads(broker, station)) == allowed


@pytest.mark.slow
def test_heads_that_repeat_are_counted_for_clients_behind_a_proxy(
    gateway: Callable[..., Gateway], broker: NatsServer
) -> None:
    """On the one connection of a trusted proxy each head belongs to the client that it names."""
    env = {"BROKER_URL": broker.url, "JWT_SECRET": "s" * 32, "AUTO_CREATE_STATIONS": "true", "WEB_CONCURRENCY": "1"}
    started = gateway({**env, "RATE_LIMIT_PER_ADDRESS": "20/day", "TRUSTED_PROXIES": "127.0.0.1"}).start()
    with logged_on(started.host) as proxy:
        for forwarded in (HERE, THERE, f"192.0.2.9, {HERE}"):  # the last one pretends to be somebody else
            statuses = [proxy.single("behind-a-proxy", b"1", X_Forwarded_For=forwarded).status for _ in range(30)]
            allowed = 0 if "," in forwarded else 20
            assert statuses == [200] * allowed + [429] * (30 - allowed)


@pytest.mark.slow
def test_bad_bodies_count_once_whichever_way_they_go(gateway: Callable[..., Gateway], broker: NatsServer) -> None:
    """The shortest way leaves them to the whole one, which counts them."""
    env = {"BROKER_URL": broker.url, "JWT_SECRET": "s" * 32, "RATE_LIMIT_PER_USER": "40/day", "WEB_CONCURRENCY": "1"}
    started = gateway({**env, "AUTO_CREATE_STATIONS": "true"}).start()
    with logged_on(started.host) as sender:
        statuses = [sender.single("bad-bodies", b"{nope" if n % 2 else b"{}").status for n in range(50)]
    assert statuses == [200, 400] * 20 + [429] * 10


@pytest.mark.slow
def test_workers_share_a_limit(gateway: Callable[..., Gateway], broker: NatsServer) -> None:
    """Two workers allow twice their share, which is what the setting says."""
    env = {"BROKER_URL": broker.url, "JWT_SECRET": "s" * 32, "WEB_CONCURRENCY": "2", "RATE_LIMIT_PER_USER": "40/day"}
    started = gateway({**env, "AUTO_CREATE_STATIONS": "true"}).start()
    answers = []
    with logged_on(started.host) as first:
        for _ in range(40):
            with with_tokens_of(first, started.host) as sender:
                answers += [sender.single("limited-by-workers", b"1") for _ in range(5)]
    assert 20 <= [answer.status for answer in answers].count(200) <= 40
    refused = [answer for answer in answers if answer.status == 429]
    assert {answer.headers["ratelimit-policy"] for answer in refused} == {'"user";q=20;w=86400'}
