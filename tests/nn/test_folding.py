"""Folded batch norm against the modules as they were, in double precision; and what must not be folded."""

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.std_conv import StdConv2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from normalkit.nn.folding import fold_batch_norm


def trained(*layers):
    """A sequence whose batch norms have statistics and weights of their own, in eval mode and double precision."""
    model = (layers[0] if len(layers) == 1 else nn.Sequential(*layers)).double()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            for tensor in (module.running_mean, module.weight, module.bias):
                if tensor is not None:
                    nn.init.normal_(tensor)
            if module.running_var is not None:
                nn.init.uniform_(module.running_var, 0.1, 3)
    return model.eval()


def norms(model):
    return sum(isinstance(module, _BatchNorm) for module in model.modules())


IMAGES = torch.randn(2, 4, 6, 5, dtype=torch.float64)


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
        (nn.Conv2d(4, 6, 3, bias=False, stride=2, groups=2), nn.BatchNorm2d(6, eps=0.1)),
        (nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6, affine=False)),
        (nn.Conv2d(4, 6, 3), BatchNormAct2d(6, act_layer=nn.GELU)),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), nn.BatchNorm2d(6)),
        (nn.Flatten(), nn.Linear(120, 7, bias=False), nn.BatchNorm1d(7)),
        (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4)),
    ],
)
def test_pairs_are_folded_and_the_answer_stays(layers):
    model = trained(*layers)
    expected, number = model(IMAGES), norms(model)
    assert fold_batch_norm(model, lambda: model(torch.zeros_like(IMAGES))) == number > 0
    assert norms(model) == 0
    torch.testing.assert_close(model(IMAGES), expected)


class Reused(nn.Module):
    """A convolution whose output, or whose weights, are used again."""

    def __init__(self, use):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.use = use

    def forward(self, images):
        return self.use(self, images)


def hooked(layer):
    layer.register_forward_hook(lambda *_: None)
    return layer


@pytest.mark.parametrize(
    "layers",
    [
        (Reused(lambda m, x: (lambda y: y + m.norm(y))(m.convolution(x))),),
        (Reused(lambda m, x: m.norm(m.convolution(x)) + m.convolution(x)),),
        (Reused(lambda m, x: m.norm(m.convolution(x)) + m.norm(x)),),
        (Reused(lambda m, x: m.norm(m.convolution(x).relu())),),
        (Reused(lambda m, x: m.norm(m.convolution(x)) * m.convolution.weight.sum()),),
        (nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3)),
        (StdConv2d(4, 6, 3), nn.BatchNorm2d(6)),
        (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, track_running_stats=False)),
        (nn.ConvTranspose2d(4, 6, 2, groups=2), nn.BatchNorm2d(6)),
        (nn.Flatten(2), nn.Linear(30, 7), nn.BatchNorm1d(4)),
        (hooked(nn.Conv2d(4, 6, 3)), nn.BatchNorm2d(6)),
        (nn.Conv2d(4, 6, 3), hooked(nn.BatchNorm2d(6))),
    ],
)
def test_what_is_no_such_pair_stays(layers):
    model = trained(*layers)
    expected, number = model(IMAGES), norms(model)
    assert fold_batch_norm(model, lambda: model(torch.zeros_like(IMAGES))) == 0
    assert norms(model) == number
    torch.testing.assert_close(model(IMAGES), expected, rtol=0, atol=0)


def test_no_hook_is_left_behind():
    model = trained(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6))
    with pytest.raises(RuntimeError, match="channels"):
        fold_batch_norm(model, lambda: model(torch.zeros(1, 5, 6, 6, dtype=torch.float64)))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_train_mode_is_refused():
    model = trained(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)).train()
    with pytest.raises(ValueError, match=r"train mode.*model\.eval\(\)"):
        fold_batch_norm(model, lambda: model(IMAGES))
