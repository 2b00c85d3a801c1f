"""Reads the scalars in TensorBoard's event files, without TensorBoard or TensorFlow.

A file is a sequence of records: length (8 bytes), its masked CRC-32C (4), content (length), its CRC (4). The content is
a protocol buffer `Event`. This module describes only the fields of scalars; protobuf skips the others.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlresearch.errors import RunError
from rlresearch.optional import import_optional

_LARGEST = 1 << 28  # bytes of a record; a scalar needs some 50
_KINDS = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8"}  # TensorFlow's DataType
# name: {field: (number, type)}; a type is one of protobuf's types or another message of this table.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "Tensor": {
        **{"dtype": (1, "int32"), "tensor_content": (4, "bytes"), "float_val": (5, "float*")},
        **{"double_val": (6, "double*"), "int_val": (7, "int32*"), "int64_val": (10, "int64*")},
    },
    "Value": {"tag": (1, "string"), "simple_value": (2, "float"), "tensor": (8, "Tensor")},
    "Summary": {"value": (1, "Value*")},
    "Event": {"wall_time": (1, "double"), "step": (2, "int64"), "summary": (5, "Summary")},
}


class Scalar(NamedTuple):
    """One number of an event file. wall_time: seconds since 1970."""

    tag: str
    step: int
    wall_time: float
    value: float


def scalars(path: Path) -> Iterator[Scalar]:
    """Yields the scalars of a file in order, up to an incomplete last record. Errors: RunError for a wrong file."""
    event_of, errors = _event(), import_optional("google.protobuf.message", "import of event files")
    for number, content in enumerate(_records(path), start=1):
        try:
            event = event_of.FromString(content)
        except errors.DecodeError as error:
            raise RunError(f"{path}, record {number}: {error}") from error
        for each in event.summary.value:
            value = each.simple_value if each.HasField("simple_value") else _number(each.tensor)
            if value is not None:
                yield Scalar(each.tag, event.step, event.wall_time, value)


def _records(path: Path) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            while len(head := file.read(12)) == 12:
                length, check = struct.unpack("<QI", head)
                if masked_crc32c(crc32c(head[:8])) != check or length > _LARGEST:
                    raise RunError(f"{path}: is damaged, or no event file of TensorBoard.")
                content = file.read(length + 4)
                if len(content) < length + 4:
                    return
                yield content[:-4]
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from error


def _number(tensor: Any) -> float | None:
    """Returns the number in a tensor with exactly one number, else None."""
    kind = _KINDS.get(tensor.dtype)
    if kind and len(tensor.tensor_content) == np.dtype(kind).itemsize:
        return float(np.frombuffer(tensor.tensor_content, kind)[0])
    for values in (tensor.float_val, tensor.double_val, tensor.int_val, tensor.int64_val):
        if len(values) == 1:
            return float(values[0])
    return None


@cache
def _event() -> Any:
    """Returns the class of the message `Event`, made from the table above."""
    kinds = import_optional("google.protobuf.descriptor_pb2", "import of event files")
    file = kinds.FileDescriptorProto(name="rlresearch_events.proto", package="rlresearch_events", syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            one = kinds.FieldDescriptorProto
            label = one.LABEL_REPEATED if kind.endswith("*") else one.LABEL_OPTIONAL
            made = message.field.add(name=field, number=number, label=label)
            plain = kind.rstrip("*")
            if plain in _MESSAGES:
                made.type, made.type_name = one.TYPE_MESSAGE, f".rlresearch_events.{plain}"
            else:
                made.type = getattr(one, f"TYPE_{plain.upper()}")
                made.options.packed = kind in ("float*", "double*", "int32*", "int64*")
    pool = import_optional("google.protobuf.descriptor_pool", "import of event files").DescriptorPool()
    pool.Add(file)
    factory = import_optional("google.protobuf.message_factory", "import of event files")
    return factory.GetMessageClass(pool.FindMessageTypeByName("rlresearch_events.Event"))


def masked_crc32c(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(content: bytes) -> int:
    """Returns the CRC-32C (Castagnoli) of `content`; slow, for the eight bytes of a length only."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
