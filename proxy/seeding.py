"""`SCHEMA_DIR`: schemas that are deployed as files, one for each station, put into the registry at the start.

Many workers and replicas do this at the same time. Each looks first and changes only what differs, so that a file
which has not changed makes no version; who comes second to a change looks again.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import NamedTuple

import structlog

from proxy import validators
from proxy.credentials import Credentials
from proxy.errors import (
    BadRequest,
    BadSetting,
    BadStationName,
    BrokerAway,
    Conflict,
    GatewayError,
    SchemaNotFound,
    TooLarge,
    Unavailable,
)
from proxy.messages import Attachment, Schema, Station, station_named
from proxy.producer import Producer
from proxy.registrar import Registrar

TYPES = {".json": "json", ".proto": "protobuf", ".avsc": "avro", ".graphql": "graphql"}
MAX_FILES = 1000
RETRY_SECONDS = 1.0
TRIES = 10
MAX_NAMED = 20


class Seed(NamedTuple):
    """A file of `SCHEMA_DIR`: which station it is for, and the schema in it."""

    file: str
    station: Station
    name: str
    schema: Schema


class Seeding:
    """Puts the schemas of a directory into the registry once, as soon as the broker is there."""

    def __init__(self, directory: Path | None, root: Credentials, producer: Producer, registrar: Registrar) -> None:
        self._directory, self._root = directory, root
        self._producer, self._registrar = producer, registrar
        self._seeds: list[Seed] = []
        self._missing: GatewayError | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Seeds now; if the broker is away, as soon as it comes. Raises `BadSetting` for a file that cannot be used."""
        if self._directory is None or self._seeds:
            return
        self._seeds = read(self._directory)
        self._missing = self._try()
        if self._missing is None:
            return
        for seed in self._seeds:
            _prepare(seed)
        structlog.get_logger().warning("schemas_are_put_later", reason=self._missing.message)
        self._thread = threading.Thread(target=self._keep_trying, daemon=True, name="seeding")
        self._thread.start()

    def stop(self) -> None:
        """Gives up."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(RETRY_SECONDS)

    def check(self) -> None:
        """Raises why the schemas are not all in the registry yet."""
        if self._missing is not None:
            raise BrokerAway(f"the schemas of SCHEMA_DIR are not in the registry yet: {self._missing.message}")

    def _keep_trying(self) -> None:
        while self._missing is not None and not self._stopping.wait(RETRY_SECONDS):
            try:
                self._missing = self._try()
            except BadSetting as error:  # the broker takes less than we do; it may be set up otherwise meanwhile
                self._missing = BrokerAway(str(error))

    def _try(self) -> GatewayError | None:
        """Seeds; what it returns keeps this from being done now. Raises `BadSetting`."""
        try:
            self._producer.check()
            for seed in self._seeds:
                self._seed(seed)
        except GatewayError as error:
            return error
        return None

    def _seed(self, seed: Seed) -> None:
        """Puts a schema and attaches it; begins again when others have changed the same meanwhile."""
        for _ in range(TRIES):
            try:
                self._put(seed)
                return self._attach(seed)
            except Conflict:
                continue
            except (BadRequest, TooLarge) as error:
                raise _bad(seed.file, error.message) from None
        raise BrokerAway(f"others keep changing the schema {seed.name}")

    def _put(self, seed: Seed) -> None:
        try:
            kept = self._registrar.get(self._root, seed.name).schema
        except SchemaNotFound:
            kept = None
        if kept is None or _essence(kept) != _essence(seed.schema) or _is_unprepared(kept):
            self._registrar.put(self._root, seed.name, seed.schema)

    def _attach(self, seed: Seed) -> None:
        """Lets an attachment to a version of the same schema be: an operator has chosen it."""
        try:
            now = self._registrar.attachment(self._root, seed.station)
        except SchemaNotFound:
            now = Attachment(schema="", version=None)
        if now.schema != seed.name:
            wanted = Attachment(schema=seed.name, version=None, dead_letter=now.dead_letter)
            self._registrar.attach(self._root, seed.station, wanted)
        elif now.version is not None:
            structlog.get_logger().warning(
                "station_demands_an_older_schema", station=seed.station.name, version=now.version
            )


def read(directory: Path) -> list[Seed]:
    """The schemas in a directory, in the order of their files' names; warns of other files. Raises `BadSetting`."""
    try:
        files = sorted(path for path in directory.iterdir() if path.is_file())
        paths = [path for path in files if path.suffix in TYPES]
        if len(paths) > MAX_FILES:
            raise BadSetting("SCHEMA_DIR", f"a directory of at most {MAX_FILES} schemas")
        seeds = [_read(path) for path in paths]
    except OSError as error:
        raise BadSetting("SCHEMA_DIR", f"a directory that can be read ({error.strerror})") from None
    _warn([path.name for path in files if path.suffix not in TYPES and not path.name.startswith(".")])
    names: dict[str, str] = {}
    for seed in seeds:
        if (other := names.setdefault(seed.name, seed.file)) != seed.file:
            raise _bad(seed.file, f"has the same station, or the same name for its schema ({seed.name}), as {other}")
    return seeds


def _warn(others: list[str]) -> None:
    """Names files that no station gets a schema from: perhaps one was meant to be."""
    if others:
        structlog.get_logger().warning(
            "files_that_are_no_schemas", files=others[:MAX_NAMED], count=len(others), endings=[*TYPES]
        )


def _read(path: Path) -> Seed:
    try:
        station = station_named(path.stem)
    except BadStationName as error:
        raise _bad(path.name, error.message) from None
    try:
        with path.open("rb") as file:
            definition = validators.read_definition(file)
    except UnicodeDecodeError:
        raise _bad(path.name, "is not UTF-8") from None
    # Names of schemas have no dots.
    return Seed(
        path.name, station, station.name.replace(".", "_"), Schema(type=TYPES[path.suffix], definition=definition)
    )


def _prepare(seed: Seed) -> None:
    """Compiles a file while the broker is away, to stop the start if it is at fault; it is compiled again later."""
    try:
        validators.prepare(seed.schema)
    except BadRequest as error:
        raise _bad(seed.file, error.message) from None
    except Unavailable:  # the compiler is busy
        pass


def _is_unprepared(schema: Schema) -> bool:
    """Whether it was written past the gateway, without what no request should compile, so that nothing can use it."""
    return schema.type == "protobuf" and not schema.compiled


def _essence(schema: Schema) -> tuple[str, str]:
    """What a file says of a schema."""
    return schema.type, schema.definition


def _bad(file: str, reason: str) -> BadSetting:
    return BadSetting("SCHEMA_DIR", f"a directory of schemas that can be used; {file}: {reason}")
