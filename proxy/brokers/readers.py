"""Who reads the registry for whom: each user's own session, or that of `ROOT_USER` for users who may not read it.

The second is right only where both belong to one account of the broker: the registry of another account is none of the
user's. The broker would tell a user's account (`$SYS.REQ.USER.INFO`), but a user who may not read a bucket is seldom
allowed to ask that. So it is proved by a message: one of `ROOT_USER`'s that arrives at the inbox of the user's session.
"""

from __future__ import annotations

import asyncio

from proxy.brokers import Broker, Notice, Session
from proxy.config import Config
from proxy.credentials import Credentials
from proxy.errors import BrokerAway, BrokerRefused, Forbidden, GatewayError
from proxy.messages import Demand, Station

STRANGER_SECONDS = 60.0
RETRY_SECONDS = 1.0

Identity = tuple[str, str, bytes]


class Readers:
    """The tables of demands by user, and the one session of `ROOT_USER` that reads for others.

    `known` is looked up by other threads while the loop changes it, as `Demands.known` is, and as harmlessly: a user's
    table is put there, and taken away, as a whole.
    """

    def __init__(self, broker: Broker, config: Config, notice: Notice) -> None:
        self.known: dict[Identity, dict[str, Demand | None]] = {}
        self._broker, self._config, self._notice = broker, config, notice
        self._through: dict[Identity, Session] = {}
        self._strangers: dict[Identity, float] = {}
        self._root: asyncio.Task[Session] | None = None
        self._retry_at = 0.0

    async def demand(self, identity: Identity, session: Session, station: Station) -> Demand | None:
        """What the station demands, for a user with this session. Raises as `Demands.read` does."""
        root = self._through.get(identity)
        if root is not None and root.alive:
            return await self._read(identity, session, root, station)
        try:
            return await self._read(identity, session, session, station)
        except Forbidden as error:
            root = await self._root_for(identity, session, error)
            return await self._read(identity, session, root, station)

    def changed(self, key: str) -> None:
        """Word that a key of some registry was changed."""
        if (root := self._root_now()) is not None:
            root.demands.changed(key)

    def ended(self, identity: Identity) -> None:
        """A user's session has ended: the next one may belong to another account, or have other rights."""
        self.known.pop(identity, None)
        self._through.pop(identity, None)
        self._strangers.pop(identity, None)

    async def close(self) -> None:
        """Closes the session of `ROOT_USER`."""
        if self._root is not None:
            self._root.cancel()
            await asyncio.wait({self._root})
            if (root := self._root_now()) is not None:
                await root.close()

    async def _read(self, identity: Identity, session: Session, reader: Session, station: Station) -> Demand | None:
        demand = await reader.demands.read(station)
        if session.alive:
            self.known[identity] = reader.demands.known
            if reader is not session:
                self._through[identity] = reader
        return demand

    async def _root_for(self, identity: Identity, session: Session, error: Forbidden) -> Session:
        """The session of `ROOT_USER`, proved to be of the user's account. Raises the user's error when not."""
        loop = asyncio.get_running_loop()
        if not self._config.root_user:
            raise Forbidden(f"{error.message}. Allow it, set ROOT_USER to one who may, or SCHEMA_REGISTRY=false")
        stranger = Forbidden(f"{error.message}. ROOT_USER does not read for it: it may be of another account")
        if loop.time() < self._strangers.get(identity, 0.0):
            raise stranger
        root = await self._root_session()
        if not await session.hears(root):
            if session.alive and root.alive:
                self._strangers[identity] = loop.time() + STRANGER_SECONDS
                raise stranger
            raise BrokerAway
        return root

    async def _root_session(self) -> Session:
        """The live session of `ROOT_USER`, one for all who ask; it is kept while the worker runs."""
        now = asyncio.get_running_loop().time()
        if self._root is not None and self._root.done() and self._root_now() is None and now >= self._retry_at:
            self._root = None
        if self._root is None:
            self._root = asyncio.create_task(self._connect())
        return await asyncio.shield(self._root)

    def _root_now(self) -> Session | None:
        root = self._root
        if root is None or not root.done() or root.cancelled() or root.exception() is not None:
            return None
        return root.result() if root.result().alive else None

    async def _connect(self) -> Session:
        try:
            session = await self._broker.connect(Credentials(self._config.root_user, self._config.root_secret))
        except GatewayError as error:
            self._retry_at = asyncio.get_running_loop().time() + RETRY_SECONDS
            self._notice("root_refused", error=error.message)
            if isinstance(error, (BrokerAway, BrokerRefused)):
                raise
            raise BrokerRefused("ROOT_USER, who is to read schemas, is not let in by the broker") from None
        return session
