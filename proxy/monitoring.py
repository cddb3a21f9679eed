"""Is it alive, can it produce, and what is it."""

from __future__ import annotations

from flask import Blueprint, Response

from proxy.errors import BrokerRefused, Forbidden, Unauthorized, encode
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
            "produce": "/stations/<station>/produce/single",
            "produce_batch": "/stations/<station>/produce/batch",
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
    return Response(_ALIVE, mimetype="application/json")


@bp.get("/monitoring/ready")
def ready() -> Response:
    """Ready when this worker can produce; otherwise the answer says why not."""
    try:
        the_stations().check()
    except (Forbidden, Unauthorized) as error:  # of the gateway, not of whoever asks
        raise BrokerRefused(f"the broker does not take ROOT_USER: {error.message}") from None
    return Response(_ALIVE, mimetype="application/json")


@bp.get("/")
def about() -> Response:
    """Name, version and where to go from here."""
    return Response(_ABOUT, mimetype="application/json")
