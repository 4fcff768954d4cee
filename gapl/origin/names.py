"""What words in metadata mean: IPTC's types of digital sources, and the names of generators."""

from __future__ import annotations

import re

from gapl.origin.finding import CAMERA, EDITED, GENERATED, SCANNED, SOFTWARE, UNCLEAR

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
    "print": SCANNED,
    "digitalcreation": SOFTWARE,
    "digitalart": SOFTWARE,
    "algorithmicmedia": SOFTWARE,
    "datadrivenmedia": SOFTWARE,
    "screencapture": SOFTWARE,
    "virtualrecording": SOFTWARE,
}

# Names that only generators have count wherever they stand, such as in "Azure OpenAI".
_COINED = re.compile(
    r"(?<![a-z])(?:midjourney|dall(?:[-·.]e|(?:e-?| e[ -]?)[23](?!\d))|(?-i:DallE)|chatgpt|openai"
    r"|gpt-image|gpt-4o|stab(?:le|ility)[ _.-]?(?:ai|diffusion)|comfyui|invokeai|novelai|automatic1111|fooocus"
    r"|swarmui|leonardo\.ai|black forest labs|mflux|runwayml|hunyuan-?(?:dit|image|video)|seedream)(?![a-z])",
    re.IGNORECASE,
)
# Names that are also words, or names of people, places or studios, count where the text is nothing else, but for
# who makes the generator and its version, or says that something was made with it. Common words, such as "flux",
# never do. "Dalle" is a surname, "dalle" Italian for "from the" and "ai" for "to the", and "Ai" a name, too.
_NAME = (
    r"(?:(?:adobe|xai|google|microsoft|bing|tencent)[\s_./-]+){0,2}"
    r"(?:firefly|grok|ideogram|recraft|draw ?things|image creator|nightcafe|google ai|dreamstudio|playground ai"
    r"|hunyuan|dall e|(?-i:DALLE))"
    r"(?:[\s_./-]+(?:ai|api|app|web|studio|creator|from|microsoft|designer|model|video|beta|imag[a-z]{1,9}"
    r"|v?\d[0-9a-z]{0,9}))*"
)
_NAMED = re.compile(rf"\s*{_NAME}\s*(?:$|\()", re.IGNORECASE)
_AI = (
    r"(?:(?:generative )?AI|(?:(?!for\b)[\w'.-]{1,30} ){1,3}(?-i:AI|ai))"
    r"(?: (?:tools?|models?|generators?|technology))?"
)


def _claims(verb: str) -> re.Pattern[str]:
    """Return what matches that something was done with a generator, or with AI."""
    return re.compile(rf"\b{verb} (?:with|by|using|in) (?:{_AI}|{_NAME})\s*(?:$|[^\w\s])", re.IGNORECASE)


_MADE = _claims("(?:made|created|generated)")
_EDITED = _claims("edited")
_CLEANED = re.compile(r"\bapple photos clean up\b", re.IGNORECASE)
_AI_GENERATED = re.compile(r"\bAI[- ]generated\b", re.IGNORECASE)

# Scanners by their words and makers; of Epson's devices all but its few cameras.
_SCANNERS = re.compile(
    r"scan|plustek|pakon|imacon|flextight|noritsu|^(?:seiko )?epson\b(?!.*\b(?:r-d1|photopc|l-\d))", re.IGNORECASE
)

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
    if _EDITED.search(credit) or _CLEANED.search(credit):
        return EDITED
    made = _NAMED.match(credit) or any(each.search(credit) for each in (_COINED, _MADE, _AI_GENERATED))
    return GENERATED if made else ""


def of_device(name: str) -> str:
    """Return what the make and model of a device say; generators put their names there, too."""
    return of_credit(name) or (SCANNED if _SCANNERS.search(name) else CAMERA)
