"""`flask --app wsgi schemas ...`: the registry of schemas on the command line.

As the gateway's own user (`ROOT_USER`), or as another one with `--user`, whose connection token comes from the variable
STATIONS_CONNECTION_TOKEN or is asked for: what stands on a command line, others can read.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

import click
from flask import current_app
from flask.cli import AppGroup

from proxy import logs, validators
from proxy.credentials import Credentials
from proxy.errors import GatewayError, SchemaViolation
from proxy.extension import Stations
from proxy.messages import Attachment, Schema, station_named
from proxy.registrar import Registrar
from proxy.seeding import TYPES

VARIABLE = "STATIONS_CONNECTION_TOKEN"
REFUSED, FAILED = 1, 3  # the payload is refused; the command could not be done. 2 is click's, for wrong usage.

schemas = AppGroup("schemas", help="Schemas, and which station demands which.")
_user = click.option("--user", default="", help="Who does it; ROOT_USER if not given.")
_version = click.option("--version", type=click.IntRange(1), help="The newest one if not given.")


def _credentials(extension: Stations, user: str) -> Credentials:
    config = extension.config
    if user:
        return Credentials(user, os.environ.get(VARIABLE) or _asked(user))
    if not config.root_user:
        raise click.UsageError("Name a user with --user, as ROOT_USER is not set.")
    return Credentials(config.root_user, config.root_secret)


def _asked(user: str) -> str:
    if not sys.stdin.isatty():
        raise click.UsageError(f"Set {VARIABLE} to the connection token of {user}, as nobody is here to be asked.")
    secret: str = click.prompt(f"Connection token of {user}", hide_input=True, err=True)
    return secret


def _command(function: Callable[..., None]) -> click.Command:
    """A command that gets the registry and a user; what goes wrong is one line, and the connection is closed."""

    @functools.wraps(function)
    def run(user: str, **given: Any) -> None:
        extension: Stations = current_app.extensions["stations"]
        who = _credentials(extension, user)
        logs.keep_out_of_output()
        try:
            extension.producer.log_on(who)
            function(extension.registrar, who, **given)
        except GatewayError as error:
            click.echo(f"Error: {error.message}", err=True)
            sys.exit(FAILED)
        finally:
            extension.stop(0)

    return schemas.command(function.__name__.rstrip("_"))(_user(run))


@_command
def list_(registrar: Registrar, who: Credentials) -> None:
    """List all schemas: name, newest version, type."""
    for head in registrar.all(who):
        click.echo(f"{head.name}\t{head.version}\t{head.type}")


@_command
@click.argument("name")
@_version
def show(registrar: Registrar, who: Credentials, name: str, version: int | None) -> None:
    """Print the definition of a schema."""
    definition = registrar.get(who, name, version).schema.definition
    click.echo(definition, nl=not definition.endswith("\n"))


@_command
@click.argument("name")
@click.argument("file", type=click.File("rb"))
@click.option(
    "--type", "kind", type=click.Choice(list(validators.VALIDATORS)), help="If the file's name does not tell."
)
@click.option("--message", default="", help="The message that payloads are, of a .proto with several.")
@click.option("--strict", is_flag=True, help="Refuse payloads with fields that the message does not know.")
def put(registrar: Registrar, who: Credentials, name: str, file: BinaryIO, **given: Any) -> None:
    """Keep a definition as the newest version of a schema; a file named - is standard input."""
    kind = given["kind"] or TYPES.get(os.path.splitext(file.name)[1], "")
    if not kind:
        raise click.UsageError(f"Say --type, as {file.name} does not tell.")
    schema = Schema(type=kind, definition=_text(file), message_struct_name=given["message"], strict=given["strict"])
    kept, made = registrar.put(who, name, schema)
    click.echo(f"{kept.name} version {kept.version}{'' if made else ', as it was'}")


@_command
@click.argument("name")
def delete(registrar: Registrar, who: Credentials, name: str) -> None:
    """Delete a schema that no station demands."""
    registrar.delete(who, name)


@_command
@click.argument("station")
@click.argument("name")
@_version
@click.option("--dead-letter", is_flag=True, help="Keep what is refused in the station <station>.dls.")
def attach(registrar: Registrar, who: Credentials, station: str, name: str, **given: Any) -> None:
    """Make a station demand a schema: one version of it, or whatever is the newest."""
    registrar.attach(who, station_named(station), Attachment(schema=name, **given))


@_command
@click.argument("station")
def detach(registrar: Registrar, who: Credentials, station: str) -> None:
    """Make a station demand nothing."""
    registrar.detach(who, station_named(station))


@_command
@click.argument("station")
@click.argument("file", type=click.File("rb"))
def validate(registrar: Registrar, who: Credentials, station: str, file: BinaryIO) -> None:
    """Check a message as a produce would; exits with 1 if the station would refuse it."""
    try:
        registrar.validate(who, station_named(station), file.read())
    except SchemaViolation as error:
        click.echo(error.message)
        sys.exit(REFUSED)


def _text(file: BinaryIO) -> str:
    try:
        return validators.read_definition(file)
    except UnicodeDecodeError:
        raise click.UsageError(f"{file.name} is not UTF-8.") from None
