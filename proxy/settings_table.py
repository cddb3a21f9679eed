"""The settings as `README.md` lists them."""

from __future__ import annotations

import dataclasses
from typing import Any

from proxy.config import Config


def settings_table() -> str:
    """The settings as a Markdown table, for `README.md`."""
    lines = ["| Variable | Default | Meaning |", "| --- | --- | --- |"]
    for field in dataclasses.fields(Config):
        shown = field.metadata["shown"] or _shown(field.default)
        name = f"`{field.metadata['env']}`" + (" (or `_FILE`)" if field.metadata["secret"] else "")
        lines.append(f"| {name} | {shown} | {field.metadata['meaning']} |")
    return "\n".join(lines) + "\n"


def _shown(default: Any) -> str:
    if default == "" or default == ():
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return "`" + ", ".join(default) + "`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"
