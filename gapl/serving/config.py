"""What a service is started with; its limits, tokens and origins come out of a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from gapl.files.refusal import check_is_file
from gapl.schema import build_spec
from gapl.serving.limits import BatchLimits, DecodeLimits, ExplorationLimits, RequestLimits
from gapl.serving.tokens import Token, check_name


@dataclass(frozen=True)
class Config:
    """What the configuration of a service says.

    tokens   by their names; none: whoever reaches the service may use it
    origins  of web pages of other sites that may use it, such as "https://example.org"
    """

    requests: RequestLimits = field(default_factory=RequestLimits)
    explorations: ExplorationLimits = field(default_factory=ExplorationLimits)
    batches: BatchLimits = field(default_factory=BatchLimits)
    decoding: DecodeLimits = field(default_factory=DecodeLimits)
    tokens: Mapping[str, Token] = field(default_factory=dict)
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.tokens:
            check_name(name)
        if len({token.sha256 for token in self.tokens.values()}) < len(self.tokens):
            raise ValueError("two tokens have the same sha256")
        for origin in self.origins:
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}":
                raise ValueError(f"an origin is like https://example.org, not {origin!r}")


@dataclass(frozen=True)
class Setup:
    """What a service is started with.

    model        what rows call the detector
    views        full, fast or auto
    batch_size   images that the detector judges at once
    num_workers  processes that decode images of requests
    folder       where the files of jobs are kept and, without a URL, their results
    jobs_url     of the database of jobs, for several services; empty: SQLite in the folder
    """

    config: Config
    model: str
    views: str
    batch_size: int
    num_workers: int
    folder: Path
    jobs_url: str = ""


def read_config(path: Path | None) -> Config:
    """Return what a file says; without one, the defaults. Raises ValueError, one line, when it is wrong."""
    if path is None:
        return Config()
    check_is_file(path, what="a configuration in TOML")
    try:
        config: Config = build_spec(Config, tomllib.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return config
