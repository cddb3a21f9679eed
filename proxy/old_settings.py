"""`conf/config.json`: where Memphis' gateway had its settings, below the environment.

It is read when it is there, in the working directory as ever. What a variable of the environment says counts more. Only
the settings of that gateway are taken from it, in the letter case that they have; others in it mean nothing, as they
did there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proxy.config import Config
from proxy.errors import BadSetting

FILE = Path("conf", "config.json")
NAMES = {
    "CLIENT_CERT_PATH",
    "CLIENT_KEY_PATH",
    "CONNECTION_TOKEN",
    "DEBUG",
    "DEV_ENV",
    "HTTP_PORT",
    "JWT_EXPIRES_IN_MINUTES",
    "JWT_SECRET",
    "MEMPHIS_HOST",
    "MEMPHIS_PORT",
    "REFRESH_JWT_EXPIRES_IN_MINUTES",
    "REFRESH_JWT_SECRET",
    "ROOT_CA_PATH",
    "ROOT_PASSWORD",
    "ROOT_USER",
    "USER_PASS_BASED_AUTH",
}
_LARGEST = 64 << 10


def read_settings(environ: Mapping[str, str], file: Path = FILE) -> Config:
    """The settings of the environment and, below it, of the file. Raises `BadSetting`, which names file and key."""
    kept = {name: text for name, text in _texts(file).items() if not _says(environ, name)}
    try:
        return Config.from_environ({**environ, **kept})
    except BadSetting as error:
        if error.variable in kept:
            raise BadSetting(f"{error.variable} in {file}", error.must) from None
        raise


def _says(environ: Mapping[str, str], name: str) -> bool:
    return bool(environ.get(name) or environ.get(f"{name}_FILE"))


def _texts(file: Path) -> dict[str, str]:
    """The file's settings as the environment would have them; none without a file."""
    try:
        settings = json.loads(_content(file))
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise BadSetting(str(file), "a JSON object of settings, in UTF-8")
    return {name: _text(file, name, value) for name, value in settings.items() if name in NAMES}


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(_LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        return b"{}"
    except OSError as error:
        raise BadSetting(str(file), f"a file that can be read: {error.strerror}") from None
    if len(content) > _LARGEST:
        raise BadSetting(str(file), f"a file of {_LARGEST} bytes at most")
    return content


def _text(file: Path, name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (dict, list)):
        raise BadSetting(f"{name} in {file}", "a text, a number, true or false")
    return value if isinstance(value, str) else json.dumps(value)
