"""Speed of `depth_to_normals` beside least squares pixel by pixel, and beside kornia's, and how right each is.

Ours and `torch.linalg.lstsq` fit n . X = 1 to the points of each 7 x 7 window. The latter is called on the windows
of a part of the picture, `--share`, and numpy's pixel by pixel on one row; their times are scaled to all of it.
kornia's `depth_to_normals` takes the cross product of Sobel derivatives of the points, from 3 x 3 pixels.

The second table has the mean angular error on a slanted plane under noise, of the inner pixels: of the depth, drawn for
each pixel, as a share of it; and rounded to millimetres, as a depth camera's files are.

    python benchmarks/depth_to_normals.py --threads 2
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from kornia.geometry.depth import depth_to_normals as kornia_normals
from measurement import argument_parser, digits, print_header, print_table, seconds, timing_rows
from torch import Tensor
from torch.nn import functional as F

from normalkit import angular_error, depth_to_normals

WINDOW = 7
EQUAL = 0.1
"""Degrees on average, of ours and the lstsq of float32, on the noise of the first table."""
NOISE = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


def plane(size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Depth (1, 1, H, W) in float64 of a slanted plane some 2 m away, its intrinsics, and its normal (3,)."""
    height, width = size
    focal = 0.8 * width
    intrinsics = torch.tensor([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    normal = F.normalize(torch.tensor([0.3, -0.5, -1.0], dtype=torch.float64), dim=0)
    depth = -2 / (rays(intrinsics, size) * normal.view(3, 1, 1)).sum(0)
    return depth[None, None].to(device), intrinsics[None].to(device), normal.to(device)


def rays(intrinsics: Tensor, size: tuple[int, int]) -> Tensor:
    """(3, H, W) float64: the point of each pixel at depth 1."""
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in size), indexing="ij")
    pixels = torch.stack([columns, rows, torch.ones_like(rows)])
    return torch.einsum("ij,jhw->ihw", torch.linalg.inv(intrinsics.double()), pixels)


def least_squares(depth: Tensor, intrinsics: Tensor, rows: int) -> Tensor:
    """(3, rows, W - 6): a `lstsq` for each of the first whole windows."""
    height, width = depth.shape[-2:]
    points = (rays(intrinsics[0].cpu(), (height, width)).to(depth) * depth[0])[:, : rows + WINDOW - 1]
    windows = F.unfold(points[None], WINDOW).view(3, WINDOW**2, -1).permute(2, 1, 0)
    ones = torch.ones_like(windows[:, :, :1])
    solution = torch.linalg.lstsq(windows, ones).solution
    return F.normalize(solution[..., 0].T, dim=0).view(3, rows, width - WINDOW + 1)


def pixel_by_pixel(depth: Tensor, intrinsics: Tensor) -> np.ndarray:
    """(W - 6, 3): a call for each window of one row of them."""
    points = (rays(intrinsics[0].cpu(), tuple(depth.shape[-2:])) * depth[0].cpu())[:, :WINDOW].float().numpy()
    ones = np.ones(WINDOW**2, np.float32)
    windows = (points[:, :, i : i + WINDOW].reshape(3, -1).T for i in range(points.shape[2] - WINDOW + 1))
    return np.array([np.linalg.lstsq(window, ones, rcond=None)[0] for window in windows])


def noisy(depth: Tensor, share: float) -> Tensor:
    """The same in float32, each pixel off by a normal share of its depth."""
    draw = torch.randn(depth.shape, generator=torch.Generator().manual_seed(0))
    return (depth * (1 + share * draw.to(depth))).float()


def print_times(args: object) -> None:
    """The table of times, once ours and least squares are known to agree."""
    exact, intrinsics, _ = plane(args.size, args.device)
    depth = noisy(exact, 1e-3)
    rows = max(round(args.share * args.size[0]), 1)
    inner = depth_to_normals(depth, intrinsics)[0][0, :, 3 : 3 + rows, 3:-3]
    solved = least_squares(depth, intrinsics, rows)
    # n . X = 1 is solved by the normal that looks away from the camera.
    difference = float(angular_error(inner, -solved, dim=0).mean())
    if not difference <= EQUAL:
        raise SystemExit(f"ours and lstsq differ by {difference:.2g} degrees; so no speed is compared")
    print(f"Ours and `lstsq` differ by {difference:.1g} degrees on average.\n")
    at_once, one_by_one = "`torch.linalg.lstsq`, all windows", "`numpy.linalg.lstsq`, pixel by pixel"
    runs = {
        "`depth_to_normals`": functools.partial(depth_to_normals, depth, intrinsics),
        at_once: functools.partial(least_squares, depth, intrinsics, rows),
        one_by_one: functools.partial(pixel_by_pixel, depth, intrinsics),
        "kornia's `depth_to_normals`": functools.partial(kornia_normals, depth, intrinsics),
    }
    taken = seconds(runs, repeats=args.repeats, device=args.device)
    for name, share in ((at_once, rows), (one_by_one, 1)):
        taken[name] = [args.size[0] / share * taken_for_share for taken_for_share in taken[name]]
    print_table(("", ">ms", ">least - most", ">ours is"), timing_rows(taken, own="`depth_to_normals`"))


def print_errors(args: object) -> None:
    """The table of errors against the plane's normal."""
    exact, intrinsics, normal = plane(args.size, args.device)
    cases = {f"{100 * share:g} % of the depth": noisy(exact, share) for share in NOISE}
    cases["millimetres"] = ((1000 * exact).round() / 1000).float()
    cases["0.1 % and millimetres"] = ((1000 * noisy(exact, 1e-3)).round() / 1000).float()
    target = normal.float().view(1, 3, 1, 1).expand(1, 3, *args.size)
    rows = []
    for name, depth in cases.items():
        ours, mask = depth_to_normals(depth, intrinsics)
        # Its vectors look away from the camera.
        peer = -kornia_normals(depth, intrinsics)
        errors = [angular_error(each, target)[..., 3:-3, 3:-3] for each in (ours, peer)]
        valid = mask[..., 3:-3, 3:-3]
        means = [float(error[valid & error.isfinite()].mean()) for error in errors]
        rows.append([name, *map(digits, means), f"{100 * float(valid.float().mean()):.0f} %"])
    print_table(("noise", ">ours, degrees", ">kornia's, degrees", ">valid in ours"), rows)


def main() -> None:
    """Measure and print the tables."""
    parser = argument_parser(__doc__, repeats=7)
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"), help="of the picture")
    parser.add_argument("--share", type=float, default=0.05, help="of the picture that lstsq is timed on")
    args = parser.parse_args()
    what = f"Depth of {args.size[0]} x {args.size[1]}, windows of {WINDOW} x {WINDOW}, float32"
    print_header(what, args, ["kornia"])
    print_times(args)
    print_errors(args)


if __name__ == "__main__":
    main()
