"""Judge a detector on the open corpus, from its scores: by benchmark, generator and style of picture.

    python benchmarks.py run --model_path FILE --data-root corpus/bench --out OUT --degrade none aligned:80
    python studies/open_corpus.py OUT/scores.parquet --manifest corpus/manifest.csv --out OUT/study --sheet 50

Prints tables in Markdown, and writes them to OUT/study/open_corpus.md and, each alone, to CSV files there. The
figures of each benchmark are told for all degradations of the scores; generators and styles as they are, and
aligned (aligned:80, square:80); forms of delivery if the scores have them (--degrade deliveries aligned:80). With
--manifest, a control tells how far size and file format alone go. docs/open-corpus.md says how to read the tables.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from data.open_corpus.listing import SHIPPED, read_listing
from gapl import cli
from gapl.files.atomic import replacing

if TYPE_CHECKING:
    import pandas as pd

    from evaluation.tables.scores import ScoreTable

MARKDOWN = "open_corpus.md"
TITLES = {  # of the tables, by the names of their files
    "figures": "Figures",
    "generators": "Fakes by generator",
    "styles": "Real pictures by style",
    "forms": "Forms of delivery",
    "control": "What size and format alone tell",
}
NAMES = (
    "model",
    "benchmark",
    "degradation",
    "generator",
    "style",
    "form",
    "judge",
)  # columns of names, not figures
SHEET_QUALITY = 88
MISTAKES = ((0, "real_called_fake"), (1, "fakes_missed"))


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("scores", type=Path, nargs="+", help="scores.parquet files of benchmarks.py run")
    parser.add_argument("--out", type=Path, required=True, help="folder that the tables are written to")
    parser.add_argument("--manifest", type=Path, help="manifest.csv of data.collect, beside its images")
    parser.add_argument(
        "--list", type=Path, default=SHIPPED, help="folder of the list; default: the one that ships"
    )
    parser.add_argument(
        "--sheet", type=int, default=0, metavar="N", help="also draw the N worst mistakes both ways"
    )
    args = parser.parse_args()
    if args.sheet < 0:
        raise ValueError(f"--sheet must be 0 or more, not {args.sheet}")
    from evaluation.tables.scores import join_tables, read_scores

    scores = join_tables([read_scores(path) for path in args.scores])
    tables = make_tables(scores, listing=args.list, manifest=args.manifest)
    text = to_markdown(tables)
    print(text)
    for name, table in tables.items():
        with replacing(args.out / f"{name}.csv") as scratch:
            table.to_csv(scratch, index=False)
    with replacing(args.out / MARKDOWN) as scratch:
        scratch.write_text(text + "\n", encoding="utf-8")
    if args.sheet:
        draw_sheets(scores, args.out, num=args.sheet)


def make_tables(scores: ScoreTable, *, listing: Path, manifest: Path | None) -> dict[str, pd.DataFrame]:
    """Return the tables by the names of TITLES, without those that the scores have nothing for."""
    from studies import control, groups

    forms = groups.by_form(scores)
    tables = {
        "figures": groups.figures(scores),
        "generators": groups.by_generator(scores, read_listing(listing).pictures),
        "styles": groups.by_style(scores),
    }
    if forms is not None:
        tables["forms"] = forms
    if manifest is not None:
        known = control.read_manifest(manifest)
        tables["control"] = control.control_table(scores, known, folder=manifest.parent)
    return tables


# ---------------------------------------------------------------------------------------------------------
# Markdown


def to_markdown(tables: Mapping[str, pd.DataFrame]) -> str:
    """Return the tables below their titles. A model, or a degradation, that all rows share has no column."""
    return "\n\n".join(f"### {TITLES[name]}\n\n{_table(table)}" for name, table in tables.items())


def _table(table: pd.DataFrame) -> str:
    from reporting.markdown import to_table

    shown = table.drop(columns=[name for name in ("model", "degradation") if _is_one(table, name)])
    shown = _with_intervals(shown)
    names = [name for name in NAMES if name in shown]
    figures = [name for name in shown if name not in names]
    rows = [
        [*(str(row[name]) for name in names), *(_figure(row[name]) for name in figures)]
        for row in shown.to_dict("records")
    ]
    return to_table([name.replace("_", " ") for name in (*names, *figures)], rows, num_texts=len(names))


def _is_one(table: pd.DataFrame, name: str) -> bool:
    return name in table and table[name].nunique() <= 1


def _with_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the ends of an interval in the cells of its AUROC."""
    from reporting.markdown import with_interval

    if "auroc_low" not in table:
        return table
    cells = [with_interval(row, "auroc") for row in table.to_dict("records")]
    return table.assign(auroc=cells).drop(columns=["auroc_low", "auroc_high"])


def _figure(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return "" if value != value else f"{value:.3f}"  # what is not defined has no figure


# ---------------------------------------------------------------------------------------------------------
# Contact sheets


def draw_sheets(scores: ScoreTable, out: Path, *, num: int) -> None:
    """Write and name a contact sheet of the worst mistakes of each detector, for each class that has mistakes."""
    from reporting.mistakes import worst_mistakes
    from studies.sheet import contact_sheet

    for model in scores.models:
        for label, what in MISTAKES:
            worst = worst_mistakes(scores, model=model, label=label, num=num)
            path = out / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', model)}_{what}.jpg"
            if worst.empty:
                print(f"{model}: no mistakes of this kind, so no {path.name}")
                continue
            with replacing(path) as scratch:
                contact_sheet(worst).save(scratch, "JPEG", quality=SHEET_QUALITY)
            print(f"{path}: {len(worst)} mistakes")


if __name__ == "__main__":
    cli.run(main)
