"""Which way normals point, guessed from the normals themselves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from normalkit.geometry import Convention, depth_to_normals, normalize, valid_normals

__all__ = ["AxesGuess", "contradiction", "guess_convention", "view_rays"]

ASSUMED_FIELD_OF_VIEW = 60.0
"""Degrees along the longer side, where the camera is not known: that of the common data sets is 55 to 65."""
MAX_SIDE = 64
"""Pixels looked at along each side of a picture: every n-th. Neighbours say the same."""
PATCHES = 4
"""A picture is cut into so many rows and columns of patches, which are drawn anew as wholes: pixels of one surface
are no independent witnesses."""
DRAWS = 500
SIDE_WEIGHT = 0.25
"""Against the share that faces the camera, which is geometry; where walls and floors stand is custom."""
SURE = 0.99
MIN_GAP = 0.005
"""Of the share that faces the camera: less may be noise of the labels."""

_AHEAD = ("right", "down", "forward")
_BEHIND = ("left", "up", "to the viewer")
_ORDERS = tuple(itertools.permutations(range(3)))
_SIGNS = tuple(itertools.product((1, -1), repeat=3))
_CANDIDATES = tuple(itertools.product(_ORDERS, _SIGNS))
"""OPENCV's component j is `signs[j]` times the file's component `order[j]`."""
_CONVENTIONS: dict[tuple[tuple[int, ...], tuple[int, ...]], Convention] = {
    (_ORDERS[0], convention.signs): convention for convention in Convention
}


@dataclass(frozen=True)
class AxesGuess:
    """One way in which normals may be meant, and what speaks for it.

    Attributes:
        axes: Where the first, second and third component point, such as ("right", "up", "to the viewer").
        convention: The convention of these axes; None where normalkit has none of them.
        sureness: 0 to 1: in how many of 500 random weightings of the pictures' patches this guess fits best. Guesses
            that fit equally well share.
        facing: Share of the valid pixels whose normal would face the camera. A surface that is seen does, so
            for the right guess this is 1 but for noise.
        walls: Of what faces sideways, the share that faces the picture's middle, as walls do on both sides of it;
            weighted by how much it faces sideways and how far it is from the middle. NaN where nothing does.
        floors: The same of floors below and ceilings above the middle.
        depth: Degrees between the normals and those computed from the depth, in the mean; None without depth.
    """

    axes: tuple[str, str, str]
    convention: Convention | None
    sureness: float
    facing: float
    walls: float
    floors: float
    depth: float | None

    @property
    def name(self) -> str:
        """The convention's name, or what may have happened to the file's channels."""
        if self.convention is not None:
            return self.convention.name
        backwards = _convention_of(self.axes[::-1])
        return "no convention" if backwards is None else f"{backwards.name} with the channels in the order BGR"


def guess_convention(
    normals: Tensor | Sequence[Tensor],
    masks: Tensor | Sequence[Tensor] | None = None,
    intrinsics: Tensor | Sequence[Tensor] | None = None,
    *,
    depths: Tensor | Sequence[Tensor] | None = None,
) -> list[AxesGuess]:
    """Guess the axes of normals: all 48 orders and signs of the components, the likeliest first.

    What is seen faces the camera: n . ray < 0 in OPENCV axes, with the ray from the camera through the pixel. That
    settles z, and where surfaces are seen at a slant x and y as well. What still fits is told apart by custom: walls
    left and right of the middle face it, and so do floors and ceilings. This holds in rooms and streets, and
    fails for a single object seen from outside; there, give depth.

    Args:
        normals: (B, 3, H, W), or a sequence of (3, H, W) that may differ in size, as the file has them. Several
            pictures of different views say much more than one.
        masks: (B, H, W), or a sequence of (H, W), bool; None for all valid normals.
        intrinsics: (3, 3) for all, or one for each; None or NaN where unknown: 60 degrees are then assumed.
        depths: (B, 1, H, W), or a sequence of (1, H, W), z, 0 for none. Needs intrinsics.

    Returns:
        48 guesses by falling sureness. The data cannot tell where the first has not much more than the second.

    Raises:
        ValueError: Nothing is valid, shapes do not fit, or depths come without intrinsics.

    Examples:
        >>> from normalkit import SyntheticRooms
        >>> room = SyntheticRooms(1, size=(48, 64), seed=7)[0]
        >>> best = guess_convention(-room["normals"][None], room["mask"][None])[0]
        >>> best.convention, best.axes
        (<Convention.DSINE: (-1, -1, -1)>, ('left', 'up', 'to the viewer'))
    """
    count = len(normals)
    cameras = _for_each("intrinsics", intrinsics, count)
    chosen = _for_each("masks", masks, count)
    measured = _for_each("depths", depths, count)
    sums = [_patch_sums(normals[i].detach().cpu(), chosen[i], cameras[i], measured[i]) for i in range(count)]
    patches = torch.cat(sums, -1) if sums else torch.zeros(len(_CANDIDATES), 8, 0, dtype=torch.float64)
    if not patches[:, _COUNT].any():
        raise ValueError("normals: no valid pixel in any picture; nothing can be guessed")
    sureness = _sureness(patches)
    total = patches.sum(-1)
    guesses = [_guess(i, float(sureness[i]), total[i]) for i in range(len(_CANDIDATES))]
    scores = _scores(total).tolist()
    order = sorted(range(len(guesses)), key=lambda i: (-guesses[i].sureness, guesses[i].convention is None, -scores[i]))
    return [guesses[i] for i in order]


def contradiction(guesses: Sequence[AxesGuess], declared: Convention) -> str | None:
    """Why normals cannot be in the convention that they are said to be in.

    Args:
        guesses: From `guess_convention`.
        declared: What they are said to be.

    Returns:
        The evidence in one sentence; None unless another guess is sure, and more of the surfaces face the camera in it.
    """
    best = guesses[0]
    mine = next(guess for guess in guesses if guess.convention is declared)
    if mine is best or best.sureness < SURE or best.facing - mine.facing < MIN_GAP:
        return None
    axes = ", ".join(f"{letter} {way}" for letter, way in zip("xyz", best.axes, strict=True))
    return (
        f"they look like {best.name} ({axes}): so {best.facing:.1%} of the surfaces face the camera and "
        f"{_share(best.walls)} of the walls and {_share(best.floors)} of the floors and ceilings the middle, but as "
        f"{declared.name} {mine.facing:.1%}, {_share(mine.walls)} and {_share(mine.floors)}"
    )


def view_rays(height: int, width: int, intrinsics: Tensor | None) -> Tensor:
    """The direction in which each pixel looks, in OPENCV axes.

    Args:
        height: Pixels.
        width: Pixels.
        intrinsics: (3, 3); None or NaN where unknown: 60 degrees along the longer side are then assumed.

    Returns:
        (3, H, W) with z = 1.
    """
    if intrinsics is None or not bool(torch.isfinite(intrinsics).all()):
        focal = (max(height, width) / 2) / math.tan(math.radians(ASSUMED_FIELD_OF_VIEW / 2))
        intrinsics = torch.tensor([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    (fx, skew, cx), (_, fy, cy), _ = intrinsics.tolist()
    v, u = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    y = (v - cy) / fy
    return torch.stack([(u - cx - skew * y) / fx, y, torch.ones_like(u)]).float()


# What is summed over each patch, for each candidate.
_FACING, _COUNT, _INWARD_X, _SIDEWAYS_X, _INWARD_Y, _SIDEWAYS_Y, _COSINE, _MEASURED = range(8)


def _for_each(name: str, values: Tensor | Sequence[Tensor] | None, count: int) -> list[Tensor | None]:
    if values is None:
        return [None] * count
    if name == "intrinsics" and isinstance(values, Tensor) and values.ndim == 2:
        return [values] * count
    if len(values) != count:
        raise ValueError(f"{name}: {len(values)} for {count} pictures of normals; wanted one for each")
    return list(values)


def _patch_sums(normals: Tensor, mask: Tensor | None, intrinsics: Tensor | None, depth: Tensor | None) -> Tensor:
    """The evidence in each patch of a picture: (48, 8, patches) float64."""
    if normals.ndim != 3 or normals.shape[0] != 3:
        raise ValueError(f"normals of shape {tuple(normals.shape)}: wanted (3, H, W) for each picture")
    height, width = normals.shape[1:]
    valid = valid_normals(normals, None if mask is None else mask.cpu(), dim=0)
    rows, columns = (torch.arange(size) * PATCHES // size for size in (height, width))
    patch = rows[:, None] * PATCHES + columns
    step = (slice(None, None, max(1, height // MAX_SIDE)), slice(None, None, max(1, width // MAX_SIDE)))
    seen = valid[step]
    unit = normalize(normals[:, *step][:, seen].double(), dim=0)
    evidence = torch.zeros(len(_CANDIDATES), 8, unit.shape[1], dtype=torch.float64)
    slants = _products(unit, view_rays(height, width, intrinsics)[:, *step][:, seen].double())
    evidence[:, _FACING], evidence[:, _COUNT] = (slants.sum(1) < 0).double(), 1
    for axis, (inward, sideways) in enumerate(((_INWARD_X, _SIDEWAYS_X), (_INWARD_Y, _SIDEWAYS_Y))):
        evidence[:, inward], evidence[:, sideways] = (-slants[:, axis]).clamp_min(0), slants[:, axis].abs()
    if depth is not None:
        if intrinsics is None:
            raise ValueError("depths: need intrinsics too, or nothing follows from them")
        truth, known = depth_to_normals(depth.detach().cpu()[None], intrinsics.cpu())
        known = known[0][step][seen].double()
        evidence[:, _COSINE] = _products(unit, truth[0][:, *step][:, seen].double()).sum(1) * known
        evidence[:, _MEASURED] = known
    sums = torch.zeros(len(_CANDIDATES), 8, PATCHES**2, dtype=torch.float64)
    return sums.index_add_(2, patch[step][seen], evidence)


def _products(normals: Tensor, directions: Tensor) -> Tensor:
    """n_j d_j of each pixel for each candidate and j: (48, 3, N) from (3, N) twice."""
    ordered = torch.stack([normals[list(order)] * directions for order in _ORDERS])
    signs = torch.tensor(_SIGNS, dtype=normals.dtype)
    return (ordered[:, None] * signs[None, :, :, None]).flatten(0, 1)


def _scores(sums: Tensor) -> Tensor:
    """How well each candidate fits; `sums` has the candidates and the kinds of evidence as its first axes."""
    facing = sums[:, _FACING] / sums[:, _COUNT].clamp_min(1e-9)
    walls, floors = (
        # Where nothing faces sideways, neither for nor against.
        torch.where(sums[:, whole] > 0, sums[:, part] / sums[:, whole].clamp_min(1e-12), 0.5)
        for part, whole in ((_INWARD_X, _SIDEWAYS_X), (_INWARD_Y, _SIDEWAYS_Y))
    )
    return facing + SIDE_WEIGHT * (walls + floors) + sums[:, _COSINE] / sums[:, _MEASURED].clamp_min(1e-9)


def _sureness(patches: Tensor) -> Tensor:
    """The share of the draws in which each candidate fits best: a Bayesian bootstrap over the patches."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.empty(patches.shape[-1], DRAWS, dtype=patches.dtype).exponential_(generator=generator)
    scores = _scores(patches @ weights)
    best = scores >= scores.amax(0) - 1e-9
    return (best.double() / best.sum(0)).mean(1)


def _guess(index: int, sureness: float, sums: Tensor) -> AxesGuess:
    order, signs = _CANDIDATES[index]
    ways = {order[j]: (_AHEAD if signs[j] > 0 else _BEHIND)[j] for j in range(3)}
    values = sums.tolist()
    cosine = values[_COSINE] / values[_MEASURED] if values[_MEASURED] else None
    return AxesGuess(
        axes=(ways[0], ways[1], ways[2]),
        convention=_CONVENTIONS.get((order, signs)),
        sureness=sureness,
        facing=values[_FACING] / values[_COUNT],
        walls=values[_INWARD_X] / values[_SIDEWAYS_X] if values[_SIDEWAYS_X] else math.nan,
        floors=values[_INWARD_Y] / values[_SIDEWAYS_Y] if values[_SIDEWAYS_Y] else math.nan,
        depth=None if cosine is None else math.degrees(math.acos(max(-1.0, min(1.0, cosine)))),
    )


def _convention_of(axes: Sequence[str]) -> Convention | None:
    ways = [(ahead, behind) for ahead, behind in zip(_AHEAD, _BEHIND, strict=True)]
    signs = tuple(
        1 if way == ahead else -1 if way == behind else 0 for way, (ahead, behind) in zip(axes, ways, strict=True)
    )
    return next((convention for convention in Convention if convention.signs == signs), None)


def _share(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.0%}"
