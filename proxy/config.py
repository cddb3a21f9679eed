"""Every setting of the gateway: its variable, type, default and meaning.

`Config.from_environ()` is the only reader of the environment. A value it cannot take raises `errors.BadSetting`,
which names the variable and says what it must be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proxy import consume_settings, environment, worker_settings
from proxy.errors import BadSetting
from proxy.parsers import (
    Network,
    Rate,
    bracketed,
    flag,
    host,
    inbox,
    interval,
    networks,
    number,
    one_of,
    origins,
    patterns,
    port_beside_a_service,
    rate,
    readable_file,
    template,
    text,
    urls,
    whole,
)
from proxy.setting import setting as _setting

DEFAULT_CONNECTION_TOKEN = "memphis"  # noqa: S105 - what everybody knows, so good for 127.0.0.1 only


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of one gateway, as `README.md` lists them. Secrets are not in its `repr`."""

    broker_url: tuple[str, ...] = _setting(
        "BROKER_URL",
        urls,
        (),
        "The broker: `nats://host:4222`, `tls://host:4222` or `memphis://host:6666`, or a list with commas. "
        "Empty: a broker of its own is started (embedded).",
    )
    memphis_host: str = _setting(
        "MEMPHIS_HOST", host, "", "Host of a Memphis broker; stands for `BROKER_URL=memphis://<host>:<MEMPHIS_PORT>`."
    )
    memphis_port: int = _setting("MEMPHIS_PORT", port_beside_a_service, 6666, "Port of that broker.")
    root_user: str = _setting(
        "ROOT_USER",
        text,
        "",
        "User that the gateway itself logs on as: readiness is judged by it, log-outs are kept by it, and it reads the "
        "schemas of stations for users of its account who may not. Producing does not need it. The name of the "
        "embedded broker's user.",
        shown="none (embedded: `root`)",
    )
    connection_token: str = _setting(
        "CONNECTION_TOKEN",
        text,
        "",
        "Connection token of `ROOT_USER`, and of the embedded broker's user.",
        secret=True,
        shown="none (embedded: `memphis`)",
    )
    root_password: str = _setting(
        "ROOT_PASSWORD",
        text,
        "",
        "Password of `ROOT_USER`, where the broker wants one in place of a connection token.",
        secret=True,
    )
    user_pass_based_auth: bool = _setting(
        "USER_PASS_BASED_AUTH", flag, True, "Memphis brokers: log on by user and password, not by connection token."
    )
    root_ca_path: str = _setting(
        "ROOT_CA_PATH", readable_file, "", "CA certificates (PEM) that the broker's one must be from."
    )
    client_cert_path: str = _setting(
        "CLIENT_CERT_PATH", readable_file, "", "Client certificate (PEM) shown to the broker."
    )
    client_key_path: str = _setting("CLIENT_KEY_PATH", readable_file, "", "Key (PEM) of the client certificate.")
    allow_open_broker: bool = _setting(
        "ALLOW_OPEN_BROKER", flag, False, "Take a broker that lets everyone in. Then a token proves nothing."
    )
    broker_inbox_prefix: str = _setting(
        "BROKER_INBOX_PREFIX", inbox, "_INBOX", "First tokens of the subjects on which users receive acks."
    )
    data_dir: Path = _setting(
        "DATA_DIR",
        Path,
        Path("data"),
        "Where the embedded broker keeps messages, and generated secrets.",
        shown="`./data`",
    )
    embedded_port: int = _setting(
        "EMBEDDED_PORT", whole(0, 65535), 4222, "Port of the embedded broker on 127.0.0.1; a free one if it is taken."
    )
    sync_interval_seconds: float = _setting(
        "SYNC_INTERVAL_SECONDS",
        interval(0.1, 3600),
        1.0,
        "Embedded broker: an acknowledged message is synced to the disk within so many seconds; `always`: before its "
        "ack. What was not synced is lost in a power cut.",
    )

    http_host: str = _setting(
        "HTTP_HOST",
        host,
        "",
        "Address to listen on. With the embedded broker's default credentials only 127.0.0.1 is allowed.",
        shown="`0.0.0.0` (default credentials: `127.0.0.1`)",
    )
    http_port: int = _setting(
        "HTTP_PORT", whole(0, 65535), 4444, "Port to listen on. `PORT`, which platforms set, wins over it."
    )
    web_concurrency: int = worker_settings.WEB_CONCURRENCY
    gunicorn_worker_class: str = worker_settings.WORKER_CLASS
    worker_cpu_affinity: bool | None = worker_settings.CPU_AFFINITY
    graceful_timeout_seconds: float = worker_settings.GRACEFUL_TIMEOUT_SECONDS
    trusted_proxies: tuple[Network, ...] = _setting(
        "TRUSTED_PROXIES",
        networks,
        (),
        "Networks (or `*`) whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed: "
        "they decide client addresses and Secure cookies.",
    )
    cors_origins: tuple[str, ...] = _setting(
        "CORS_ORIGINS",
        origins,
        ("*",),
        "Origins whose pages may call the gateway. Listed ones may use the refresh cookie if they are of the same "
        "site; `*` never does.",
    )
    max_body_bytes: int = _setting(
        "MAX_BODY_BYTES", whole(1, 1 << 30), 8 << 20, "Largest request body in bytes; larger ones get 413 unread."
    )
    max_batch_messages: int = _setting("MAX_BATCH_MESSAGES", whole(1, 1_000_000), 10_000, "Most messages in one batch.")
    rate_limit_per_address: Rate | None = _setting(
        "RATE_LIMIT_PER_ADDRESS",
        rate,
        None,
        "Most requests of one client address (of IPv6, one /64), as in `100/second`; 429 beyond. "
        "Each worker allows its share.",
        shown="none",
    )
    rate_limit_per_user: Rate | None = _setting(
        "RATE_LIMIT_PER_USER", rate, None, "Most requests of one user, likewise; a batch is one request.", shown="none"
    )
    auth_failures_per_minute: int = _setting(
        "AUTH_FAILURES_PER_MINUTE",
        whole(1, 1_000_000),
        30,
        "Log-ons that may fail, by address and by user, before further ones get 429; each worker allows its share.",
    )
    forward_headers: tuple[str, ...] = _setting(
        "FORWARD_HEADERS",
        patterns,
        ("content-type", "msg-*", "x-*", "ce-*", "webhook-*"),
        "Request headers stored with a message; `*` at the end stands for any rest. Secrets are never stored.",
    )

    jwt_secret: str = _setting(
        "JWT_SECRET",
        text,
        "",
        "Secret that access tokens are signed with, 32 bytes or more; the same in all replicas.",
        secret=True,
        shown="none (embedded: generated, kept in `DATA_DIR`)",
    )
    jwt_secret_previous: str = _setting(
        "JWT_SECRET_PREVIOUS", text, "", "The secret before the last change: still verifies.", secret=True
    )
    refresh_jwt_secret: str = _setting(
        "REFRESH_JWT_SECRET",
        text,
        "",
        "Secret that refresh tokens are signed with.",
        secret=True,
        shown="derived from `JWT_SECRET`",
    )
    refresh_jwt_secret_previous: str = _setting(
        "REFRESH_JWT_SECRET_PREVIOUS", text, "", "The one before it: still verifies.", secret=True
    )
    jwt_expires_in_minutes: int = _setting(
        "JWT_EXPIRES_IN_MINUTES", whole(1, 1_000_000), 15, "Lifetime of an access token."
    )
    refresh_jwt_expires_in_minutes: int = _setting(
        "REFRESH_JWT_EXPIRES_IN_MINUTES", whole(1, 1_000_000), 300, "Lifetime of a refresh token."
    )
    max_token_expiry_in_minutes: int = _setting(
        "MAX_TOKEN_EXPIRY_IN_MINUTES",
        whole(1, 1_000_000),
        43_200,
        "Longest lifetime of a token, whoever asks for it. All tokens of a log-on end 30 days after it in any case.",
    )

    produce_timeout_seconds: float = _setting(
        "PRODUCE_TIMEOUT_SECONDS", number(1, 300), 10.0, "How long a produce is tried before its answer is 503 or 504."
    )
    max_sessions: int = _setting(
        "MAX_SESSIONS",
        whole(1, 100_000),
        1024,
        "Most broker connections of a worker, one a user; idle ones give way.",
    )
    session_idle_seconds: float = _setting(
        "SESSION_IDLE_SECONDS", number(1, 86_400), 300.0, "A broker connection unused for so long is closed."
    )
    max_logons: int = _setting("MAX_LOGONS", whole(1, 1000), 16, "Most log-ons at once in a worker, else 503.")
    max_pending_messages: int = _setting(
        "MAX_PENDING_MESSAGES", whole(1, 10_000_000), 20_000, "Most messages on their way in a worker, else 503."
    )
    max_pending_bytes: int = _setting(
        "MAX_PENDING_BYTES",
        whole(1, 1 << 40),
        256 << 20,
        "Most bytes on their way in a worker, as many in consumes that read, and as many in those that have read, "
        "else 503.",
    )

    max_consumes: int = consume_settings.MAX_CONSUMES
    consume_max_wait_seconds: float = consume_settings.MAX_WAIT_SECONDS
    consume_max_bytes: int = consume_settings.MAX_BYTES
    consume_ack_wait_seconds: float = consume_settings.ACK_WAIT_SECONDS
    consume_max_deliveries: int = consume_settings.MAX_DELIVERIES

    subject_template: str = _setting(
        "SUBJECT_TEMPLATE", template, "{station}.final", "Subject of a station, for streams laid out otherwise."
    )
    auto_create_stations: bool | None = _setting(
        "AUTO_CREATE_STATIONS",
        flag,
        None,
        "Create an absent station at the first produce or consume.",
        shown="off (embedded, `memphis://`: on)",
    )
    max_stations_created_per_minute: int = _setting(
        "MAX_STATIONS_CREATED_PER_MINUTE",
        whole(1, 1_000_000),
        60,
        "Most stations that are created for one user; each worker allows its share.",
    )
    station_max_age_seconds: int = _setting(
        "STATION_MAX_AGE_SECONDS", whole(0, 10**9), 604_800, "Created stations drop messages of that age; 0: never."
    )
    station_max_bytes: int = _setting(
        "STATION_MAX_BYTES", whole(0, 1 << 50), 0, "Created stations drop their oldest messages above it; 0: no limit."
    )
    station_replicas: int = _setting(
        "STATION_REPLICAS",
        whole(1, 5),
        1,
        "Copies of each message in created stations, and of schemas and log-outs where the gateway creates their "
        "buckets.",
    )
    duplicate_window_seconds: float = _setting(
        "DUPLICATE_WINDOW_SECONDS",
        number(0.1, 10**6),
        120.0,
        "How long created stations know a de-duplication id; assumed where a user may not look.",
    )

    schema_registry: bool = _setting(
        "SCHEMA_REGISTRY",
        flag,
        True,
        "Ask the broker which schemas stations demand. Users need the right to read that, or `ROOT_USER` has it. "
        "Off: there are no schemas.",
    )

    schema_dir: Path | None = _setting(
        "SCHEMA_DIR",
        Path,
        None,
        "Directory of schemas to put into the registry at the start, as `ROOT_USER`: `<station>.json`, `.proto`, "
        "`.avsc` or `.graphql`.",
        shown="none",
    )

    lane: bool = _setting(
        "LANE", flag, True, "The short way past Flask for requests like those that Flask has already served."
    )

    log_level: str = _setting(
        "LOG_LEVEL", one_of("debug", "info", "warning", "error"), "info", "Least important lines that are logged."
    )
    access_log_sample: float = _setting(
        "ACCESS_LOG_SAMPLE",
        number(0, 1),
        1.0,
        "Share of successful requests that get a log line; others always do, where `LOG_LEVEL` lets them.",
    )
    syslogs_to_broker: bool = _setting(
        "SYSLOGS_TO_BROKER",
        flag,
        False,
        "Memphis brokers: send log lines to the broker's own log too, all but those of requests that went well. "
        "Needs `ROOT_USER` and its secret.",
    )
    dev_env: bool = _setting(
        "DEV_ENV", flag, False, "Answer `/monitoring/getResourcesUtilization`, as Memphis' dashboard asks for it."
    )
    debug: bool = _setting("DEBUG", flag, False, "The same as `LOG_LEVEL=debug`.")

    @property
    def embedded(self) -> bool:
        """Whether the gateway runs a broker of its own."""
        return not self.broker_url

    @property
    def at_memphis(self) -> bool:
        """Whether the broker is a Memphis broker."""
        return "".join(self.broker_url[:1]).startswith("memphis:")

    @property
    def root_secret(self) -> str:
        """What `ROOT_USER` proves itself with; empty when none is set."""
        return self.secret_of(self.connection_token, self.root_password)

    def secret_of(self, connection_token: str, password: str) -> str:
        """The one of both that proves a user to the broker; the other one only where it is missing."""
        if self.user_pass_based_auth and self.at_memphis:
            return password or connection_token
        return connection_token or password

    @property
    def default_credentials(self) -> bool:
        """Whether the embedded broker has the connection token that everybody knows."""
        return self.embedded and self.connection_token == DEFAULT_CONNECTION_TOKEN

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Config:
        """Reads and checks all settings. Raises `BadSetting`."""
        values = {}
        for field in dataclasses.fields(cls):
            env, parse = field.metadata["env"], field.metadata["parse"]
            if text := environment.read(environ, env, field.metadata["secret"]):
                values[field.name] = environment.parse_as(env, parse, text)
        if environ.get("PORT"):
            values["http_port"] = environment.parse_as("PORT", whole(0, 65535), environ["PORT"])
        config = cls(**values)._settled()
        config._check(environ)
        return config

    def _settled(self) -> Config:
        """Fills in what follows from other settings."""
        changes: dict[str, Any] = {}
        if self.memphis_host and not self.broker_url:
            changes["broker_url"] = (f"memphis://{bracketed(self.memphis_host)}:{self.memphis_port}",)
        if not self.broker_url and not changes:
            changes["root_user"] = self.root_user or "root"
            changes["connection_token"] = self.root_secret or DEFAULT_CONNECTION_TOKEN
        if self.auto_create_stations is None:
            url = next(iter(changes.get("broker_url", self.broker_url)), "")
            changes["auto_create_stations"] = not url or url.startswith("memphis:")
        if self.debug:
            changes["log_level"] = "debug"
        settled = dataclasses.replace(self, **changes)
        host = settled.http_host or ("127.0.0.1" if settled.default_credentials else "0.0.0.0")  # noqa: S104
        return dataclasses.replace(settled, http_host=host)

    def _check(self, environ: Mapping[str, str]) -> None:
        """Refuses settings that are each fine and dangerous or senseless together."""
        if self.default_credentials and self.http_host not in ("127.0.0.1", "::1", "localhost"):
            raise BadSetting("CONNECTION_TOKEN", "set to one of your own when HTTP_HOST is not 127.0.0.1")
        if environ.get("PORT") and self.embedded and not environ.get("DATA_DIR"):
            raise BadSetting(
                "BROKER_URL",
                "set to your broker, or DATA_DIR to a disk that is kept: "
                "PORT is set as platforms do, and their own disk forgets acknowledged messages",
            )
        if not self.embedded and not self.jwt_secret:
            raise BadSetting("JWT_SECRET", "set, the same in all replicas, 32 bytes or more")
        if self.schema_dir and self.at_memphis:
            raise BadSetting("SCHEMA_DIR", "empty at a Memphis broker, which has schemas of its own")
        if self.schema_dir and not (self.root_user and self.schema_registry):
            raise BadSetting(
                "SCHEMA_DIR",
                "set with ROOT_USER, as which schemas are put into the registry, and with SCHEMA_REGISTRY on",
            )
        if bool(self.client_cert_path) != bool(self.client_key_path):
            raise BadSetting("CLIENT_KEY_PATH", "set together with CLIENT_CERT_PATH")
