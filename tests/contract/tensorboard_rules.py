"""TensorBoard event files, read by hand down to the tags: contract 8.4."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Iterator, Set, Tuple, Union

from .reading import At


def accept_tensorboard(out: Path) -> Tuple[int, Set[str]]:
    """Read every event file below ``out/tensorboard``: contract 8.4. Returns the number of records and all tags.

    The folder may be a link, and a dangling ``executor.log`` in it is tolerated, contract 1.2.
    """
    root = Path(out) / "tensorboard"
    at = At("8.4", "tensorboard")
    at.require(root.is_dir(), "is not a folder")
    files = [Path(folder) / name for folder, _, names in os.walk(str(root)) for name in names if "tfevents" in name]
    at.require(files, "has no event file (a name with `tfevents`)")
    total, tags = 0, set()
    for path in sorted(files):
        here = At("8.4", path.relative_to(out).as_posix())
        here.require(path.is_file() and not path.is_symlink(), "is not a regular file")
        for number, record in enumerate(_records(here, path.read_bytes())):
            total += 1
            try:
                tags |= _event_tags(record)
            except ValueError as error:
                here.item(f"record {number}").refuse(f"is not an event: {error}")
    at.require(total, "no event file holds a record")
    return total, tags


def _records(at: At, data: bytes) -> Iterator[bytes]:
    """TFRecord framing: length (uint64, little endian), its CRC, the data, its CRC."""
    offset, number = 0, 0
    while offset < len(data):
        here = at.item(f"record {number}")
        header = data[offset : offset + 12]
        here.require(len(header) == 12, "the header is cut off")
        length, length_crc = struct.unpack("<QI", header)
        here.require(masked_crc32c(header[:8]) == length_crc, "the CRC of the length is wrong")
        body = data[offset + 12 : offset + 12 + length + 4]
        here.require(len(body) == length + 4, "the data are cut off")
        here.require(masked_crc32c(body[:-4]) == struct.unpack("<I", body[-4:])[0], "the CRC of the data is wrong")
        yield body[:-4]
        offset += 16 + length
        number += 1


def _crc_table() -> Tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli, reflected polynomial 0x82F63B78)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = (value >> 8) ^ _CRC_TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def masked_crc32c(data: bytes) -> int:
    """The masked form that TFRecord stores: rotated right by 15 bits, plus a constant."""
    value = crc32c(data)
    return (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _event_tags(record: bytes) -> Set[str]:
    """Tags of one ``Event``: summary (5) -> value (1) -> tag (1). Its wall time (1) must be there, as a double."""
    tags: Set[str] = set()
    wire_types = {1: 1, 2: 0, 3: 2, 4: 2, 5: 2}
    timed = False
    for number, wire, value in _wire_fields(record):
        if wire != wire_types.get(number, wire):
            raise ValueError(f"field {number} has wire type {wire}")
        timed = timed or number == 1
        if number == 5 and isinstance(value, bytes):
            for inner, _, summary_value in _wire_fields(value):
                if inner == 1 and isinstance(summary_value, bytes):
                    tags |= {
                        tag.decode("utf-8")
                        for name, _, tag in _wire_fields(summary_value)
                        if name == 1 and isinstance(tag, bytes)
                    }
    if not timed:
        raise ValueError("it has no wall time")
    return tags


def _wire_fields(data: bytes) -> Iterator[Tuple[int, int, Union[int, bytes]]]:
    """Field number, wire type and raw value of each field of a protobuf message."""
    offset = 0
    while offset < len(data):
        key, offset = _varint(data, offset)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, offset = _varint(data, offset)
            yield number, wire, value
            continue
        if wire == 2:
            length, offset = _varint(data, offset)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} does not occur in events")
        if number == 0 or offset + length > len(data):
            raise ValueError("a field is cut off")
        yield number, wire, data[offset : offset + length]
        offset += length


def _varint(data: bytes, offset: int) -> Tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if offset >= len(data):
            raise ValueError("a number is cut off")
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
    raise ValueError("a number is longer than ten bytes")
