"""What detector files are, and from one form to another.

    python -m models.weights inspect checkpoint.pt
    python -m models.weights convert checkpoint.pt detector.safetensors --form merged --dtype bfloat16
    python -m models.weights convert checkpoint.pt adapter.safetensors --form adapter --save-backbone tower
    python -m models.weights convert adapter.safetensors checkpoint.pt --form official

An adapter leaves out the backbone, which must be had again to use it: --backbone names it (default: what the
file names) and is compared to the bit; --save-backbone writes the file's own as a transformers folder.

Shape suffixes: P prototypes, E embedding.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

import cli
from files.checksum import sha256_of
from files.picklefile import PickleFile, is_pickle, write
from models.adapt import base_tower, is_lora
from models.config import DetectorConfig
from models.weights.backbone import load_backbone
from models.weights.checkpoint import Checkpoint, Stored, load_checkpoint, read_checkpoint, save_checkpoint
from models.weights.names import DTYPES, FORMS
from models.weights.released import THRESHOLD, read_official, to_official

log = logging.getLogger(__name__)


def main() -> None:
    args = parse_arguments()
    if args.command == "inspect":
        print(json.dumps(facts(args.file), indent=2) if args.json else "\n".join(lines_of(facts(args.file))))
        return
    convert(args)
    sizes = [f"{path} {path.stat().st_size / 1e6:,.1f} MB" for path in (args.file, args.out)]
    print(f"{sizes[0]} -> {sizes[1]} ({args.form})")


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="what a file is")
    inspect.add_argument("file", type=Path, help="detector file, ours or the authors', or the authors' prototypes")
    inspect.add_argument("--json", action="store_true", help="one JSON object")
    command = commands.add_parser("convert", help="from one form to another; no score changes but by --dtype")
    command.add_argument("file", type=Path, help="detector file, ours or the authors'")
    command.add_argument("out", type=Path)
    command.add_argument("--form", choices=(*FORMS, "official"), required=True)
    command.add_argument("--dtype", choices=DTYPES, default="float32", help="of a merged file's tower")
    command.add_argument("--backbone", help="the tower of an adapter: where it is, or what it is to be called")
    command.add_argument(
        "--save-backbone", type=Path, help="for --form adapter: write the file's tower to a folder"
    )
    command.add_argument("--overwrite", action="store_true", help="replace what is there")
    return parser.parse_args()


# ---------------------------------------------------------------------------------------------------------
# Convert


def convert(args: argparse.Namespace) -> None:
    for out in (args.out, args.save_backbone):
        if out and out.exists() and not args.overwrite:
            raise ValueError(f"{out} exists; name another, or pass --overwrite to replace it")
    if args.save_backbone and (args.form != "adapter" or args.backbone):
        raise ValueError("--save-backbone is for --form adapter, and instead of --backbone")
    whole = load_checkpoint(args.file, merge=False, backbone=args.backbone, allow_tiny=True)
    if whole.form == "merged" and args.form != "merged":
        raise ValueError(
            f"{args.file}: its LoRA is merged and cannot be taken out again; only --form merged is left"
        )
    if args.form == "official":
        warn_of_losses(whole)
        return write(args.out, to_official(whole.config, whole.detector.state_dict()))
    if args.form == "adapter" and whole.form != "adapter":
        whole.config = replace(whole.config, backbone=name_backbone(whole, args))
    whole.provenance.setdefault("converted", {"from": whole.form, "sha256": sha256_of(args.file)})
    save_checkpoint(args.out, replace(whole, form=args.form), dtype=args.dtype)


def warn_of_losses(whole: Checkpoint) -> None:
    """Scores survive in the authors' form; what else a user may rely on does not all."""
    lost = {
        f"the threshold {whole.threshold}": whole.threshold != THRESHOLD,
        f"the notice {whole.notice!r}": bool(whole.notice),
        "the scaling of 16-bit grey": whole.config.pixel.grey16 != "clip",
    }
    if named := [name for name, is_lost in lost.items() if is_lost]:
        log.warning("the authors' form does not hold %s", ", ".join(named))


def name_backbone(whole: Checkpoint, args: argparse.Namespace) -> str:
    """What the adapter is to call its backbone, once that is known to be this tower to the bit."""
    state = base_tower(whole.detector.state_dict())
    if args.save_backbone:
        save_backbone(args.save_backbone, state, whole.config)
        return str(args.save_backbone)
    name = args.backbone or whole.config.backbone
    if not name:
        raise ValueError(f"{args.file}: its tower has no name; give --backbone, or --save-backbone FOLDER")
    try:
        found = load_backbone(name).tower.state_dict()
    except ValueError as error:
        raise ValueError(f"{error}; or --save-backbone FOLDER, which takes it out of {args.file}") from error
    if differing := [key for key in state if key not in found or not torch.equal(found[key], state[key])]:
        raise ValueError(f"--backbone {name}: not the tower of {args.file}; {differing[0]!r} differs")
    return str(name)


def save_backbone(folder: Path, state: dict[str, Tensor], config: DetectorConfig) -> None:
    """A folder that transformers, and so --backbone, can read."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    tower = {"model_type": "clip_vision_model", "architectures": ["CLIPVisionModel"], **asdict(config.tower)}
    (folder / "config.json").write_text(json.dumps(tower, indent=2))
    pixel = {
        "image_mean": config.pixel.mean,
        "image_std": config.pixel.std,
        "image_processor_type": "CLIPImageProcessor",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(pixel, indent=2))


# ---------------------------------------------------------------------------------------------------------
# Inspect


def facts(path: Path) -> dict[str, Any]:
    """All that a file says of itself, and what its tensors show. Raises ValueError when it is not sound."""
    stored = read_prototypes(path) or read_checkpoint(path)
    tensors = stored.tensors
    parameters = {
        "tower": sum(value.numel() for value in base_tower(tensors).values()),
        "LoRA": sum(value.numel() for name, value in tensors.items() if is_lora(name)),
        "head": sum(
            value.numel() for name, value in tensors.items() if not name.startswith(("tower.", "prototypes"))
        ),
    }
    found: dict[str, Any] = {
        "file": str(path),
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
        "form": stored.form,
        "what": stored.described,
        "tensors": len(tensors),
        "parameters": {name: count for name, count in parameters.items() if count},
    }
    if config := stored.config:
        found |= {name: getattr(config, name) for name in ("stage", "backbone", "embed_dim", "num_heads")}
        found |= {"tower": asdict(config.tower), "pixels": asdict(config.pixel), "threshold": stored.threshold}
        found["LoRA"] = config.lora and asdict(config.lora)
        found |= {"backbone_fingerprint": stored.backbone_fingerprint, "notice": stored.notice}
    if "prototypes_PE" in tensors:
        found["prototypes"] = prototype_facts(tensors["prototypes_PE"], stored.provenance)
    return found | {"provenance": stored.provenance, "versions": stored.versions}


def read_prototypes(path: Path) -> Stored | None:
    """The authors' prototypes; None when the file is anything else."""
    if not path.is_file() or not is_pickle(path):
        return None
    try:
        official = read_official(PickleFile(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return (
        Stored("prototypes", official.described, None, official.tensors) if official.kind == "prototypes" else None
    )


def prototype_facts(prototypes_PE: Tensor, provenance: dict[str, Any]) -> dict[str, Any]:
    """How many of each class, their lengths, and how far each class is from orthonormal rows."""
    match provenance.get("prototypes"):
        case {"num_real": int(num_real)}:
            pass
        case _:  # the authors' files do not say: the first half
            num_real = len(prototypes_PE) // 2
    real, fake = prototypes_PE[:num_real].double(), prototypes_PE[num_real:].double()
    lengths_P = prototypes_PE.double().norm(dim=1)
    return {
        "real": len(real),
        "fake": len(fake),
        "dimensions": prototypes_PE.shape[1],
        "lengths": [round(lengths_P.min().item(), 6), round(lengths_P.max().item(), 6)],
        "orthonormal": {"real": is_orthonormal(real), "fake": is_orthonormal(fake)},
    }


def is_orthonormal(rows_PE: Tensor) -> bool:
    """Whether rows are of length 1 and at right angles, to float32's precision."""
    return torch.allclose(rows_PE @ rows_PE.T, torch.eye(len(rows_PE), dtype=rows_PE.dtype), rtol=0, atol=1e-5)


def lines_of(found: dict[str, Any]) -> Iterator[str]:
    """A line a fact; nested facts on one line, empty ones left out."""
    for name, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {json.dumps(item, default=str)}" for key, item in value.items())
        elif isinstance(value, int) and not isinstance(value, bool):
            value = f"{value:,}"
        if value not in (None, "", []):
            yield f"{name.replace('_', ' '):21}{value}"
