"""The detector that a run starts from: a tower and a new head, stage 1 and a bank, or a detector to go on with."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace

from gapl.pixels import IMAGENET_MEAN, IMAGENET_STD, PixelSpec
from models.adapt import add_lora
from models.config import DetectorConfig, LoraSpec
from models.detector import PrototypeDetector, TowerHead, build_detector, count_parameters
from models.weights.backbone import architecture, fingerprint, load_backbone
from models.weights.checkpoint import Checkpoint, load_checkpoint, read_checkpoint
from models.weights.hub import find_model
from models.weights.names import DEFAULT
from models.weights.released import PROTOTYPES
from prototype.bank import PrototypeBank
from training.recipe import Recipe

log = logging.getLogger(__name__)


def start_stage1(args: argparse.Namespace, recipe: Recipe) -> Checkpoint:
    source = load_backbone(args.backbone or DEFAULT)
    pixel = pixels_of(source.pixel, recipe)
    config = DetectorConfig(1, source.name, source.tower.spec, pixel, feature_layers=recipe.layers())
    print_of_tower = fingerprint(source.tower.state_dict())
    return Checkpoint(build_detector(config, source.tower), config, print_of_tower)


def pixels_of(backbone: PixelSpec, recipe: Recipe) -> PixelSpec:
    """As the backbone has them, or with ImageNet's mean and standard deviation, where the recipe says so."""
    if recipe.normalisation == "imagenet":
        return replace(backbone, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return backbone


def start_stage2(args: argparse.Namespace, recipe: Recipe) -> Checkpoint:
    """From stage 1's projection and a bank; or from a stage-2 detector, which training goes on with."""
    first = load_checkpoint(
        find_model(args.init), merge=False, backbone=args.backbone, allow_tiny=True, allow_projection=True
    )
    inside = first.form in ("full", "merged", "official")
    if args.backbone and (inside or (first.form == "adapter" and args.backbone != first.config.backbone)):
        raise ValueError(f"--backbone {args.backbone}: {args.init} has {first.config.backbone or 'its own tower'}")
    if args.form == "adapter" and (first.form == "merged" or not first.config.backbone):
        whose = "merged tower" if first.form == "merged" else "tower without a name"
        raise ValueError(
            f"--init {args.init}: a {whose} is no backbone that an adapter could name; pass --form full"
        )
    if inside and args.form == "adapter":
        log.warning("to be used, the adapter will need %s; --form full needs nothing else", first.config.backbone)
    if (recipe.normalisation == "imagenet") != (first.config.pixel.mean == IMAGENET_MEAN):
        raise ValueError(
            f"--normalisation {recipe.normalisation}: stage 1 in {args.init} was trained with another; "
            "both stages and the prototypes need the same"
        )
    return continue_stage2(args, recipe, first) if first.config.stage == 2 else begin_stage2(args, recipe, first)


def begin_stage2(args: argparse.Namespace, recipe: Recipe, first: Checkpoint) -> Checkpoint:
    if args.prototypes is None:
        raise ValueError(
            f"--init {args.init} is stage 1's: --prototypes (a bank of dream_prototype.py) is needed too"
        )
    bank = load_bank(args, first)
    lora = lora_spec(recipe, first.config.feature_layers)
    config = replace(first.config, stage=2, num_prototypes=len(bank.vectors_PE), lora=lora)
    detector = build_detector(config, first.detector.tower)
    detector.project.load_state_dict(first.detector.project.state_dict())
    detector.load_state_dict(detector.state_dict() | {PROTOTYPES: bank.vectors_PE})
    provenance = {"prototypes": bank.facts()}
    return Checkpoint(detector, config, first.backbone_fingerprint, provenance=provenance)


def continue_stage2(args: argparse.Namespace, recipe: Recipe, first: Checkpoint) -> Checkpoint:
    """All weights are kept, and the LoRA that they have; --prototypes replaces the bank."""
    config, detector, print_of_tower = first.config, first.detector, first.backbone_fingerprint
    if config.lora is None:  # it had none yet; or it is merged, into what is no longer the tower of that name
        print_of_tower = fingerprint(detector.tower.state_dict())
        config = replace(config, lora=lora_spec(recipe, config.feature_layers))
        if config.lora:
            add_lora(detector.tower, config.lora)
    elif different := [name for name in ("rank", "alpha", "dropout") if changes(args, config.lora, name)]:
        raise ValueError(
            f"--lora-{different[0]} {getattr(args, f'lora_{different[0]}')}: {args.init} has LoRA of rank "
            f"{config.lora.rank}, alpha {config.lora.alpha} and dropout {config.lora.dropout}, and it is kept"
        )
    provenance = {"init": args.init, "prototypes": first.provenance.get("prototypes", {})}
    if args.prototypes:
        bank = load_bank(args, first)
        assert isinstance(detector, PrototypeDetector)
        detector.prototypes_PE = bank.vectors_PE.clone()
        provenance["prototypes"] = bank.facts()
        config = replace(config, num_prototypes=len(bank.vectors_PE))
    return Checkpoint(detector, config, print_of_tower, first.threshold, first.notice, provenance)


def lora_spec(recipe: Recipe, feature_layers: tuple[int, ...]) -> LoraSpec | None:
    """None when the rank is 0. Layers after the last one that is read do nothing, and get no update."""
    if not recipe.lora_rank:
        return None
    num_layers = max(feature_layers, default=0)
    return LoraSpec(recipe.lora_rank, recipe.lora_alpha, recipe.lora_dropout, num_layers=num_layers)


def changes(args: argparse.Namespace, lora: LoraSpec, name: str) -> bool:
    """Whether the user, and not the preset, asks for another value than the file's LoRA has."""
    given = getattr(args, f"lora_{name}")
    return given is not None and given != getattr(lora, name)


def load_bank(args: argparse.Namespace, first: Checkpoint) -> PrototypeBank:
    bank = PrototypeBank.load(args.prototypes)
    embed_dim = bank.vectors_PE.shape[1]
    if embed_dim != first.config.embed_dim:
        raise ValueError(
            f"--prototypes {args.prototypes}: vectors of {embed_dim} dimensions, but the embeddings of "
            f"{args.init} have {first.config.embed_dim}"
        )
    return bank


def dry_detector(args: argparse.Namespace, recipe: Recipe) -> TowerHead:
    """The detector's modules without weights: enough to count."""
    known = read_checkpoint(find_model(args.init)).config if args.init else None
    name = args.backbone or (known.backbone if known else DEFAULT)
    spec = known.tower if known else architecture(name)
    pixel = PixelSpec(size_px=spec.image_size)
    layers = known.feature_layers if known else recipe.layers()
    lora = lora_spec(recipe, layers)
    config = DetectorConfig(args.stage, name, spec, pixel, num_prototypes=64, lora=lora, feature_layers=layers)
    return build_detector(config)


def print_parameters(detector: TowerHead) -> None:
    every, trainable = count_parameters(detector)
    print(f"{every:,} parameters, {trainable:,} trainable")
