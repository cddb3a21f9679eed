"""The program that runs protoc for `proxy.validators.protoc`, in the directory with the definition.

It takes no arguments: `schema.proto` becomes `compiled`. It sets its own limits, since a parent that has threads or
greenlets cannot safely run Python between fork and exec.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from importlib import resources

UNAVAILABLE = 70  # EX_SOFTWARE of sysexits.h
_LIMITS = {
    "RLIMIT_AS": 512 * 1024 * 1024,
    "RLIMIT_CPU": 5,
    "RLIMIT_FSIZE": 8 * 1024 * 1024,
    "RLIMIT_CORE": 0,
}


def main() -> int:
    """Compiles; the exit status is protoc's own, or `UNAVAILABLE`."""
    try:
        from grpc_tools import _protoc_compiler
    except ImportError:
        return UNAVAILABLE
    types = str(resources.files("grpc_tools") / "_proto")
    limit()
    arguments = ["protoc", "-I.", f"-I{types}", "--include_imports", "--descriptor_set_out=compiled", "schema.proto"]
    return int(_protoc_compiler.run_main([argument.encode() for argument in arguments]))


def limit() -> None:
    """Lowers the limits of this process, for good."""
    for name, most in _LIMITS.items():
        _lower(getattr(resource, name), most)


def _lower(which: int, most: int) -> None:
    hard = resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    with contextlib.suppress(ValueError):  # macOS knows RLIMIT_AS, and refuses to set it
        resource.setrlimit(which, (most, most))


if __name__ == "__main__":
    sys.exit(main())
