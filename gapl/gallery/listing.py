"""A page of many results that a browser sorts and filters: all of it but how one result is shown.

Styles, script and pictures are inside the file, and its Content-Security-Policy lets it load nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from string import Template

from gapl.gallery import markup
from gapl.results import UNREADABLE, Method, Result
from gapl.verdict import LABELS, Verdict

TEMPLATES = Path(__file__).parent
CUT = "<!--cut-->"  # where results belong

Show = Callable[[Result, list[str], str], str]  # a result, the paths of its duplicates, the folder of all -> HTML

_FAILURE = Template(
    '<li data-label="unreadable"><span class="name">$name</span> <span class="why">$why</span></li>\n'
)
_CHOICE = Template(
    '<label class="$label"><input type="checkbox" value="$label" checked> $label <span>$count</span></label>'
)


def start(kind: str) -> str:
    """Return how a page of this kind begins."""
    return f'<!doctype html>\n<html lang="en" data-page="{kind}">'


def page(
    results: Sequence[Result], show: Show, *, method: Method, kind: str, items: str, style: str = ""
) -> Iterator[str]:
    """Yield the parts of a page: each content once, the likeliest fake first, and what could not be read.

    kind    what the page says it is
    items   the element #cards, with CUT where the results belong
    style   more CSS
    """
    folder = markup.common_folder(result.path for result in results)
    copies: dict[str, list[str]] = {}
    for result in results:
        if result.duplicate_of:
            copies.setdefault(result.sha256, []).append(result.path)
    shown = [each for each in results if each.verdict and not each.duplicate_of]
    shown.sort(key=lambda each: -each.verdict.score if each.verdict else 0)
    head, between, tail = _frame(results, method, folder, kind=kind, items=items, style=style).split(CUT)
    yield head
    for result in shown:
        yield show(result, copies.get(result.sha256, []), folder)
    yield between
    for result in results:
        if not result.verdict:
            name, why = markup.name(result.path, folder), markup.text(result.error)
            yield _FAILURE.substitute(name=name, why=why)
    yield tail


def warnings(verdict: Verdict) -> str:
    """Return the list of a verdict's warnings; nothing where there are none."""
    lines = "".join(f"<li>{markup.text(each)}</li>" for each in verdict.warnings)
    return f'<ul class="warnings">{lines}</ul>' if lines else ""


def duplicates(paths: Sequence[str], folder: str) -> str:
    """Return the list of duplicates, which a reader opens; nothing where there are none."""
    count = f"{len(paths)} duplicate{'s' * (len(paths) > 1)}"
    names = "".join(f"<li>{markup.name(each, folder)}</li>" for each in paths)
    return f"<details><summary>{count}</summary><ul>{names}</ul></details>" if paths else ""


def rule(verdict: Verdict) -> str:
    """Return how scores become labels."""
    below, fake = f"{verdict.real_below:.3f}", f"{verdict.threshold:.3f}"
    unsure = ", between unsure" if below != fake else ""
    return f"below {below} it is called real, from {fake} on fake{unsure}"


def ways(method: Method) -> str:
    """Return how images were judged, escaped."""
    options = [f"views: {method.views}"]
    if method.operating_point:
        options.append(f"operating point: {method.operating_point}")
    return markup.text(", ".join(options))


def _frame(results: Sequence[Result], method: Method, folder: str, *, kind: str, items: str, style: str) -> str:
    """Return the page without what it shows: CUT marks where that belongs."""
    counts = Counter(each.verdict.label if each.verdict else UNREADABLE for each in results)
    own, script = (TEMPLATES.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    judged = next((each.verdict for each in results if each.verdict), None)  # all of a run have the same rule
    copies = sum(bool(each.duplicate_of) for each in results)
    template = Template(TEMPLATES.joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        start=start(kind),
        style=own + style,
        style_hash=markup.policy_hash(own + style),
        script=script,
        script_hash=markup.policy_hash(script),
        total=f"{len(results):,}",
        folder=f" in {markup.text(folder)}" if folder else "",
        duplicates=f" {copies:,} of them are duplicates: each content is shown once." if copies else "",
        rule=f": {rule(judged)}" if judged else "",
        items=items,
        model=markup.text(method.model),
        model_sha256=method.model_sha256,
        options=ways(method),
        choices="".join(
            _CHOICE.substitute(label=label, count=f"{counts[label]:,}")
            for label in (*LABELS, UNREADABLE)
            if counts[label]
        ),
        no_failures="" if counts[UNREADABLE] else " hidden",
    )
