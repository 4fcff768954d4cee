"""Read YAML files that describe benchmarks into typed specs: one file each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from gapl.columns import normalise
from gapl.schema import build_spec

# How the real images of a subset are found.
PAIRINGS = {
    "own": "in the subset's folder",
    "shared": "there, else in the folders that `reals` names",
    "stems": "as shared, of these only those with the file stem of a fake",
    "generator": "in parquet shards, those that name the generator",
    "all": "in parquet shards, all of them for every generator",
    "none": "there are none",
}
_SHIPPED = Path(__file__).parent / "catalog"


@dataclass(frozen=True)
class SubsetSpec:
    """One generator of a benchmark, as published.

    name            as reported; a folder of this name, normalised, belongs to the subset
    aliases         other names of that folder
    n_real, n_fake  images published, None where unknown
    reals           folders of the real images to score against when the subset has none of its own
    """

    name: str
    aliases: tuple[str, ...] = ()
    n_real: int | None = None
    n_fake: int | None = None
    reals: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_texts(self, "name", "aliases", "reals")
        _check_counts(self, "n_real", "n_fake")


@dataclass(frozen=True)
class BenchmarkSpec:
    """A published benchmark; a single subset takes all of its class folders.

    source          where to download it: a name on the hub, or a web page
    licence         as its source states it
    folders         names its folder goes by beside `name`, compared normalised
    pairing         one of PAIRINGS
    subsets         none listed: each generator that is found is one
    reals           of the subsets that name none themselves
    bare_fakes      a subset's folder may hold its fakes directly, without a class folder
    shard_folders   beside `data`, folders that hold its parquet shards
    n_subsets, n_real, n_fake  published altogether, where they are not known for each subset
    protocol        how its authors score it
    note            what a reader of its figures should know
    """

    name: str
    source: str
    licence: str
    pairing: str
    folders: tuple[str, ...] = ()
    subsets: tuple[SubsetSpec, ...] = ()
    reals: tuple[str, ...] = ()
    bare_fakes: bool = False
    shard_folders: tuple[str, ...] = ()
    n_subsets: int | None = None
    n_real: int | None = None
    n_fake: int | None = None
    protocol: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        _check_texts(self, "name", "source", "licence", "folders", "reals", "shard_folders")
        _check_counts(self, "n_subsets", "n_real", "n_fake")
        if self.pairing not in PAIRINGS:
            raise ValueError(f"pairing: {self.pairing!r}; expected one of {', '.join(PAIRINGS)}")
        names = [subset.name for subset in self.subsets]
        if len(set(names)) < len(names):
            raise ValueError(f"subsets: a name comes twice in {', '.join(names)}")

    def names(self) -> tuple[str, ...]:
        """Return the names that its folder goes by."""
        return tuple(dict.fromkeys((self.name, *self.folders)))


def _check_texts(spec: SubsetSpec | BenchmarkSpec, *names: str) -> None:
    """Raise ValueError when one of these fields is an empty text, or a list with one."""
    for name in names:
        value = getattr(spec, name)
        if not all(text.strip() for text in ([value] if isinstance(value, str) else value)):
            raise ValueError(f"{name}: an empty text")


def _check_counts(spec: SubsetSpec | BenchmarkSpec, *names: str) -> None:
    """Raise ValueError when one of these fields is a negative number."""
    for name in names:
        if (getattr(spec, name) or 0) < 0:
            raise ValueError(f"{name}: {getattr(spec, name)}; expected 0 or more")


@cache
def read_catalog(folder: Path | None = None) -> Mapping[str, BenchmarkSpec]:
    """Return name -> spec of the benchmarks that come with the project, then of those of `folder`, by file name.

    One in `folder` with the name of another takes its place. Raises ValueError that names file and key for
    whatever is unknown, missing or of a wrong kind, and when two benchmarks claim the same folder name.
    """
    if folder is not None and not folder.is_dir():
        raise ValueError(f"{folder} is no folder; expected one with YAML files that describe benchmarks")
    specs: dict[str, BenchmarkSpec] = {}
    for place in (_SHIPPED, folder):
        own = [read_spec(file) for file in sorted(place.glob("*.yaml"))] if place else []
        if place and not own:
            raise ValueError(f"{place}: no *.yaml in it; expected files that describe benchmarks")
        twice = [spec.name for i, spec in enumerate(own) if spec.name in {other.name for other in own[:i]}]
        if twice:
            raise ValueError(f"{place}: two files describe {twice[0]}")
        specs |= {spec.name: spec for spec in own}
    folder_names(specs)
    return specs


def folder_names(specs: Mapping[str, BenchmarkSpec]) -> dict[str, str]:
    """Return normalised folder name -> name of the benchmark. Raises ValueError when two claim the same."""
    name_of: dict[str, str] = {}
    for spec in specs.values():
        for name in spec.names():
            if name_of.setdefault(normalise(name), spec.name) != spec.name:
                raise ValueError(
                    f"{spec.name} and {name_of[normalise(name)]} both go by the folder name {name!r}; change one"
                )
    return name_of


def read_spec(file: Path) -> BenchmarkSpec:
    """Read the description of a benchmark. Raises ValueError that names file and key."""
    import yaml  # only needed once benchmarks are asked for

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{file} cannot be read as YAML: {' '.join(str(error).split())}") from error
    try:
        spec: BenchmarkSpec = build_spec(BenchmarkSpec, content)
        subsets = tuple(each if each.reals else replace(each, reals=spec.reals) for each in spec.subsets)
        _check_reals(spec.pairing, subsets)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return replace(spec, subsets=subsets)


def _check_reals(pairing: str, subsets: Sequence[SubsetSpec]) -> None:
    """Raise ValueError unless just the subsets of a pairing that needs them name folders of real images."""
    needed = pairing in ("shared", "stems")
    for subset in subsets:
        if bool(subset.reals) != needed:
            does = "needs folders of real images" if needed else "has no use for folders of real images"
            raise ValueError(f"reals: pairing {pairing} {does}; see subset {subset.name}")
