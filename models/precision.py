"""The type that the tower computes in: what a precision means on a device."""

from __future__ import annotations

import contextlib

import torch

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: str, *, device: str) -> str:
    """The precision that runs: `auto` decided; fp16 refused where it cannot work."""
    if precision == "auto":
        return "bf16" if _bf16_is_fast(device) else "fp32"
    if precision == "fp16" and device == "cpu":
        raise ValueError("--precision fp16 needs a GPU; on a CPU use auto, fp32 or bf16")
    return precision


def _bf16_is_fast(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def autocast(device: str, precision: str) -> contextlib.AbstractContextManager[object]:
    """The context in which the tower runs."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device, dtype=DTYPES[precision])
