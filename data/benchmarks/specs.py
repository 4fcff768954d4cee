"""YAML files that describe benchmarks -> typed specs. One file each; another file is another benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from data.folders import normalise

# How the photographs of a subset are found.
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

    source          where it is had: a name on the hub, or a page
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

    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.name, *self.folders)))


@cache
def read_catalog(folder: Path | None = None) -> Mapping[str, BenchmarkSpec]:
    """name -> spec of the benchmarks that come with the project, then those of `folder`, by file name.

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
    """Normalised folder name -> name of the benchmark. Raises ValueError when two claim the same."""
    name_of: dict[str, str] = {}
    for spec in specs.values():
        for name in spec.names():
            if name_of.setdefault(normalise(name), spec.name) != spec.name:
                raise ValueError(
                    f"{spec.name} and {name_of[normalise(name)]} both go by the folder name {name!r}; change one"
                )
    return name_of


def read_spec(file: Path) -> BenchmarkSpec:
    """Raises ValueError that names file and key."""
    import yaml  # only needed once benchmarks are asked for

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{file} cannot be read as YAML: {' '.join(str(error).split())}") from error
    values = _convert(str(file), content, BenchmarkSpec)
    reals = values.get("reals", ())
    subsets = [
        SubsetSpec(**{"reals": reals} | _convert(f"{file}: subset {number}", subset, SubsetSpec))
        for number, subset in enumerate(values.get("subsets", ()), start=1)
    ]
    names = [subset.name for subset in subsets]
    if len(set(names)) < len(names):
        raise ValueError(f"{file}: key subsets: a name comes twice in {', '.join(names)}")
    spec = BenchmarkSpec(**values | {"subsets": tuple(subsets)})
    needs_reals = spec.pairing in ("shared", "stems")
    wrong = [subset.name for subset in subsets if bool(subset.reals) != needs_reals]
    if wrong:
        does = "needs folders of photographs" if needs_reals else "has no use for folders of photographs"
        raise ValueError(f"{file}: key reals: pairing {spec.pairing} {does}; see subset {wrong[0]}")
    return spec


def _convert(where: str, content: Any, kind: type[Any]) -> dict[str, Any]:
    """The values as the fields of a dataclass want them."""
    allowed = [field.name for field in fields(kind)]
    if not isinstance(content, dict):
        raise ValueError(f"{where}: expected keys and values; allowed keys are {', '.join(allowed)}")
    for key in content:
        if key not in allowed:
            raise ValueError(f"{where}: unknown key {key!r}; expected one of {', '.join(allowed)}")
    for field in fields(kind):
        if field.default is MISSING and field.name not in content:
            raise ValueError(f"{where}: key {field.name} is missing")
    return {key: _value(f"{where}: key {key}", key, value) for key, value in content.items()}


def _value(where: str, key: str, value: Any) -> Any:
    convert, expected = _CONVERTERS[key]
    converted = convert(value)
    if converted is None:
        raise ValueError(f"{where}: {value!r}; expected {expected}")
    return converted


def _text(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _texts(value: Any) -> tuple[str, ...] | None:
    return tuple(value) if isinstance(value, list) and all(map(_text, value)) else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _pairing(value: Any) -> str | None:
    return value if isinstance(value, str) and value in PAIRINGS else None


def _entries(value: Any) -> Sequence[Any] | None:
    return value if isinstance(value, list) else None


_A_TEXT = (_text, "a text, in quotes if it looks like a number")
_A_LIST = (_texts, "a list of texts, in quotes if they look like numbers")
_A_COUNT = (_count, "a number, 0 or more")
_CONVERTERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    **dict.fromkeys(("name", "source", "licence", "protocol", "note"), _A_TEXT),
    **dict.fromkeys(("folders", "aliases", "reals", "shard_folders"), _A_LIST),
    **dict.fromkeys(("n_subsets", "n_real", "n_fake"), _A_COUNT),
    "bare_fakes": (_flag, "true or false"),
    "pairing": (_pairing, f"one of {', '.join(PAIRINGS)}"),
    "subsets": (_entries, "a list of subsets, each with keys and values"),
}
