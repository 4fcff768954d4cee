"""C2PA manifests, also called Content Credentials: what they say, and the state of their signatures.

The package c2pa-python reads them, where it is installed. Nothing is fetched: no manifest that is kept elsewhere,
and no list of revoked certificates.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gapl.decode import image_format
from gapl.origin.finding import (
    BROKEN,
    C2PA,
    DOUBTFUL,
    EDITED,
    GENERATED,
    NOT_READ,
    SAYS,
    TRUSTED,
    UNCLEAR,
    UNKNOWN_SIGNER,
    Finding,
    found,
)
from gapl.origin.names import of_credit, of_source_type, short_source_type

WHERE = "manifest"
_STORE = bytes.fromhex("63327061001100108000 00AA00389B71")  # the UUID of a manifest store
_UNTRUSTED = "signingCredential.untrusted"
_IN_WORDS = {  # of the codes of the C2PA specification
    _UNTRUSTED: "signer not known to be trusted",
    "signingCredential.expired": "certificate expired",
    "signingCredential.invalid": "certificate not made for this purpose",
    "signingCredential.ocsp.revoked": "certificate revoked",
    "assertion.action.malformed": "list of what was done lacks a part",
    "assertion.dataHash.mismatch": "file changed after it was signed",
    "assertion.hashedURI.mismatch": "manifest changed after it was signed",
    "claimSignature.mismatch": "manifest changed after it was signed",
    "timeStamp.untrusted": "clock not known to be trusted",
}
_OFFLINE = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}

Manifest = Mapping[str, Any]


def read_c2pa(encoded: bytes, *, trusted: str = "") -> list[Finding]:
    """Return what the manifest in a file says; none where no bytes are those of a manifest store.

    trusted  the certificates of those whose signatures are trusted, in PEM
    """
    if _STORE not in encoded:
        return []
    try:
        import c2pa
    except ImportError:
        missing = "it needs the package c2pa-python: pip install c2pa-python"
        return [found(C2PA, WHERE, UNCLEAR, text=missing, signature=NOT_READ)]
    settings = _OFFLINE | ({"trust": {"trust_anchors": trusted}} if trusted else {})
    name = image_format(encoded[:32]).lower().replace("jpeg xl", "jxl")
    try:
        with (
            c2pa.Context.from_dict(settings) as context,
            c2pa.Reader(name, io.BytesIO(encoded), context=context) as reader,
        ):
            store = json.loads(reader.json())
        return [_finding(store)]
    except (c2pa.C2paError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        return [found(C2PA, WHERE, UNCLEAR, text=f"it cannot be read: {error}", signature=NOT_READ)]


def _finding(store: Manifest) -> Finding:
    manifests = store["manifests"]
    active = manifests[store["active_manifest"]]
    statements = sorted(_statements(manifests, store["active_manifest"]), key=lambda each: SAYS.index(each[0]))
    says, action = statements[0] if statements else (UNCLEAR, {})
    name = _name(action.get("softwareAgent")) or _claim_generator(active)
    if says == UNCLEAR:
        says = of_credit(name) or UNCLEAR
    failures = _failures(store["validation_results"])
    signer = active.get("signature_info") or {}
    signed = ", ".join(str(signer[key]) for key in ("issuer", "common_name", "time") if signer.get(key))
    type = short_source_type(str(action.get("digitalSourceType") or ""))
    text = "; ".join(filter(None, [f"signed by {signed}", type, _in_words(failures)]))
    return found(C2PA, WHERE, says, name=name, text=text, signature=_state(failures))


def _failures(results: Manifest) -> list[str]:
    """Return the codes of what is wrong with the manifest, or with those of what the image was made from."""
    deltas = [each["validationDeltas"] for each in results.get("ingredientDeltas") or ()]
    return [each["code"] for part in (results["activeManifest"], *deltas) for each in part["failure"]]


def _in_words(codes: Sequence[str]) -> str:
    """Return what codes of the specification mean; those that are not known here as they are."""
    return ", ".join(dict.fromkeys(_IN_WORDS.get(code, code) for code in codes))


def _statements(manifests: Mapping[str, Manifest], active: str) -> Iterator[tuple[str, Manifest]]:
    """Yield what each action says, and the action. An image in which a generated one was placed is edited."""
    own = _ancestry(manifests, active)
    for label, manifest in manifests.items():
        for action in _actions(manifest):
            says = of_source_type(str(action.get("digitalSourceType") or ""))
            if says == GENERATED and (label not in own or action.get("action") != "c2pa.created"):
                says = EDITED
            if label in own or says == EDITED:
                yield says, action


def _actions(manifest: Manifest) -> list[Manifest]:
    actions: list[Manifest] = []
    for assertion in manifest.get("assertions", ()):
        if assertion["label"].removeprefix("c2pa.").startswith("actions"):
            data = assertion["data"]
            actions += data if isinstance(data, list) else data.get("actions", ())  # older ones are a list
    return actions


def _ancestry(manifests: Mapping[str, Manifest], active: str) -> list[str]:
    """Return the labels of the active manifest and of those of what the image was made from.

    A manifest that did nothing with its only ingredient, as OpenAI's are, was made from that.
    """
    labels: list[str] = []
    waiting = [active]
    while waiting:
        label = waiting.pop()
        if label in manifests and label not in labels:
            labels.append(label)
            ingredients = manifests[label].get("ingredients", ())
            wraps = len(ingredients) == 1 and not _actions(manifests[label])
            waiting += [
                each["active_manifest"]
                for each in ingredients
                if (wraps or each.get("relationship") == "parentOf") and "active_manifest" in each
            ]
    return labels


def _claim_generator(manifest: Manifest) -> str:
    infos = manifest.get("claim_generator_info") or [{"name": manifest.get("claim_generator")}]
    return str(infos[0].get("name") or "")


def _name(agent: object) -> str:
    """Return the name of a program, which older manifests give as a text, and newer ones as an object."""
    if isinstance(agent, dict):
        return " ".join(str(agent[key]) for key in ("name", "version") if agent.get(key))
    return str(agent or "")


def _state(failures: Sequence[str]) -> str:
    """Return the state of a signature by the codes of what is wrong with it."""
    if any(code.endswith((".mismatch", ".missing")) for code in failures):
        return BROKEN
    if set(failures) - {_UNTRUSTED}:
        return DOUBTFUL
    return UNKNOWN_SIGNER if failures else TRUSTED
