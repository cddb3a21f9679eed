"""Bounds what reading a payload can cost, before it is read.

Two bytes are a whole message for the wire format (`0a 00`, an empty one), and take as much memory as a full one of
their type: eight bytes or sixteen for each field that is declared, up to 64 KiB. So a payload of a few MiB could ask
for gigabytes. What is counted here is an upper bound, first roughly and at the speed of C, then exactly.
"""

from __future__ import annotations

from itertools import islice

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from proxy.validators.protobuf_descriptors import inner_messages, reachable
from proxy.validators.protobuf_wire import LENGTH, START_GROUP, Malformed, Walk

MAX_MEMORY_BYTES = 128 * 1024 * 1024
MAX_FIELDS_READ = 50_000
_MESSAGE_BYTES = 64
_FIELD_BYTES = 8
_TEXT_BYTES = 16
# A list or map is an object of its own, made when its first element is read.
_LIST_BYTES = 64
_MAP_BYTES = 160


class Weights:
    """What messages inside of a message of this type weigh, in bytes of memory.

    Payloads of up to `light` bytes cannot be too heavy.
    """

    def __init__(self, root: Descriptor) -> None:
        types = reachable(root)
        inner = [pair for one in types for pair in inner_messages(one)]
        self._root = root
        self._of = {one.full_name: _weight(one) for one in types}
        self._heaviest = max((self._of[type_.full_name] for _, type_ in inner), default=0)
        self._first_bytes = bytes({byte for field, _ in inner for byte in _first_bytes(field)})
        self.light = 2 * MAX_MEMORY_BYTES // self._heaviest if self._heaviest else MAX_MEMORY_BYTES

    def too_heavy(self, payload: bytes) -> bool:
        """Whether reading the payload would take too much memory, or cannot be told to take less."""
        # Each message begins with a tag, so there are at most as many as there are bytes that a tag can begin with.
        most = len(payload) - len(payload.translate(None, self._first_bytes))
        return most * self._heaviest > MAX_MEMORY_BYTES and not self._is_light(payload)

    def _is_light(self, payload: bytes) -> bool:
        weight = 0
        walk = iter(Walk(payload, self._root))
        try:
            for part in islice(walk, MAX_FIELDS_READ):
                if part.known is not None and part.known.inner is not None:
                    weight += self._of[part.known.inner.full_name]
                if weight > MAX_MEMORY_BYTES:
                    return False
            return next(walk, None) is None
        except Malformed:
            return True  # the parser goes no further either


def _weight(type_: Descriptor) -> int:
    return _MESSAGE_BYTES + sum(map(_weight_of_field, type_.fields))


def _weight_of_field(field: FieldDescriptor) -> int:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return _FIELD_BYTES + _MAP_BYTES
    if field.is_repeated:
        return _FIELD_BYTES + _LIST_BYTES
    return _TEXT_BYTES if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES) else _FIELD_BYTES


def _first_bytes(field: FieldDescriptor) -> tuple[int, int]:
    """The bytes that its tag can begin with: the low bits of it, with or without a sign that more follow."""
    wire = START_GROUP if field.type == FieldDescriptor.TYPE_GROUP else LENGTH
    low = (field.number << 3 | wire) & 0x7F
    return low, low | 0x80
