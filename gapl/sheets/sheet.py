"""One result and its image -> a page that explains the verdict.

Style, script and picture are inside the file, and its Content-Security-Policy lets it load nothing.
"""

from __future__ import annotations

from pathlib import Path
from string import Template

from PIL import Image

from gapl.gallery import listing, markup
from gapl.results import Method, Result
from gapl.sheets import bars, evidence, maps
from gapl.verdict import Verdict
from gapl.version import version

TEMPLATES = Path(__file__).parent
KIND = "gapl-sheet"

_GONE = '<p class="frame">No picture: it could not be read again after it was judged, so there are no maps.</p>'


def style() -> str:
    """Return the CSS that sheets and their index have beside that of the gallery."""
    return TEMPLATES.joinpath("sheet.css").read_text(encoding="utf-8")


def sheet(result: Result, image: Image.Image | None, *, method: Method) -> str:
    """Return the page of a result that has a verdict.

    image   in RGB; None: it could not be read again
    """
    verdict = result.verdict
    assert verdict
    explanation = result.row(method).get("explanation", {})
    name = markup.name(result.path)
    css = listing.TEMPLATES.joinpath("page.css").read_text(encoding="utf-8") + style()
    script = TEMPLATES.joinpath("sheet.js").read_text(encoding="utf-8")
    template = Template(TEMPLATES.joinpath("sheet.html").read_text(encoding="utf-8"))
    return template.substitute(
        start=listing.start(KIND),
        style=css,
        style_hash=markup.policy_hash(css),
        script=script,
        script_hash=markup.policy_hash(script),
        label=markup.text(verdict.label),
        title=markup.text(verdict.label).capitalize(),
        lead=_lead(verdict),
        name=name,
        figure=maps.figure(image, explanation.get("where", {}), name=name) if image else _GONE,
        scale=bars.score_scale(verdict),
        rule=listing.rule(verdict),
        warnings=listing.warnings(verdict),
        stability=evidence.stability(explanation, verdict),
        prototypes=evidence.prototypes(explanation, verdict),
        origin=evidence.origin(explanation),
        family=evidence.family(explanation),
        unlike=evidence.unlike(explanation),
        words=evidence.words(explanation),
        sha256=markup.text(result.sha256),
        model=markup.text(method.model),
        model_sha256=markup.text(method.model_sha256),
        options=listing.ways(method),
        version=markup.text(version()),
    )


def _lead(verdict: Verdict) -> str:
    """Return the verdict in words."""
    if verdict.label == "unsure":
        return f"The score decides nothing; it leans to {verdict.likelier}."
    made = "A generator made this image" if verdict.label == "fake" else "No generator made this image"
    return f"{made}, says the detector."
