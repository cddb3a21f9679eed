"""The ways that a produce may go, for tests of what is stored and answered: it must not matter which."""

from __future__ import annotations

import contextlib
import re
from typing import Any
from urllib.parse import unquote

import pytest
from flask import Flask
from werkzeug.wrappers import Response

from proxy.errors import BadStationName
from proxy.extension import Proved
from proxy.messages import station_named
from proxy.stations import Batch, Single
from tests.application import Api

_PRODUCE = re.compile(r"/stations/([^/]+)/produce/(single|batch)", re.IGNORECASE)
_PLANS = {"single": Single, "batch": Batch}


class ByFlask(Api):
    """No path is known to the lane, as with `LANE=false`."""

    def post(self, path: str, *args: Any, **options: Any) -> Response:
        """See `Api.post`."""
        self.app.extensions["stations"].proved.clear()
        return super().post(path, *args, **options)


class ByLane(Api):
    """Each path is known to the lane before it is used, as if Flask had served it, and so is the token."""

    def post(self, path: str, *args: Any, **options: Any) -> Response:
        """See `Api.post`."""
        place = unquote(path.partition("?")[0]).lower().rstrip("/")
        if produce := _PRODUCE.fullmatch(place):
            with contextlib.suppress(BadStationName):
                self._prove(place, *produce.groups())
        return super().post(path, *args, **options)

    def _prove(self, place: str, name: str, kind: str) -> None:
        extension, rule = self.app.extensions["stations"], f"/stations/<station:station>/produce/{kind}"
        extension.prove(place, Proved(f"stations.produce_{kind}", _PLANS[kind], station_named(name), rule))
        with self.app.app_context():
            extension.tokens.verify(self.token)


@pytest.fixture(scope="module", params=[ByFlask, ByLane])
def api(request: pytest.FixtureRequest, app: Flask) -> Api:
    """Requests to `app` as `root`, each test once for each way."""
    made: Api = request.param(app)
    return made
