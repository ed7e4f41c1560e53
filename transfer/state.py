"""Names of state tensors: groups of tensors share a prefix, ``<prefix>.<name>``, so that one flat mapping holds all."""

from __future__ import annotations

from collections.abc import Mapping

import torch

Tensors = dict[str, torch.Tensor]


def group(state: Mapping[str, torch.Tensor], prefix: object, separator: str = ".") -> Tensors:
    """The tensors of ``state`` whose names start with ``prefix`` and the separator, without these."""
    start = f"{prefix}{separator}"
    return {name.removeprefix(start): t for name, t in state.items() if name.startswith(start)}


def named(prefix: object, tensors: Mapping[str, torch.Tensor], separator: str = ".") -> Tensors:
    """Inverse of `group`."""
    return {f"{prefix}{separator}{name}": t for name, t in tensors.items()}


def without(state: Mapping[str, torch.Tensor], prefix: object, separator: str = ".") -> Tensors:
    """What `group` leaves of ``state``."""
    return {name: t for name, t in state.items() if not name.startswith(f"{prefix}{separator}")}
