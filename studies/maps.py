"""Measure whether the maps of an explanation show what they should.

    python studies/maps.py localise FOLDER --out DIR
    python studies/maps.py deletion FOLDER --out DIR

localise    replaces a rectangle of photographs (studies/forgery.py says how) and asks how well a map tells its
            pixels from the others: pixel AUROC, .5 where it does not, beside that of a map which is brightest in
            the middle
deletion    covers patches of fakes, those first of which a map says that they speak most for fake, or all but
            these. P(fake) should fall at once, or rise at once: the areas under both curves, by the view "whole"
            alone, for covering parts of the view, for two ways to read the tower's attention, and for orders that
            know nothing. Fakes that this view does not find are left out, and counted

Each writes DIR/NAME.md and DIR/NAME.csv, a row for each image and map. FOLDER holds class folders; images are
taken from each source in turn. Brackets: 95 % intervals of a bootstrap over images.

Shape suffixes: N images, C channels, H, W pixels, or patches in a map.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from data.records import Record
from gapl import cli
from gapl.calibration import score_of
from gapl.decode import opened
from gapl.explain.patches import PatchMap, blurred, occlude, view_of
from gapl.explain.probe import has_whole, logits_of, normalising
from gapl.explain.tiles import TileMap, map_tiles
from gapl.labels import Label
from studies import trial
from studies.deletion import RANDOM, Areas, areas_of, baselines, on_patches
from studies.forgery import SIDE_PX, WAYS, Forgery, forge, square

if TYPE_CHECKING:
    from inference import Detector
    from models.detector import TowerHead

BLUR, GREY = "blur", "grey"
EVERY_PX = 4  # of the pixels along each side count for an AUROC
NO_MAP = "uniform"


def main() -> None:
    parser = cli.Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{localise,deletion}")
    for name, run in (("localise", localise), ("deletion", delete)):
        command = commands.add_parser(name, description=__doc__)
        trial.add_options(command)
        text = "what covers parts of a view: blur, as in explanations (default), or grey"
        command.add_argument("--cover", choices=(BLUR, GREY), default=BLUR, help=text)
        command.set_defaults(run=run)
    args = parser.parse_args()
    args.run(args)


def seen_of(detector: Detector, crop: Image.Image, *, cover: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels of a view, and what is seen where it is covered: pixels_CHW, cover_CHW."""
    normalise = normalising(detector.pixel)
    pixels_CHW = normalise(crop)
    return pixels_CHW, np.zeros_like(pixels_CHW) if cover == GREY else normalise(blurred(crop))


# ---------------------------------------------------------------------------------------------------------
# localise


class Pair(NamedTuple):
    """A photograph that is large enough, and a fake for its place."""

    photograph: Record
    fake: Record


def localise(args: argparse.Namespace) -> None:
    from sklearn.metrics import roc_auc_score

    pairs = list(islice(large_pairs(args), args.images))
    if not pairs:
        raise ValueError(f"{args.folder}: no photograph and fake with a short side of {SIDE_PX} px or more")
    detector = trial.load_detector(args)
    rows: list[dict[str, Any]] = []
    for number, (photograph, fake) in enumerate(tqdm(pairs, unit="image", dynamic_ncols=True)):
        way = list(WAYS)[number % len(WAYS)]
        forged = forged_of(photograph, fake, way=way, seed=[args.seed, number])
        label_N = forged.mask_HW[::EVERY_PX, ::EVERY_PX].ravel()
        about = trial.about(photograph, args) | {"way": way}
        for name, heat_HW in heats_of(detector, forged.image, cover=args.cover).items():
            auroc = float(roc_auc_score(label_N, heat_HW[::EVERY_PX, ::EVERY_PX].ravel()))
            rows.append({**about, "map": name, "auroc": auroc})
    text = f"{len(pairs)} photographs with a replaced region, parts of the view covered with {args.cover}\n\n"
    trial.write("localise", rows, text + localise_table(rows, seed=args.seed), out=args.out)


def large_pairs(args: argparse.Namespace) -> Iterator[Pair]:
    """Yield photographs in turn from each source, each with another fake, until there are no more fakes."""
    from data.open_corpus.kinds import style_of
    from studies.groups import NO_PHOTOGRAPHS

    def is_large(record: Record) -> bool:
        with opened(record.read_bytes()) as image:
            return min(image.size) >= SIDE_PX

    real = (each for each in trial.in_turn(args, Label.REAL) if style_of(each.generator) not in NO_PHOTOGRAPHS)
    photographs, fakes = filter(is_large, real), filter(is_large, trial.in_turn(args, Label.FAKE))
    return (Pair(*both) for both in zip(photographs, fakes, strict=False))


def forged_of(photograph: Record, fake: Record, *, way: str, seed: Sequence[int]) -> Forgery:
    own, other = (square(trial.read(each)) for each in (photograph, fake))
    assert own is not None
    assert other is not None
    return forge(own, way=way, fake=other, generator=np.random.default_rng(seed))


def heats_of(detector: Detector, image: Image.Image, *, cover: str) -> dict[str, np.ndarray]:
    """Return heat_HW of a square image, a value for each pixel, by the name of the map."""
    side = image.width
    crop, box = view_of(detector, image)
    pixels_CHW, cover_CHW = seen_of(detector, crop, cover=cover)
    map_HW = occlude(partial(logits_of, detector), pixels_CHW, cover_CHW=cover_CHW)
    from_middle = np.abs(np.arange(side) - (side - 1) / 2)
    return {
        "tiles": heat_of_tiles(map_tiles(detector, image), side=side),
        "patches": heat_of_patches(PatchMap(box, map_HW), side=side),
        "centre": -np.hypot(from_middle[:, None], from_middle),
        NO_MAP: np.zeros((side, side)),
    }


def heat_of_tiles(found: TileMap, *, side: int) -> np.ndarray:
    """Return the mean score of the tiles over each pixel."""
    sum_HW, times_HW = np.zeros((2, side, side))
    for left, top, score in found.tiles:
        inside = slice(top, top + found.side), slice(left, left + found.side)
        sum_HW[inside] += score
        times_HW[inside] += 1
    return sum_HW / times_HW


def heat_of_patches(found: PatchMap, *, side: int) -> np.ndarray:
    """Return the map at each pixel of the view, bilinear; its mean outside, where nothing was covered."""
    left, top, width, height = found.box
    heat = Image.new("F", (side, side), float(found.map_HW.mean()))
    drops = Image.fromarray(found.map_HW.astype(np.float32))
    heat.paste(drops.resize((width, height), Image.Resampling.BILINEAR), (left, top))
    return np.asarray(heat)


def localise_table(rows: Sequence[dict[str, Any]], *, seed: int) -> str:
    """Return the mean AUROC of each map, over all images and by the way of replacing, and how far it leads."""
    from reporting.markdown import to_table

    def of(name: str, way: str | None = None) -> np.ndarray:
        return np.array([row["auroc"] for row in rows if row["map"] == name and way in (None, row["way"])])

    ways = [way for way in WAYS if any(row["way"] == way for row in rows)]
    lines = []
    for name in dict.fromkeys(row["map"] for row in rows):
        parts = [trial.mean_cell(of(name, way), seed=seed) for way in (None, *ways)]
        lead = trial.mean_cell(of(name) - of("centre"), seed=seed, signed=True)
        lines.append([name, *parts, lead])
    return to_table(["map", "all", *ways, "all, against centre"], lines, num_texts=1)


# ---------------------------------------------------------------------------------------------------------
# deletion


def delete(args: argparse.Namespace) -> None:
    fakes = trial.in_turn(args, Label.FAKE)
    detector = trial.load_detector(args)
    judge = JudgedAlone(detector, args)
    rows: list[dict[str, Any]] = []
    left_out = found = 0
    with tqdm(total=args.images, unit="image", dynamic_ncols=True) as bar:
        for record in fakes:
            if found == args.images:
                break
            areas = judge.areas(trial.read(record), seed=[args.seed, found])
            if areas is None:
                left_out += 1
                continue
            about = trial.about(record, args)
            rows += [{**about, "map": name, **each._asdict()} for name, each in areas.items()]
            found += 1
            bar.update()
    if not rows:
        raise ValueError(f"{args.folder}: the view alone finds none of {len(fakes)} fakes")
    text = f"{found} fakes, what is deleted covered with {args.cover}; {left_out} that the view does not find\n\n"
    trial.write("deletion", rows, text + deletion_table(rows, seed=args.seed), out=args.out)


class JudgedAlone:
    """A detector that judges by one view alone, and the maps of that view."""

    def __init__(self, detector: Detector, args: argparse.Namespace) -> None:
        self._detector, self._cover = detector, args.cover
        self._module = place_tower(detector, allow_tiny=args.allow_tiny)
        info = detector.info
        self._calibration = info.fast_calibration if has_whole(detector) else info.calibration

    def areas(self, image: Image.Image, *, seed: Sequence[int]) -> dict[str, Areas] | None:
        """Return the areas under the curves of each map; None where the view alone calls the image real."""
        from studies.attention import attention_maps

        crop, _ = view_of(self._detector, image)
        pixels_CHW, cover_CHW = seen_of(self._detector, crop, cover=self._cover)
        if self._scores([pixels_CHW])[0] < 0.5:
            return None
        read = attention_maps(self._module, pixels_CHW, precision=self._detector.way.precision)
        maps = {
            "covered": occlude(partial(logits_of, self._detector), pixels_CHW, cover_CHW=cover_CHW),
            **{name: on_patches(map_HW) for name, map_HW in read.items()},
            **baselines(np.random.default_rng(seed)),
        }
        return areas_of(self._scores, pixels_CHW, cover_CHW=cover_CHW, maps=maps)

    def _scores(self, pixels: Iterable[np.ndarray]) -> np.ndarray:
        return score_of(logits_of(self._detector, pixels), self._calibration)


def place_tower(detector: Detector, *, allow_tiny: bool) -> TowerHead:
    """Return the detector as a module of torch, where and in the precision in which it judges."""
    from models.run import place_detector
    from models.weights.checkpoint import load_checkpoint

    assert detector.file
    module = load_checkpoint(detector.file, allow_tiny=allow_tiny).detector
    place_detector(module, device=detector.way.device, precision=detector.way.precision)
    return module


def deletion_table(rows: Sequence[dict[str, Any]], *, seed: int) -> str:
    """Return the mean areas under the curves of each map, and the difference to a random order."""
    from reporting.markdown import to_table

    def of(name: str, figure: str) -> np.ndarray:
        return np.array([row[figure] for row in rows if row["map"] == name])

    lines = []
    for name in dict.fromkeys(row["map"] for row in rows):
        line = [name]
        for figure in Areas._fields:
            line.append(trial.mean_cell(of(name, figure), seed=seed))
            line.append(trial.mean_cell(of(name, figure) - of(RANDOM, figure), seed=seed, signed=True))
        lines.append(line)
    header = ["map", "deletion (less is better)", "against random", "insertion (more is better)", "against random"]
    return to_table(header, lines, num_texts=1)


if __name__ == "__main__":
    cli.run(main)
