"""Faults of the gateway itself: workers that are killed, replaced, or stand still."""

from __future__ import annotations

import http.client
import signal
import time

from tests.faults.cluster import end
from tests.faults.ledger import NO_ANSWER
from tests.faults.scene import Fault, Scene
from tests.servers import alive, eventually

_TWO = {"WEB_CONCURRENCY": "2"}
_CUT = frozenset({NO_ANSWER})


def kill_worker(scene: Scene) -> None:
    """Its clients are cut off."""
    scene.back = time.monotonic()
    for _ in range(4 if scene.long else 1):
        scene.gateway.kill_worker()
        scene.crew.await_all()


def end_worker(scene: Scene) -> None:
    """SIGTERM to a worker: it answers what it has."""
    scene.back = time.monotonic()
    for _ in range(4 if scene.long else 1):
        end(min(scene.gateway.worker_pids()), signal.SIGTERM)
        scene.crew.await_all()


def reload(scene: Scene) -> None:
    """SIGHUP to gunicorn: all workers are replaced."""
    scene.back = time.monotonic()
    for _ in range(4 if scene.long else 1):
        before = scene.gateway.worker_pids()
        scene.gateway.send(signal.SIGHUP)
        eventually(lambda before=before: not any(map(alive, before)), 20)  # type: ignore[misc]
        scene.crew.await_all()


def max_requests(scene: Scene) -> None:
    """Workers replace themselves after some hundred requests."""
    scene.back, before = time.monotonic(), scene.gateway.worker_pids()
    eventually(lambda: not any(map(alive, before)), 20)
    scene.crew.await_all()


def block(scene: Scene) -> None:
    """The asyncio thread waits for something that does not come."""
    _stand_still(scene, "block")


def spin(scene: Scene) -> None:
    """The asyncio thread runs in circles."""
    _stand_still(scene, "spin")


def end_thread(scene: Scene) -> None:
    """The asyncio thread ends."""
    _stand_still(scene, "end")


def _stand_still(scene: Scene, kind: str) -> None:
    (worker,) = scene.gateway.worker_pids()
    scene.back = time.monotonic()
    connection = http.client.HTTPConnection(scene.gateway.host, timeout=5)
    connection.request("POST", f"/standstill/{kind}", headers={"Connection": "close"})
    assert connection.getresponse().read() == b"done"
    eventually(lambda: worker not in scene.gateway.worker_pids(), 20)


_STANDSTILL = "tests.faults.standstill:app"
_STILL = frozenset({503, 504}) | _CUT

FAULTS = [
    Fault("kill -9 of a worker", kill_worker, _CUT, _TWO),
    Fault("SIGTERM to a worker", end_worker, env=_TWO),
    Fault("SIGHUP", reload, env=_TWO),
    Fault("`max_requests`", max_requests, env=_TWO, args=("--max-requests", "200", "--max-requests-jitter", "50")),
    Fault("asyncio thread blocked", block, _STILL, app=_STANDSTILL),
    Fault("asyncio thread in an endless loop", spin, _STILL, app=_STANDSTILL),
    Fault("asyncio thread ended", end_thread, _STILL, app=_STANDSTILL),
]
