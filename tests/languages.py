"""A language of schemas for tests that are about schemas and not about any language of them."""

from __future__ import annotations

import time

from proxy.errors import BadSchema
from proxy.messages import Demand, Schema
from proxy.validators import Violation


class Words:
    """Payloads must hold each word of the definition. `slow` makes a check take a millisecond; `bad` compiles nowhere.

    Its module's name in `VALIDATORS` is `tests.languages:Words`.
    """

    label = "words"
    compiled = 0

    def __init__(self, schema: Schema) -> None:
        type(self).compiled += 1
        if "bad" in schema.definition:
            raise BadSchema("line 1: a bad word")
        self._words = schema.definition.split()

    @staticmethod
    def prepare(schema: Schema) -> Schema:
        """The schema as it is."""
        Words(schema)
        return schema

    def violations(self, payload: bytes) -> list[Violation]:
        """The words that are missing."""
        if "slow" in self._words:
            until = time.perf_counter() + 0.001
            while time.perf_counter() < until:
                pass
        text = payload.decode(errors="replace")
        return [
            Violation(f"/{word}", "word", f"{word} is missing in {text}")
            for word in self._words
            if word not in text and word != "slow"
        ]


def words(definition: str, *, dead_letter: bool = False) -> Demand:
    """A station's demand for these words."""
    return Demand(name="words", version=3, schema=Schema(type="words", definition=definition), dead_letter=dead_letter)
