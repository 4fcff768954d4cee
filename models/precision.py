"""The types that a tower can compute in, and what they mean on a device. torch is imported only when needed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def resolve_precision(precision: str, *, device: str) -> str:
    """Return the precision that is used: "fp32", "bf16" or "fp16"; `auto` is decided by the device.

    Raises ValueError for fp16 on a CPU.
    """
    if precision == "auto":
        return "bf16" if _bf16_is_fast(device) else "fp32"
    if precision == "fp16" and device == "cpu":
        raise ValueError("--precision fp16 needs a GPU; on a CPU use auto, fp32 or bf16")
    return precision


def _bf16_is_fast(device: str) -> bool:
    import torch

    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def dtype_of(precision: str) -> torch.dtype:
    """Return torch's type for "fp32", "bf16" or "fp16"."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def autocast(device: str, precision: str) -> contextlib.AbstractContextManager[object]:
    """Return the context in which the tower runs."""
    import torch

    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device, dtype=dtype_of(precision))
