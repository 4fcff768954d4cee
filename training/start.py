"""The detector that a run starts from: a tower and a new head, stage 1 and a bank, or one that trains on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from data.choices import EVAL, SCALED_VIEWS
from gapl.config import DetectorConfig, LoraSpec
from gapl.info import RELEASED_FORM
from gapl.names import DEFAULT
from gapl.pixels import IMAGENET_MEAN, IMAGENET_STD, PixelSpec
from models.adapt import add_lora
from models.detector import PrototypeDetector, TowerHead, build_detector
from models.weights.backbone import Backbone, architecture, fingerprint
from models.weights.checkpoint import Checkpoint, load_checkpoint, read_checkpoint
from models.weights.hub import find_model
from models.weights.tensors import PROTOTYPES
from prototype.bank import PrototypeBank
from training.recipe import Recipe

log = logging.getLogger(__name__)


def start_stage1(recipe: Recipe, *, backbone: Backbone) -> Checkpoint:
    """Put a new head on the tower of a backbone. Raises ValueError as check_views does."""
    config = DetectorConfig(
        1,
        backbone.name,
        backbone.tower.spec,
        _pixels(backbone.pixel, recipe),
        feature_layers=recipe.layers("feature_layers"),
        whole_layers=recipe.layers("whole_layers"),
    )
    check_views(recipe, config)
    own_fingerprint = fingerprint(backbone.tower.state_dict())
    detector = build_detector(config, backbone.tower)
    return Checkpoint(detector=detector, config=config, backbone_fingerprint=own_fingerprint)


def load_init(name: str, *, backbone: str | None, form: str, asked: Mapping[str, Any]) -> Checkpoint:
    """Load the detector that --init names, for stage 2 to start from.

    backbone   the tower of a detector file that has none inside
    form       in which the new detector will be saved
    asked      the fields of the recipe that the user gave

    Raises ValueError when the file cannot be read, or does not fit to the rest.
    """
    init = load_checkpoint(
        find_model(name), merge=False, backbone=backbone, allow_tiny=True, allow_projection=True
    )
    has_tower = init.form in ("full", "merged", RELEASED_FORM)
    if backbone and (has_tower or (init.form == "adapter" and backbone != init.config.backbone)):
        raise ValueError(f"--backbone {backbone}: {name} has {init.config.backbone or 'its own tower'}")
    if form == "adapter" and (init.form == "merged" or not init.config.backbone):
        whose = "merged tower" if init.form == "merged" else "tower without a name"
        raise ValueError(f"--init {name}: an adapter cannot name a {whose} as its backbone; pass --form full")
    if form == "adapter" and has_tower:
        log.warning("the adapter will need %s to be used; --form full needs nothing else", init.config.backbone)
    for field in ("rank", "alpha", "dropout"):
        value, lora = asked.get(f"lora_{field}"), init.config.lora
        if lora is not None and value not in (None, getattr(lora, field)):
            raise ValueError(
                f"--lora-{field} {value}: {name} has LoRA of rank {lora.rank}, alpha {lora.alpha} and dropout "
                f"{lora.dropout}, which is kept"
            )
    return init


def start_stage2(recipe: Recipe, *, init: Checkpoint, bank: PrototypeBank | None = None) -> Checkpoint:
    """Start from stage 1's projection and a bank, or from a stage-2 detector, which trains on.

    A stage-2 detector keeps all of its weights and the LoRA that it has; a bank replaces its prototypes. The tower
    of `init` is used, and changed if LoRA is added.

    Raises ValueError when recipe, bank and `init` do not fit together.
    """
    check_views(recipe, init.config)
    if (recipe.normalisation == "imagenet") != (init.config.pixel.mean == IMAGENET_MEAN):
        raise ValueError(
            f"--normalisation {recipe.normalisation}: the detector of --init was trained with another; both "
            "stages and the prototypes need the same"
        )
    if bank is not None and bank.vectors_PE.shape[1] != init.config.embed_dim:
        raise ValueError(
            f"--prototypes: vectors of {bank.vectors_PE.shape[1]} dimensions, but the embeddings of --init have "
            f"{init.config.embed_dim}"
        )
    if init.config.stage == 2:
        return _train_on(recipe, init, bank)
    if bank is None:
        raise ValueError("--init is a stage-1 detector: it also needs --prototypes, a bank of dream_prototype.py")
    return _attend(recipe, init, bank)


def _attend(recipe: Recipe, init: Checkpoint, bank: PrototypeBank) -> Checkpoint:
    """Put the attention over a bank, and LoRA, on the tower and the projection of stage 1."""
    lora = _lora_spec(recipe, init.config.feature_layers)
    config = replace(init.config, stage=2, num_prototypes=len(bank.vectors_PE), lora=lora)
    detector = build_detector(config, init.detector.tower)
    detector.project.load_state_dict(init.detector.project.state_dict())
    detector.load_state_dict(detector.state_dict() | {PROTOTYPES: bank.vectors_PE})
    return Checkpoint(
        detector=detector,
        config=config,
        backbone_fingerprint=init.backbone_fingerprint,
        notice=init.notice,
        provenance={"prototypes": bank.facts()},
    )


def _train_on(recipe: Recipe, init: Checkpoint, bank: PrototypeBank | None) -> Checkpoint:
    """Keep a detector, with a new bank if there is one, and with new LoRA if it has none."""
    start = init if init.config.lora else add_recipe_lora(recipe, init)
    prototypes = init.provenance.get("prototypes", {})
    config = start.config
    if bank is not None:
        assert isinstance(start.detector, PrototypeDetector)
        start.detector.prototypes_PE = bank.vectors_PE.clone()
        prototypes, config = bank.facts(), replace(config, num_prototypes=len(bank.vectors_PE))
    return Checkpoint(
        detector=start.detector,
        config=config,
        backbone_fingerprint=start.backbone_fingerprint,
        threshold=init.threshold,
        notice=init.notice,
        provenance={"prototypes": prototypes},
    )


def add_recipe_lora(recipe: Recipe, start: Checkpoint) -> Checkpoint:
    """Add LoRA, if the recipe has any, to a tower that has none: it is frozen, or its LoRA was merged."""
    config = replace(start.config, lora=_lora_spec(recipe, start.config.feature_layers))
    # A tower with merged LoRA is no longer the tower of that name.
    own_fingerprint = fingerprint(start.detector.tower.state_dict())
    if config.lora:
        add_lora(start.detector.tower, config.lora)
    return replace(start, config=config, backbone_fingerprint=own_fingerprint)


def empty_detector(recipe: Recipe, *, stage: int, backbone: str | None, init: str | None) -> TowerHead:
    """Build the modules of a detector without weights, which is enough to count them.

    Raises ValueError for views that do not fit, where they are known: in stage 2 they are those of `init`.
    """
    info = read_checkpoint(find_model(init)).info if init else None
    known = info and info.config
    name = backbone or (known.backbone if known else DEFAULT)
    spec = known.tower if known else architecture(name)
    layers = known.feature_layers if known else recipe.layers("feature_layers")
    whole_layers = known.whole_layers if known else recipe.layers("whole_layers")
    config = DetectorConfig(
        stage,
        name,
        spec,
        known.pixel if known else PixelSpec(size_px=spec.image_size, views=recipe.view_names()),
        num_prototypes=64,
        lora=_lora_spec(recipe, layers),
        feature_layers=layers,
        whole_layers=whole_layers,
    )
    if known or stage == 1:
        check_views(recipe, config)
    return build_detector(config)


def check_views(recipe: Recipe, config: DetectorConfig) -> None:
    """Raise ValueError when a recipe trains or validates on other views than the detector looks at."""
    views, has_whole = ", ".join(config.pixel.views), bool(config.whole_layers)
    if recipe.train_view != EVAL and (recipe.train_view in SCALED_VIEWS) != has_whole:
        wanted = " or ".join(SCALED_VIEWS) if has_whole else "one of the others"
        raise ValueError(f"--train-view {recipe.train_view}: a detector with the views {views} needs {wanted}")
    if recipe.crop_dropout and not has_whole:
        raise ValueError("--crop-dropout needs a detector with the view whole")
    if recipe.val_resize_px and config.pixel.views != ("centre",):
        raise ValueError(f"--val-resize-px {recipe.val_resize_px}: a detector with the views {views} needs 0")


def _pixels(backbone: PixelSpec, recipe: Recipe) -> PixelSpec:
    """Return the backbone's pixels with the views of the recipe, and ImageNet's mean and deviation if it says so.

    A detector with several views enlarges small images: black borders would differ from view to view.
    """
    views = recipe.view_names()
    pixel = replace(backbone, views=views, small_image=backbone.small_image if len(views) == 1 else "resize")
    if recipe.normalisation == "imagenet":
        return replace(pixel, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return pixel


def _lora_spec(recipe: Recipe, feature_layers: tuple[int, ...]) -> LoraSpec | None:
    """Return the LoRA of a recipe, or None if its rank is 0. Layers after the last that crops pass have none."""
    if not recipe.lora_rank:
        return None
    num_layers = max(feature_layers, default=0)
    return LoraSpec(recipe.lora_rank, recipe.lora_alpha, recipe.lora_dropout, num_layers=num_layers)
