"""What words in metadata mean: IPTC's types of digital sources, and the names of generators."""

from __future__ import annotations

import re

from gapl.origin.finding import CAMERA, EDITED, GENERATED, SOFTWARE, UNCLEAR

# The last part of an IPTC address, https://cv.iptc.org/newscodes/digitalsourcetype, in lower case. What is not
# here is unclear.
_SOURCE_TYPES = {
    "trainedalgorithmicmedia": GENERATED,
    "trainedalgorithmicdata": GENERATED,
    "compositewithtrainedalgorithmicmedia": EDITED,
    "compositesynthetic": EDITED,
    "digitalcapture": CAMERA,
    "computationalcapture": CAMERA,
    "compositecapture": CAMERA,
    "negativefilm": CAMERA,
    "positivefilm": CAMERA,
    "digitalcreation": SOFTWARE,
    "digitalart": SOFTWARE,
    "algorithmicmedia": SOFTWARE,
    "datadrivenmedia": SOFTWARE,
    "screencapture": SOFTWARE,
    "virtualrecording": SOFTWARE,
}

# Names that programs which generate images put where a program's name belongs. Common words, such as "imagen" and
# "flux", are not among them.
_GENERATORS = re.compile(
    r"midjourney|dall[-·. ]?e\b|chatgpt|openai|gpt-image|gpt-4o|firefly|stab(?:le|ility)[ _.-]?(?:ai|diffusion)"
    r"|comfyui|invokeai|novelai|automatic1111|fooocus|swarmui|dreamstudio|ideogram|leonardo\.ai|black forest labs"
    r"|google ai\b|image creator|mflux|draw ?things|recraft|nightcafe|playground ai|runwayml|hunyuan|seedream"
    r"|\bgrok\b",
    re.IGNORECASE,
)
_MADE = re.compile(r"\b(?:made|created|generated) (?:with|by|using) [^.;]{0,40}\bAI\b|\bAI[- ]generated\b", re.I)
_EDITED = re.compile(r"\bedited (?:with|by|using) [^.;]{0,40}\bAI\b|\bapple photos clean up\b", re.I)

_DENIED = re.compile(r"\b(?:not?|never|without|non)\b", re.IGNORECASE)  # such as "not AI-generated"


def of_source_type(address: str) -> str:
    """Return what a digital source type says, which is given as an address or by its name."""
    return _SOURCE_TYPES.get(short_source_type(address).lower(), UNCLEAR)


def short_source_type(address: str) -> str:
    """Return the name of a digital source type."""
    return address.strip().rstrip("/").rpartition("/")[2]


def of_program(program: str) -> str:
    """Return what the name of a program says, such as that in EXIF Software."""
    return of_credit(program) or SOFTWARE


def of_credit(credit: str) -> str:
    """Return what a credit line says; empty where it names neither generator nor AI, or denies it."""
    if _DENIED.search(credit):
        return ""
    if _EDITED.search(credit):
        return EDITED
    return GENERATED if _MADE.search(credit) or _GENERATORS.search(credit) else ""
