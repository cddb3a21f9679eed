"""One connection to a NATS server as one user: frames out, replies in, and what the server refuses.

It wraps nats-py, and is the one place that knows its exceptions and the texts of `-ERR` lines. A connection never
reconnects: nats-py would replay what callers were told had failed. It ends, and says so once.

Private parts of nats-py are used here and in `wire`, each guarded by `tests/brokers/test_connection.py`: `_id` tells
the subscription that messages are for; `_server_info` holds the server's id.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import ssl
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import nats.errors

from proxy.brokers import Notice
from proxy.brokers.owners import Owner, Waiting
from proxy.brokers.wire import Wire
from proxy.credentials import Credentials
from proxy.errors import BrokerAway, BrokerRefused, Forbidden, GatewayError, Unauthorized

NO_RESPONDERS = "503"
NAME_BYTES = 9  # of chance, 12 characters: they are in every reply subject, which nobody must guess
PING_SECONDS = 20
CHECK_SECONDS = 3.0
MOST_CHECK_SECONDS = 60  # where it waits behind a backlog
BACKLOG_BYTES = 64 << 10  # below which a server that is there has no reason to take longer
CLOSE_SECONDS = 0.5
DENIAL_GRACE_SECONDS = 0.26  # a quarter of a second at least: the loop's clock counts in milliseconds
MAX_ACKED_SUBJECTS = 10_000
_OF_DELIVERIES = "$JS.ACK."  # subjects of one delivery each, which are not worth remembering

_DENIED = re.compile(r'permissions violation for (publish to|publish with reply of|subscription to) "([^"]*)"')
_REPLY = re.compile(rb"([0-9a-f]{1,16})(?:\.\d+\.fail\.(\d{1,9})\.\d\.\$FI)?")  # token, number in a group
_STATUS = slice(9, 12)  # of "NATS/1.0 503"
_NOT_LET_IN = ("authorization violation", "authentication expired", "authentication revoked")


class Options(NamedTuple):
    """How to connect: TLS for servers that want it, the inbox prefix, the client's name.

    With `by_token` the secret is sent as a token, and no user.
    """

    tls: ssl.SSLContext
    inbox_prefix: str = "_INBOX"
    name: str = "stations"
    notice: Notice = lambda event, **fields: None
    by_token: bool = False


class Connection:
    """A live connection; make it with `connect`.

    `send` writes a frame and registers its owner under a token; the owner is told of the reply, a denial, or the end
    of the connection. `on_end` is called once when it has ended for whatever reason. `proved_at` is the loop's time of
    the last sign of life that was asked for, `name` is unique in the world, `server_version` is the server's major and
    minor version. `reply_head` is the header block of the reply that an owner is being told of.
    """

    def __init__(self, client: Wire, options: Options) -> None:
        self.alive = False
        self.proved_at = 0.0
        self.server_version = (0, 0)
        self.on_end: Callable[[], None] = lambda: None
        self._client, self._notice = client, options.notice
        self._loop = asyncio.get_running_loop()
        self.name = secrets.token_urlsafe(NAME_BYTES)
        self._inbox = f"{options.inbox_prefix}.{self.name}."
        self._skip = len(self._inbox)
        self._waiting: dict[int, Waiting] = {}
        self._frames: list[bytes] = []
        self._acked: set[str] = set()
        self._owed: dict[str, int] = {}
        self._doubted: set[str] = set()
        self._refused: set[str] = set()
        self._granted: set[str] = set()
        self.reply_head: bytes | None = None
        self._checking: asyncio.Task[None] | None = None

    @property
    def max_payload(self) -> int:
        """Most bytes of headers and payload together that the server takes."""
        return int(self._client.max_payload)

    @property
    def server_id(self) -> str:
        """The id of this server's process."""
        return str(self._client._server_info.get("server_id", ""))

    @property
    def waiting(self) -> int:
        """How many replies are still to come."""
        return len(self._waiting)

    def reply_subject(self, token: int) -> str:
        """Where the reply to the frame with this token must go."""
        return f"{self._inbox}{token:x}"

    def send(self, owner: Owner, index: int, token: int, subject: str, frame: bytes, frames: int = 1) -> None:
        """Sends a frame, or several as one, at the end of this turn of the loop.

        The replies go to `reply_subject(token)`; behind that, after a dot, a group has more tokens, of which the
        third, the message's number, is told its owner in place of `index`. When the connection has ended the owner is
        told so in the next turn.
        """
        if not self.alive:
            self._loop.call_soon(owner.lost, index)
            return
        self._waiting[token] = Waiting(owner, index, subject, frames)
        if not self._frames:
            self._loop.call_soon(self.flush)
        self._frames.append(frame)

    def expect(self, owner: Owner, token: int) -> None:
        """Waits for a message to `reply_subject(token)` that nothing sent here asks for."""
        if self.alive:
            self._waiting[token] = Waiting(owner, 0, "", 0)
        else:
            self._loop.call_soon(owner.lost, 0)

    def forget(self, token: int) -> None:
        """Waits for this reply no longer."""
        self._waiting.pop(token, None)

    def check(self) -> None:
        """Asks the server for a sign of life; one that gives none within 3 s ends the connection.

        The question comes behind all that was sent: as long as the server takes some of a backlog, it has more time.
        """
        if self.alive and self._checking is None:
            self._checking = self._loop.create_task(self._check())

    def end(self) -> None:
        """Has the connection closed, in a task of its own: what ends with it may be what calls this."""
        self._ending = self._loop.create_task(self.close())

    async def close(self) -> None:
        """Closes the connection, within a second."""
        self._end()
        await _close(self._client)

    async def open(self) -> None:
        """Subscribes to the replies; a user who may not is told so now, not by a time-out later."""
        self._client.on_reply = self._on_reply
        self._client.inbox = (await self._client.subscribe(f"{self._inbox}>"))._id
        if not await self._is_let(f"{self._inbox}>"):
            prefix = self._inbox.rsplit(".", 2)[0]
            raise Forbidden(f"this user may not receive acks on {prefix}.> (see BROKER_INBOX_PREFIX)")
        if not self._client.is_connected:  # it ended before `alive` could be taken back
            raise BrokerAway
        version = self._client.connected_server_version
        self.server_version = version.major, version.minor
        self.alive = True

    async def subscribe(self, subject: str, function: Callable[[bytes], None]) -> None:
        """Has `function` called with the subject of each message there, from this server's view at once.

        Raises `Forbidden` when the user may not receive them, `BrokerAway` when that cannot be told.
        """
        self._refused.discard(subject.lower())
        try:
            subscription = await self._client.subscribe(subject)
            self._client.takers[subscription._id] = lambda subject, *rest: function(subject)
            if await self._is_let(subject):
                return
            del self._client.takers[subscription._id]
            await subscription.unsubscribe()
        except (nats.errors.Error, asyncio.TimeoutError, OSError):
            self.check()
            raise BrokerAway from None
        except asyncio.CancelledError:
            if self.alive:
                raise
            raise BrokerAway from None  # nats-py cancels what waits when it closes
        raise Forbidden(f"the broker does not allow this user to subscribe to {subject}")

    async def _is_let(self, subject: str) -> bool:
        """Whether the server has taken a subscription."""
        for _ in range(2):  # nats-py's first PING may overtake the SUB, its second cannot
            await self._client.flush(timeout=int(CHECK_SECONDS))
        if subject.lower() in self._refused:
            return False
        self._granted.add(subject.lower())
        return True

    def flush(self) -> None:
        """Hands what was sent to the socket, now.

        It may be closed, and nobody have been told yet. Who sends is in the middle of something: what waits is lost in
        the next turn.
        """
        frames, self._frames = self._frames, []
        if self.alive and frames:
            try:
                self._client.write(b"".join(frames))
            except RuntimeError:
                self.check()

    async def _check(self) -> None:
        try:
            await self._pong()
            self.proved_at = self._loop.time()
        except (nats.errors.Error, asyncio.TimeoutError, OSError, RuntimeError):  # the last: it is closed
            self._notice("broker_silent", server=self.server_id)
            await self.close()
        finally:
            self._checking = None

    async def _pong(self) -> None:
        """Waits for a sign of life. Raises `asyncio.TimeoutError`, and what nats-py does.

        nats-py's `rtt` is used, as its `flush` is content when nobody reads any more.
        """
        pong = self._loop.create_task(self._client.rtt(timeout=MOST_CHECK_SECONDS))
        try:
            while not pong.done():
                backlog, taken = self._client.backlog, self._client.taken
                await asyncio.wait({pong}, timeout=CHECK_SECONDS)
                if not (pong.done() or (backlog > BACKLOG_BYTES and self._client.taken > taken)):
                    raise asyncio.TimeoutError
            pong.result()
        finally:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                pong.cancel()

    def _on_reply(self, subject: bytes, data: bytes, headers: bytes | None) -> None:
        """Anyone who listens to a station may send something here: what has not the form of a reply is none."""
        match = _REPLY.fullmatch(subject, self._skip)
        waiting = self._waiting.get(int(match[1], 16)) if match else None
        if match is None or waiting is None:
            return
        self.reply_head = headers
        status = headers[_STATUS].decode("latin-1") if headers and headers[8:9] == b" " else None
        again = not waiting.subject.startswith(_OF_DELIVERIES)
        if status is None and again and len(self._acked) < MAX_ACKED_SUBJECTS:
            self._acked.add(waiting.subject)
        item = int(match[2]) if match[2] and waiting.frames > 1 else waiting.item
        waiting.owner.answered(item, data, status)

    async def on_error(self, error: Exception) -> None:
        """nats-py's report of an `-ERR` line, or of an error of its own."""
        match = _DENIED.search(str(error).lower())
        if match is None:
            if isinstance(error, nats.errors.UnexpectedEOF):
                self._end()
            return
        kind, subject = match.groups()
        if kind == "subscription to":
            self._refused.add(subject)
            if subject in self._granted:  # taken away since; it would not come back with the right
                self.end()
        elif kind == "publish to":
            self._on_denied(subject)
        elif subject.startswith(self._inbox.lower()):
            self._settle_denied([int(subject[self._skip :].partition(".")[0], 16)], False)

    def _on_denied(self, subject: str) -> None:
        """Tells those who wait for replies on this subject (in lower case, as nats-py hands it over).

        The server sends one line for each refused publish; the first one settles all that wait, the others are owed.
        Where there have been acks, more may be on their way: they have a little time, and further lines tell nothing.
        """
        if self._owed.get(subject, 0) > 0:
            self._owed[subject] -= 1
            return
        if subject in self._doubted:
            return
        tokens = self._sent_to(subject)
        forgetful = len(self._acked) >= MAX_ACKED_SUBJECTS
        if forgetful or any(self._waiting[token].subject in self._acked for token in tokens):
            self._doubted.add(subject)
            self._loop.call_later(DENIAL_GRACE_SECONDS, self._settle_doubted, subject)
            return
        frames = sum(self._waiting[token].frames for token in tokens)
        if frames > 1 and len(self._owed) < MAX_ACKED_SUBJECTS:
            self._owed[subject] = frames - 1
        self._settle_denied(tokens, False)

    def _settle_doubted(self, subject: str) -> None:
        self._doubted.discard(subject)
        self._settle_denied(self._sent_to(subject), True)

    def _sent_to(self, subject: str) -> list[int]:
        return [token for token, waiting in self._waiting.items() if waiting.subject.lower() == subject]

    def _settle_denied(self, tokens: list[int], maybe_stored: bool) -> None:
        for token in tokens:
            waiting = self._waiting.pop(token, None)
            if waiting is not None:
                waiting.owner.denied(waiting.item, maybe_stored)

    async def on_closed(self) -> None:
        """nats-py's report that the connection is gone."""
        self._end()

    def _end(self) -> None:
        """Tells everybody that waits, once."""
        if not self.alive:
            return
        self.alive = False
        if self._checking is not None and self._checking is not asyncio.current_task():
            self._checking.cancel()
        waiting, self._waiting = self._waiting, {}
        for entry in waiting.values():
            entry.owner.lost(entry.item)
        self.on_end()


C = TypeVar("C", bound=Connection)


async def connect(url: str, credentials: Credentials, options: Options, timeout: float) -> Connection:
    """Logs on to the server at `url` within `timeout` seconds; raises as `connect_as` does."""
    return await connect_as(Connection, url, credentials, options, timeout)


async def connect_as(kind: type[C], url: str, credentials: Credentials, options: Options, timeout: float) -> C:
    """Logs on to the server at `url` within `timeout` seconds; the connection is of that kind.

    Raises `Unauthorized` when the server does not let this user in, `Forbidden` when it may not receive acks,
    `BrokerAway` when there is no server, `BrokerRefused` when the server is full.
    """
    client = Wire()
    client.insist = url.startswith("tls://")
    connection = kind(client, options)
    try:
        await asyncio.wait_for(_log_on(client, connection, url, credentials, options, timeout), timeout)
    except BaseException as error:
        await _close(client)
        if isinstance(error, GatewayError) or not isinstance(error, Exception):
            raise
        # A server that talks nonsense makes nats-py raise anything.
        raise _translate(error, url, options) from None
    return connection


async def _log_on(
    client: Wire, connection: Connection, url: str, credentials: Credentials, options: Options, timeout: float
) -> None:
    secret, by_token = credentials.secret, options.by_token
    await client.connect(
        servers=[url],
        user=None if by_token else credentials.user,
        password=None if by_token else secret,
        token=secret if by_token else None,
        name=options.name,
        tls=options.tls,
        allow_reconnect=False,
        max_reconnect_attempts=1,
        reconnect_time_wait=0,
        connect_timeout=max(1, int(timeout)),
        ping_interval=PING_SECONDS,
        max_outstanding_pings=2,
        inbox_prefix=options.inbox_prefix,
        error_cb=connection.on_error,
        closed_cb=connection.on_closed,
        disconnected_cb=connection.on_closed,
    )
    await connection.open()


def _translate(error: Exception, url: str, options: Options) -> Exception:
    """Ours for nats-py's. At log-on a server's refusal is text alone, so this is where text is judged."""
    text = str(error).lower()
    if isinstance(error, nats.errors.AuthorizationError) or any(words in text for words in _NOT_LET_IN):
        return Unauthorized()
    if "maximum" in text and "connections exceeded" in text:
        return BrokerRefused("the broker takes no more connections of this user")
    options.notice("broker_away", url=url, error=f"{type(error).__name__}: {error}")
    return BrokerAway()


async def _close(client: Wire) -> None:
    # A server that does not read must not keep us: nats-py has marked the client closed before it waits.
    try:
        with contextlib.suppress(asyncio.TimeoutError, nats.errors.Error, OSError, AttributeError, RuntimeError):
            await asyncio.wait_for(client.close(), CLOSE_SECONDS)
    finally:
        client.abort()
