"""Speed and memory of `BilinearHead` beside the report's modules one after another, in the same run.

The peer is the report's head: `Upsample`, then convolutions and ReLUs, with the same weights. It is measured in torch's
usual layout, as the report ran it, and in channels_last. The first convolution is measured alone too, as
`upsampled_conv2d`. A step is forward, mean square and backward, to the weights and to the encoder's map.

The last table has both ways of `upsampled_conv2d` for maps where either may win, and says which one it takes.

    python benchmarks/bilinear_head.py --threads 2
"""

from __future__ import annotations

import argparse
import copy
import functools
import os
import platform
import statistics
from collections.abc import Callable
from unittest import mock

import torch
from measurement import peak_megabytes, processor, seconds
from torch import Tensor, nn

from normalkit.nn import upsample
from normalkit.nn.heads import BilinearHead
from normalkit.profiling import peak_memory

SHAPES = (
    # channels, outputs, rows and columns of the map, scale
    (512, 256, 7, 16),
    (512, 256, 14, 8),
    (64, 64, 32, 4),
    (64, 64, 64, 2),
    (16, 16, 64, 8),
    (16, 16, 64, 2),
    (3, 16, 64, 4),
)
OUTPUTS_EQUAL, GRADIENTS_EQUAL = 1e-5, 1e-4
"""The largest relative errors, of norms."""

Run = Callable[[nn.Module, Tensor], object]


class Plain(nn.Sequential):
    """The modules of a head, one after another."""


class ChannelsLast(Plain):
    """The same in the layout that processors often convolve faster in."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__(*modules)
        self.to(memory_format=torch.channels_last)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, O, scale H, scale W)."""
        return super().forward(features.contiguous(memory_format=torch.channels_last))


class FirstConvolution(nn.Module):
    """Up-sampling and the first convolution, as one."""

    def __init__(self, head: nn.Sequential) -> None:
        super().__init__()
        self.upsample, self.convolution = head[0], head[1]

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, O, scale H, scale W)."""
        scale = int(self.upsample.scale_factor)
        return upsample.upsampled_conv2d(features, self.convolution.weight, self.convolution.bias, scale=scale)


def contender(name: str, device: torch.device) -> nn.Module:
    """A module by its name in the table; all have the same weights."""
    torch.manual_seed(0)
    head = BilinearHead()
    first = list(head)[:2]
    modules = {
        "BilinearHead": head,
        "the report's modules": Plain(*head),
        "the report's, channels_last": ChannelsLast(*copy.deepcopy(head)),
        "upsampled_conv2d": FirstConvolution(head),
        "Upsample, Conv2d": Plain(*first),
        "the two, channels_last": ChannelsLast(*copy.deepcopy(first)),
    }
    return modules[name].to(device)


TABLES = (
    ("BilinearHead", "the report's modules", "the report's, channels_last"),
    ("upsampled_conv2d", "Upsample, Conv2d", "the two, channels_last"),
)


def infer(module: nn.Module, features: Tensor) -> Tensor:
    """The answer alone."""
    with torch.inference_mode():
        return module(features)


def step(module: nn.Module, features: Tensor) -> list[Tensor]:
    """What a training step computes: the gradients, of the weights and of the map."""
    features = features.detach().requires_grad_()
    return list(torch.autograd.grad(module(features).square().mean(), [*module.parameters(), features]))


RUNS: dict[str, Run] = {"inference": infer, "training step": step}


def make_features(size: list[int], device: torch.device, *, channels: int = 512) -> Tensor:
    """What the encoder might give: (B, C, H, W), never negative, and half of it zero."""
    batch, height, width = size
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, channels, height, width, generator=generator).relu().to(device)


def check_equal(ours: nn.Module, peer: nn.Module, features: Tensor) -> str:
    """Refuse to compare the speed of different answers; how far they differ, in words."""
    outputs = _difference(infer(ours, features), infer(peer, features))
    gradients = max(map(_difference, step(ours, features), step(peer, features)))
    if not (outputs <= OUTPUTS_EQUAL and gradients <= GRADIENTS_EQUAL):
        raise SystemExit(f"outputs differ by {outputs:.1e}, gradients by {gradients:.1e}; so no speed is compared")
    return f"relative differences: outputs {outputs:.1e}, gradients at most {gradients:.1e}"


def _difference(ours: Tensor, peer: Tensor) -> float:
    return float((ours - peer).norm() / peer.norm())


def step_memory(name: str, run: str, size: list[int], device: torch.device, threads: int) -> int:
    """Bytes that a run needs beyond weights, map and libraries."""
    torch.set_num_threads(threads)
    module, features = contender(name, device), make_features(size, device)
    # Libraries and threads are set up by a map of one pixel.
    RUNS[run](module, features[:1, :, :1, :1])
    return peak_memory(lambda: RUNS[run](module, features), device=device)


def print_modules(names: tuple[str, ...], args: argparse.Namespace) -> None:
    """The table of some contenders, ours first."""
    modules = {name: contender(name, args.device) for name in names}
    features = make_features(args.size, args.device)
    print(check_equal(modules[names[0]], modules[names[1]], features))
    print(f"{'':43}{'ms':>9}{'least - most':>18}{'ours is':>9}{'peak MB':>10}")
    for kind, run in RUNS.items():
        runs = {name: functools.partial(run, module, features) for name, module in modules.items()}
        taken = seconds(runs, repeats=args.repeats, device=args.device)
        own = statistics.median(taken[names[0]])
        for name, each in taken.items():
            spread = f"{1e3 * min(each):,.0f} - {1e3 * max(each):,.0f}"
            memory = peak_megabytes(step_memory, name, kind, args.size, args.device, args.threads)
            middle = statistics.median(each)
            print(f"{kind:15}{name:28}{1e3 * middle:9,.1f}{spread:>18}{middle / own:8.2f}x{memory:10,.0f}", flush=True)
    print()


def print_shapes(args: argparse.Namespace) -> None:
    """The table of both ways, with the one that is taken."""
    print(f"{'channels':>8}{'outputs':>9}{'map':>6}{'scale':>7}{'inference':>23}{'training step':>23}")
    print(f"{'':30}{'fast ms, plain is':>23}{'fast ms, plain is':>23}   taken")
    for channels, outputs, side, scale in SHAPES:
        features = make_features([args.size[0], side, side], args.device, channels=channels)
        head = BilinearHead(channels, (outputs,), scale).to(args.device)
        fast, plain = FirstConvolution(head), Plain(*list(head)[:2])
        line = f"{channels:8}{outputs:9}{side:6}{scale:7}"
        for run in RUNS.values():
            with mock.patch.object(upsample, "_is_fast", return_value=True):
                ways = {
                    "fast": functools.partial(run, fast, features),
                    "plain": functools.partial(run, plain, features),
                }
                taken = seconds(ways, repeats=args.repeats, device=args.device)
            own, peer = (statistics.median(each) for each in taken.values())
            line += f"{1e3 * own:14.1f}{peer / own:8.2f}x"
        print(
            line + f"   {'fast' if upsample._is_fast(features, fast.convolution.weight, scale) else 'plain'}",
            flush=True,
        )


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=(2, 7, 7), metavar=("B", "H", "W"), help="of the map")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each, after one that is not timed")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=torch.device, default=default, help="of torch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    # The comparison is of float32, which TF32 is not.
    torch.backends.cudnn.allow_tf32 = False

    name = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else processor()
    batch, height, width = args.size
    print(f"{batch} maps of 512 x {height} x {width}, scale 32, float32; {name}, {args.threads} threads")
    print(f"load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}, torch {torch.__version__}\n")
    for names in TABLES:
        print_modules(names, args)
    print_shapes(args)


if __name__ == "__main__":
    main()
