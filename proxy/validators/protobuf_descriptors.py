"""From a serialized `FileDescriptorSet` to a message type, in a descriptor pool of its own."""

from __future__ import annotations

from importlib import import_module

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from proxy.errors import BadSchema
from proxy.validators.protobuf_files import joined, messages, read

MAX_CHAIN = 150
_MAX_NAMES_TOLD = 10

# What the library itself has, for sets without their imports.
_OWN = (
    *("any", "api", "descriptor", "duration", "empty", "field_mask"),
    *("source_context", "struct", "timestamp", "type", "wrappers"),
)


def load(compiled: bytes, name: str) -> Descriptor:
    """The message type of that name, nested ones with dots, with or without the package; "": the first.

    It is in a pool of its own, so nothing that another schema says has to do with it, and all goes when it goes.
    The definition is the last file of the set; imports may be missing if they are well-known types.
    Raises `BadSchema` for what is beyond the bounds, and what the library raises for what contradicts itself.
    """
    files = read(compiled)
    descriptor = _pool(files).FindMessageTypeByName(_full_name(files[-1], name))
    _check_chains(descriptor)
    return descriptor


def reachable(descriptor: Descriptor) -> list[Descriptor]:
    """All message types that may be in a message of this type, itself first; extensions are fields too."""
    found = {descriptor.full_name: descriptor}
    waiting = [descriptor]
    while waiting:
        inner = [type_ for _, type_ in inner_messages(waiting.pop())]
        waiting += {one.full_name: one for one in inner if one.full_name not in found}.values()
        found |= {one.full_name: one for one in inner}
    return list(found.values())


def fields(descriptor: Descriptor) -> list[FieldDescriptor]:
    """The fields of a message, and its extensions as far as the schema knows them."""
    return [*descriptor.fields, *descriptor.file.pool.FindAllExtensions(descriptor)]


def inner_messages(descriptor: Descriptor) -> list[tuple[FieldDescriptor, Descriptor]]:
    """The fields of a message that hold messages, with the types of these."""
    return [(field, field.message_type) for field in fields(descriptor) if field.message_type is not None]


def _full_name(file: FileDescriptorProto, name: str) -> str:
    names = [one.name for one in messages(file) if not one.proto.options.map_entry]
    if not names:
        raise BadSchema("the definition has no message")
    for candidate in (joined(file.package, name), name) if name else names[:1]:
        if candidate in names:
            return candidate
    told = ", ".join(one[:100] for one in names[:_MAX_NAMES_TOLD]) + (", ..." if names[_MAX_NAMES_TOLD:] else "")
    raise BadSchema(f"message_struct_name: the definition has no message of that name; it has {told}")


def _pool(files: list[FileDescriptorProto]) -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    there = {file.name for file in files}
    for file in files:
        for path in file.dependency:
            _add_own(pool, path, there)
        pool.AddSerializedFile(file.SerializeToString())
    return pool


def _add_own(pool: descriptor_pool.DescriptorPool, path: str, there: set[str]) -> None:
    """Adds the library's own file of that path, and what it imports, if it is a well-known one that is missing."""
    name = path.removeprefix("google/protobuf/").removesuffix(".proto")
    if path in there or name not in _OWN:
        return
    there.add(path)
    file = import_module(f"google.protobuf.{name}_pb2").DESCRIPTOR
    for needed in file.dependencies:
        _add_own(pool, needed.name, there)
    pool.AddSerializedFile(file.serialized_pb)


def _check_chains(descriptor: Descriptor) -> None:
    """Follows references as the library does when it makes classes, which it does by recursion in Python."""
    seen = {descriptor.full_name}
    stack = [iter(_references(descriptor))]
    while stack:
        if len(stack) > MAX_CHAIN:
            raise BadSchema(f"messages refer to each other in a chain of more than {MAX_CHAIN}")
        following = next((one for one in stack[-1] if one.full_name not in seen), None)
        if following is None:
            stack.pop()
        else:
            seen.add(following.full_name)
            stack.append(iter(_references(following)))


def _references(descriptor: Descriptor) -> list[Descriptor]:
    extended = [
        one for extension in descriptor.extensions for one in (extension.containing_type, extension.message_type)
    ]
    return [one for one in [field.message_type for field in descriptor.fields] + extended if one is not None]
