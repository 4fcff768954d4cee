"""The benchmarks: what their folders are called, and a folder of benchmarks -> subsets of labelled images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.folders import ImageFolder, find_image_folders, normalise, title
from data.records import Label, Manifest, Record
from data.sources import open_source

Folders = Mapping[ImageFolder, list[str]]
Groups = dict[str, tuple[list[Record], list[Record]]]  # subset -> (fakes, photographs)


@dataclass(frozen=True)
class SubsetSpec:
    """One generator of a benchmark, as published.

    name            as reported; a folder of this name, normalised, belongs to the subset
    aliases         other names of that folder
    n_real, n_fake  images published, None where unknown
    reals           folders of the photographs to score against when the subset has none of its own
    """

    name: str
    aliases: tuple[str, ...] = ()
    n_real: int | None = None
    n_fake: int | None = None
    reals: tuple[str, ...] = ()


@dataclass(frozen=True)
class BenchmarkSpec:
    """A published benchmark; a single subset takes all of its class folders.

    folder_names   names its folder goes by, compared normalised
    bare_fakes     a subset's folder may hold its fakes directly, without a class folder
    match_stems    of shared photographs, only those named like a fake of the subset count
    note           what a reader of its figures should know
    """

    name: str
    folder_names: tuple[str, ...]
    subsets: tuple[SubsetSpec, ...]
    bare_fakes: bool = False
    match_stems: bool = False
    note: str = ""


@dataclass(frozen=True)
class Subset:
    """The images behind one row of a report; `reals_shared` when its photographs serve other subsets too."""

    name: str
    manifest: Manifest
    reals_shared: bool = False


@dataclass(frozen=True)
class Benchmark:
    """A benchmark as found on disk, and which of its published subsets were not."""

    name: str
    subsets: tuple[Subset, ...]
    missing_subsets: tuple[str, ...] = ()

    def images(self) -> Manifest:
        """Every image once, though subsets share photographs."""
        records = {record.uri: record for subset in self.subsets for record in subset.manifest}
        return Manifest(self.name, tuple(records.values()))


@dataclass(frozen=True)
class Absent:
    """A benchmark that was not found, and what was looked for."""

    name: str
    reason: str


_RAISE = ("real_RAISE_1k", "RAISE-1k", "RAISEpng", "RAISE")


def _subset(name: str, *aliases: str, n: int | None = None) -> SubsetSpec:
    return SubsetSpec(name, aliases, n, n)


def _subsets(names: str, *, n: int | None = None, reals: tuple[str, ...] = ()) -> tuple[SubsetSpec, ...]:
    return tuple(SubsetSpec(name, (), n, n, reals) for name in names.split())


_SPECS = (
    BenchmarkSpec(
        "ForenSynths",
        ("ForenSynths", "CNNDetection", "CNN_synth_testset"),
        (
            _subset("progan", n=4000),
            _subset("stylegan", n=5991),
            _subset("stylegan2", n=7988),
            _subset("stargan", n=1999),
            _subset("gaugan", n=5000),
            _subset("cyclegan", n=1321),
            _subset("biggan", n=2000),
            SubsetSpec("deepfake", n_real=2707, n_fake=2698),
        ),
        note="the eight subsets GAPL reports: without crn, imle, seeingdark, san and whichfaceisreal",
    ),
    BenchmarkSpec(
        "UFD",
        ("UFD", "UniversalFakeDetect", "diffusion_datasets"),
        (
            *_subsets("guided", n=1000, reals=("imagenet",)),
            *_subsets(
                "ldm_200 ldm_200_cfg ldm_100 glide_100_27 glide_50_27 glide_100_10 dalle",
                n=1000,
                reals=("laion",),
            ),
        ),
        note="guided against ImageNet, the others against LAION",
    ),
    BenchmarkSpec(
        "GenImage",
        ("GenImage",),
        (
            _subset("Midjourney", "imagenet_midjourney", n=6000),
            _subset("SDv1.4", "stable_diffusion_v_1_4", "imagenet_ai_0419_sdv4", "sdv4", "sd14", n=6000),
            _subset("SDv1.5", "stable_diffusion_v_1_5", "imagenet_ai_0424_sdv5", "sdv5", "sd15", n=8000),
            _subset("ADM", "imagenet_ai_0508_adm", n=6000),
            _subset("GLIDE", "imagenet_glide", n=6000),
            _subset("Wukong", "imagenet_ai_0424_wukong", n=6000),
            _subset("VQDM", "imagenet_ai_0419_vqdm", n=6000),
            _subset("BigGAN", "imagenet_ai_0419_biggan", n=6000),
        ),
        note="the validation split; photographs are JPEG and fakes PNG, so the file format tells them apart",
    ),
    BenchmarkSpec(
        "SynthBuster",
        ("SynthBuster", *_RAISE),
        _subsets(
            "dalle2 dalle3 firefly glide midjourney-v5 stable-diffusion-1-3 stable-diffusion-1-4 "
            "stable-diffusion-2 stable-diffusion-xl",
            n=1000,
            reals=_RAISE,
        ),
        bare_fakes=True,
        match_stems=True,
        note="every generator against the same 1,000 photographs of RAISE-1k",
    ),
    BenchmarkSpec("Chameleon", ("Chameleon",), (SubsetSpec("Chameleon", n_real=14_863, n_fake=11_170),)),
    BenchmarkSpec(
        "AIGIBench",
        ("AIGIBench",),
        (
            _subset("Midjourney", "Midjourney-V6"),
            *_subsets(
                "BlendFace BLIP CommunityAI DALLE-3 E4S FaceSwap FLUX1-dev GLIDE Imagen3 Infinite-ID "
                "InstantID InSwap IP-Adapter PhotoMaker ProGAN R3GAN SD3 SDXL SimSwap SocialRF StyleGAN-XL "
                "StyleGAN3 StyleSwim WFIR"
            ),
        ),
    ),
    BenchmarkSpec("WildRF", ("WildRF",), _subsets("reddit twitter facebook")),
    BenchmarkSpec("SynthWildX", ("SynthWildX",), _subsets("dalle3 firefly midjourney_v5")),
    BenchmarkSpec(
        "EvalGEN",
        ("EvalGEN",),
        _subsets("OmniGen NOVA Infinity GoT Flux"),
        bare_fakes=True,
        note="fakes only: recall, no part of a mean of balanced accuracies",
    ),
)

CATALOG: dict[str, BenchmarkSpec] = {spec.name: spec for spec in _SPECS}
_NAME_OF = {normalise(name): spec.name for spec in _SPECS for name in (spec.name, *spec.folder_names)}


def find_benchmarks(root: Path, *, names: Sequence[str] | None = None) -> list[Benchmark | Absent]:
    """The benchmarks at or below `root`: those of the catalog, each found or Absent, then all others.

    Any other folder with class folders is a benchmark too: `root`, with those in itself and in its children,
    which are the subsets; and each child that has some further below. A CSV or parquet manifest as `root` is
    one benchmark, a subset for each generator, of all its rows whatever their split.

    Of several splits in a subset the test split is scored, else the validation split; training data only
    outside of the catalog and if there is nothing else. All images of a subset are kept. A subset without
    photographs is scored against those of the subsets that hold nothing else, if there are any.

    With `names`, of the catalog or of other folders found, only these. Raises ValueError for an unknown name
    or a missing `root`.
    """
    published: dict[str, Folders] = {}
    if root.is_file():
        manifest = open_source(root)
        generic = {manifest.name: _by_generator(manifest)}
        names = [manifest.name] if names is None else names
    else:
        published, others = _sort_folders(root, find_image_folders(root))
        generic = _sort_generic(root, others)
    return [
        _pair(name, generic[name]) if name in generic else _resolve(CATALOG[name], published.get(name, {}), root)
        for name in _choose(sorted(generic), names)
    ]


def _choose(generic: Sequence[str], names: Sequence[str] | None) -> list[str]:
    allowed = list(dict.fromkeys([*CATALOG, *generic]))
    if names is None:
        return allowed
    known = _NAME_OF | {normalise(name): name for name in generic}
    unknown = [name for name in names if normalise(name) not in known]
    if unknown:
        raise ValueError(f"unknown benchmark {unknown[0]!r}; expected one of {', '.join(allowed)}")
    return list(dict.fromkeys(known[normalise(name)] for name in names))


def _sort_folders(root: Path, folders: Folders) -> tuple[dict[str, Folders], Folders]:
    """(folders of each published benchmark, the others): told by the child of `root`, else by `root`."""
    of_root = _NAME_OF.get(normalise(title(root)))
    published: dict[str, dict[ImageFolder, list[str]]] = defaultdict(dict)
    others: dict[ImageFolder, list[str]] = {}
    for folder, images in folders.items():
        name = _NAME_OF.get(normalise(folder.parts[0]), of_root) if folder.parts else of_root
        (published[name] if name else others)[folder] = images
    return dict(published), others


def _sort_generic(root: Path, folders: Folders) -> dict[str, Groups]:
    """benchmark -> subset -> (fakes, photographs)."""
    found: dict[str, dict[str, dict[ImageFolder, list[str]]]] = defaultdict(lambda: defaultdict(dict))
    for folder, images in folders.items():
        if folder.label is not None and images:
            parts = folder.parts or (title(root),)
            benchmark, subset = parts[:2] if len(parts) > 1 else (title(root), parts[0])
            found[benchmark][subset][folder] = images
    return {
        benchmark: {name: _by_label(_evaluation_split(below, train=True), name) for name, below in subsets.items()}
        for benchmark, subsets in found.items()
    }


def _by_generator(manifest: Manifest) -> Groups:
    groups: dict[str, tuple[list[Record], list[Record]]] = defaultdict(lambda: ([], []))
    for record in manifest:
        # The photographs are a group of their own, so that every generator is scored against all of them.
        if record.label is Label.FAKE:
            groups[record.generator][0].append(record)
        else:
            groups[""][1].append(record)
    return dict(groups)


def _pair(name: str, groups: Groups) -> Benchmark:
    """A benchmark outside of the catalog: fakes without photographs meet the photographs without fakes."""
    pool = [record for fakes, reals in groups.values() if not fakes for record in reals]
    needed = any(not reals for _fakes, reals in groups.values())
    subsets = [
        _make(subset or name, fakes, reals or pool, shared=not reals)
        for subset, (fakes, reals) in sorted(groups.items())
        if fakes or not needed
    ]
    return Benchmark(name, tuple(subsets))


def _resolve(spec: BenchmarkSpec, folders: Folders, root: Path) -> Benchmark | Absent:
    """A published benchmark from the folders that bear its name."""
    if not folders:
        looked_for = " or ".join(spec.folder_names)
        return Absent(spec.name, f"not found: no folder {looked_for} with images in {root}")
    found = [subset for subset in (_find_subset(spec, wanted, folders) for wanted in spec.subsets) if subset]
    names = {subset.name for subset in found}
    missing = tuple(wanted.name for wanted in spec.subsets if wanted.name not in names)
    if not found:
        return Absent(spec.name, f"not found: its folder holds no fakes to score of {', '.join(missing)}")
    return Benchmark(spec.name, tuple(found), missing)


def _find_subset(spec: BenchmarkSpec, wanted: SubsetSpec, folders: Folders) -> Subset | None:
    whole = len(spec.subsets) == 1
    own = _evaluation_split({f: folders[f] for f in folders if whole or _named(f, (wanted.name, *wanted.aliases))})
    fakes, reals = _by_label(own, wanted.name)
    if spec.bare_fakes and not fakes and not reals:
        fakes = _records(own, Label.FAKE, wanted.name)
    if not fakes:
        return None
    if reals or not wanted.reals:
        return _make(wanted.name, fakes, reals)
    beside = {f: folders[f] for f in folders if f.label is not Label.FAKE and _named(f, wanted.reals)}
    shared = _records(_evaluation_split(beside), Label.REAL, wanted.reals[0])
    if spec.match_stems:
        shared = _like_stems(shared, fakes)
    return _make(wanted.name, fakes, shared, shared=True)


def _like_stems(reals: list[Record], fakes: list[Record]) -> list[Record]:
    """Of the photographs, one for each stem among the fakes; all of them when not one stem is the same."""
    by_stem = {Path(record.uri).stem: record for record in reversed(reals)}
    stems = {Path(record.uri).stem for record in fakes}
    return [record for stem, record in by_stem.items() if stem in stems] or reals


def _make(name: str, fakes: list[Record], reals: list[Record], *, shared: bool = False) -> Subset:
    records = sorted(fakes + reals, key=lambda record: record.uri)
    return Subset(name, Manifest(name, tuple(records)), reals_shared=shared and bool(reals))


def _evaluation_split(folders: Folders, *, train: bool = False) -> Folders:
    """The test split, else the validation split, and what is in no split; training data only if asked for."""
    present = {folder.split for folder in folders}
    order = ("test", "val", "train") if train else ("test", "val")
    chosen = next((split for split in order if split in present), None)
    return {folder: images for folder, images in folders.items() if folder.split in (None, chosen)}


def _by_label(folders: Folders, generator: str) -> tuple[list[Record], list[Record]]:
    fakes, reals = (
        _records({f: folders[f] for f in folders if f.label is label}, label, generator)
        for label in (Label.FAKE, Label.REAL)
    )
    return fakes, reals


def _records(folders: Folders, label: Label, generator: str) -> list[Record]:
    return [Record(uri, label, generator) for images in folders.values() for uri in images]


def _named(folder: ImageFolder, names: Iterable[str]) -> bool:
    """Whether a folder on the way to this one has one of the names."""
    return not {normalise(part) for part in folder.parts}.isdisjoint(map(normalise, names))
