"""Who may import whom: down only, and what is kept to its place."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the ground up; a module imports only from rows below its own, so there is no cycle either.
LAYERS = [
    "proxy proxy.breathing proxy.credentials proxy.failures proxy.gunicorn_log proxy.hanging_up proxy.logs "
    "proxy.outline proxy.parsers proxy.processors proxy.pulse proxy.setting proxy.transports proxy.waiters",
    "proxy.errors proxy.http1_requests",
    "proxy.http1_responses",
    "proxy.http1_repeats",
    "proxy.http1_service",
    "proxy.http1",
    "proxy.server",
    "proxy.consume_settings proxy.environment proxy.worker_settings",
    "schemas proxy.config proxy.inflating proxy.messages proxy.remembering proxy.sealing proxy.shaping",
    "proxy.old_settings",
    "proxy.settings_table schemas.auth schemas.consume schemas.registry schemas.stations proxy.ack_ids "
    "proxy.dead_letters proxy.keys proxy.limits",
    "proxy.brokers proxy.brokers.murmur proxy.edge proxy.validators",
    "proxy.brokers.memphis_control proxy.brokers.owners proxy.brokers.partitions proxy.brokers.wire",
    "proxy.validators.avro_schema proxy.validators.graphql_shapes",
    "proxy.validators.avro_json proxy.validators.graphql",
    "proxy.validators.avro_binary",
    "proxy.validators.avro",
    "proxy.brokers.answers proxy.brokers.connection proxy.brokers.doubts proxy.brokers.embedded_files "
    "proxy.brokers.frames proxy.brokers.tasks proxy.brokers.tokens proxy.brokers.waiting proxy.brokers.windows",
    "proxy.validators.json_definition",
    "proxy.validators.json_cost proxy.validators.json_meta",
    "proxy.validators.json_schema",
    "proxy.brokers.embedded proxy.brokers.publishing",
    "proxy.validators.protobuf_files proxy.validators.protoc_child",
    "proxy.validators.protobuf_descriptors proxy.validators.protoc",
    "proxy.validators.protobuf_depth proxy.validators.protobuf_wire",
    "proxy.validators.protobuf_faults proxy.validators.protobuf_weights",
    "proxy.validators.protobuf",
    "proxy.brokers.api proxy.brokers.atomic proxy.brokers.embedded_server proxy.brokers.groups",
    "proxy.brokers.acking proxy.brokers.listening",
    "proxy.brokers.kv proxy.brokers.memphis_connection proxy.brokers.pulling",
    "proxy.brokers.consumers proxy.brokers.schemas",
    "proxy.brokers.demands",
    "proxy.brokers.readers proxy.brokers.revocations proxy.brokers.session",
    "proxy.brokers.syslog",
    "proxy.brokers.links",
    "proxy.brokers.consuming",
    "proxy.brokers.pool",
    "proxy.brokers.jetstream proxy.brokers.memphis_stations",
    "proxy.brokers.memphis_consumers",
    "proxy.brokers.memphis",
    "proxy.replies",
    "proxy.bridge proxy.checking",
    "proxy.storing proxy.tokens",
    "proxy.gathering",
    "proxy.producer",
    "proxy.consumer",
    "proxy.registrar",
    "proxy.seeding",
    "proxy.extension",
    "proxy.answers proxy.intake",
    "proxy.application",
    "proxy.auth proxy.commands proxy.consume proxy.lane proxy.monitoring proxy.registry proxy.stations",
    "proxy.app",
    "wsgi gunicorn.conf",
]
ROW = {module: row for row, modules in enumerate(LAYERS) for module in modules.split()}

_EMBEDDED = ["proxy.brokers.embedded", "proxy.brokers.embedded_files", "proxy.brokers.embedded_server"]
_BROKERS = [module for module in ROW if module.startswith("proxy.brokers")]
_ON_THE_LOOP = [module for module in _BROKERS if module not in _EMBEDDED]

# What only some may import, and who.
KEPT = {
    "flask flask_jwt_extended werkzeug": "proxy.intake proxy.tokens proxy.extension proxy.auth proxy.commands "
    "proxy.answers proxy.application proxy.consume proxy.lane proxy.monitoring proxy.registry proxy.stations proxy.app",
    "nats": " ".join(_ON_THE_LOOP),
    "asyncio uvloop": " ".join([*_ON_THE_LOOP, "proxy.bridge"]),
    "threading": "proxy.producer proxy.inflating proxy.seeding proxy.validators.protoc gunicorn.conf",
    "_thread": "proxy.bridge proxy.waiters",
    "logging": "proxy.logs proxy.gunicorn_log proxy.http1_service",
    "structlog": "proxy.errors proxy.logs proxy.edge proxy.producer proxy.seeding proxy.app",
    "gevent": "proxy.waiters proxy.transports proxy.http1_service proxy.http1 proxy.server",
    "gunicorn": "proxy.gunicorn_log proxy.server",
    "subprocess": " ".join([*_EMBEDDED, "proxy.validators.protoc"]),
    "fastavro": "proxy.validators.avro",
    "graphql": "proxy.validators.graphql",
    "queue multiprocessing concurrent": "",
}


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module(path): path for folder in ("proxy", "schemas") for path in sorted((ROOT / folder).rglob("*.py"))}
MODULES |= {"wsgi": ROOT / "wsgi.py", "gunicorn.conf": ROOT / "gunicorn.conf.py"}


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a tree, without what only the type checker reads."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from _nodes(child)


@functools.cache
def _imports(module: str) -> frozenset[str]:
    """What a module imports, at its top or inside of functions; `from a import b` is `a.b` where that is a module."""
    found: set[str] = set()
    for node in _nodes(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports by a relative name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else str(node.module) for name in names}
    return frozenset(found)


def test_every_module_has_its_place() -> None:
    """A new module must be given a layer, and a removed one taken out."""
    assert set(ROW) == set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    """A module imports only from layers below its own."""
    ours = {name for name in _imports(module) if name.partition(".")[0] in ("proxy", "schemas", "wsgi")}
    assert not {name for name in ours if ROW[name] >= ROW[module]}


@pytest.mark.parametrize("package", [name for names in KEPT for name in names.split()])
def test_packages_are_kept_to_their_place(package: str) -> None:
    """Flask, nats, loops, threads, locks and logs are used where the layers allow it, nowhere else."""
    allowed = next(modules.split() for names, modules in KEPT.items() if package in names.split())
    users = {module for module in MODULES if any(name.split(".")[0] == package for name in _imports(module))}
    assert users <= set(allowed)


def test_the_loops_half_of_the_bridge_takes_no_lock() -> None:
    """The bridge's one lock is for callers: what runs on the asyncio thread must never wait for one."""
    users = {
        function.name
        for function in _nodes(ast.parse(MODULES["proxy.bridge"].read_text()))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if (isinstance(node, ast.Attribute) and node.attr == "_admission")
        or (isinstance(node, ast.Name) and node.id == "_thread")
    }
    assert users <= {"__init__", "_admit", "_original"}


@pytest.mark.parametrize("module", [name for name in MODULES if name not in ("wsgi", "gunicorn.conf")])
def test_nothing_happens_at_import(module: str) -> None:
    """The environment is read by the application's start alone, and no import reads it."""
    tree = ast.parse(MODULES[module].read_text())
    top = [node for statement in tree.body if not _is_definition(statement) for node in ast.walk(statement)]
    assert not [node for node in top if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")]


def _is_definition(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def test_errors_come_from_their_module() -> None:
    """What they have in common is kept apart for its length alone: nobody else looks there."""
    assert [module for module in MODULES if "proxy.failures" in _imports(module)] == ["proxy.errors"]
