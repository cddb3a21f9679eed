"""Faults of brokers and of the network before them."""

from __future__ import annotations

from tests.faults.cluster import end
from tests.faults.scene import Fault, Scene
from tests.servers import eventually

UNCERTAIN = frozenset({503, 504})


def kill_leader(scene: Scene) -> None:
    """The senders' session is at another server, so nothing but the stream's leader is gone."""
    connected = scene.cluster.connected()[0]
    scene.cluster.lead_elsewhere(scene.station, connected)
    end(scene.cluster.leader(scene.station).pid)
    scene.felt = 1.0  # an election takes some seconds


def kill_connected(scene: Scene) -> None:
    """The session ends; the stream goes on."""
    connected = scene.cluster.connected()[0]
    scene.cluster.lead_elsewhere(scene.station, connected)
    end(connected.pid)


def kill_all(scene: Scene) -> None:
    """All at once, and back after a while; with the election that may take longer than the deadline."""
    for server in scene.cluster.servers:
        end(server.pid)
    scene.hold(1, 3, felt=True)
    scene.cluster.heal()


def stop_leader(scene: Scene) -> None:
    """SIGSTOP: its connections stay open, and nothing comes."""
    leader = scene.cluster.leader(scene.station)
    leader.pause()
    scene.hold(scene.deadline + 1, felt=True)
    leader.resume()


def stop_connected(scene: Scene) -> None:
    """SIGSTOP of the server that the session is at."""
    connected = scene.cluster.connected()[0]
    scene.cluster.lead_elsewhere(scene.station, connected)
    connected.pause()
    scene.hold(scene.deadline + 1, felt=True)
    connected.resume()


def lame_duck(scene: Scene) -> None:
    """One server after the other, each when the one before it has caught up."""
    for server in scene.cluster.servers:
        scene.cluster.await_copies(scene.station)
        scene.cluster.lame_duck(server)
    scene.cluster.await_copies(scene.station)


def cut(scene: Scene) -> None:
    """Nothing passes in any direction for longer than the deadline; no connection is told."""
    for proxy in scene.proxies:
        proxy.silent = True
    scene.hold(scene.deadline + 1, felt=True)
    scene.heal_network()


def cut_briefly(scene: Scene) -> None:
    """Nothing passes for less than the deadline."""
    for proxy in scene.proxies:
        proxy.silent = True
    scene.hold(2, 6, felt=True)
    scene.heal_network()


def refuse(scene: Scene) -> None:
    """All connections are reset, and new ones too, for longer than the deadline."""
    for proxy in scene.proxies:
        proxy.closed = True
        proxy.reset()
    scene.hold(scene.deadline + 1, felt=True)
    scene.heal_network()


def delay(scene: Scene) -> None:
    """The ack of each message comes two seconds later than it would."""
    for proxy in scene.proxies:
        proxy.delay = 1.0
    scene.felt = 2.0
    scene.hold(4, 12)
    scene.heal_network()


def throttle(scene: Scene) -> None:
    """20 KiB a second each way: less than what the senders have."""
    for proxy in scene.proxies:
        proxy.rate = 20 << 10
    scene.felt = 1.0
    scene.hold(3, 12)
    scene.heal_network()


def reset(scene: Scene) -> None:
    """Each new session is reset once more."""
    for _ in range(20 if scene.long else 4):
        eventually(lambda: sum(proxy.reset() for proxy in scene.proxies))
        scene.crew.await_stored(20)


def truncate(scene: Scene) -> None:
    """Connections end in the middle of what is being sent: messages on their way there, acks on their way back."""
    for count in range(3, 20 if scene.long else 7):
        for proxy in scene.proxies:
            proxy.truncate(count * 777)
        eventually(lambda: any(proxy.truncated for proxy in scene.proxies), 20)
        scene.heal_network()
        scene.crew.await_stored(20)


_IMPATIENT = {"PRODUCE_TIMEOUT_SECONDS": "3"}

FAULTS = [
    Fault("kill -9 of the stream's leader", kill_leader),
    Fault("kill -9 of the connected server", kill_connected),
    Fault("kill -9 of all three servers, and back", kill_all, UNCERTAIN),
    Fault("SIGSTOP of the stream's leader, longer than the deadline", stop_leader, UNCERTAIN, _IMPATIENT),
    Fault("SIGSTOP of the connected server, longer than the deadline", stop_connected, UNCERTAIN, _IMPATIENT),
    Fault("rolling restart, lame duck", lame_duck),
    Fault("network: nothing passes, longer than the deadline", cut, UNCERTAIN, _IMPATIENT, proxied=True),
    Fault("network: nothing passes, shorter than the deadline", cut_briefly, proxied=True),
    Fault("network: connections refused, longer than the deadline", refuse, UNCERTAIN, _IMPATIENT, proxied=True),
    Fault("network: 2 s latency", delay, proxied=True),
    Fault("network: throttled to 20 KiB/s", throttle, UNCERTAIN, proxied=True),
    Fault("network: connections reset, again and again", reset, proxied=True),
    Fault("network: connections cut in the middle of a frame", truncate, proxied=True),
]
