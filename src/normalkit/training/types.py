"""What the loop asks of its callers' batches, losses and validations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["Batch", "Batches", "Figures", "LossFunction", "Validation"]

Batch = Mapping[str, Any]
"""Tensors by name; other entries are handed on."""
Batches = Callable[[int], Iterable[Batch]]
"""An epoch's, counted from 0."""
LossFunction = Callable[[nn.Module, Batch], Mapping[str, Tensor]]
"""`loss`, a scalar to minimise, and other scalars to show."""
Figures = dict[str, float]
"""Numbers by name."""
Validation = Callable[[nn.Module], Mapping[str, float]]
"""Figures of a model."""
