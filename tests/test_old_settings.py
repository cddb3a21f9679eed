"""`conf/config.json` of Memphis' gateway: what is taken from it, and how it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxy import old_settings
from proxy.config import Config
from proxy.errors import BadSetting
from proxy.old_settings import FILE, read_settings

_SECRET = "s3cret" * 6
_OLD = {
    "VERSION": "1.2.8",
    "JWT_SECRET": _SECRET,
    "JWT_EXPIRES_IN_MINUTES": 20,
    "REFRESH_JWT_SECRET": "another",
    "REFRESH_JWT_EXPIRES_IN_MINUTES": 400,
    "HTTP_PORT": "4445",
    "ROOT_USER": "root",
    "ROOT_PASSWORD": "memphis",
    "CONNECTION_TOKEN": "token",
    "MEMPHIS_HOST": "memphis",
    "MEMPHIS_PORT": 6667,
    "MEMPHIS_CLIENT": "MEMPHIS HTTP LOGGER",
    "REST_GW_UPDATES_SUBJ": "$memphis_restgw_updates",
    "DEV_ENV": "true",
    "CLIENT_CERT_PATH": "",
    "CLIENT_KEY_PATH": None,
    "ROOT_CA_PATH": "",
    "USER_PASS_BASED_AUTH": False,
    "DEBUG": True,
    "CLOUD_ENV": False,
}


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _write(content: Any) -> None:
    FILE.parent.mkdir()
    FILE.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def _refusal(environ: dict[str, str] | None = None) -> str:
    with pytest.raises(BadSetting) as caught:
        read_settings(environ or {})
    return str(caught.value)


def test_without_the_file_the_environment_is_all() -> None:
    """No directory, or another thing of that name."""
    assert read_settings({}) == Config.from_environ({})
    Path("conf").touch()
    assert read_settings({}) == Config.from_environ({})


def test_all_its_settings_count() -> None:
    """Texts, numbers and flags, as that gateway had them; empty ones and null are none."""
    _write(_OLD)
    environ = {name: str(value) for name, value in _OLD.items() if value}
    config = read_settings({})
    assert config == Config.from_environ({**environ, "USER_PASS_BASED_AUTH": "false"})
    assert (config.broker_url, config.http_port) == (("memphis://memphis:6667",), 4445)
    assert (config.jwt_expires_in_minutes, config.refresh_jwt_expires_in_minutes) == (20, 400)
    assert (config.log_level, config.dev_env, config.root_secret) == ("debug", True, "token")


def test_the_environment_wins() -> None:
    """Setting by setting; an empty variable says nothing."""
    _write(_OLD)
    config = read_settings({"HTTP_PORT": "1", "MEMPHIS_HOST": "", "USER_PASS_BASED_AUTH": "true", "LANE": "false"})
    assert (config.http_port, config.root_secret, config.lane) == (1, "memphis", False)
    assert config.broker_url == ("memphis://memphis:6667",)
    assert read_settings({"BROKER_URL": "nats://broker:4222"}).broker_url == ("nats://broker:4222",)


def test_a_secret_file_of_the_environment_wins(tmp_path: Path) -> None:
    """It is the environment that names it."""
    _write(_OLD)
    (tmp_path / "secret").write_text("of a file")
    assert read_settings({"JWT_SECRET_FILE": str(tmp_path / "secret")}).jwt_secret == "of a file"


def test_what_that_gateway_did_not_know_means_nothing() -> None:
    """Nobody's other `conf/config.json` opens anything."""
    _write({"ALLOW_OPEN_BROKER": True, "LANE": "maybe", "jwt_secret": "x", "PORT": 80, "x": {"y": [1]}})
    assert read_settings({}) == Config.from_environ({})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"HTTP_PORT": "x"}, "HTTP_PORT in conf/config.json must be a whole number from 0 to 65535"),
        ({"HTTP_PORT": 44.5}, "HTTP_PORT in conf/config.json must be a whole number from 0 to 65535"),
        ({"HTTP_PORT": True}, "HTTP_PORT in conf/config.json must be a whole number from 0 to 65535"),
        ({"DEBUG": 2}, "DEBUG in conf/config.json must be true or false"),
        ({"ROOT_USER": ["a"]}, "ROOT_USER in conf/config.json must be a text, a number, true or false"),
        ({"JWT_SECRET": {}}, "JWT_SECRET in conf/config.json must be a text, a number, true or false"),
        ({"ROOT_USER": "\ud800"}, "ROOT_USER in conf/config.json must be text in UTF-8"),
        ({"MEMPHIS_HOST": "m", "JWT_SECRET": ""}, "JWT_SECRET in conf/config.json must be set, "),
        ({"MEMPHIS_HOST": "m"}, "JWT_SECRET must be set, "),
    ],
)
def test_a_bad_value_is_refused_by_file_and_key(settings: dict[str, Any], message: str) -> None:
    """What is missing altogether is asked for as ever."""
    _write(settings)
    assert _refusal().startswith(message)


def test_a_bad_variable_is_the_environments() -> None:
    """Whatever the file says of it."""
    _write({"HTTP_PORT": "4445"})
    assert _refusal({"HTTP_PORT": "x"}).startswith("HTTP_PORT must be ")


@pytest.mark.parametrize(
    "content",
    [b"", b"HTTP_PORT: 4444", b"[]", b'"x"', b'{"a": 1', b"\xff{}", b'{"a": ' + b"1" * 5000 + b"}", b"[" * 60_000],
    ids=["empty", "YAML", "array", "text", "half", "no UTF-8", "long number", "deep"],
)
def test_what_is_no_json_object_is_refused(content: bytes) -> None:
    """By the name of the file."""
    _write(content)
    assert _refusal() == "conf/config.json must be a JSON object of settings, in UTF-8"


def test_what_cannot_be_read_is_refused() -> None:
    """A directory, and what is far too large."""
    FILE.mkdir(parents=True)
    assert _refusal() == "conf/config.json must be a file that can be read: Is a directory"
    FILE.rmdir()
    FILE.write_bytes(b'{"a": "' + b"x" * (64 << 10) + b'"}')
    assert _refusal() == "conf/config.json must be a file of 65536 bytes at most"


def test_its_secrets_are_in_no_repr_and_no_message() -> None:
    """As those of the environment."""
    _write({**_OLD, "ROOT_PASSWORD": _SECRET, "CONNECTION_TOKEN": _SECRET})
    assert _SECRET not in repr(read_settings({}))
    FILE.write_text(json.dumps({"JWT_SECRET": [_SECRET], "ROOT_PASSWORD": {_SECRET: _SECRET}}))
    assert _SECRET not in _refusal()


def test_its_settings_are_settings_of_ours() -> None:
    """Each has a meaning here."""
    variables = {field.metadata["env"] for field in Config.__dataclass_fields__.values()}
    assert variables >= old_settings.NAMES
