"""NATS JetStream as a broker: the servers that `BROKER_URL` names, or the embedded one."""

from __future__ import annotations

import functools
import json
import random
import re
import secrets
import ssl

from proxy.brokers import Notice
from proxy.brokers.connection import Options, connect_as
from proxy.brokers.embedded import address
from proxy.brokers.listening import ListeningConnection
from proxy.brokers.session import Session
from proxy.config import Config
from proxy.credentials import Credentials
from proxy.errors import BadSetting, BrokerAway, BrokerRefused, Forbidden, GatewayError, OpenBroker, Unauthorized
from proxy.limits import Quota
from proxy.parsers import Rate

LOG_ON_SECONDS = 5.0  # for a whole list of servers, so that a silent one does not use up everybody's patience
LEAST_SECONDS = 1.0  # for one of them
MAX_KNOWN_SERVERS = 1000
# Servers close a connection that brings more than 4,096 bytes of JSON; what is beside the credentials has room enough.
MAX_CREDENTIALS_BYTES = 3500


class JetStream:
    """The NATS servers that `BROKER_URL` names, or the embedded one."""

    session = Session
    keeps_letters = False

    def __init__(self, config: Config, notice: Notice) -> None:
        self._config = config
        self._options = Options(_tls(config), config.broker_inbox_prefix, "stations", notice)
        self._seconds = max(LEAST_SECONDS, LOG_ON_SECONDS / max(1, len(config.broker_url)))
        self._closed_servers: set[str] = set()
        created = Rate(config.max_stations_created_per_minute, 60)
        self._created = Quota("stations-created", created, config.web_concurrency)

    async def connect(self, credentials: Credentials) -> Session:
        """Logs on to one of the servers. Raises `Unauthorized`, `Forbidden`, `BrokerAway`, `BrokerRefused`,
        `OpenBroker`.
        """
        if _size(credentials) > MAX_CREDENTIALS_BYTES:
            raise Unauthorized  # nobody has them: no server would read that far
        error: GatewayError = BrokerAway()
        for url in self._urls():
            try:
                return await self._log_on(url, credentials)
            except (BrokerAway, BrokerRefused) as failure:
                error = failure
        raise error

    async def check(self) -> None:
        """Sees that a server answers, and lets not everyone in. Raises `BrokerAway`, `BrokerRefused`, `OpenBroker`."""
        error: GatewayError = BrokerAway()
        for url in self._urls():
            try:
                await self._refuses_anyone(url)
            except (BrokerAway, BrokerRefused) as failure:
                error = failure
                continue
            return
        raise error

    async def _log_on(self, url: str, credentials: Credentials) -> Session:
        connection = await self._open(url, credentials)
        try:
            await self._prove_closed(url, connection.server_id)
        except BaseException:
            await connection.close()
            raise
        may_create = functools.partial(self._created.hit, self._creator(credentials))
        return self.session(connection, self._config, lambda: self._ask_limit(url, credentials), may_create)

    async def _ask_limit(self, url: str, credentials: Credentials) -> int:
        """The largest message that this server takes now: it says so at the beginning of a connection only."""
        connection = await self._open(url, credentials)
        await connection.close()
        return connection.max_payload

    def _creator(self, credentials: Credentials) -> str:
        """Whom the stations that a session creates are counted for: the user that the broker knows."""
        return self._user(credentials).user

    async def _open(self, url: str, credentials: Credentials) -> ListeningConnection:
        return await connect_as(ListeningConnection, url, self._user(credentials), self._options, self._seconds)

    def _urls(self) -> list[str]:
        """The servers in an order of chance, so that sessions spread over them."""
        if self._config.embedded:
            return [address(self._config.data_dir)]
        urls = list(self._config.broker_url)
        random.shuffle(urls)
        return urls

    def _user(self, credentials: Credentials) -> Credentials:
        """`user$<digits>` is Memphis' way to name the account; plain NATS knows users without it."""
        name = re.sub(r"\$[0-9]+\Z", "", credentials.user)
        if not name:  # a server may let in whoever names no user
            raise Unauthorized
        return credentials if name == credentials.user else Credentials(name, credentials.secret)

    async def _prove_closed(self, url: str, server_id: str) -> None:
        """At the first connection to each server: it must refuse a user that does not exist."""
        if self._config.allow_open_broker or server_id in self._closed_servers:
            return
        await self._refuses_anyone(url)
        if len(self._closed_servers) >= MAX_KNOWN_SERVERS:
            self._closed_servers.clear()
        self._closed_servers.add(server_id)

    async def _refuses_anyone(self, url: str) -> None:
        stranger = Credentials(f"stranger-{secrets.token_hex(8)}", secrets.token_hex(16))
        try:
            connection = await self._open(url, stranger)
        except Unauthorized:
            return
        except Forbidden:
            pass  # let in, though without the right to receive anything
        else:
            await connection.close()
        if not self._config.allow_open_broker:
            raise OpenBroker


def _size(credentials: Credentials) -> int:
    """Bytes of the credentials as they are sent: escaped, and the user twice to Memphis."""
    return len(json.dumps([credentials.user, credentials.user, credentials.secret]))


def _tls(config: Config) -> ssl.SSLContext:
    """Certificates as the settings say. Raises `BadSetting` for files that cannot be used."""
    try:
        context = ssl.create_default_context(cafile=config.root_ca_path or None)
    except OSError:
        raise BadSetting("ROOT_CA_PATH", "a file of CA certificates in PEM form") from None
    if config.client_cert_path:
        try:
            # Given no passphrase for a key that has one, OpenSSL would ask the terminal and wait.
            context.load_cert_chain(config.client_cert_path, config.client_key_path, password="")
        except OSError:
            must = "a certificate in PEM form, CLIENT_KEY_PATH its key without passphrase"
            raise BadSetting("CLIENT_CERT_PATH", must) from None
    return context
