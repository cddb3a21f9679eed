"""How much a sender may ask for: requests by address and by user, log-ons that fail.

What is counted are the requests of this worker, so each allows its share of what the settings say. Windows are the
fixed ones of the `limits` package: one begins with a sender's first request, and with its end the count is forgotten.
Nothing here waits, locks or connects; it may be called from anywhere.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import math
import time
from collections.abc import Callable, Iterator

from limits import RateLimitItemPerSecond
from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter

from proxy.config import Config
from proxy.credentials import Credentials, bare
from proxy.errors import RateLimited, Unauthorized
from proxy.parsers import Rate

MAX_SENDERS = 65_536
Clock = Callable[[], float]


class Limits:
    """The limits of this worker on who sends too much."""

    def __init__(self, config: Config, clock: Clock = time.monotonic) -> None:
        quota = functools.partial(Quota, workers=config.web_concurrency, clock=clock)
        per_address, per_user = config.rate_limit_per_address, config.rate_limit_per_user
        self._address = quota("address", per_address) if per_address else None
        self._user = quota("user", per_user) if per_user else None
        failures = Rate(config.auth_failures_per_minute, 60)
        self._failures = quota("failed-log-ons-of-address", failures), quota("failed-log-ons-of-user", failures)
        self._tenants = bool(config.broker_url) and config.broker_url[0].startswith("memphis://")

    @property
    def by_address(self) -> bool:
        """Whether addresses are limited, so that those of requests need to be told."""
        return self._address is not None

    def admit(self, address: str = "", credentials: Credentials | None = None) -> None:
        """Counts a request for the address and the user that are given. Raises `RateLimited`."""
        if self._address is not None and address:
            self._address.take(_sender(address), "too many requests from this address")
        if self._user is not None and credentials is not None:
            self._user.take(self._name(credentials), "too many requests of this user")

    def withdraw(self, address: str, credentials: Credentials) -> None:
        """Takes back what `admit` has counted, of a request that is about to come to it once more."""
        if self._address is not None and address:
            self._address.give_back(_sender(address))
        if self._user is not None:
            self._user.give_back(self._name(credentials))

    @contextlib.contextmanager
    def log_on(self, address: str, credentials: Credentials | None = None) -> Iterator[None]:
        """Around a log-on: it is counted if it raises `Unauthorized`, and refused if too many did before.

        Those under way at once are not counted yet; `MAX_LOGONS` bounds them. Users of one name count together whatever
        their account: a secret that an account does not take is tried without it, so it is a guess at all of them.
        """
        senders = _sender(address), bare(credentials.user) if credentials is not None else ""
        counts = [(quota, sender) for quota, sender in zip(self._failures, senders, strict=True) if sender]
        for quota, sender in counts:
            if quota.spent(sender):
                raise quota.refusal(sender, "too many log-ons have failed")
        try:
            yield
        except Unauthorized:
            for quota, sender in counts:
                quota.hit(sender)
            raise

    def _name(self, credentials: Credentials) -> str:
        """Whom the broker takes the caller for. Plain NATS knows no accounts: naming others makes nobody new."""
        user = bare(credentials.user)
        return f"{credentials.account}/{user}" if self._tenants else user


class Quota:
    """At most so many of something in a window of time, for each sender; of a rate, one worker's share."""

    def __init__(self, name: str, rate: Rate, workers: int = 1, clock: Clock = time.monotonic) -> None:
        self.name = name
        self.amount = math.ceil(rate.amount / workers)
        self.seconds = rate.seconds
        self._clock = clock
        self._item = RateLimitItemPerSecond(self.amount, self.seconds)
        self._table = Table(clock)
        self._limiter = FixedWindowRateLimiter(self._table)

    def hit(self, sender: str) -> bool:
        """Counts one; false when it is one too many."""
        return self._limiter.hit(self._item, sender)

    def spent(self, sender: str) -> bool:
        """Whether the next one would be too many."""
        return not self._limiter.test(self._item, sender)

    def take(self, sender: str, message: str) -> None:
        """Counts one. Raises `RateLimited` when it is one too many."""
        if not self._limiter.hit(self._item, sender):
            raise self.refusal(sender, message)

    def give_back(self, sender: str) -> None:
        """Counts one less."""
        self._table.incr(self._item.key_for(sender), self.seconds, -1)

    def refusal(self, sender: str, message: str) -> RateLimited:
        """The error for a sender with nothing left, which says when it may come back."""
        left = math.ceil(self._table.get_expiry(self._item.key_for(sender)) - self._clock())
        seconds = max(1, left)
        policy = f'"{self.name}";q={self.amount};w={self.seconds}'
        return RateLimited(f"{message}; try again in {seconds} s", retry_after=seconds, policy=policy)


class Table(Storage):
    """Counts in memory, of `MAX_SENDERS` at most; where there are more, the one that was first seen is forgotten.

    The storage in memory that `limits` has keeps any number, runs a thread to forget some, and takes locks. Here
    threads that count for the same sender at once may count one too few, which is harmless.
    """

    STORAGE_SCHEME = None
    base_exceptions = ()

    def __init__(self, clock: Clock = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._rows: dict[str, tuple[int, float]] = {}  # count, and when its window ends; in the order of windows

    def __len__(self) -> int:
        return len(self._rows)

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Counts, in a window of `expiry` seconds if none has begun; returns the count."""
        now = self._clock()
        count, end = self._rows.get(key, (0, 0.0))
        if end <= now:
            self._rows.pop(key, None)
            self._make_room(now)
            count, end = 0, now + expiry
        self._rows[key] = count + amount, end
        return count + amount

    def get(self, key: str) -> int:
        """The count in the window that runs."""
        count, end = self._rows.get(key, (0, 0.0))
        return count if end > self._clock() else 0

    def get_expiry(self, key: str) -> float:
        """When the window ends, by the clock of this table."""
        return self._rows.get(key, (0, self._clock()))[1]

    def check(self) -> bool:
        """It is always there."""
        return True

    def reset(self) -> int | None:
        """Forgets everything; returns how many it were."""
        count = len(self._rows)
        self._rows.clear()
        return count

    def clear(self, key: str) -> None:
        """Forgets one."""
        self._rows.pop(key, None)

    def _make_room(self, now: float) -> None:
        """Forgets two whose windows have ended, for the one that comes: so the table shrinks when it can."""
        for _ in range(2):
            with contextlib.suppress(RuntimeError, StopIteration):  # another thread was faster, or there is none
                first = next(iter(self._rows))
                if self._rows[first][1] > now and len(self._rows) < MAX_SENDERS:
                    return
                self._rows.pop(first, None)


@functools.lru_cache(maxsize=4096)
def _sender(address: str) -> str:
    """Whom an address stands for: in IPv6 one sender has 64 bits of addresses to choose from."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return str(ip) if ip.version == 4 else str(ipaddress.ip_network((int(ip) >> 64 << 64, 64)))
