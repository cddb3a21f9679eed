"""Is it alive, can it produce, and what is it."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

from flask import Blueprint, Response

from proxy.errors import DATA_ONLY, BrokerRefused, Forbidden, RouteNotFound, Unauthorized, encode
from proxy.extension import the_stations

bp = Blueprint("monitoring", __name__)

VERSION = "0.1.0"
_ALIVE = encode({"status": "ok"})
_ABOUT = encode(
    {
        "name": "stations",
        "version": VERSION,
        "links": {
            "authenticate": "/auth/authenticate",
            "refresh": "/auth/refreshToken",
            "log_out": "/auth/tokens",
            "produce": "/stations/<station>/produce/single",
            "produce_batch": "/stations/<station>/produce/batch",
            "consume": "/stations/<station>/consume/batch",
            "ack": "/stations/<station>/consume/ack",
            "nack": "/stations/<station>/consume/nack",
            "schemas": "/schemas",
            "schema": "/stations/<station>/schema",
            "validate": "/stations/<station>/validate",
            "alive": "/monitoring/status",
            "ready": "/monitoring/ready",
        },
    }
)


@bp.get("/monitoring/status")
def status() -> Response:
    """Alive; asks nobody."""
    return Response(_ALIVE, headers=DATA_ONLY, mimetype="application/json")


@bp.get("/monitoring/ready")
def ready() -> Response:
    """Ready when this worker can produce; otherwise the answer says why not."""
    try:
        the_stations().check()
    except (Forbidden, Unauthorized) as error:  # of the gateway, not of whoever asks
        raise BrokerRefused(f"the broker does not take ROOT_USER: {error.message}") from None
    return Response(_ALIVE, headers=DATA_ONLY, mimetype="application/json")


@bp.get("/monitoring/getresourcesutilization")  # the edge writes paths of ours in lower case
def utilization() -> Response:
    """What this worker uses, in percent of one core and of the machine's memory; only with `DEV_ENV`."""
    extension = the_stations()
    if not extension.config.dev_env:
        raise RouteNotFound
    used = {"cpu": _cpu(extension.started_at), "memory": _memory(), "storage": 0}
    return Response(encode(used), headers=DATA_ONLY, mimetype="application/json")


def _cpu(started_at: float) -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return round(100 * (usage.ru_utime + usage.ru_stime) / max(time.monotonic() - started_at, 1.0), 1)


def _memory() -> float:
    page = os.sysconf("SC_PAGE_SIZE")
    try:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * page
    except OSError:  # macOS, which counts in bytes and keeps the most there ever was
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(100 * resident / (os.sysconf("SC_PHYS_PAGES") * page), 1)


@bp.get("/")
def about() -> Response:
    """Name, version and where to go from here."""
    return Response(_ABOUT, headers=DATA_ONLY, mimetype="application/json")
