"""Tells how deep the messages of a payload nest."""

from __future__ import annotations

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.message import DecodeError, Message

from proxy.validators.protobuf_descriptors import inner_messages, reachable


class Depth:
    """Tells payloads of a message type that nest deeper than `most` messages in each other."""

    # The parser's own limit. Around a payload these groups take up what is not allowed to it.
    _LIMIT = 100

    def __init__(self, root: Descriptor, most: int) -> None:
        around = self._LIMIT - most - 1
        self._before = b"\x0b" * around + b"\x13"
        self._after = b"\x14" + b"\x0c" * around
        self._most = most
        self._wrapper = _wrapper(root) if _nests_deeper(root, most) else None

    def exceeded(self, payload: bytes) -> bool:
        """Whether a payload, which is known to be well-formed, nests deeper."""
        if self._wrapper is None or len(payload) <= 2 * self._most:
            return False
        try:
            self._wrapper.FromString(self._before + payload + self._after)
        except DecodeError:
            return True
        return False


def _nests_deeper(root: Descriptor, most: int) -> bool:
    inner = {one.full_name: {type_.full_name for _, type_ in inner_messages(one)} for one in reachable(root)}
    level = {root.full_name}
    for _ in range(most + 1):
        level = set().union(*(inner[name] for name in level))
    return bool(level)


def _wrapper(root: Descriptor) -> type[Message]:
    """A message type with a group of itself, numbered 1, and one of `root`, numbered 2."""
    file = FileDescriptorProto(name="stations/wrapper.proto", package="stations.wrapper", dependency=[root.file.name])
    message = file.message_type.add(name="Wrapper")
    for number, type_name in enumerate((".stations.wrapper.Wrapper", f".{root.full_name}"), 1):
        message.field.add(
            name=f"group{number}",
            number=number,
            type_name=type_name,
            type=FieldDescriptorProto.TYPE_GROUP,
            label=FieldDescriptorProto.LABEL_OPTIONAL,
        )
    root.file.pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(root.file.pool.FindMessageTypeByName("stations.wrapper.Wrapper"))
