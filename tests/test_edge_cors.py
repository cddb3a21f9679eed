"""Which pages of browsers may call, and what they may use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from werkzeug.wrappers import Response

from tests.application import Api

SHOP, DEV = "https://shop.example", "http://127.0.0.1:3000"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


@pytest.fixture
def anyone(make_app: Callable[..., Flask]) -> Api:
    """An application that any page may call, which is the default."""
    return Api(make_app())


@pytest.fixture
def listed(make_app: Callable[..., Flask]) -> Api:
    """An application that two origins may call."""
    return Api(make_app(CORS_ORIGINS=f"{SHOP}, {DEV}"))


def _get(api: Api, origin: str | None, path: str = "/monitoring/status", **options: Any) -> Response:
    headers = {} if origin is None else {"Origin": origin}
    return api.request("GET", path, headers=headers, **options)


def _preflight(api: Api, origin: str, path: str = "/stations/orders/produce/single", **headers: str) -> Response:
    return api.request("OPTIONS", path, headers={"Origin": origin, **PREFLIGHT, **headers})


def _cors(answer: Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers if name.startswith("Access-Control-")}


@pytest.mark.parametrize("origin", [None, SHOP, "null", "https://anything.example"])
def test_any_page_may_call_but_never_with_credentials(anyone: Api, origin: str | None) -> None:
    """`*`, so the answer is the same for all, and cookies of the browser stay out."""
    assert _cors(_get(anyone, origin)) == {
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Expose-Headers": "X-Request-Id, Retry-After",
    }


@pytest.mark.parametrize("origin", [SHOP, DEV])
def test_listed_pages_may_use_the_cookie(listed: Api, origin: str) -> None:
    """Their own origin is named, with credentials, and caches are told that it matters."""
    answer = _get(listed, origin)
    assert _cors(answer) == {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Credentials": "true",
        "Access-Control-Expose-Headers": "X-Request-Id, Retry-After",
    }
    assert "Origin" in answer.headers["Vary"]


OTHERS = [
    *("https://shop.example.evil.example", "https://evilshop.example", "https://shop.exampl", "http://shop.example"),
    *(
        "https://shop.example:444",
        "https://shop.example/",
        "https://user@shop.example",
        "https://x.shop.example",
        "null",
    ),
    *(
        "*",
        "",
        "file://",
        "https://shop.example, https://evil.example",
        "http://127.0.0.1:30001",
        "http://127x0.0.1:3000",
    ),
]


@pytest.mark.parametrize("origin", [None, *OTHERS])
def test_pages_that_are_not_listed_may_not_call(listed: Api, origin: str | None) -> None:
    """No prefix, suffix, other port or scheme of a listed one, and not the origin of a sandbox."""
    answer = _get(listed, origin)
    assert _cors(answer) == {}
    assert "Origin" in answer.headers["Vary"]


def test_a_star_in_a_list_is_for_everyone_without_credentials(make_app: Callable[..., Flask]) -> None:
    """Naming some besides it does not give them the cookie."""
    api = Api(make_app(CORS_ORIGINS=f"{SHOP}, *"))
    assert _cors(_get(api, SHOP))["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in _cors(_get(api, SHOP))


def test_letters_of_a_listed_origin_have_no_case(make_app: Callable[..., Flask]) -> None:
    """Browsers send it in lower case, whatever the setting looks like."""
    api = Api(make_app(CORS_ORIGINS="HTTPS://Shop.Example"))
    assert _cors(_get(api, SHOP))["Access-Control-Allow-Origin"] == SHOP


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/nowhere", {}, 404),
        ("GET", "/auth/authenticate", {}, 405),
        ("POST", "/auth/authenticate", {"data": b"{nope", "content_type": "application/json"}, 400),
        ("POST", "/stations/orders/produce/single", {"data": b"x"}, 401),
        ("GET", "/monitoring/ready", {}, 503),
    ],
)
def test_errors_may_be_read_too(listed: Api, method: str, path: str, options: dict[str, Any], status: int) -> None:
    """A page that may call may see why it failed."""
    answer = listed.request(method, path, headers={"Origin": SHOP}, **options)
    assert answer.status_code == status
    assert _cors(answer)["Access-Control-Allow-Origin"] == SHOP


@pytest.mark.parametrize("path", ["/stations/orders/produce/single", "/auth/refreshToken", "/nowhere", "/"])
def test_a_preflight_needs_no_token(anyone: Api, path: str) -> None:
    """204 without a body, for any path: the request itself will be judged."""
    answer = _preflight(anyone, SHOP, path)
    assert (answer.status_code, answer.data) == (204, b"")
    assert _cors(answer) == {
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Expose-Headers": "X-Request-Id, Retry-After",
        "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE",
        "Access-Control-Allow-Headers": "authorization,content-type",
        "Access-Control-Max-Age": "600",
    }


def test_a_preflight_of_a_listed_page_may_use_the_cookie(listed: Api) -> None:
    """As its request will."""
    cors = _cors(_preflight(listed, SHOP))
    assert (cors["Access-Control-Allow-Origin"], cors["Access-Control-Allow-Credentials"]) == (SHOP, "true")
    assert cors["Access-Control-Allow-Headers"] == "authorization,content-type"


@pytest.mark.parametrize("origin", OTHERS)
def test_a_preflight_of_another_page_is_refused(listed: Api, origin: str) -> None:
    """It is answered, and allows nothing."""
    answer = _preflight(listed, origin)
    assert (answer.status_code, _cors(answer)) == (204, {})


@pytest.mark.parametrize("asked", ["x-a\r\nset-cookie: a=b", "a;b", "a(b)", "é", "x" * 3000])
def test_a_preflight_repeats_only_names_of_headers(anyone: Api, asked: str) -> None:
    """What is none is not allowed, nor repeated."""
    answer = anyone.request(
        "OPTIONS",
        "/",
        headers={"Origin": SHOP, "Access-Control-Request-Method": "POST"},
        environ_overrides={"HTTP_ACCESS_CONTROL_REQUEST_HEADERS": asked},
    )
    assert answer.status_code == 204
    assert "Access-Control-Allow-Headers" not in _cors(answer)


def test_options_that_are_no_preflight_are_for_the_application(anyone: Api) -> None:
    """It tells the methods of the route."""
    answer = anyone.request("OPTIONS", "/auth/authenticate")
    assert set(answer.headers["Allow"].split(", ")) == {"POST", "OPTIONS"}
