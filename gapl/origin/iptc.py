"""IPTC's older records (IIM), which stand in a JPEG, a TIFF or a PNG: the credit line and the program."""

from __future__ import annotations

from gapl.origin.finding import IPTC, Finding, found
from gapl.origin.names import of_credit, of_program

MAX_RECORDS = 1000
_PROGRAM, _CREDIT = (2, 65), (2, 110)
_RESOURCE = b"8BIM\x04\x04"  # where Photoshop keeps the records


def read_iptc(block: bytes) -> list[Finding]:
    """Return what the records say, which may stand in a resource of Photoshop."""
    findings = []
    for number, value in _records(_unpacked(block)):
        text = value.decode(errors="replace").strip("\0 ")
        if number == _PROGRAM and text:
            findings.append(found(IPTC, "OriginatingProgram", of_program(text), name=text, text=text))
        elif number == _CREDIT and (says := of_credit(text)):
            findings.append(found(IPTC, "Credit", says, name=text, text=text))
    return findings


def _unpacked(block: bytes) -> bytes:
    start = block.find(_RESOURCE)
    if start < 0:
        return block
    name = start + len(_RESOURCE)
    padded = (block[name] // 2 + 1) * 2 if name < len(block) else 2  # the name and its length
    size = int.from_bytes(block[name + padded : name + padded + 4])
    return block[name + padded + 4 :][:size]


def _records(block: bytes) -> list[tuple[tuple[int, int], bytes]]:
    records: list[tuple[tuple[int, int], bytes]] = []
    at = 0
    while block[at : at + 1] == b"\x1c" and at + 5 <= len(block) and len(records) < MAX_RECORDS:
        size = int.from_bytes(block[at + 3 : at + 5])
        records.append(((block[at + 1], block[at + 2]), block[at + 5 : at + 5 + size]))
        at += 5 + size
    return records
