"""Devices by name."""

from __future__ import annotations

DEVICES = ("auto", "cpu", "cuda")


def pick_device(name: str) -> str:
    """Return "cpu" or "cuda"; `auto` means cuda if there is a usable GPU.

    Raises ValueError for an unknown name, and for cuda without a usable GPU.
    """
    import torch

    available = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if available else "cpu"
    if name not in DEVICES:
        raise ValueError(f"unknown device {name!r}; choose from {', '.join(DEVICES)}")
    if name == "cuda" and not available:
        raise ValueError("--device cuda: this machine or this build of torch has no usable GPU; use --device cpu")
    return name
