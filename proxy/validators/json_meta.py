"""Checks definitions against the meta-schemas of JSON Schema.

jsonschema-rs is quick about those that are valid, and about large ones; what is wrong with others `jsonschema` says
better. Its time grows with the square of some lists, and it lets nobody else run.

Apart from the other modules since it is imported only where schemas are registered.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from typing import Any

import jsonschema
import jsonschema_rs
from jsonschema.exceptions import best_match

from proxy.errors import BadSchema
from proxy.validators import MAX_MESSAGE_CHARACTERS
from proxy.validators.json_definition import Draft, pointer

MAX_TOLD_BYTES = 8 * 1024  # up to which `jsonschema` is asked
MAX_ERRORS = 20  # of which it tells the one that seems best

_CLASSES = {
    "4": jsonschema.Draft4Validator,
    "6": jsonschema.Draft6Validator,
    "7": jsonschema.Draft7Validator,
    "2019-09": jsonschema.Draft201909Validator,
    "2020-12": jsonschema.Draft202012Validator,
}

Error = tuple[Iterable[str | int], str, str]  # the place, the keyword that is not met, and why


def check_meta_schema(draft: Draft, document: Any, size: int) -> None:
    """Raises `BadSchema` with the place and the reason; `size` is that of the document's text.

    The patterns are left to the engine that will run them.
    """
    checker = _checker(draft)
    if checker.is_valid(document):
        return
    error = _told(draft, document) if size <= MAX_TOLD_BYTES else _found(checker, document)
    if error is not None:
        place, keyword, message = error
        shown = message if len(message) <= MAX_MESSAGE_CHARACTERS else f"does not satisfy {keyword}"
        raise BadSchema(f"{pointer(place) or 'the definition'}: {shown}")


@functools.cache
def _checker(draft: Draft) -> Any:
    """Without formats, and with the very meta-schemas that `jsonschema` has: what is valid depends on no size.

    jsonschema-rs by itself would refuse references that are no addresses by the letter: `#/definitions/List[int]`.
    """
    return jsonschema_rs.validator_for(_CLASSES[draft.name].META_SCHEMA, validate_formats=False, offline=True)


def _told(draft: Draft, document: Any) -> Error | None:
    """What `jsonschema` says; nothing where it finds the definition valid."""
    cls = _CLASSES[draft.name]
    error = best_match(itertools.islice(cls(cls.META_SCHEMA).iter_errors(document), MAX_ERRORS))
    return None if error is None else (error.absolute_path, str(error.validator), error.message)


def _found(checker: Any, document: Any) -> Error | None:
    """What jsonschema-rs says."""
    try:
        checker.validate(document)
    except jsonschema_rs.ValidationError as error:
        return error.instance_path, error.kind.name, error.message
    return None
