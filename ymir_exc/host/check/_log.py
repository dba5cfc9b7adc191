"""The container's log and the TensorBoard folder (contract 8.4)."""
from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Iterator, List, Optional

from ymir_exc.host.check import _context
from ymir_exc.host.check._context import Meter
from ymir_exc.host.findings import Finding, Severity, rule

_W, _N = Severity.WARNING, Severity.NOTE

M520 = rule("M520", _W, "The log is UTF-8", "After a failure the platform cannot show its end, and older ones do not save the models",
            "Set PYTHONIOENCODING=utf-8, and print no raw bytes")
M521 = rule("M521", _W, "The folder tensorboard of a training stays a folder", "Its curves are lost",
            "Write into it; never delete or replace it")
M522 = rule("M522", _N, "A training leaves TensorBoard events", "The platform shows no curves",
            "Write event files to the tensorboard_dir of env.yaml")
M523 = rule("M523", _W, "An event file is whole, record by record", "TensorBoard stops reading where it is torn",
            "Close or flush the writer before the program ends")
M524 = rule("M524", _W, "An event file is a regular file, no link", "Its target is not there when the platform reads it",
            "Write it in the folder itself")

LOG = "ymir-executor-out.log"
_HEADER = struct.Struct("<QI")
_CRC = 4
_MASK = 0xA282EAD8


def check_log(out: Path, meter: Meter) -> Iterator[Finding]:
    """Judge the log, where there is one.

    Args:
        out: The task's `out` folder.
        meter: Is told the bytes read.
    """
    path = out / LOG
    if path.is_file():
        line = _context.first_bad_line(path, meter.add)
        if line is not None:
            yield M520.found("holds bytes that are not UTF-8", str(path), line=line)


def check_tensorboard(folder: Path) -> Iterator[Finding]:
    """Judge what a training left for TensorBoard. The platform's own executor.log there may be a link to nowhere."""
    if not folder.is_dir():
        yield M521.found("is no folder" if _context.is_there(folder) else "there is none", str(folder))
        return
    files = [Path(place) / name for place, _, names in os.walk(folder) for name in sorted(names) if "tfevents" in name]
    if not files:
        yield M522.found("holds no event file, which has tfevents in its name", str(folder))
    for path in files:
        if path.is_symlink() or not path.is_file():
            yield M524.found(f"is {'a link' if path.is_symlink() else 'no file'}", str(path))
            continue
        fault = _fault(path)
        if fault is not None:
            yield M523.found(fault, str(path))


def _fault(path: Path) -> Optional[str]:
    """What is wrong with the framing of the records; what they hold is not looked at."""
    size, place, number, table = path.stat().st_size, 0, 0, _table()
    with open(path, "rb") as f:
        while place < size:
            f.seek(place)
            header = f.read(_HEADER.size)
            if len(header) < _HEADER.size:
                return f"record {number} is cut off"
            length, check = _HEADER.unpack(header)
            if _masked_crc(header[:8], table) != check:
                return f"record {number} does not begin as one"
            place += _HEADER.size + length + _CRC
            number += 1
    return f"record {number - 1} is cut off" if place > size else None


def _table() -> List[int]:
    """Of CRC-32C."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


def _masked_crc(data: bytes, table: List[int]) -> int:
    """The check sum as TFRecord files hold it: turned by 15 bits, plus a constant."""
    value = 0xFFFFFFFF
    for byte in data:
        value = (value >> 8) ^ table[(value ^ byte) & 0xFF]
    value ^= 0xFFFFFFFF
    return ((value >> 15 | value << 17) + _MASK) & 0xFFFFFFFF
