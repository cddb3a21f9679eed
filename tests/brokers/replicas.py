"""A worker's pool on its bridge, as a `Producer` has it, for what is about schemas alone."""

from __future__ import annotations

import dataclasses
from typing import Any

from proxy.bridge import Bridge
from proxy.brokers import open_broker
from proxy.brokers.pool import Pool
from proxy.brokers.revocations import Revocations
from proxy.config import Config
from proxy.credentials import Credentials
from proxy.messages import Demand, Station, Unknown


class Replica:
    """A worker. `notices` are what it would log."""

    def __init__(self, config: Config) -> None:
        self.notices: list[str] = []
        broker = open_broker(config, self._notice)
        self._pool = Pool(broker, config, self._notice)
        # None of its connections are for log-outs.
        self._pool.revocations = Revocations(broker, dataclasses.replace(config, root_user=""), print, self._notice)
        self._bridge = Bridge(self._pool.open, self._pool.close)
        self._bridge.start()

    def demand(self, user: Credentials, station: Station, seconds: float = 5.0) -> Demand | None:
        """What the station demands."""
        found: Demand | None = self._bridge.call(self._pool.demand, user, station, seconds, timeout=seconds + 1)
        return found

    def known(self, user: Credentials, station: Station) -> Demand | Unknown | None:
        """What is known of that, without asking."""
        return self._pool.known_demand(user, station)

    def registry(self, user: Credentials, operation: str, *args: Any) -> Any:
        """What an operation on the registry returns."""
        return self._bridge.run(self._pool.registry, user, operation, *args, timeout=10)

    def stop(self) -> None:
        """Ends it."""
        self._bridge.stop(0)

    def _notice(self, event: str, **fields: Any) -> None:
        self.notices.append(event)
