"""The one place where the parts are put together."""

from __future__ import annotations

import copy
import dataclasses
import os
from typing import Any

import structlog
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from proxy import auth, commands, consume, logs, monitoring, registry, stations
from proxy.application import Application
from proxy.brokers.embedded import kept_secret
from proxy.config import Config
from proxy.edge import REQUEST_ID, Edge
from proxy.errors import GatewayError, MethodNotAllowed, TooLarge, Unauthorized, of_status, to_response
from proxy.extension import Stations
from proxy.lane import Lane, is_heard
from proxy.old_settings import read_settings
from proxy.sealing import ENOUGH_BYTES


def create_app(config: Config | None = None) -> Flask:
    """The gateway as a Flask application; with no `config` the settings of the environment count
    (and those of `conf/config.json`).

    Nothing connects yet: `app.extensions["stations"].start()` does, or the first request that needs it.
    """
    config = _settled(config or read_settings(os.environ))
    logs.configure(config.log_level)
    _warn_of_short_secrets(config)
    app = Application("stations", static_folder=None, template_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = config.max_body_bytes
    app.url_map.merge_slashes = False
    extension = app.extensions["stations"] = Stations(config)
    extension.tokens.init_app(app, lambda: _answer(Unauthorized()))
    for blueprint in (auth.bp, stations.bp, consume.bp, registry.bp, monitoring.bp):
        app.register_blueprint(blueprint)
    app.cli.add_command(commands.schemas)
    app.register_error_handler(Exception, _on_error)
    inner = Lane(app.wsgi_app, app, extension) if config.lane else app.wsgi_app
    app.wsgi_app = extension.edge = Edge(inner, config, extension.limits)  # type: ignore[method-assign]
    made = _made_of(app)
    extension.plain = lambda: _made_of(app) == made
    return app


def _made_of(app: Flask) -> tuple[Any, ...]:
    """What others may add to, or replace by their own."""
    tables = (
        app.view_functions,
        app.before_request_funcs,
        app.after_request_funcs,
        app.teardown_request_funcs,
        app.teardown_appcontext_funcs,
        app.url_value_preprocessors,
        app.url_default_functions,
        app.error_handler_spec,
    )
    classes = (app.request_class, app.response_class, app.session_interface)
    return (*map(copy.deepcopy, tables), *classes, app.wsgi_app, is_heard())


def _settled(config: Config) -> Config:
    """With the embedded broker the secret may be one that its data directory keeps."""
    if config.jwt_secret or not config.embedded:
        return config
    return dataclasses.replace(config, jwt_secret=kept_secret(config.data_dir))


def _warn_of_short_secrets(config: Config) -> None:
    for name in ("jwt_secret", "jwt_secret_previous", "refresh_jwt_secret", "refresh_jwt_secret_previous"):
        if 0 < len(getattr(config, name).encode()) < ENOUGH_BYTES:
            structlog.get_logger().warning("short_secret", variable=name.upper(), advice=f"use {ENOUGH_BYTES} bytes")


def _on_error(error: Exception) -> Response | HTTPException:
    if isinstance(error, HTTPException):
        if error.response is not None or (error.code or 500) < 400:
            return error  # a redirect, or an answer that a route of a team's own has made
        return _answer_of_werkzeugs(error)
    return _answer(error)


def _answer_of_werkzeugs(error: HTTPException) -> Response:
    """Our body with the headers that belong to the error, such as `Retry-After`."""
    unexpected = getattr(error, "original_exception", None)  # Flask's 500 for what a hook has raised
    answer = _answer(unexpected or _translate(error))
    for name, value in error.get_headers():
        if name != "Content-Type":
            answer.headers[name] = value
    return answer


def _translate(error: HTTPException) -> GatewayError:
    """Ours for werkzeug's."""
    if error.code == 405:
        return MethodNotAllowed(allowed=tuple(getattr(error, "valid_methods", None) or ()))
    if error.code == 413:
        return TooLarge(f"the body is larger than {request.max_content_length} bytes")
    return of_status(error.code or 500, "" if error.code == 404 else error.description or "")


def _answer(error: Exception) -> Response:
    environ = request.environ
    accept, path = environ.get("HTTP_ACCEPT", ""), environ.get("PATH_INFO", "")
    status, headers, body = to_response(error, accept=accept, request_id=environ.get(REQUEST_ID, ""), path=path)
    return Response(body, status, headers)
