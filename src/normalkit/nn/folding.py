"""Batch norm folded into the layer before it, for inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from normalkit.nn.encoder import StaticSameConv2d

__all__ = ["fold_batch_norm"]

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, Conv2dSame, StaticSameConv2d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm, BatchNormAct2d)
"""Other subclasses may prepare their weights, or do more, and stay as they are."""


def fold_batch_norm(model: nn.Module, run: Callable[[], object]) -> int:
    """Fold each batch norm that follows a convolution or a linear layer into that layer's weights, in place.

    In eval mode batch norm multiplies each channel and adds to it, which the layer before it can do in its own weights.
    Whether a layer's output goes to a batch norm, and nowhere else, is observed while the model runs once, so that it
    holds for any architecture; what is not such a pair stays.

    Args:
        model: In eval mode.
        run: Calls the model once, on anything.

    Returns:
        How many were folded.

    Raises:
        ValueError: The model is in train mode.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
        >>> fold_batch_norm(model, lambda: model(torch.zeros(1, 3, 5, 5)))
        1
        >>> model
        Sequential(
          (0): Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))
          (1): Identity()
          (2): ReLU()
        )
    """
    if model.training:
        raise ValueError("model is in train mode, where batch norm changes with each batch; call `model.eval()` first")
    replaced: dict[nn.Module, nn.Module] = {}
    for layer, norm in _observed_pairs(model, run):
        layer.weight, layer.bias = fuse_conv_bn_weights(
            layer.weight,
            layer.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
            transpose=isinstance(layer, nn.ConvTranspose2d),
        )
        replaced[norm] = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in replaced:
                parent._modules[name] = replaced[child]
    return len(replaced)


class _Uses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts, for each tensor, the operations that take it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Any = WeakTensorKeyDictionary()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor):
                self.counts[value] = self.counts.get(value, 0) + 1
        return func(*args, **(kwargs or {}))


def _observed_pairs(model: nn.Module, run: Callable[[], object]) -> list[tuple[Any, Any]]:
    """Layers, each with the batch norm that alone takes its output."""
    makers, takers = WeakTensorKeyDictionary(), list[tuple[Any, Tensor]]()

    def made(layer: nn.Module, _: Any, output: Tensor) -> None:
        makers[output] = layer

    def taken(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        takers.append((norm, inputs[0]))

    handles = []
    for module in model.modules():
        if module._forward_hooks or module._forward_pre_hooks:
            continue  # Someone looks at what passes here.
        if type(module) in LAYERS:
            handles.append(module.register_forward_hook(made))
        elif type(module) in NORMS:
            handles.append(module.register_forward_pre_hook(taken))
    try:
        with torch.no_grad(), _Uses() as uses:
            run()
    finally:
        for handle in handles:
            handle.remove()
    found = [(makers[between], norm, between) for norm, between in takers if between in makers]
    return [(layer, norm) for layer, norm, between in found if _is_pair(layer, norm, between, uses.counts)]


def _is_pair(layer: Any, norm: Any, between: Tensor, uses: Mapping[Tensor, int]) -> bool:
    """Whether nothing else depends on the tensor between the two, nor on their weights."""
    if norm.running_mean is None or (isinstance(layer, nn.Linear) and between.ndim != 2):
        return False
    if isinstance(layer, nn.ConvTranspose2d) and layer.groups > 1:
        return False
    return uses[between] == uses[layer.weight] == uses[norm.running_mean] == 1
