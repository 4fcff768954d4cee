"""What an explanation says beside its maps, as sections of a page.

Explanations may come from tables that anybody can edit: texts are escaped and shortened, numbers are formatted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

from gapl.explain.families import UNKNOWN
from gapl.explain.words import TELLS_NOTHING, answered_alike
from gapl.gallery.markup import text
from gapl.origin.finding import OF_SIGNATURE
from gapl.sheets import bars
from gapl.verdict import Verdict

SHOWN = 8  # prototypes, those that moved the logit most
MOST = 24  # lines of any other list

_SECTION = Template('<section class="$kind"><h2>$title</h2>\n$body</section>\n')
_PROTOTYPE = Template(
    '<tr><th scope="row">$label prototype $index<span class="soft">$described</span></th>'
    '<td class="number">$attention</td><td class="wide">$bar</td><td class="number">$pull</td></tr>\n'
)
_SUM = Template('<tr class="sum"><th scope="row" colspan="3">$what</th><td class="number">$value</td></tr>\n')
_RESAVE = Template(
    '<tr><th scope="row">$name</th><td class="wide">$scale</td><td class="number">$score</td>'
    '<td class="$label"><b>$label</b></td></tr>\n'
)
_FAMILY = Template(
    '<tr><th scope="row">$name</th><td class="wide">$bar</td><td class="number">$probability</td></tr>\n'
)
_FINDING = Template("<li><b>$says</b> <span>$named</span> <small>$where</small>$quoted</li>\n")


def _section(kind: str, title: str, body: str) -> str:
    return _SECTION.substitute(kind=kind, title=title, body=body)


def words(explanation: Mapping[str, Any]) -> str:
    """Return the explanation in sentences, as text and tables have it."""
    lines = "".join(f"<li>{text(each)}</li>" for each in explanation.get("in_words", [])[:MOST])
    return _section("words", "In words", f"<ul>{lines}</ul>") if lines else ""


# ---------------------------------------------------------------------------------------------------------
# Prototypes


def prototypes(explanation: Mapping[str, Any], verdict: Verdict) -> str:
    """Return the prototypes that moved the logit most, and the rest, so that all of it adds up to the logit."""
    found = explanation.get("prototypes")
    if not found:
        return _section("prototypes", "What adds up to the score", f"<p>{_missing(explanation)}</p>")
    strongest, others = found[:SHOWN], found[SHOWN:]
    most = max(abs(each["contribution"]) for each in strongest)
    rows = "".join(_prototype(each, most) for each in strongest)
    table = (
        '<table><thead><tr><th scope="col">Prototype</th><th scope="col" class="number">Attention</th>'
        '<th scope="col" class="ways"><span>real</span><span>fake</span></th>'
        f'<th scope="col" class="number">Adds</th></tr></thead>\n<tbody>{rows}'
        f"{_sums(strongest, len(others), explanation['bias'], verdict)}</tbody></table>"
    )
    said = (
        "<p>The logit, which the score is made of, is a sum of what each of the detector's "
        f"{len(found)} prototypes adds, and a constant. A prototype stands for real images or for generators. Its "
        "attention is how much it has to say of this image, and it may pull either way: below 0 towards real, "
        "above 0 towards fake.</p>\n"
    )
    body = said + table
    if answered_alike(found):
        body = (
            f"<p><b>All {len(found)} prototypes answered alike, {TELLS_NOTHING}.</b></p>\n"
            f"<details><summary>What each of them adds</summary>{body}</details>"
        )
    return _section("prototypes", "What adds up to the score", body)


def _missing(explanation: Mapping[str, Any]) -> str:
    note = text(explanation.get("note", "which prototypes answered is not known"))
    return f"{note[:1].upper()}{note[1:]}."


def _prototype(prototype: Mapping[str, Any], most: float) -> str:
    return _PROTOTYPE.substitute(
        label=text(prototype["label"]).capitalize(),
        index=f"{prototype['index']:d}",
        described=text(prototype["described_as"]),
        attention=f"{prototype['attention']:.1%}",
        bar=bars.pull(prototype["contribution"], most=most),
        pull=f"{prototype['contribution']:+.2f}",
    )


def _sums(strongest: Sequence[Mapping[str, Any]], num_others: int, bias: float, verdict: Verdict) -> str:
    """Return what is added to the strongest, and the sum. The line of the others has the rounding of all lines."""
    shown = sum(round(each["contribution"], 2) for each in strongest) + round(bias, 2)
    others = round(verdict.logit, 2) - shown
    lines = [
        (f"The other {num_others} prototypes" if num_others else "Rounding", f"{others:+.2f}"),
        ("A constant of the detector", f"{bias:+.2f}"),
        ("Sum: the logit", f"{verdict.logit:+.2f}"),
        ("As a score, from 0 to 1", f"{verdict.score:.3f}"),
    ]
    return "".join(_SUM.substitute(what=what, value=value) for what, value in lines)


# ---------------------------------------------------------------------------------------------------------
# Family, training, stability


def family(explanation: Mapping[str, Any]) -> str:
    """Return which family of generators made the image, where that was asked for."""
    if "family" not in explanation:
        return ""
    found = explanation["family"]
    if found is None:
        return _section("family", "Family of generators", "<p>It is told only of images that are called fake.</p>")
    rows = "".join(
        _FAMILY.substitute(name=text(name), bar=bars.share(probability), probability=f"{probability:.0%}")
        for name, probability in list(found["probabilities"].items())[:MOST]
    )
    is_known = found["name"] != UNKNOWN
    named = text(found["name"]) if is_known else "not known: none is likely enough"
    body = (
        f"<p>If a generator made the image: <b>{named}</b>. A family that the detector was not trained on cannot "
        f"be named.</p>\n{f'<table><tbody>{rows}</tbody></table>' if is_known else ''}"
    )
    return _section("family", "Family of generators", body)


def unlike(explanation: Mapping[str, Any]) -> str:
    """Return how far the image is from those of training, where that is known."""
    if not (found := explanation.get("unlike")):
        return ""
    unlike = "<b>Unlike anything in training: less certain.</b>"
    said = unlike if found["is_unlike"] else "Like images of training."
    distance, cut = f"{found['distance']:.3f}", f"{found['cut']:.3f}"
    body = f"<p>{said} Its distance from them is {distance}; from {cut} on, an image is unlike them.</p>"
    return _section("unlike", "Is it like training?", body)


def holds(stable: Mapping[str, Any]) -> str:
    """Return in how many of the re-saves the verdict holds."""
    return f"{stable['holds']:d} of {len(stable['resaves']):d}"


def _same(stable: Mapping[str, Any], verdict: Verdict) -> str:
    """Return in how many of the re-saves the label is the same."""
    return f"{sum(each['label'] == verdict.label for each in stable['resaves']):d}"


def is_unstable(explanation: Mapping[str, Any], verdict: Verdict) -> bool:
    """Tell whether the verdict holds in so few re-saves that it is to be taken as unsure."""
    label: str = explanation.get("stable", {}).get("label", verdict.label)
    return label == "unsure" != verdict.label


def stability(explanation: Mapping[str, Any], verdict: Verdict) -> str:
    """Return the verdicts on mild re-saves of the image."""
    if not (stable := explanation.get("stable")):
        return ""
    rows = "".join(
        _RESAVE.substitute(
            name=text(each["name"]),
            scale=bars.small_scale(each["score"], verdict),
            score=f"{each['score']:.3f}",
            label=text(each["label"]),
        )
        for each in stable["resaves"][:MOST]
    )
    unstable = " <b>That is too few: take it as unsure.</b>" if is_unstable(explanation, verdict) else ""
    body = (
        f"<p>The image was changed as sharing changes images, and judged again. In {holds(stable)}, the "
        "verdict holds: it does not turn into the opposite. "
        f"In {_same(stable, verdict)} it stays the same.{unstable}</p>\n<table><tbody>{rows}</tbody></table>"
    )
    return _section("stable", "Is the verdict stable?", body)


# ---------------------------------------------------------------------------------------------------------
# Origin


def origin(explanation: Mapping[str, Any]) -> str:
    """Return what the file says about its own origin."""
    if "origin" not in explanation:
        return ""
    sentence = text(explanation["origin_in_words"], limit=1_000)
    lines = "".join(map(_finding, explanation["origin"][:MOST]))
    body = f"<p>{sentence[:1].upper()}{sentence[1:]}.</p>\n" + (f"<ul>{lines}</ul>" if lines else "")
    return _section("origin", "What the file says about itself", body)


def _finding(finding: Mapping[str, str]) -> str:
    """Return a line for a finding. Its texts are the file's."""
    said = text(finding["says"])
    signed = f", {OF_SIGNATURE[finding['signature']]}" if finding["signature"] else ""
    quoted = finding["text"] if finding["text"] != finding["name"] else ""
    return _FINDING.substitute(
        says=f"{said[:1].upper()}{said[1:]}" + (":" if finding["name"] else ""),
        named=text(finding["name"]),
        where=f"{text(finding['kind']).replace('_', ' ')}, {text(finding['where'])}{signed}",
        quoted=f"<q>{text(quoted)}</q>" if quoted else "",
    )
