"""The settings of worker processes, as fields of `Config`."""

from __future__ import annotations

from proxy.parsers import flag, number, one_of, whole
from proxy.setting import setting

WEB_CONCURRENCY = setting("WEB_CONCURRENCY", whole(1, 256), 1, "Worker processes; one for each core is good.")
WORKER_CLASS = setting(
    "GUNICORN_WORKER_CLASS",
    one_of("proxy.server.Worker", "gevent", "gthread"),
    "proxy.server.Worker",
    "Kind of worker process: our own, or gunicorn's `gevent` or `gthread`.",
)
CPU_AFFINITY = setting(
    "WORKER_CPU_AFFINITY",
    flag,
    None,
    "Keep the two threads of a worker on one core, chosen anew every second, unless there are more threads. Programs "
    "that it starts run there too. Linux only.",
    shown="on (with code of your own: off)",
)
GRACEFUL_TIMEOUT_SECONDS = setting(
    "GRACEFUL_TIMEOUT_SECONDS", number(1, 3600), 30.0, "How long a stopping worker may finish what runs."
)
