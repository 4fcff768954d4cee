"""Texts with a keyword, as PNG has them, which generators fill with what they were asked for."""

from __future__ import annotations

import re

from gapl.origin.finding import GENERATED, SOFTWARE, UNCLEAR, Finding, found
from gapl.origin.names import of_credit, of_program

_INVOKE = {"invokeai_metadata", "invokeai_graph", "sd-metadata", "dream"}
_MARKS = {'"sui_image_params"': "SwarmUI", '"fooocus_scheme"': "Fooocus", '"mflux_version"': "MFLUX"}
# None of these looks further back than a bounded number of characters: the texts are anybody's.
_A1111_MODEL = re.compile(r"\bModel: ([^,\n]{1,200})")
_MODEL_FILE = re.compile(r'"(?:ckpt_name|unet_name)":\s{0,9}"((?:[^"\\]|\\.){1,200})"')
_SAMPLER = re.compile(r'"class_type":\s{0,9}"[^"]{0,80}Sampler')
_INVOKE_MODEL = re.compile(r'"model":\s{0,9}\{[^{}]{0,400}?"(?:model_)?name":\s{0,9}"([^"\\]{1,200})"')
_JOB = re.compile(r"\bJob ID: [0-9a-f]{8}-")
_MIDJOURNEY_VERSION = re.compile(r"--((?:v|niji) \d[\d.]{0,5})")
_MODEL = re.compile(r'"model":\s{0,9}"([^"\\]{1,200})"')


def read_text(kind: str, where: str, keyword: str, text: str) -> Finding | None:
    """Return what a text says, or None when it is not about the image's origin."""
    key = keyword.lower()
    if _is_a1111(text):
        return found(kind, where, GENERATED, name=_named("AUTOMATIC1111", _A1111_MODEL, text), text=text)
    if '"class_type"' in text or (key == "workflow" and '"nodes"' in text):
        return _comfyui(kind, where, text, saved=key != "workflow")
    if key in _INVOKE:
        return found(kind, where, GENERATED, name=_named("InvokeAI", _INVOKE_MODEL, text), text=text)
    if _JOB.search(text):
        return found(kind, where, GENERATED, name=_named("Midjourney", _MIDJOURNEY_VERSION, text), text=text)
    for mark, program in _MARKS.items():
        if mark in text:
            return found(kind, where, GENERATED, name=_named(program, _MODEL, text), text=text)
    if key == "software" and text:
        return found(kind, where, of_program(text), name=text, text=text)
    if key in ("source", "credit") and (says := of_credit(text)):
        return found(kind, where, says, name=text, text=text)
    if text == "Screenshot":  # as iPhones write it
        return found(kind, where, SOFTWARE, name=text)
    return found(kind, where, UNCLEAR, text=text) if key == "parameters" else None


def _named(program: str, model: re.Pattern[str], text: str) -> str:
    """Return the name of a program and, where its text has one, that of its model."""
    match = model.search(text)
    return f"{program} {match[1]}" if match else program


def _is_a1111(text: str) -> bool:
    """Tell whether a text is of the form of AUTOMATIC1111, which other programs write, too."""
    return "Steps: " in text and any(each in text for each in ("Sampler: ", "CFG scale: "))


def _comfyui(kind: str, where: str, text: str, *, saved: bool) -> Finding:
    """Return what the nodes of ComfyUI say.

    saved  they are those that made the image; a workflow alone is in pictures of workflows, too
    """
    models = list(dict.fromkeys(re.split(r"[\\/]", each)[-1] for each in _MODEL_FILE.findall(text)))
    makes = saved and (models or _SAMPLER.search(text))
    return found(kind, where, GENERATED if makes else UNCLEAR, name=" ".join(["ComfyUI", *models[:2]]), text=text)
