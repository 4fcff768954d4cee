"""XMP: the digital source type of IPTC, the program, the credit line, the camera, and where a manifest is kept.

It is read by expat. A document type, without which there are no entities to expand, is refused.
"""

from __future__ import annotations

from typing import NoReturn
from xml.parsers import expat

from gapl.origin.finding import C2PA, IPTC, NOT_READ, UNCLEAR, XMP, Finding, found
from gapl.origin.names import of_credit, of_device, of_program, of_source_type, short_source_type

MAX_BYTES = 1 << 20
MAX_DEPTH = 100
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_FIELDS = {
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/ DigitalSourceType": "Iptc4xmpExt:DigitalSourceType",
    "http://ns.adobe.com/xap/1.0/ CreatorTool": "xmp:CreatorTool",
    "http://ns.adobe.com/photoshop/1.0/ Credit": "photoshop:Credit",
    "http://ns.adobe.com/tiff/1.0/ Make": "tiff:Make",
    "http://ns.adobe.com/tiff/1.0/ Model": "tiff:Model",
    "http://purl.org/dc/terms/ provenance": "dcterms:provenance",
}


def read_xmp(packet: bytes) -> list[Finding]:
    """Return what an XMP packet says. Of one that is damaged, what stands before the damage."""
    packet = packet.strip(b"\0 \r\n\t")
    if not packet:
        return []
    if len(packet) > MAX_BYTES:
        return [found(XMP, "packet", UNCLEAR, text=f"{len(packet):,} bytes, which are too many and were not read")]
    reader = _Reader()
    try:
        reader.read(packet)
        damage = []
    except (expat.ExpatError, ValueError, LookupError) as error:
        damage = [found(XMP, "packet", UNCLEAR, text=f"damaged: {error}")]
    return [*_findings(reader.values), *damage]


def _findings(values: dict[str, str]) -> list[Finding]:
    device = " ".join(filter(None, (values.pop("tiff:Make", ""), values.pop("tiff:Model", ""))))
    findings = [found(XMP, "tiff:Make, tiff:Model", of_device(device), name=device)] if device else []
    for field, text in values.items():
        if field == "Iptc4xmpExt:DigitalSourceType":
            findings.append(found(IPTC, field, of_source_type(text), text=short_source_type(text)))
        elif field == "xmp:CreatorTool":
            findings.append(found(XMP, field, of_program(text), name=text, text=text))
        elif field == "photoshop:Credit" and (says := of_credit(text)):
            findings.append(found(XMP, field, says, name=text, text=text))
        elif field == "dcterms:provenance" and text.lower().startswith(("http://", "https://")):
            findings.append(
                found(C2PA, field, UNCLEAR, text=f"kept elsewhere, not fetched: {text}", signature=NOT_READ)
            )
    return findings


class _Reader:
    """Takes the fields of _FIELDS from a packet, whether they are elements, lists or attributes."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self._above: list[str] = []  # the fields of the open elements, empty for others
        self._text: list[str] = []

    def read(self, packet: bytes) -> None:
        """Read a packet. Raises ExpatError or ValueError when it is damaged or has a document type."""
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.StartDoctypeDeclHandler = _refuse
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text.append
        parser.Parse(packet, True)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._above) == MAX_DEPTH:
            raise ValueError("too many elements inside one another")
        field = _FIELDS.get(name, "")
        for key, value in attributes.items():
            self._keep(field if key == f"{_RDF} resource" else _FIELDS.get(key, ""), value)
        self._above.append(field)
        if field:
            self._text.clear()

    def _end(self, _name: str) -> None:
        if field := self._above.pop():
            self._keep(field, "".join(self._text))

    def _keep(self, field: str, value: str) -> None:
        if field and value.strip():
            self.values.setdefault(field, value.strip())


def _refuse(*_doctype: object) -> NoReturn:
    raise ValueError("a document type, which XMP never has")
