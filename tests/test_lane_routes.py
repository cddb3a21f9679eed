"""The lane serves a path only while Flask would have the same route serve it, with nothing of a team's own around."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import Blueprint
from werkzeug.routing import Rule

from proxy import stations
from proxy.lane import _blueprints
from tests.test_lane import SINGLE, Site, make, url

__all__ = ["make", "url"]  # fixtures


@pytest.fixture
def site(make: Callable[..., Site]) -> Site:
    """A site with the lane."""
    return make()


def test_a_rule_that_is_added_while_requests_are_served_is_never_bypassed(site: Site) -> None:
    """A path that the lane has served may be another route's from now on."""
    assert site.second().by_lane
    site.app.view_functions["special"] = lambda: "ours"
    site.app.url_map.add(Rule(SINGLE, endpoint="special"))
    assert site.second().body == b"ours"
    assert site.second("/stations/others/produce/single").by_lane


def test_hosts_that_are_not_trusted_are_never_served(site: Site) -> None:
    """Flask refuses them."""
    site.app.config["TRUSTED_HOSTS"] = ["example.com"]
    assert site.post(SINGLE, b"x", Host="example.com").status == "200 OK"
    assert site.post(SINGLE, b"x", Host="evil.example").status == "400 BAD REQUEST"


def test_hosts_that_choose_a_route_are_never_bypassed(site: Site) -> None:
    """The same path may be another route's, or nobody's, there."""
    site.app.config["SERVER_NAME"] = "example.com"
    site.app.subdomain_matching = True
    assert site.post(SINGLE, b"x", Host="example.com").status == "200 OK"
    assert site.post(SINGLE, b"x", Host="other.example.com").status == "404 NOT FOUND"


@pytest.mark.parametrize("nested", [False, True])
def test_our_routes_under_another_name_are_served_by_flask(site: Site, nested: bool) -> None:
    """A team may register the blueprint once more, also within one of its own, and give it hooks there."""
    site.app._got_first_request, seen = False, []
    if nested:
        outer = Blueprint("api", __name__, url_prefix="/v2")
        outer.register_blueprint(stations.bp)
        site.app.register_blueprint(outer)
    else:
        site.app.register_blueprint(stations.bp, url_prefix="/v2/stations", name="v2")
    name = "api.stations" if nested else "v2"
    site.app.before_request_funcs.setdefault(name, []).append(lambda: seen.append(1))
    for _ in range(3):
        assert site.post("/v2" + SINGLE, b"x").status == "200 OK"
    assert seen == [1, 1, 1]


def test_hooks_of_each_blueprint_around_a_route_count() -> None:
    """Flask runs those of nested blueprints by their whole names, and those of the ones around them."""
    assert [_blueprints(one) for one in ("index", "a.view", "a.b.view")] == [(), ("a",), ("a", "a.b")]


def test_a_session_that_lasts_is_kept_alive(site: Site) -> None:
    """Flask sends its cookie anew with each answer, where a team keeps sessions."""
    site.app.secret_key = "s" * 32
    with site.app.test_client().session_transaction() as session:
        session.permanent = True
        session["a"] = 1
    signer = site.app.session_interface.get_signing_serializer(site.app)  # type: ignore[attr-defined]
    cookie = f"session={signer.dumps(dict(session))}"
    assert site.second().by_lane
    answer = site.post(SINGLE, b"x", Cookie=cookie)
    assert "Set-Cookie" in dict(answer.headers)
