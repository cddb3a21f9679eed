"""Checks definitions against the meta-schemas of JSON Schema, with the `jsonschema` package.

Apart from the other modules since it is imported only where schemas are registered.
"""

from __future__ import annotations

from typing import Any

import jsonschema
from jsonschema.exceptions import best_match

from proxy.errors import BadSchema
from proxy.validators import MAX_MESSAGE_CHARACTERS
from proxy.validators.json_definition import Draft, pointer

_CLASSES = {
    "4": jsonschema.Draft4Validator,
    "6": jsonschema.Draft6Validator,
    "7": jsonschema.Draft7Validator,
    "2019-09": jsonschema.Draft201909Validator,
    "2020-12": jsonschema.Draft202012Validator,
}


def check_meta_schema(draft: Draft, document: Any) -> None:
    """Raises `BadSchema` with the place and the reason. The patterns are left to the engine that will run them."""
    cls = _CLASSES[draft.name]
    error = best_match(cls(cls.META_SCHEMA).iter_errors(document))
    if error is not None:
        message = (
            error.message if len(error.message) <= MAX_MESSAGE_CHARACTERS else f"does not satisfy {error.validator}"
        )
        raise BadSchema(f"{pointer(error.absolute_path) or 'the definition'}: {message}")
