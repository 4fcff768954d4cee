"""What defines a detector, apart from its weights: how pixels are made, the tower's shape, the head, LoRA."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class PixelSpec:
    """How an RGB image becomes the tower's input in evaluation. It travels with the weights.

    size_px        side of the square centre crop
    mean, std      per channel, for pixels in [0, 1]
    resize_px      short side before the crop; None: no resizing, which keeps a generator's traces
    interpolation  of any resizing: "bicubic", "bilinear" or "nearest"
    small_image    an image below size_px: "pad" with black, as torchvision's CenterCrop does, or "resize" up
    """

    size_px: int = 224
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    resize_px: int | None = None
    interpolation: str = "bicubic"
    small_image: str = "pad"

    def __post_init__(self) -> None:
        if self.interpolation not in ("bicubic", "bilinear", "nearest"):
            raise ValueError(f"interpolation is bicubic, bilinear or nearest, not {self.interpolation!r}")
        if self.small_image not in ("pad", "resize"):
            raise ValueError(f"small_image is pad or resize, not {self.small_image!r}")


@dataclass(frozen=True)
class LoraSpec:
    """Low-rank updates of the tower's attention projections; defaults are the paper's and the release's."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.1
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class DetectorConfig:
    """Everything needed to build a detector's modules.

    stage           1: linear head on the frozen tower; 2: prototype attention on a tower with LoRA
    backbone        the `--backbone` name that the tower came from
    tower           arguments of transformers' CLIPVisionConfig
    embed_dim, num_heads, num_prototypes   E, H and P of the method
    lora            stage 2 only
    """

    stage: int
    backbone: str
    tower: dict[str, Any]
    pixel: PixelSpec
    embed_dim: int = 128
    num_heads: int = 4
    num_prototypes: int = 0
    lora: LoraSpec | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> DetectorConfig:
        """Raises ValueError that names a missing or an unknown field."""
        values = dict(data)
        if values.get("pixel") is not None:
            values["pixel"] = _build(PixelSpec, values["pixel"], tuples=("mean", "std"))
        if values.get("lora") is not None:
            values["lora"] = _build(LoraSpec, values["lora"], tuples=("targets",))
        return _build(cls, values)


def _build(cls: type, values: dict[str, Any], *, tuples: tuple[str, ...] = ()) -> Any:
    unknown = sorted(set(values) - {field.name for field in fields(cls)})
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r} in {cls.__name__}")
    try:
        return cls(**{name: tuple(value) if name in tuples else value for name, value in values.items()})
    except TypeError as error:
        raise ValueError(f"{cls.__name__}: {error}") from error
