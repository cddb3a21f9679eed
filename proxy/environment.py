"""What a variable of the environment says: its text, or that of a file which it names, and the value of that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from proxy.errors import BadSetting

_LARGEST_SECRET = 64 << 10


def read(environ: Mapping[str, str], variable: str, secret: bool) -> str:
    """The text of a variable, empty without one; a secret may stand in the file that `<NAME>_FILE` names.

    Raises `BadSetting` when that file has none.
    """
    path = environ.get(f"{variable}_FILE", "") if secret else ""
    if environ.get(variable) or not path:
        return environ.get(variable, "")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_LARGEST_SECRET).strip("\r\n")
    except (OSError, UnicodeDecodeError):
        text = ""
    if not text:
        raise BadSetting(f"{variable}_FILE", "a file with the secret in it, which can be read")
    return text


def parse_as(variable: str, parse: Callable[[str], Any], text: str) -> Any:
    """The value of a text. Raises `BadSetting` with the variable's name, and what it must be."""
    try:
        text.encode()
        return parse(text)
    except UnicodeEncodeError:
        raise BadSetting(variable, "text in UTF-8") from None
    except ValueError as error:
        raise BadSetting(variable, str(error)) from None
