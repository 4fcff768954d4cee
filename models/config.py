"""What defines a detector, apart from its weights: how pixels are made, the tower's shape, the head, LoRA.

Each is a frozen dataclass that checks itself, so that a header of an untrusted file can be turned into it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args, get_origin, get_type_hints

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

DETECTOR_FILE = "a detector, made by train.py or released by the authors"  # what a message says was expected

MAX_SIZE = 1 << 16  # of anything that is counted; more is a mistake or an attack
MAX_LAYERS = 1000
MAX_TARGETS = 100
MAX_NAME = 1000  # characters


@dataclass(frozen=True)
class PixelSpec:
    """How an image becomes the tower's input in evaluation. It travels with the weights.

    size_px        side of the square centre crop
    mean, std      per channel, for pixels in [0, 1]
    resize_px      short side before the crop; None: no resizing, which keeps a generator's traces
    interpolation  of any resizing: "bicubic", "bilinear" or "nearest"
    small_image    an image below size_px: "pad" with black, as torchvision's CenterCrop does, or "resize" up
    grey16         16-bit grey images: "scale" to 8 bits, or "clip" at 255, as Pillow's convert("RGB") does
    """

    size_px: int = 224
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    resize_px: int | None = None
    interpolation: str = "bicubic"
    small_image: str = "pad"
    grey16: str = "scale"

    def __post_init__(self) -> None:
        _check_positive(self, "size_px", "resize_px")
        _check_choice("interpolation", self.interpolation, "bicubic", "bilinear", "nearest")
        _check_choice("small_image", self.small_image, "pad", "resize")
        _check_choice("grey16", self.grey16, "scale", "clip")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(map(math.isfinite, self.mean)):
            raise ValueError(f"mean and std are three finite numbers, not {self.mean} and {self.std}")
        if not all(0 < value < math.inf for value in self.std):
            raise ValueError(f"std is above 0, not {self.std}")


@dataclass(frozen=True)
class TowerSpec:
    """The shape of a CLIP vision tower; the names are those of transformers' CLIPVisionConfig."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        _check_positive(self, *(name for name in asdict(self) if name != "hidden_act"))
        _check_choice("hidden_act", self.hidden_act, "quick_gelu", "gelu")
        if self.num_hidden_layers > MAX_LAYERS:
            raise ValueError(f"num_hidden_layers is at most {MAX_LAYERS}, not {self.num_hidden_layers}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"{self.num_attention_heads} attention heads do not divide a width of {self.hidden_size}"
            )
        if self.patch_size > self.image_size:
            raise ValueError(f"patches of {self.patch_size} px do not fit into an image of {self.image_size} px")

    @property
    def num_tokens(self) -> int:
        """The class token and the patches."""
        return 1 + (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class LoraSpec:
    """Low-rank updates of the tower's attention projections; defaults are the paper's and the release's.

    num_layers   how many layers of the tower have them, from the first; 0: all
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.1
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    num_layers: int = 0

    def __post_init__(self) -> None:
        _check_positive(self, "rank", "alpha")
        if not 0 <= self.num_layers <= MAX_LAYERS:
            raise ValueError(f"LoRA's num_layers is from 0 to {MAX_LAYERS}, not {self.num_layers}")
        if not 0 < len(self.targets) <= MAX_TARGETS or not all(map(_is_name, self.targets)):
            raise ValueError(f"LoRA's targets are 1 to {MAX_TARGETS} names of layers")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"LoRA's dropout is in [0, 1), not {self.dropout}")

    @property
    def scale(self) -> float:
        """What an update B A is multiplied with."""
        return self.alpha / self.rank


@dataclass(frozen=True)
class DetectorConfig:
    """Everything needed to build a detector's modules.

    stage           1: linear head on the frozen tower; 2: prototype attention on a tower with LoRA
    backbone        the `--backbone` name that the tower came from
    embed_dim, num_heads, num_prototypes   E, H and P of the method
    lora            stage 2 only
    feature_layers  of the tower, counted from 1: the class tokens after them, each normalised, make the feature.
                    Empty: the last one's, after the tower's own layer norm, as the method has it
    """

    stage: int
    backbone: str
    tower: TowerSpec
    pixel: PixelSpec
    embed_dim: int = 128
    num_heads: int = 4
    num_prototypes: int = 0
    lora: LoraSpec | None = None
    feature_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.stage not in (1, 2):
            raise ValueError(f"stage is 1 or 2, not {self.stage}")
        if not _is_name(self.backbone):
            raise ValueError(f"backbone is a line of at most {MAX_NAME} characters, not {self.backbone!r}")
        _check_positive(self, "embed_dim", "num_heads")
        if not 0 <= self.num_prototypes <= MAX_SIZE:
            raise ValueError(f"num_prototypes is at most {MAX_SIZE} and not negative, not {self.num_prototypes}")
        if self.embed_dim % self.num_heads:
            raise ValueError(f"{self.num_heads} heads do not divide an embedding of {self.embed_dim}")
        layers, last = self.feature_layers, self.tower.num_hidden_layers
        if list(layers) != sorted(set(layers) & set(range(1, last + 1))):
            raise ValueError(f"feature_layers are ascending numbers from 1 to {last}, not {layers}")
        if self.pixel.size_px != self.tower.image_size:
            raise ValueError(f"pixels of {self.pixel.size_px} px for a tower of {self.tower.image_size} px")

    @property
    def feature_width(self) -> int:
        """D"""
        return self.tower.hidden_size * max(1, len(self.feature_layers))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> DetectorConfig:
        """Raises ValueError that names a missing, an unknown or a mistyped field."""
        nested: dict[str, Callable[[Any], Any]] = {
            "tower": lambda value: build_spec(TowerSpec, value),
            "pixel": lambda value: build_spec(PixelSpec, value),
            "lora": lambda value: value and build_spec(LoraSpec, value),
        }
        return build_spec(cls, data, nested=nested)


def build_spec(cls: Any, data: Any, *, nested: dict[str, Callable[[Any], Any]] | None = None) -> Any:
    """A dataclass of this file from the JSON object that asdict() made of it.

    Raises ValueError that names a missing, an unknown or a mistyped field.
    """
    if not isinstance(data, dict):
        raise ValueError(f"{cls.__name__} is a JSON object, not {type(data).__name__}")
    unknown = sorted(set(data) - {field.name for field in fields(cls)})
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r} in {cls.__name__}")
    hints = get_type_hints(cls)
    values = {}
    for name, value in data.items():
        if nested and name in nested:
            values[name] = nested[name](value)
            continue
        values[name] = value = tuple(value) if isinstance(value, list) else value
        if not _is_a(value, hints[name]):
            raise ValueError(f"{cls.__name__}: {name} cannot be {value!r}")
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"{cls.__name__}: {error}") from error


def _is_a(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of the annotated type; whole numbers are numbers, true and false are not."""
    alternatives = get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_is_a(item, alternatives[0]) for item in value)
    if alternatives:
        return any(_is_a(value, each) for each in alternatives)
    if isinstance(value, bool):
        return False
    if hint is float:
        return isinstance(value, int | float) and abs(value) <= MAX_SIZE
    return isinstance(value, hint)


def _is_name(text: str) -> bool:
    """Whether a text can be shown: it may come from an untrusted file."""
    return len(text) <= MAX_NAME and text.isprintable()


def _check_positive(spec: Any, *names: str) -> None:
    for name in names:
        value = getattr(spec, name)
        if value is not None and not 0 < value <= MAX_SIZE:
            raise ValueError(f"{name} is above 0 and at most {MAX_SIZE}, not {value}")


def _check_choice(name: str, value: str, *choices: str) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {', '.join(choices[:-1])} or {choices[-1]}, not {value!r}")


VIT_B16 = TowerSpec(768, 3072, 12, 12, image_size=224, patch_size=16)
VIT_L14 = TowerSpec(1024, 4096, 24, 16, image_size=224, patch_size=14)
