"""docs/schemas.md tells the truth: the rights that users need, the commands, the routes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from flask import Flask

from proxy.commands import schemas as commands
from proxy.validators import MAX_DEFINITION_BYTES, MAX_MESSAGE_CHARACTERS, MAX_VIOLATIONS, VALIDATORS
from tests.application import Api, running, settings
from tests.brokers.tools import Operator
from tests.servers import ROOT, NatsServer

_DOCUMENT = (ROOT / "docs" / "schemas.md").read_text()
_ORDER = {"type": "json", "definition": '{"required": ["id"]}'}


def _rights() -> list[dict[str, list[str]]]:
    """The parts of the configuration that is shown: subjects by `publish` and `subscribe`."""
    (shown,) = re.findall(r"^```conf\n(.*?)^```$", _DOCUMENT, re.M | re.S)
    parts = [dict(re.findall(r"^(\w+): \[(.*?)\]", part, re.M | re.S)) for part in shown.split("\n\n")]
    return [{verb: re.findall(r'"(.*?)"', subjects) for verb, subjects in part.items()} for part in parts]


def _user(name: str, *parts: dict[str, list[str]]) -> str:
    """A user with the rights of these parts together."""
    rights = [
        f"{verb}: [{', '.join(f'{chr(34)}{subject}{chr(34)}' for part in parts for subject in part.get(verb, []))}]"
        for verb in ("publish", "subscribe")
    ]
    return f"{{ user: {name}, password: x, permissions: {{ {', '.join(rights)} }} }}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A broker whose users have the rights that are shown."""
    producing, looking, changing, one, letters = _rights()
    users = [
        "{ user: root, password: x }",
        _user("producing", producing),
        _user("looking", producing, looking),
        _user("changing", producing, looking, changing),
        _user("one", producing, looking, one),
        _user("letters", producing, letters),
    ]
    server = NatsServer(tmp_path_factory.mktemp("rights"), f"authorization {{ users: [{', '.join(users)}] }}")
    try:
        server.start()
        operator = Operator(server, "root", "x")
        operator.add("orders")
        operator.add("orders#dls")
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def app(server: NatsServer) -> Iterator[Flask]:
    """An application at that broker."""
    with running(settings(server.url, AUTO_CREATE_STATIONS="off")) as app:
        app.extensions["stations"].start()
        yield app


@pytest.fixture(scope="module")
def user(app: Flask) -> Callable[[str], Api]:
    """A user of it by name."""
    return lambda name: Api(app, name, "x")


def test_a_user_with_all_rights_makes_the_bucket(user: Callable[[str], Api]) -> None:
    """Puts, attaches, takes away."""
    api = user("changing")
    assert api.put("/schemas/payment", _ORDER).status_code == 201
    api.demand("orders", '{"required": ["id"]}', dead_letter=True)
    assert api.put("/stations/payments/schema", {"schema": "payment"}).status_code == 200
    assert api.delete("/stations/payments/schema").status_code == 200
    assert len(api.get("/schemas").get_json()["schemas"]) == 2


def test_a_user_who_produces_is_checked_and_changes_nothing(user: Callable[[str], Api]) -> None:
    """It sees what its stations demand."""
    api = user("producing")
    assert api.single("orders", b'{"id": 1}').status_code == 200
    refused = api.single("orders", b"{}")
    assert (refused.status_code, refused.get_json()["dead_letter"][:7]) == (400, "failed:")
    assert api.get("/stations/orders/schema").status_code == 200
    assert api.get("/schemas/orders").status_code == 200
    assert api.get("/schemas").status_code == 403
    assert api.put("/schemas/payment", {**_ORDER, "definition": "{}"}).status_code == 403
    assert api.delete("/stations/orders/schema").status_code == 403


def test_a_user_who_may_look_lists(user: Callable[[str], Api]) -> None:
    """And changes nothing either."""
    assert user("looking").get("/schemas").status_code == 200
    assert user("looking").put("/schemas/payment", {**_ORDER, "definition": "{}"}).status_code == 403


def test_a_user_may_have_one_schema_and_one_station_of_its_own(user: Callable[[str], Api]) -> None:
    """And no other."""
    api = user("one")
    assert api.put("/schemas/payment", {**_ORDER, "definition": "{}"}).status_code == 201
    assert api.put("/stations/payments/schema", {"schema": "payment"}).status_code == 200
    assert api.put("/schemas/orders", {**_ORDER, "definition": "{}"}).status_code == 403
    assert api.put("/stations/orders/schema", {"schema": "payment"}).status_code == 403


def test_dead_letters_need_a_right_too(user: Callable[[str], Api], server: NatsServer) -> None:
    """That of producing to their station."""
    assert user("letters").single("orders", b"{}").get_json()["dead_letter"] == "stored"
    assert Operator(server, "root", "x").payloads("orders#dls") == [b"{}"]


def test_the_routes_are_those_of_the_application(app: Flask) -> None:
    """Each with its methods."""
    shown = set(re.findall(r"^\| `(\w+) (/\S+)` \|", _DOCUMENT, re.M))
    rules = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", lambda found: f"<{found[1].replace('number', 'n')}>", rule.rule))
        for rule in app.url_map.iter_rules()
        if rule.endpoint.startswith("registry.")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert shown == rules


def test_the_commands_are_those_of_the_program() -> None:
    """All of them, by name."""
    assert set(re.findall(r"^flask --app wsgi schemas (\w+)", _DOCUMENT, re.M)) == set(commands.commands)


def test_languages_and_limits_are_those_of_the_program() -> None:
    """As numbers."""
    assert re.findall(r"^\| `(\w+)` \| .* \| .* \|$", _DOCUMENT, re.M)[1:] == list(VALIDATORS)
    assert MAX_DEFINITION_BYTES == 256 << 10
    assert f"At most {MAX_VIOLATIONS} are listed, none longer than {MAX_MESSAGE_CHARACTERS} characters" in _DOCUMENT
