"""Faults of streams, users and limits: what operators do, and disks."""

from __future__ import annotations

import resource
from pathlib import Path

from tests.faults.cluster import USERS
from tests.faults.scene import Fault, Scene
from tests.faults.senders import TOKEN, USER

_ROOM, _ROOM_BYTES = 500, 64 << 10
_OTHER_ACCOUNT = "accounts { other: { jetstream: enabled, users: [{ user: somebody, password: else }] } }"
_ACCOUNTS = f"""
accounts {{
  shops: {{ jetstream: enabled, users: [{{ user: root, password: memphis }}, {{ user: {USER}, password: {TOKEN} }}] }}
  other: {{ jetstream: enabled, users: [{{ user: somebody, password: else }}] }}
}}
"""
_NEVER = frozenset({413, 503, 504})


def fill(scene: Scene) -> None:
    """The stream reaches `max_msgs` with `discard: new`."""
    count = len(scene.cluster.payloads(scene.station))
    scene.cluster.update(scene.station, discard="new", max_msgs=count + _ROOM)
    scene.crew.await_status(503)


def full(scene: Scene) -> None:
    """Until the operator makes room."""
    fill(scene)
    scene.hold(1, 8)
    scene.cluster.update(scene.station, max_msgs=-1)


def delete(scene: Scene) -> None:
    """A full one, so that it is known what was in it; it stays away for a while and is made anew.

    A batch that it takes in part, before it is gone, is 400.
    """
    fill(scene)
    scene.keep()
    scene.cluster.api(f"STREAM.DELETE.{scene.station}")
    scene.crew.await_status(404)
    scene.hold(1, 8)
    scene.cluster.add(scene.station)


def seal(scene: Scene) -> None:
    """It takes nothing any more and cannot be opened again, so it is made anew."""
    scene.cluster.update(scene.station, sealed=True)
    scene.crew.await_status(503)
    scene.hold(1, 8)
    scene.keep()
    scene.cluster.api(f"STREAM.DELETE.{scene.station}")
    scene.cluster.add(scene.station)


def purge(scene: Scene) -> None:
    """What was read until then is purged, again and again."""
    for _ in range(8 if scene.long else 3):
        scene.purge()
        scene.crew.await_stored(100)


def lower_max_payload(scene: Scene) -> None:
    """All messages of the senders are too large now; later they are not."""
    scene.cluster.configure(more="max_payload: 1024")
    scene.cluster.reload()
    scene.crew.await_status(413)
    scene.hold(1, 8)
    scene.cluster.configure()
    scene.cluster.reload()


def deny(scene: Scene) -> None:
    """The user loses the right to publish to the station, and gets it back."""
    denied = USERS.replace(f"user: {USER},", f"user: {USER}, permissions: {{ publish: {{ deny: '*.final' }} }},")
    _with_users(scene, denied, 403)


def remove_user(scene: Scene) -> None:
    """The user is gone while connected, and comes back."""
    _with_users(scene, USERS.replace(USER, "somebody-else"), 401)


def remove_account(scene: Scene) -> None:
    """The account is gone, and with it its users and their stations; it comes back with all of them.

    With nats-server 2.15 the streams of an account that comes back hear no message before the servers are restarted.
    """
    _with_users(scene, _OTHER_ACCOUNT, 401)
    for server in scene.cluster.servers:
        server.restart()


def _with_users(scene: Scene, users: str, status: int) -> None:
    scene.cluster.configure(users)
    scene.cluster.reload()
    scene.crew.await_status(status)
    scene.hold(1, 8)
    scene.cluster.configure()
    scene.cluster.reload()


def fill_store(scene: Scene) -> None:
    """JetStream has used all the space that it was given; then the operator purges."""
    scene.crew.await_status(503)
    scene.hold(1, 8)
    scene.purge()


def fill_disk(scene: Scene) -> None:
    """No file of the server may grow any more, as on a full disk; then there is room, and the server is restarted.

    Without the restart nats-server 2.15 goes on failing to write to the stream.
    """
    (server,) = scene.cluster.servers
    largest = max(path.stat().st_size for path in Path(server.directory, "jetstream").rglob("*.blk"))
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (largest + _ROOM_BYTES, resource.RLIM_INFINITY))
    scene.crew.await_status(503, 504)
    scene.hold(1, 8)
    server.restart()


FAULTS = [
    Fault("stream full (`discard: new`)", full, frozenset({503})),
    Fault("stream deleted and made anew", delete, frozenset({400, 503, 404, 504})),
    Fault("stream sealed and made anew", seal, frozenset({503, 404, 504})),
    Fault("stream purged", purge),
    Fault("`max_payload` lowered", lower_max_payload, _NEVER, filling=b"." * 2000),
    Fault("permission revoked while connected", deny, frozenset({403})),
    Fault("user removed while connected", remove_user, frozenset({401, 503, 504})),
    Fault("account removed while connected", remove_account, frozenset({401, 503, 504}), users=_ACCOUNTS),
    Fault(
        "disk full (`max_file_store`)",
        fill_store,
        frozenset({503}),
        servers=1,
        config="jetstream {{ store_dir: '{directory}', max_file_store: 1MB }}",
    ),
    Fault(
        "disk full (no file may grow)", fill_disk, frozenset({503, 504}), {"PRODUCE_TIMEOUT_SECONDS": "3"}, servers=1
    ),
]
