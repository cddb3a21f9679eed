"""GraphQL: a payload is a document that may be asked of the schema, by the standard's rules for validation.

Nothing is executed; the schema's definition is SDL and brings no code. See docs/decisions/0017.
"""

from __future__ import annotations

from collections.abc import Iterator

from graphql import (
    GraphQLArgument,
    GraphQLError,
    GraphQLInputField,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLSchema,
    build_ast_schema,
    is_input_type,
    parse,
    validate,
    validate_input_literal,
    validate_schema,
)
from graphql.language import (
    DocumentNode,
    ExecutableDefinitionNode,
    ParallelVisitor,
    TypeDefinitionNode,
    TypeExtensionNode,
    visit,
)
from graphql.validation import OverlappingFieldsCanBeMergedRule, ValidationContext, specified_rules
from graphql.validation.specified_rules import specified_sdl_rules
from graphql.validation.validate import ValidationAbortedError
from graphql.validation.validation_context import SDLValidationContext

from proxy.errors import BadSchema
from proxy.messages import Schema
from proxy.validators import MAX_DEFINITION_BYTES, MAX_MESSAGE_CHARACTERS, MAX_VIOLATIONS, Violation
from proxy.validators.graphql_shapes import Shapes, shape_of

MAX_DEFINITION_TOKENS = 5_000
MAX_DEFINITION_COMMENTS = 1_000
MAX_DOCUMENT_BYTES = 64 * 1024
MAX_DOCUMENT_TOKENS = 1_500
MAX_COMPARISONS = 30_000
MAX_COMMENTS = 200

# Shared by all schemas, so that its bound is one of the process.
_valid = Shapes()


class GraphQL:
    """A compiled GraphQL schema."""

    label = "graphql"

    def __init__(self, schema: Schema) -> None:
        try:
            self._schema = _schema_of(schema.definition)
        except GraphQLError as error:
            raise BadSchema(_told(error)) from None
        except RecursionError:
            raise BadSchema("the definition is nested too deeply") from None
        self._identity = Shapes.identity(schema.definition)

    @staticmethod
    def prepare(schema: Schema) -> Schema:
        """The schema as it is, checked in full. Raises `BadSchema`."""
        GraphQL(schema)
        return schema

    def violations(self, payload: bytes) -> list[Violation]:
        """What is wrong with a document, with line and column; syntax errors come alone."""
        if len(payload) > MAX_DOCUMENT_BYTES:
            return [Violation("", "size", f"the document is larger than {MAX_DOCUMENT_BYTES} bytes")]
        try:
            text = payload.decode()
        except UnicodeDecodeError as error:
            return [Violation("", "syntax", f"the document is not UTF-8 (byte {error.start})")]
        shape = shape_of(text)
        if shape is None:
            return self._judged(text)
        key = Shapes.key(self._identity, shape)
        if key in _valid:
            return []
        found = self._judged(text)
        if not found:
            _valid.add(key)
        return found

    def _judged(self, text: str) -> list[Violation]:
        try:
            document = parse(
                text,
                max_lexical_tokens=MAX_DOCUMENT_TOKENS,
                max_comments=MAX_COMMENTS,
                allow_empty_selection_sets=False,
            )
        except GraphQLError as error:
            return [_violation(error, "syntax")]
        errors = validate(
            self._schema,
            document,
            _RULES,
            max_errors=MAX_VIOLATIONS,
            hide_suggestions=True,
            allow_empty_selection_sets=False,
        )
        return [_violation(error, "validation") for error in errors]


class _BoundedOverlap(OverlappingFieldsCanBeMergedRule):
    """The one rule whose work is quadratic, with less of it than the library allows: it ends validation then."""

    def __init__(self, context: ValidationContext) -> None:
        super().__init__(context)
        self.rule_context.remaining_complexity_budget = MAX_COMPARISONS


_RULES = [_BoundedOverlap if rule is OverlappingFieldsCanBeMergedRule else rule for rule in specified_rules]


def _schema_of(definition: str) -> GraphQLSchema:
    """The schema of a definition, by all rules for schemas. Raises `BadSchema`, `GraphQLError`."""
    try:
        return _built(_parsed(definition, no_location=True))
    except GraphQLError:
        # Schemas hold on to their nodes, and places make these twice as large: they are for errors alone.
        return _built(_parsed(definition))


def _parsed(definition: str, *, no_location: bool = False) -> DocumentNode:
    """The definition's document. Raises `BadSchema`, `GraphQLError`."""
    try:
        size = len(definition.encode())
    except UnicodeEncodeError:
        raise BadSchema("the definition has a lone surrogate in it") from None
    if size > MAX_DEFINITION_BYTES:
        raise BadSchema(f"the definition is larger than {MAX_DEFINITION_BYTES} bytes")
    document = parse(
        definition,
        no_location=no_location,
        max_lexical_tokens=MAX_DEFINITION_TOKENS,
        max_comments=MAX_DEFINITION_COMMENTS,
    )
    _check_kinds(document)
    return document


def _check_kinds(document: DocumentNode) -> None:
    """Sees that a definition defines types, and extends those of its own alone. Raises `GraphQLError`."""
    nodes = document.definitions
    named = {node.name.value for node in nodes if isinstance(node, TypeDefinitionNode)}
    for node in nodes:
        if isinstance(node, TypeExtensionNode) and node.name.value not in named:
            raise GraphQLError(f"Cannot extend type '{node.name.value}' because it is not defined.", node)
        if isinstance(node, ExecutableDefinitionNode):
            raise GraphQLError("A schema defines types; operations and fragments are for messages.", node)


def _built(document: DocumentNode) -> GraphQLSchema:
    _check_sdl(document)
    schema = build_ast_schema(document, assume_valid_sdl=True)
    _check_defaults(schema)
    for error in validate_schema(schema):
        raise error
    return schema


class _SDLContext(SDLValidationContext):
    """Validation of SDL that offers no similar names: looking for them takes seconds among thousands."""

    hide_suggestions = True


def _check_sdl(document: DocumentNode) -> None:
    """Sees that a definition follows the rules of the SDL, up to the first that it breaks. Raises `GraphQLError`."""

    def end(error: GraphQLError) -> None:
        raise error

    context = _SDLContext(document, None, end)
    visit(document, ParallelVisitor([rule(context) for rule in specified_sdl_rules]))


def _check_defaults(schema: GraphQLSchema) -> None:
    """Sees that default values fit their types, before the library does, which offers similar names for wrong ones."""

    def end(error: GraphQLError, _path: list[str | int]) -> None:
        raise error

    for one in _inputs(schema):
        literal = one.ast_node.default_value if one.ast_node else None
        if literal is not None and is_input_type(one.type):
            validate_input_literal(literal, one.type, end, hide_suggestions=True)


def _inputs(schema: GraphQLSchema) -> Iterator[GraphQLArgument | GraphQLInputField]:
    """All that may have a default value: arguments of fields and directives, fields of input types."""
    for directive in schema.directives:
        yield from directive.args.values()
    for one in schema.type_map.values():
        if isinstance(one, GraphQLInputObjectType):
            yield from one.fields.values()
        elif isinstance(one, GraphQLObjectType | GraphQLInterfaceType):
            for field in one.fields.values():
                yield from field.args.values()


def _violation(error: GraphQLError, keyword: str) -> Violation:
    if isinstance(error, ValidationAbortedError) and "error limit" not in error.message:
        return Violation("", "size", "The document takes too many steps to validate.")
    return Violation(_place(error), keyword, error.message)


def _place(error: GraphQLError) -> str:
    return f"line {error.locations[0].line}, column {error.locations[0].column}" if error.locations else ""


def _told(error: GraphQLError) -> str:
    place = _place(error)
    message = (
        error.message if len(error.message) <= MAX_MESSAGE_CHARACTERS else f"{error.message[:MAX_MESSAGE_CHARACTERS]}…"
    )
    return f"{place}: {message}" if place else message
