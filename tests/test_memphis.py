"""The routes in front of a Memphis broker, which a stand-in replays."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from flask import Flask

from tests.application import STORED, Api, running, settings
from tests.brokers.memphis_standin import Standin, User
from tests.servers import eventually

SYSLOG = "$memphis_syslogs.rest-gateway.extern."
_USERS = {"root": User("memphis"), "app-rb": User("Passw0rd!", ("rb-allowed*",))}


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standin]:
    """A broker with the recorded users, a station with three partitions and one that is not for everybody."""
    standin = Standin(tmp_path_factory.mktemp("memphis"), _USERS)
    standin.make("parts", 3)
    standin.make("rb-denied")
    yield standin
    standin.stop()


@pytest.fixture(scope="module")
def app(standin: Standin) -> Iterator[Flask]:
    """A gateway in front of it."""
    with running(settings(standin.url)) as app:
        app.extensions["stations"].start()
        yield app


@pytest.fixture(scope="module")
def api(app: Flask) -> Api:
    """Requests as `root`."""
    return Api(app)


def test_a_user_logs_on_with_a_password(api: Api) -> None:
    """And produces with the token."""
    answer = api.authenticate({"username": "root", "password": "memphis"})
    assert answer.status_code == 200
    token = answer.get_json()["jwt"]
    produced = api.post("/stations/first/produce/single", {"a": 1}, headers={"Authorization": f"Bearer {token}"})
    assert (produced.status_code, produced.get_json()) == (200, STORED)


def test_nobody_is_logged_out_and_told_why(standin: Standin) -> None:
    """Such a broker keeps no values that expire, and asking again would not help. The gateway is ready nevertheless."""
    with running(settings(standin.url, ROOT_USER="root", ROOT_PASSWORD="memphis")) as app:
        app.extensions["stations"].start()
        assert Api(app).request("GET", "/monitoring/ready").status_code == 200
        token = Api(app).authenticate({"username": "root", "password": "memphis"}).get_json()["jwt"]
        answer = Api(app).request("DELETE", "/auth/tokens", headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.get_json()["repeat"]) == (501, "never")
    assert "2.11" in answer.get_json()["error"]


@pytest.mark.parametrize(
    ("secrets", "status"),
    [
        ({"password": "memphis", "connection_token": "wrong"}, 200),
        ({"password": "wrong", "connection_token": "memphis"}, 401),
        ({"password": "", "connection_token": "memphis"}, 200),
    ],
)
def test_the_password_counts_where_both_are_given(api: Api, secrets: dict[str, str], status: int) -> None:
    """As it did with Memphis' gateway for a broker that knows users by password; one alone may have either name."""
    assert api.authenticate({"username": "root", **secrets}).status_code == status


def test_the_connection_token_counts_for_a_broker_with_one(tmp_path: Path) -> None:
    """The other way round."""
    standin = Standin(tmp_path, token="one for all")
    try:
        with running(settings(standin.url, USER_PASS_BASED_AUTH="false")) as app:
            fields = {"username": "root", "connection_token": "one for all", "password": "wrong"}
            assert Api(app).authenticate(fields).status_code == 200
            assert Api(app).authenticate({**fields, "connection_token": "wrong"}).status_code == 401
    finally:
        standin.stop()


@pytest.mark.parametrize("path", ["/auth/authenticate", "/auth/authenticate?accountId=1"])
@pytest.mark.parametrize("account", [{}, {"account_id": 1}, {"account_id": 7}])
def test_an_account_may_be_named(api: Api, path: str, account: dict[str, int]) -> None:
    """One that does not exist is passed over, as Memphis' own clients do."""
    fields = {"username": "root", "password": "memphis", **account}
    assert api.authenticate(fields, path).status_code == 200


@pytest.mark.parametrize("fields", [{"username": "nobody"}, {"username": "ROOT"}, {"password": "wrong"}])
def test_who_is_not_known_is_unauthorized(api: Api, fields: dict[str, str]) -> None:
    """The body that clients know."""
    answer = api.authenticate({"username": "root", "password": "memphis", **fields})
    assert (answer.status_code, answer.get_json()["message"]) == (401, "Unauthorized")


def test_a_batch_is_stored(api: Api, standin: Standin) -> None:
    """Each element's bytes, in order."""
    assert api.batch("a.batch", b'[{"a": 1}, "x", 2]').get_json() == STORED
    assert [message.payload for message in standin.stored("a#batch$1")] == [b'{"a": 1}', b'"x"', b"2"]


def test_an_atomic_batch_is_refused(api: Api) -> None:
    """Such a broker knows none; nothing is stored one by one."""
    answer = api.batch("atomic", b"[1, 2]", Prefer="atomic")
    assert (answer.status_code, answer.get_json()["stored"]) == (400, "no")


def test_only_wanted_headers_are_stored(api: Api, standin: Standin) -> None:
    """No secret, and none that the broker would obey."""
    answer = api.single(
        "heads", Cookie="a=b", X_Kind="k", msg_color="red", Nats_Rollup="all", X_Api_Key="s", msg_partition_key="a"
    )
    assert answer.status_code == 200
    (message,) = standin.stored("heads$1")
    names = {"content-type", "x-kind", "color", "Nats-Msg-Id", "$memphis_producedBy", "$memphis_connectionId"}
    assert set(message.headers) == names


@pytest.mark.parametrize(
    ("query", "headers", "partition"),
    [
        ("?partition_key=a", {}, 1),
        ("?partition_key=%C3%A9", {}, 2),
        ("?partition_key=", {}, 3),
        ("", {"msg-partition-key": "a"}, 1),
        ("", {"msg-partition-key": "é".encode().decode("latin-1")}, 2),
        ("?partition_key=", {"msg-partition-key": "a"}, 1),
    ],
)
def test_a_partition_key_may_stand_in_header_or_query(
    api: Api, standin: Standin, query: str, headers: dict[str, str], partition: int
) -> None:
    """The header wins; both are UTF-8."""
    before = len(standin.stored(f"parts${partition}"))
    for kind, body in (("single", b"{}"), ("batch", b"[1, 2]")):
        answer = api.post(f"/stations/parts/produce/{kind}{query}", body, headers=headers)
        assert answer.status_code == 200
    assert len(standin.stored(f"parts${partition}")) == before + 3


def test_a_schema_of_the_brokers_holds(api: Api, standin: Standin) -> None:
    """As soon as it is attached; what it refuses goes to the broker as a dead letter, and no further."""
    assert api.single("schema", b'{"name": "x"}').status_code == 200
    standin.attach("schema", "json")
    refused = eventually(lambda: (answer := api.single("schema", b'{"name": "x"}')).status_code == 400 and answer)
    body = refused.get_json()
    assert body["error"].startswith("Schema validation has failed: jsonschema: ")
    assert (body["stored"], body["dead_letter"]) == ("no", "sent")
    letter = eventually(lambda: standin.bodies("$memphis_schemaverse_dls"))[-1]
    assert bytes.fromhex(letter["message"]["data"]) == b'{"name": "x"}'
    assert letter["validation_error"] == body["error"]
    assert api.single("schema", b'{"id": 1}').status_code == 200


def test_the_good_messages_of_a_batch_are_stored(api: Api, standin: Standin) -> None:
    """Each of the others is a dead letter."""
    standin.make("schema-batch")
    standin.attach("schema-batch", "json")
    answer = api.batch("schema-batch", b'[{"id": 1}, {"name": "x"}, {"id": 3}, 4]')
    assert (answer.status_code, answer.get_json()["sent"]) == (400, 2)
    assert [entry["dead_letter"] for entry in answer.get_json()["failed"]] == ["sent", "sent"]
    assert [message.payload for message in standin.stored("schema-batch$1")] == [b'{"id": 1}', b'{"id": 3}']

    def kept() -> list[bytes]:
        bodies = standin.bodies("$memphis_schemaverse_dls")
        return [bytes.fromhex(b["message"]["data"]) for b in bodies if b["station_name"] == "schema-batch"]

    eventually(lambda: len(kept()) == 2)
    assert kept() == [b'{"name": "x"}', b"4"]


def test_no_dead_letters_where_the_station_wants_none(api: Api, standin: Standin) -> None:
    """The sender is told why all the same."""
    standin.make("no-letters")
    standin.attach("no-letters", "json")
    standin.dead_letters["no-letters"] = False
    answer = api.single("no-letters", b"{}")
    assert answer.status_code == 400
    assert "dead_letter" not in answer.get_json()


def test_schemas_are_changed_at_the_broker(api: Api) -> None:
    """The registry's routes say so."""
    answer = api.request("GET", "/schemas", headers={"Authorization": f"Bearer {api.token}"})
    assert answer.status_code == 404
    assert "keeps schemas itself" in answer.get_json()["error"]


def test_no_permission_is_403(app: Flask) -> None:
    """In the broker's words; Memphis' gateway said 500."""
    answer = Api(app, "app-rb", "Passw0rd!").single("rb-denied")
    assert (answer.status_code, answer.get_json()["stored"]) == (403, "no")
    assert answer.get_json()["error"] == "user app-rb is not allowed to access station rb-denied"


def test_no_station_is_404_where_none_is_made(standin: Standin) -> None:
    """By the setting."""
    with running(settings(standin.url, AUTO_CREATE_STATIONS="false")) as app:
        assert Api(app).single("nowhere").status_code == 404


def test_stations_are_made_by_themselves(standin: Standin) -> None:
    """Without any setting, as Memphis' gateway did."""
    config = settings(standin.url, AUTO_CREATE_STATIONS="")
    with running(config) as app:
        assert Api(app).single("made-by-itself").status_code == 200


def test_it_is_ready(standin: Standin) -> None:
    """As the user of the settings."""
    with running(settings(standin.url, ROOT_USER="root", ROOT_PASSWORD="memphis")) as app:
        assert Api(app).request("GET", "/monitoring/ready").status_code == 200


def test_it_is_ready_with_the_settings_of_memphis_charts(standin: Standin) -> None:
    """They set a connection token besides the password, although the broker knows users by password."""
    both = {"ROOT_USER": "root", "ROOT_PASSWORD": "memphis", "CONNECTION_TOKEN": "of no use"}
    with running(settings(standin.url, **both)) as app:
        assert Api(app).request("GET", "/monitoring/ready").status_code == 200


# ---- what the broker's dashboard looks for -----------------------------------------------------------------------


def test_log_lines_go_to_the_broker(standin: Standin) -> None:
    """In the form of Memphis' own gateway, through a connection like its own."""
    env = {"ROOT_USER": "root", "ROOT_PASSWORD": "memphis", "SYSLOGS_TO_BROKER": "true"}
    with running(settings(standin.url, **env)) as app:
        app.extensions["stations"].start()
        structlog.get_logger().warning("something_happened", station="orders")
        structlog.get_logger().info("request", status=200)
        structlog.get_logger().error("worse", jwt="-")
        eventually(lambda: standin.bodies(f"{SYSLOG}err"))
    (info,) = standin.bodies(f"{SYSLOG}info")
    assert re.fullmatch(rb"\[\d+\] \d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6} \[INF\] the gateway is up and running\n", info)
    (warning,) = standin.bodies(f"{SYSLOG}warn")
    assert warning.endswith(b" [WRN] something_happened station=orders\n")
    logger = next(connect for connect in standin.connects if "LOGGER" in connect["name"])
    assert (logger["user"], logger["name"]) == ("$$memphis", "MEMPHIS HTTP LOGGER")


def test_log_lines_go_nowhere_unless_asked_for(standin: Standin, make_app: Callable[..., Flask]) -> None:
    """Nor to a broker that is no Memphis broker."""
    for url in (standin.url, "nats://127.0.0.1:1"):
        app = make_app(url, SYSLOGS_TO_BROKER="true" if url.startswith("nats") else "false")
        app.extensions["stations"].start()
        assert app.extensions["stations"].producer._pool.syslog is None


def test_a_broker_that_is_away_does_not_hold_log_lines(tmp_path: Path) -> None:
    """They are few, and lost; the application stops as ever."""
    env = {"ROOT_USER": "root", "ROOT_PASSWORD": "memphis", "SYSLOGS_TO_BROKER": "true"}
    with running(settings("memphis://127.0.0.1:1", **env)) as app:
        app.extensions["stations"].start()
        for number in range(3000):
            app.extensions["stations"].producer._pool.syslog.write("info", f"line {number}")
        assert len(app.extensions["stations"].producer._pool.syslog._lines) <= 1000


def test_what_a_worker_uses(make_app: Callable[..., Flask]) -> None:
    """Three figures without a token, where the dashboard of a development broker asks for them."""
    answer = Api(make_app(DEV_ENV="true")).request("GET", "/monitoring/getResourcesUtilization")
    used: dict[str, Any] = answer.get_json()
    assert sorted(used) == ["cpu", "memory", "storage"]
    assert used["cpu"] >= 0
    assert 0 < used["memory"] < 100


def test_what_a_worker_uses_is_for_development(make_app: Callable[..., Flask]) -> None:
    """404 otherwise, as ever."""
    assert Api(make_app()).request("GET", "/monitoring/getResourcesUtilization").status_code == 404
