"""Every setting: its default, what it takes, and what it says about the rest."""

from __future__ import annotations

import dataclasses
import ipaddress
from pathlib import Path

import pytest

from proxy.config import Config
from proxy.errors import BadSetting
from proxy.parsers import Rate
from proxy.settings_table import settings_table

_BROKER = {"BROKER_URL": "nats://broker:4222", "JWT_SECRET": "s" * 32}
_ENVS = [field.metadata["env"] for field in dataclasses.fields(Config)]
_SECRETS = [field.metadata["env"] for field in dataclasses.fields(Config) if field.metadata["secret"]]

_BAD = [
    (
        "BROKER_URL",
        ["http://a", "nats://", "nats://:4222", "nats://a:x", "nats://a:0", "nats://a:70000", "nats://u:p@a:1"],
        "nats://host:4222, tls://host:4222 or",
    ),
    (
        "BROKER_URL",
        ["nats://a/x", "nats://a?x", "nats://a#x", "nats://[::1", "nats://a,,http://b", "nats-1 nats-2", "a\nb"],
        "without user",
    ),
    ("BROKER_URL", ["nats://a,tls://b", ",", " "], "of one scheme"),
    ("MEMPHIS_HOST", ["a:6666", "a,b", "a/b", "u@a", "[a]"], "the name or address of one host"),
    ("MEMPHIS_PORT", ["0", "65536", "x", "udp://10.0.0.1:6666"], "a whole number from 1 to 65535"),
    ("HTTP_HOST", ["127.0.0.1:80", "http://a", "a b", "[x]", "::1::"], "the name or address of one host"),
    ("HTTP_PORT", ["-1", "65536", "x", "1.5", "²", "9" * 5000, "1_0"], "a whole number from 0 to 65535"),
    ("PORT", ["-1", "65536", "tcp://10.0.0.1:80"], "a whole number from 0 to 65535"),
    ("EMBEDDED_PORT", ["-1", "65536"], "a whole number from 0 to 65535"),
    ("WEB_CONCURRENCY", ["0", "257", "auto"], "a whole number from 1 to 256"),
    ("GUNICORN_WORKER_CLASS", ["sync", "gevent_pywsgi"], "one of proxy.server.Worker,"),
    ("GRACEFUL_TIMEOUT_SECONDS", ["0", "3601", "nan", "inf", "30s"], "a number from 1 to 3600"),
    ("MAX_CONSUMES", ["0", "x"], "a whole number from 1 to 1000000"),
    ("CONSUME_MAX_WAIT_SECONDS", ["0.9", "3601"], "a number from 1 to 3600"),
    ("CONSUME_MAX_BYTES", ["0", "-1", "1.5"], "a whole number from 1 to 1073741824"),
    ("CONSUME_ACK_WAIT_SECONDS", ["0", "86401"], "a number from 1 to 86400"),
    ("CONSUME_MAX_DELIVERIES", ["-1", "x"], "a whole number from 0 to 1000000"),
    ("PRODUCE_TIMEOUT_SECONDS", ["0.9", "301", "-inf"], "a number from 1 to 300"),
    ("SESSION_IDLE_SECONDS", ["0", "86401"], "a number from 1 to 86400"),
    ("DUPLICATE_WINDOW_SECONDS", ["0", "1000001"], "a number from 0.1 to 1e+06"),
    ("SYNC_INTERVAL_SECONDS", ["0", "0.09", "3601", "never", "1s"], "always, or a number from 0.1 to 3600"),
    ("ACCESS_LOG_SAMPLE", ["-0.1", "1.1"], "a number from 0 to 1"),
    ("TRUSTED_PROXIES", ["10.0.0.0/33", "proxy.example", "*,10.0.0.1"], "* or a list of addresses"),
    ("CORS_ORIGINS", [",", "shop.example", "https://a/", "https://a/x", "https://"], "* or a list of origins"),
    ("FORWARD_HEADERS", [",", "x-*-y", "x y", "x:y", "x(y)"], "a list of header names"),
    ("SUBJECT_TEMPLATE", ["x", "{station}.{station}", "{station}.>", "*.{station}"], "a subject with {station}"),
    (
        "SUBJECT_TEMPLATE",
        ["$JS.{station}", "a..{station}", "{station}.", ".{station}", "{x}.{station}", "a {station}"],
        "once",
    ),
    ("BROKER_INBOX_PREFIX", ["$SYS", "a.>", "*", "a..b", ".a", "a.", "a b"], "a subject prefix without wildcard"),
    *(
        (
            env,
            ["100", "0/second", "-1/second", "1.5/second", "100/fortnight", "1/0 seconds", "100/s"],
            "as in 100/second",
        )
        for env in ("RATE_LIMIT_PER_USER", "RATE_LIMIT_PER_ADDRESS")
    ),
    ("LOG_LEVEL", ["loud", "critical"], "one of debug, info, warning, error"),
    ("DEBUG", ["maybe", "2"], "true or false"),
    ("SYSLOGS_TO_BROKER", ["maybe", "2"], "true or false"),
    ("DEV_ENV", ["maybe", "2"], "true or false"),
    ("SCHEMA_REGISTRY", ["maybe"], "true or false"),
    ("LANE", ["maybe"], "true or false"),
    ("WORKER_CPU_AFFINITY", ["1,2", "auto"], "true or false"),
    ("USER_PASS_BASED_AUTH", ["maybe"], "true or false"),
    ("ALLOW_OPEN_BROKER", ["maybe"], "true or false"),
    ("AUTO_CREATE_STATIONS", ["maybe"], "true or false"),
    ("ROOT_CA_PATH", ["/nowhere/ca.pem", "/"], "a file that can be read"),
    ("CLIENT_CERT_PATH", ["/nowhere/client.pem"], "a file that can be read"),
    ("CLIENT_KEY_PATH", ["/nowhere/client.key"], "a file that can be read"),
    ("ROOT_USER", ["\udcff"], "text in UTF-8"),
    *(
        (env, ["0", "-1", "x", "99999999999999999999"], "a whole number from 1 to")
        for env in (
            "MAX_BODY_BYTES",
            "MAX_BATCH_MESSAGES",
            "JWT_EXPIRES_IN_MINUTES",
            "REFRESH_JWT_EXPIRES_IN_MINUTES",
            "MAX_TOKEN_EXPIRY_IN_MINUTES",
            "MAX_SESSIONS",
            "MAX_LOGONS",
            "AUTH_FAILURES_PER_MINUTE",
            "MAX_STATIONS_CREATED_PER_MINUTE",
            "MAX_PENDING_MESSAGES",
            "MAX_PENDING_BYTES",
            "STATION_REPLICAS",
        )
    ),
    ("STATION_MAX_AGE_SECONDS", ["-1", "x"], "a whole number from 0 to"),
    ("STATION_MAX_BYTES", ["-1", "x"], "a whole number from 0 to"),
]


def _config(**env: str) -> Config:
    return Config.from_environ(env)


def _refusal(env: dict[str, str]) -> BadSetting:
    with pytest.raises(BadSetting) as caught:
        Config.from_environ(env)
    return caught.value


def test_an_empty_environment_gives_a_gateway_of_its_own_on_this_machine_only() -> None:
    """No setting at all: embedded broker, its well-known credentials, 127.0.0.1."""
    config = _config()
    assert (config.embedded, config.default_credentials, config.auto_create_stations) == (True, True, True)
    assert (config.root_user, config.connection_token) == ("root", "memphis")
    assert (config.http_host, config.http_port, config.data_dir) == ("127.0.0.1", 4444, Path("data"))


def test_a_broker_url_turns_the_embedded_broker_off() -> None:
    """With an external broker there are no default credentials, and all addresses are listened on."""
    config = Config.from_environ(_BROKER)
    assert (config.embedded, config.default_credentials, config.auto_create_stations) == (False, False, False)
    assert (config.root_user, config.connection_token, config.http_host) == ("", "", "0.0.0.0")


def test_an_empty_variable_is_an_absent_one() -> None:
    """Deploy tools set variables to the empty string."""
    assert Config.from_environ(dict.fromkeys([*_ENVS, "PORT"], "")) == _config()


@pytest.mark.parametrize(
    ("env", "text", "value"),
    [
        ("BROKER_URL", "nats://a:1,b:2", ("nats://a:1", "nats://b:2")),
        ("BROKER_URL", "TLS://a:1, tls://b:2/", ("tls://a:1", "tls://b:2")),
        ("BROKER_URL", "broker", ("nats://broker",)),
        ("BROKER_URL", "nats://[::1]:4222", ("nats://[::1]:4222",)),
        ("HTTP_HOST", "::1", "::1"),
        ("HTTP_HOST", "[::1]", "::1"),
        ("HTTP_HOST", "localhost", "localhost"),
        ("HTTP_PORT", " 80 ", 80),
        ("USER_PASS_BASED_AUTH", "No", False),
        ("DEBUG", "1", True),
        ("DEBUG", "t", True),
        ("USER_PASS_BASED_AUTH", "F", False),
        ("MEMPHIS_PORT", "16666", 16666),
        ("MEMPHIS_PORT", "tcp://10.96.0.10:9000", 6666),
        ("LOG_LEVEL", "WARNING", "warning"),
        ("GUNICORN_WORKER_CLASS", "proxy.server.Worker", "proxy.server.Worker"),
        ("PRODUCE_TIMEOUT_SECONDS", "2.5", 2.5),
        (
            "CORS_ORIGINS",
            "https://Shop.example, http://127.0.0.1:3000",
            ("https://shop.example", "http://127.0.0.1:3000"),
        ),
        ("FORWARD_HEADERS", "X-Trace-*, Content-Type", ("x-trace-*", "content-type")),
        ("TRUSTED_PROXIES", "10.1.2.3/8", (ipaddress.ip_network("10.0.0.0/8"),)),
        ("TRUSTED_PROXIES", "*", (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))),
        ("RATE_LIMIT_PER_USER", "100/second", Rate(100, 1)),
        ("RATE_LIMIT_PER_USER", " 6000 PER Minute ", Rate(6000, 60)),
        ("RATE_LIMIT_PER_ADDRESS", "5000/10 minutes", Rate(5000, 600)),
        ("SUBJECT_TEMPLATE", "events.{station}", "events.{station}"),
        ("BROKER_INBOX_PREFIX", "_INBOX.gateway", "_INBOX.gateway"),
        ("DATA_DIR", "/var/lib/stations", Path("/var/lib/stations")),
        ("AUTO_CREATE_STATIONS", "false", False),
        ("SYNC_INTERVAL_SECONDS", "Always", 0.0),
        ("SYNC_INTERVAL_SECONDS", "0.5", 0.5),
    ],
)
def test_a_good_value_is_taken(env: str, text: str, value: object) -> None:
    """Each kind of value in the spellings that people use."""
    config = Config.from_environ({"JWT_SECRET": "s" * 32, env: text})
    name = next(field.name for field in dataclasses.fields(Config) if field.metadata["env"] == env)
    assert getattr(config, name) == value


@pytest.mark.parametrize(("env", "texts", "must"), _BAD)
def test_a_bad_value_is_refused_by_name(env: str, texts: list[str], must: str) -> None:
    """The variable's name comes first, then what it must be."""
    for text in texts:
        error = _refusal({"DATA_DIR": "data", env: text})
        assert error.variable == env, text
        assert str(error).startswith(f"{env} must be ")
        assert must in str(error), text


def test_every_setting_but_free_text_has_a_test_of_bad_values() -> None:
    """A new setting needs a line in the table above."""
    table = next(mark for mark in test_a_bad_value_is_refused_by_name.pytestmark if mark.name == "parametrize")  # type: ignore[attr-defined]
    free = {
        "ROOT_USER",
        "CONNECTION_TOKEN",
        "ROOT_PASSWORD",
        "DATA_DIR",
        "SCHEMA_DIR",
        *(env for env in _ENVS if "JWT_SECRET" in env),
    }
    assert set(_ENVS) - free <= {row[0] for row in table.args[1]}


def test_port_wins_over_http_port() -> None:
    """Platforms set PORT."""
    assert Config.from_environ({**_BROKER, "HTTP_PORT": "1", "PORT": "2"}).http_port == 2


def test_port_alone_is_refused_as_a_platform_forgets() -> None:
    """A platform's own disk would lose acknowledged messages."""
    assert "DATA_DIR" in str(_refusal({"PORT": "80"}))
    assert _refusal({"PORT": "80"}).variable == "BROKER_URL"
    assert _config(PORT="80", DATA_DIR="/data").http_port == 80


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "127.0.0.2"])
def test_default_credentials_stay_on_this_machine(host: str) -> None:
    """What everybody knows opens no port to others."""
    assert _refusal({"HTTP_HOST": host}).variable == "CONNECTION_TOKEN"
    assert _refusal({"HTTP_HOST": host, "CONNECTION_TOKEN": "memphis"}).variable == "CONNECTION_TOKEN"
    assert _config(HTTP_HOST=host, CONNECTION_TOKEN="own").http_host == host


def test_a_token_of_ones_own_opens_all_addresses() -> None:
    """HTTP_HOST follows from the credentials when it is not set; ROOT_PASSWORD will do too."""
    assert _config(CONNECTION_TOKEN="own").http_host == "0.0.0.0"
    assert _config(ROOT_PASSWORD="own").connection_token == "own"


def test_memphis_host_stands_for_a_broker_url() -> None:
    """BROKER_URL wins over it."""
    secret = {"JWT_SECRET": "s" * 32}
    assert Config.from_environ({**secret, "MEMPHIS_HOST": "memphis"}).broker_url == ("memphis://memphis:6666",)
    assert Config.from_environ({**secret, "MEMPHIS_HOST": "::1"}).broker_url == ("memphis://[::1]:6666",)
    assert Config.from_environ({**_BROKER, "MEMPHIS_HOST": "memphis"}).broker_url == ("nats://broker:4222",)
    elsewhere = {**secret, "MEMPHIS_HOST": "::1", "MEMPHIS_PORT": "7"}
    assert Config.from_environ(elsewhere).broker_url == ("memphis://[::1]:7",)


_BOTH = {"CONNECTION_TOKEN": "token", "ROOT_PASSWORD": "password", "JWT_SECRET": "s" * 32}


@pytest.mark.parametrize(
    ("env", "secret"),
    [
        ({"MEMPHIS_HOST": "memphis"}, "password"),
        ({"BROKER_URL": "memphis://a,b"}, "password"),
        ({"MEMPHIS_HOST": "memphis", "USER_PASS_BASED_AUTH": "false"}, "token"),
        ({"MEMPHIS_HOST": "memphis", "ROOT_PASSWORD": ""}, "token"),
        ({"BROKER_URL": "nats://broker"}, "token"),
        ({"BROKER_URL": "nats://broker", "CONNECTION_TOKEN": ""}, "password"),
        ({}, "token"),
    ],
)
def test_the_gateways_own_user_has_one_secret(env: dict[str, str], secret: str) -> None:
    """Where both are set, as Memphis' charts do, the password for a Memphis broker that knows users by password."""
    assert Config.from_environ({**_BOTH, **env}).root_secret == secret


def test_replicas_need_a_shared_secret() -> None:
    """Without the embedded broker nobody keeps a generated one."""
    assert _refusal({"BROKER_URL": "nats://broker"}).variable == "JWT_SECRET"
    assert _refusal({"MEMPHIS_HOST": "broker"}).variable == "JWT_SECRET"


def test_client_certificate_and_key_come_together(tmp_path: Path) -> None:
    """One without the other is a mistake."""
    file = tmp_path / "client.pem"
    file.touch()
    assert _refusal({"CLIENT_CERT_PATH": str(file)}).variable == "CLIENT_KEY_PATH"
    assert _config(CLIENT_CERT_PATH=str(file), CLIENT_KEY_PATH=str(file)).client_key_path == str(file)


@pytest.mark.parametrize("env", _SECRETS)
def test_a_secret_may_stand_in_a_file(env: str, tmp_path: Path) -> None:
    """`<NAME>_FILE` names it; line ends at its end do not count, and the variable itself wins."""
    file = tmp_path / "secret"
    file.write_bytes(b"of a file \r\n")
    name = next(field.name for field in dataclasses.fields(Config) if field.metadata["env"] == env)
    assert getattr(Config.from_environ({f"{env}_FILE": str(file)}), name) == "of a file "
    assert getattr(Config.from_environ({f"{env}_FILE": str(file), env: "direct"}), name) == "direct"


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff"])
def test_a_secret_file_without_a_secret_is_refused(content: bytes | None, tmp_path: Path) -> None:
    """Absent, empty or no text: named by its own variable."""
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    assert _refusal({"JWT_SECRET_FILE": str(file)}).variable == "JWT_SECRET_FILE"


def test_only_secrets_are_read_from_files(tmp_path: Path) -> None:
    """`HTTP_PORT_FILE` is nothing of ours."""
    assert _config(HTTP_PORT_FILE=str(tmp_path / "absent")).http_port == 4444


def test_secrets_are_not_in_the_repr() -> None:
    """A Config may be printed."""
    config = Config.from_environ({**dict.fromkeys(_SECRETS, "hidden-value"), **_BROKER, "JWT_SECRET": "hidden-value"})
    assert "hidden-value" not in repr(config)


def test_debug_sets_the_log_level() -> None:
    """DEBUG is an older spelling."""
    assert _config(DEBUG="true", LOG_LEVEL="error").log_level == "debug"


def test_the_table_of_settings_names_each_once() -> None:
    """It goes into the README."""
    table = settings_table()
    assert [line.split("`")[1] for line in table.splitlines()[2:]] == _ENVS


@pytest.mark.parametrize(
    "env", [{**_BROKER}, {**_BROKER, "ROOT_USER": "root", "SCHEMA_REGISTRY": "off"}, {"SCHEMA_REGISTRY": "off"}]
)
def test_schemas_from_files_need_a_user_and_a_registry(env: dict[str, str]) -> None:
    """With the embedded broker there is a user by itself."""
    refusal = _refusal({**env, "SCHEMA_DIR": "schemas"})
    assert (refusal.variable, "ROOT_USER" in str(refusal)) == ("SCHEMA_DIR", True)
    assert _config(SCHEMA_DIR="schemas").schema_dir == Path("schemas")
    assert _config().schema_dir is None


def test_schemas_from_files_are_refused_at_memphis_brokers() -> None:
    """There is no registry that they could go to, so the gateway would never be ready."""
    env = {"MEMPHIS_HOST": "localhost", "ROOT_USER": "root", "CONNECTION_TOKEN": "a-token", "JWT_SECRET": "s" * 32}
    refusal = _refusal({**env, "SCHEMA_DIR": "schemas"})
    assert (refusal.variable, "Memphis" in str(refusal)) == ("SCHEMA_DIR", True)
    assert Config.from_environ(env).at_memphis
