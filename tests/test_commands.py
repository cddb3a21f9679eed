"""`flask --app wsgi schemas ...`, run as an operator runs it: a program of its own beside a gateway."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients import logged_on
from tests.servers import ROOT, Gateway, NatsServer

pytestmark = pytest.mark.slow

ORDER = '{"type": "object", "required": ["id"]}\n'
LARGE = "type Query { a: Int }" + "\n" * (256 * 1024) + "type {"
Run = Callable[..., subprocess.CompletedProcess[str]]


def _flask(directory: Path, *args: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in that directory, without a terminal."""
    base = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", "schemas", *args],
        cwd=directory,
        env={**base, **env},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with the broker of its own."""
    gateway = Gateway(tmp_path_factory.mktemp("gateway")).start()
    yield gateway
    gateway.stop()


@pytest.fixture
def run(running: Gateway) -> Run:
    """Runs a command beside the gateway, which finds its broker by `DATA_DIR`."""
    (running.directory / "order.json").write_text(ORDER)
    return lambda *args, **how: _flask(running.directory, *args, **how)


def _told(ran: subprocess.CompletedProcess[str], status: int = 0) -> str:
    """What a command has said, which ends with that status and without a traceback."""
    assert ran.returncode == status, ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (ran.stderr if status == 0 else ran.stdout), (ran.stdout, ran.stderr)
    return ran.stderr if status else ran.stdout


def test_a_schema_from_its_file_to_its_end(run: Run, running: Gateway) -> None:
    """Put, list, show, attach, validate, detach, delete; what is attached counts for senders within a second."""
    assert _told(run("put", "life", "order.json")) == "life version 1\n"
    assert _told(run("put", "life", "order.json")) == "life version 1, as it was\n"
    assert _told(run("put", "life", "-", "--type", "json", stdin="{}")) == "life version 2\n"
    assert "life\t2\tjson\n" in _told(run("list"))
    assert _told(run("show", "life", "--version", "1")) == ORDER
    assert _told(run("show", "life")) == "{}\n"
    assert _told(run("attach", "shop.life", "life", "--version", "1", "--dead-letter")) == ""
    assert _told(run("validate", "shop.life", "-", stdin='{"id": 1}')) == ""
    refused = run("validate", "shop.life", "-", stdin="{}")
    assert (refused.returncode, refused.stderr) == (1, "")
    assert "missing properties: 'id'" in refused.stdout
    with logged_on(running.host) as sender:
        answer = sender.single("shop.life", b"{}")
        assert (answer.status, answer.json["dead_letter"]) == (400, "stored")
    assert "station shop.life demands schema life" in _told(run("delete", "life"), 3)
    assert _told(run("detach", "shop.life")) == ""
    assert _told(run("delete", "life")) == ""
    assert "there is no schema life" in _told(run("show", "life"), 3)


@pytest.mark.parametrize(
    ("args", "stdin", "words"),
    [
        (["show", "nowhere"], "", "there is no schema nowhere"),
        (["show", "a.b"], "", "a schema's name has"),
        (["attach", "a*", "x"], "", "a station name has"),
        (["attach", "x", "nowhere"], "", "there is no schema nowhere"),
        (["detach", "nowhere"], "", "station nowhere has no schema"),
        (["put", "x", "-", "--type", "json"], '{\n"type": x', "line 2"),
        (["put", "x", "-", "--type", "graphql"], "\ufeff" + LARGE, "larger than"),
        (["list", "--user", "nobody"], "", "Unauthorized"),
    ],
)
def test_what_cannot_be_done_is_one_line(run: Run, args: list[str], stdin: str, words: str) -> None:
    """On standard error, with a status of its own."""
    told = _told(run(*args, stdin=stdin, STATIONS_CONNECTION_TOKEN="wrong"), 3)
    assert words in told
    assert told.startswith("Error: ")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "stdin", "words"),
    [
        (["put", "x", "nowhere.json"], "", "nowhere.json"),
        (["put", "x", "-"], "{}", "Say --type"),
        (["put", "x", "-", "--type", "xml"], "{}", "xml"),
        (["attach", "x"], "", "NAME"),
        (["attach", "x", "y", "--version", "0"], "", "0"),
        (["show", "x", "--secret", "s"], "", "--secret"),
    ],
)
def test_wrong_usage_is_told(run: Run, args: list[str], stdin: str, words: str) -> None:
    """With click's status."""
    assert words in _told(run(*args, stdin=stdin), 2)


def test_a_file_that_is_no_text_is_refused(run: Run, running: Gateway) -> None:
    """Without sending it."""
    (running.directory / "bytes.json").write_bytes(b"\xff\xfe")
    assert "bytes.json is not UTF-8" in _told(run("put", "x", "bytes.json"), 2)


def test_without_a_broker_the_command_says_so(tmp_path: Path) -> None:
    """None of its own runs here; the one that is named is not there; nobody may be asked as."""
    assert "embedded broker is not running" in _told(_flask(tmp_path, "list"), 3)
    away = {"BROKER_URL": "nats://127.0.0.1:1", "JWT_SECRET": "s" * 32}
    assert "Name a user with --user" in _told(_flask(tmp_path, "list", **away), 2)
    assert "cannot be reached" in _told(_flask(tmp_path, "list", ROOT_USER="root", **away), 3)


def test_a_bad_setting_is_told(tmp_path: Path) -> None:
    """In a line."""
    told = _told(_flask(tmp_path, "list", LOG_LEVEL="loud"), 3)
    assert told.startswith("stations: LOG_LEVEL must be")


def test_another_user_acts_with_its_own_rights(nats_server: Callable[..., NatsServer], tmp_path: Path) -> None:
    """Its connection token is in a variable; asked for where there is none, and then somebody has to be there."""
    reader = '{ publish: ["$JS.API.STREAM.INFO.KV_station-schemas", "$JS.API.STREAM.MSG.GET.KV_station-schemas"] }'
    broker = nats_server(
        "authorization { users: [{ user: root, password: memphis }, "
        f"{{ user: reader, password: seal, permissions: {reader} }}] }}"
    )
    env = {"BROKER_URL": broker.url, "JWT_SECRET": "s" * 32, "ROOT_USER": "root", "CONNECTION_TOKEN": "memphis"}
    reads: dict[str, Any] = {**env, "STATIONS_CONNECTION_TOKEN": "seal"}
    (tmp_path / "order.json").write_text(ORDER)
    assert _told(_flask(tmp_path, "put", "order", "order.json", **env)) == "order version 1\n"
    assert _told(_flask(tmp_path, "list", "--user", "reader", **reads)) == "order\t1\tjson\n"
    refused = _told(_flask(tmp_path, "put", "order", "-", "--type", "json", "--user", "reader", stdin="{}", **reads), 3)
    assert "may not" in refused or "does not allow" in refused
    assert "Set STATIONS_CONNECTION_TOKEN" in _told(_flask(tmp_path, "list", "--user", "reader", **env), 2)


def test_what_is_put_is_what_http_shows(run: Run, running: Gateway) -> None:
    """One registry, two ways."""
    _told(run("put", "Shared", "order.json"))
    with logged_on(running.host) as sender:
        answer = sender.request("GET", "/schemas/shared", None, {"Authorization": f"Bearer {sender.token}"})
    assert json.loads(answer.body)["schema"]["definition"] == ORDER
