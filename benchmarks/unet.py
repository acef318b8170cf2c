"""Speed and memory of `UNetNormals` beside segmentation_models.pytorch's `Unet` with the same weights, in the same run.

ResNet-18, nearest up-sampling, all skips: the same network, so the raw outputs are compared, and the gradients. A step
is forward, mean absolute difference and backward. Inference is that of `model.optimized()`, and of both compiled.
Each is measured in torch's usual layout and with channels last, which `normalkit.training.fit` uses by default.

    python benchmarks/unet.py --threads 2
"""

from __future__ import annotations

import copy
import functools
from argparse import BooleanOptionalAction
from collections.abc import Callable

import torch
from measurement import (
    argument_parser,
    digits,
    peak_megabytes,
    print_header,
    print_table,
    seconds,
    timing_rows,
)
from segmentation_models_pytorch import Unet
from torch import Tensor, nn

from normalkit import UNetNormals
from normalkit.profiling import peak_memory

LAYOUTS = {"": torch.contiguous_format, ", channels last": torch.channels_last}
PEER, OURS = "`smp.Unet`", "`UNetNormals`"
OUTPUTS_EQUAL, GRADIENTS_EQUAL = 1e-4, 1e-3
"""The largest relative errors, of norms; of float32 through 40 layers."""


def networks(device: torch.device) -> tuple[nn.Module, nn.Module]:
    """The peer and ours, with the same weights and statistics, in train mode."""
    torch.manual_seed(0)
    peer = Unet("resnet18", encoder_weights=None, classes=3).train()
    with torch.no_grad():
        # Statistics of batch norm that are not those of no images.
        for _ in range(3):
            peer(torch.rand(2, 3, 64, 64))
    return peer.to(device), UNetNormals.from_smp(peer).to(device)


def make_images(size: list[int], device: torch.device) -> Tensor:
    """(B, 3, H, W)."""
    batch, height, width = size
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0)).to(device)


def infer(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The answer alone."""
    with torch.inference_mode():
        return model(images)


def step(model: nn.Module, images: Tensor) -> list[Tensor]:
    """What a training step computes."""
    return list(torch.autograd.grad((model(images) - images).abs().mean(), list(model.parameters())))


def check_equal(peer: nn.Module, ours: nn.Module, images: Tensor) -> str:
    """Refuse to compare the speed of different answers; how far they differ, in words."""
    gradients = dict(zip((name for name, _ in peer.named_parameters()), step(peer, images), strict=True))
    own = dict(zip((name for name, _ in ours.named_parameters()), step(ours, images), strict=True))
    by_size = [
        torch.cat([value.flatten() for _, value in sorted(each.items(), key=_place)]) for each in (own, gradients)
    ]
    gradient = _difference(*by_size)
    output = _difference(infer(copy.deepcopy(ours).eval(), images), infer(copy.deepcopy(peer).eval(), images))
    folded = _difference(infer(ours.optimized(), images), infer(copy.deepcopy(peer).eval(), images))
    if not (max(output, folded) <= OUTPUTS_EQUAL and gradient <= GRADIENTS_EQUAL):
        raise SystemExit(
            f"outputs differ by {output:.1e} and {folded:.1e}, gradients by {gradient:.1e}; no speed is compared"
        )
    return f"Relative differences: outputs {output:.1e}, folded {folded:.1e}, gradients {gradient:.1e}.\n"


def _place(entry: tuple[str, Tensor]) -> str:
    """The peer's and our names, made equal."""
    return entry[0].replace("encoder.model.", "encoder.").replace("segmentation_head.0.", "head.")


def _difference(ours: Tensor, peer: Tensor) -> float:
    return float((ours - peer).norm() / peer.norm())


def training(args: object, images: Tensor) -> None:
    """The table of the training step."""
    peer, ours = networks(args.device)
    print(check_equal(peer, ours, images))
    runs = {}
    for layout, form in LAYOUTS.items():
        batch = images.contiguous(memory_format=form)
        for name, model in ((OURS, ours), (PEER, peer)):
            runs[name + layout] = functools.partial(step, copy.deepcopy(model).to(memory_format=form), batch)
    rows = timing_rows(seconds(runs, repeats=args.repeats, device=args.device), own=f"{OURS}, channels last")
    memory = [peak_megabytes(step_memory, name, args.size, args.device, args.threads) for name in runs]
    print_table(
        ("training step", ">ms", ">least - most", ">ours is", ">peak MB"),
        [[*row, digits(megabytes)] for row, megabytes in zip(rows, memory, strict=True)],
    )


def step_memory(name: str, size: list[int], device: torch.device, threads: int) -> int:
    """Bytes that a step needs beyond the weights and images."""
    torch.set_num_threads(threads)
    model = networks(device)[name.startswith(OURS)]
    form = torch.channels_last if "last" in name else torch.contiguous_format
    model, images = model.to(memory_format=form), make_images(size, device).contiguous(memory_format=form)
    step(model, images[..., :32, :64])
    return peak_memory(lambda: step(model, images), device=device)


def inference(args: object, images: Tensor) -> None:
    """The tables of inference, eager and compiled."""
    peer, ours = (model.eval() for model in networks(args.device))
    folded = ours.optimized()
    last = images.contiguous(memory_format=torch.channels_last)
    runs = {
        f"{OURS}, `optimized()`": functools.partial(infer, folded, images),
        OURS: functools.partial(infer, ours, images),
        PEER: functools.partial(infer, peer, images),
        f"{PEER}, channels last": functools.partial(
            infer, copy.deepcopy(peer).to(memory_format=torch.channels_last), last
        ),
    }
    tables = {"inference": runs}
    if args.compile:
        tables["inference, compiled"] = {
            f"{OURS}, `optimized()`": functools.partial(infer, torch.compile(folded), images),
            PEER: functools.partial(infer, torch.compile(peer), images),
        }
    for title, each in tables.items():
        taken = seconds(each, repeats=args.repeats, device=args.device)
        print_table((title, ">ms", ">least - most", ">ours is"), timing_rows(taken, own=next(iter(each))))


def main() -> None:
    """Measure and print the tables."""
    parser = argument_parser(__doc__, repeats=7)
    parser.add_argument("--size", type=int, nargs=3, default=(4, 224, 320), metavar=("B", "H", "W"), help="of images")
    parser.add_argument("--compile", action=BooleanOptionalAction, default=True, help="measure compiled inference too")
    args = parser.parse_args()
    batch, height, width = args.size
    what = f"{batch} images of {height} x {width}, ResNet-18, nearest, all skips, float32"
    print_header(what, args, ["segmentation-models-pytorch", "timm"])
    images = make_images(args.size, args.device)
    training(args, images)
    inference(args, images)


if __name__ == "__main__":
    main()
