"""Make a small labelled corpus without a download: crops of photographs, and fakes made from the same crops.

The photographs are inside the packages scikit-image and scikit-learn; three simulated up-samplers make the fakes.
The corpus is for a pipeline smoke test: the verdicts of a detector that is trained on it mean nothing. Example:

    $ python -m data.demo --out demo_corpus
    demonstration corpus, seed 0: demo_corpus
      train/transposed_conv: 60 real, 60 fake
      train/nearest_conv: 60 real, 60 fake
      test/transposed_conv: 15 real, 15 fake
      test/nearest_conv: 15 real, 15 fake
      test/pixel_shuffle: 15 real, 15 fake
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.records import Images
from gapl import cli

VERSION = 1
CROP_SIZE_PX = 256
JPEG_QUALITY = 95
# A crop of black sky or of a retina's border would be the same picture as its fake.
MIN_CONTRAST = 10.0
CANDIDATES_PER_CROP = 16

# Files inside the packages, with what the packages say of their origin. The motorcycles are the two views of
# one stereo pair, hence on one side of the split.
PHOTOGRAPHS = {
    "train": {
        "skimage/data/brick.png": "CC0Textures, CC0",
        "skimage/data/coffee.png": "Rachel Michetti, courtesy of Pikolo Espresso Bar, CC0",
        "skimage/data/grass.png": "linolafett on DeviantArt, CC0",
        "skimage/data/hubble_deep_field.jpg": "NASA, public domain",
        "skimage/data/ihc.png": "Center for Microscopy And Molecular Imaging, no known restrictions",
        "skimage/data/motorcycle_left.png": "Middlebury 2014 stereo benchmark, Scharstein et al.",
        "skimage/data/motorcycle_right.png": "Middlebury 2014 stereo benchmark, Scharstein et al.",
        "skimage/data/retina.jpg": "Mikael Haggstrom on Wikimedia Commons, CC0",
        "skimage/data/rocket.jpg": "SpaceX, public domain",
        "sklearn/datasets/images/china.jpg": "danielbuechele on Flickr, CC BY 2.0; altered here",
    },
    "test": {
        "skimage/data/astronaut.png": "NASA, public domain",
        "skimage/data/camera.png": "Lav Varshney, CC0",
        "skimage/data/chelsea.png": "Stefan van der Walt, CC0",
        "skimage/data/gravel.png": "CC0Textures, CC0",
        "sklearn/datasets/images/flower.jpg": "vultilion on Flickr, CC BY 2.0; altered here",
    },
}
# Training never shows the last one: it stands for an unseen generator.
SPLITS = {
    "train": ("transposed_conv", "nearest_conv"),
    "test": ("transposed_conv", "nearest_conv", "pixel_shuffle"),
}
README = """\
Demonstration corpus of GAPL, for a pipeline smoke test: verdicts of a detector trained on it mean nothing.

0_real holds crops of photographs, 1_fake the same crops halved and brought back by a simulated
generator up-sampler (after AutoGAN: Zhang, Karaman, Chang 2019). The split is by photograph;
pixel_shuffle occurs in test only. Results on it say nothing about images of real generators.

The photographs come with scikit-image and scikit-learn, whose documentation names the sources:
"""


MARKER = "demo.json"
NOTICE = "trained on the demonstration corpus, a pipeline smoke test: its verdicts mean nothing"


def notice_of(images: Images) -> str:
    """Return NOTICE when an image lies in a demonstration corpus, else an empty text."""
    inside = {uri.rpartition(os.sep)[0] for uri in images.uris()}
    folders = {folder for path in map(Path, inside) for folder in (path, *path.parents)}
    return NOTICE if any((folder / MARKER).is_file() for folder in folders) else ""


def read_photograph(file: str) -> NDArray[np.uint8]:
    """Return the pixels (H, W, 3) of a key of PHOTOGRAPHS. Raises FileNotFoundError when it is not installed.

    The packages' own loaders are not used: they import much, and some of them download.
    """
    package, _, inside = file.partition("/")
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / inside
        if path.is_file():
            with Image.open(path) as image:
                return np.asarray(image.convert("RGB"))
    raise FileNotFoundError(
        f"the photograph {file} is missing; the demonstration corpus needs scikit-image and scikit-learn"
    )


def cut_crops(photo_HWC: NDArray[np.uint8], *, count: int, rng: random.Random) -> list[NDArray[np.uint8]]:
    """Cut `count` crops with contrast, each (CROP_SIZE_PX, CROP_SIZE_PX, 3).

    Of several random candidates, the one that is farthest from the crops taken so far is taken, so that crops
    overlap only where the photograph is small.
    """
    max_top, max_left = (side - CROP_SIZE_PX for side in photo_HWC.shape[:2])
    taken: list[tuple[int, int]] = []

    def crop_at(place: tuple[int, int]) -> NDArray[np.uint8]:
        return photo_HWC[place[0] : place[0] + CROP_SIZE_PX, place[1] : place[1] + CROP_SIZE_PX]

    def merit(place: tuple[int, int]) -> tuple[bool, int]:
        distances = [max(abs(place[0] - top), abs(place[1] - left)) for top, left in taken]
        # Every eighth pixel tells the contrast as well as all of them, and much faster.
        has_contrast = crop_at(place)[::8, ::8].std(axis=(0, 1)).max() >= MIN_CONTRAST
        return bool(has_contrast), min(distances, default=0)

    for _ in range(count):
        candidates = [(rng.randint(0, max_top), rng.randint(0, max_left)) for _ in range(CANDIDATES_PER_CROP)]
        taken.append(max(candidates, key=merit))
    return [crop_at(place) for place in taken]


def _write_split(folder: Path, *, split: str, crops: int, seed: int) -> None:
    """Write `crops` crops of each photograph and a fake made from each, for each up-sampler."""
    from data.images.upsample import make_fake

    names = SPLITS[split]
    for file in PHOTOGRAPHS[split]:
        rng = random.Random(f"{seed}/{file}")
        pictures = cut_crops(read_photograph(file), count=crops * len(names), rng=rng)
        for number, real in enumerate(pictures):
            # The up-samplers take turns, so each has crops from all over the photograph, and none twice.
            name = names[number % len(names)]
            fake = make_fake(real, upsampler=name, seed=rng.getrandbits(63))
            for kind, pixels in (("0_real", real), ("1_fake", fake)):
                path = folder / name / kind / f"{Path(file).stem}_{number:02d}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path, "JPEG", quality=JPEG_QUALITY, subsampling=0)


def _file_list_sha256(out: Path) -> str:
    """Return a digest of the paths and contents of all images."""
    lines = (
        f"{path.relative_to(out).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in sorted(out.rglob("*.jpg"))
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _write_corpus(folder: Path, settings: dict[str, int]) -> None:
    """Write the images, README.txt, and demo.json, which has their settings and counts."""
    credits, images = [], {}
    for split, photographs in PHOTOGRAPHS.items():
        crops = settings[f"{split}_crops"]
        _write_split(folder / split, split=split, crops=crops, seed=settings["seed"])
        credits += [f"  {Path(file).name} ({split}): {credit}\n" for file, credit in photographs.items()]
        pairs = crops * len(photographs)
        images.update({f"{split}/{name}": {"real": pairs, "fake": pairs} for name in SPLITS[split]})
    (folder / "README.txt").write_text(README + "".join(credits), encoding="ascii")
    facts = {**settings, "images": images, "file_list_sha256": _file_list_sha256(folder)}
    (folder / MARKER).write_text(json.dumps(facts, indent=2) + "\n", encoding="ascii")


def _require_same(out: Path, settings: dict[str, int]) -> None:
    """Raise ValueError unless `out` holds the complete corpus of these settings."""
    try:
        facts: dict[str, Any] = json.loads((out / MARKER).read_text(encoding="ascii"))
        found, sha256 = {key: facts[key] for key in settings}, facts["file_list_sha256"]
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError):
        raise ValueError(f"{out} exists and is not a demonstration corpus; name a new folder") from None
    if found != settings:
        raise ValueError(f"{out} holds a demonstration corpus of {found}, not {settings}; name a new folder")
    if sha256 != _file_list_sha256(out):
        raise ValueError(f"{out} is a demonstration corpus with changed images; remove it to build it anew")


def build_demo(out: Path, *, seed: int = 0, train_crops: int = 6, test_crops: int = 3) -> Path:
    """Make the corpus `<out>/{train,test}/<up-sampler>/{0_real,1_fake}/*.jpg` and return `out`.

    `train_crops` and `test_crops` are crops of each photograph for each up-sampler. A folder that holds the
    corpus of the same version, seed and counts is left as it is; ValueError is raised for anything else at
    `out`, which is never overwritten. The corpus appears at `out` whole or not at all. The same arguments
    give the same bytes under the same versions of the libraries.
    """
    if train_crops < 1 or test_crops < 1:
        raise ValueError(f"a demonstration corpus has at least 1 crop, not {train_crops} and {test_crops}")
    settings = {"version": VERSION, "seed": seed, "train_crops": train_crops, "test_crops": test_crops}
    if out.exists():
        _require_same(out, settings)
        return out
    from data.images.upsample import one_thread

    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as holder, one_thread():
        # A folder inside the temporary one, which only its owner may read.
        _write_corpus(Path(holder) / "demo", settings)
        try:
            (Path(holder) / "demo").rename(out)
        except OSError:
            # Another process may have been first.
            if not out.exists():
                raise
            _require_same(out, settings)
    return out


def main() -> None:
    parser = cli.Parser(__doc__, prog="python -m data.demo")
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    args = parser.parse_args()
    out = build_demo(args.out, seed=args.seed)
    print(f"demonstration corpus, seed {args.seed}: {out}")
    facts = json.loads((out / MARKER).read_text(encoding="ascii"))
    for name, count in facts["images"].items():
        print(f"  {name}: {count['real']} real, {count['fake']} fake")


if __name__ == "__main__":
    cli.run(main)
