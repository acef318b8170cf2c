"""Surface normals as vectors: axis conventions, angles, rotations, and normals from depth."""

from __future__ import annotations

import enum
import math

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "Convention",
    "angular_error",
    "convert_normals",
    "depth_to_normals",
    "normalize",
    "rotate_normals",
    "valid_normals",
]

MIN_LABEL_LENGTH = 0.5
"""A label shorter than this is no normal: black and mid-grey pixels decode to less."""

STRIP_PIXELS = 2**16
"""Pixels whose normals a processor computes from depth at once: few enough for its cache."""


class Convention(enum.Enum):
    """Which way the components of a normal point.

    A member's value is the sign of each component relative to `OPENCV`, so converting is one
    multiplication. In every convention the normal faces the camera; `head_on` is the normal of a
    wall seen head-on.

    Attributes:
        OPENCV: x right, y down, z forward; a head-on wall is (0, 0, -1). The library's own.
        OPENGL: x right, y up, z towards the viewer; a head-on wall is (0, 0, 1).
        DSINE: x left, y up, z towards the viewer; a head-on wall is (0, 0, 1).
        TASKONOMY: x right, y down, z towards the viewer (left-handed); a head-on wall is (0, 0, 1).
    """

    OPENCV = (1, 1, 1)
    OPENGL = (1, -1, -1)
    DSINE = (-1, -1, -1)
    TASKONOMY = (1, 1, -1)

    @property
    def signs(self) -> tuple[int, int, int]:
        """The factor of (nx, ny, nz) from `OPENCV` to this convention, and back."""
        return self.value

    @property
    def head_on(self) -> tuple[int, int, int]:
        """The normal of a wall seen head-on."""
        return (0, 0, -self.value[2])

    @classmethod
    def parse(cls, name: str | Convention) -> Convention:
        """Read a convention from its name, in either case.

        Raises:
            ValueError: No convention has this name; the message lists those there are.
        """
        if isinstance(name, cls):
            return name
        try:
            return cls[str(name).upper()]
        except KeyError:
            known = ", ".join(cls.__members__)
            raise ValueError(f"convention={name!r} is not known; choose one of {known}") from None


def normalize(vectors: Tensor, *, dim: int = 1) -> Tensor:
    """Scale vectors to unit length, for lengths from the smallest to the largest float.

    The largest component is divided out first, so that neither the squares nor their gradient
    overflow or vanish.

    Args:
        vectors: Any shape, with 3 components along `dim`.
        dim: The axis of the components.

    Returns:
        Unit vectors of the same shape; a zero vector stays zero, with a gradient of zero, and a
        vector with a component that is not finite becomes zero too.
    """
    largest = vectors.detach().abs().amax(dim, keepdim=True)
    # A NaN passes through the maximum and fails both comparisons.
    usable = (largest > 0) & (largest < math.inf)
    scaled = torch.where(usable, vectors, 0) / torch.where(usable, largest, 1)
    # One component of `scaled` is 1 unless the vector is zero, and then the square root must not see 0.
    squares = torch.where(usable, scaled.square().sum(dim, keepdim=True), 1)
    return scaled / squares.sqrt()


def valid_normals(normals: Tensor, mask: Tensor | None = None, *, dim: int = 1) -> Tensor:
    """Which labels count: the mask says so, the label is finite, and its length is above 0.5.

    Args:
        normals: Labels, 3 components along `dim`.
        mask: Boolean, the shape of `normals` without `dim`; None for all.
        dim: The axis of the components.

    Returns:
        Boolean, the shape of `normals` without `dim`.

    Raises:
        ValueError: The mask has another shape.
        TypeError: The mask is not boolean.
    """
    shape = list(normals.shape)
    del shape[dim]
    vectors = normals.detach().to(_work_dtype(normals))
    # A square may overflow to infinity, and is then rightly above; a NaN is above nothing.
    valid = (vectors.square().sum(dim) > MIN_LABEL_LENGTH**2) & (vectors.abs().amax(dim) < math.inf)
    if mask is None:
        return valid
    if mask.dtype != torch.bool:
        raise TypeError(f"mask has dtype {mask.dtype}; wanted torch.bool (use `mask > 0`)")
    if list(mask.shape) != shape:
        raise ValueError(f"mask has shape {tuple(mask.shape)}; wanted {tuple(shape)}, the normals without dim {dim}")
    return valid & mask.to(valid.device)


def angular_error(pred: Tensor, target: Tensor, *, dim: int = 1) -> Tensor:
    """The angle between two fields of vectors, in degrees.

    `atan2(|a x b|, a . b)` of the unit vectors: exact near 0 and 180 degrees, where the arc cosine
    loses half of its digits. The gradient is finite everywhere, and zero at exactly 0 and 180 degrees.

    Args:
        pred: 3 components along `dim`; any length.
        target: The same shape.
        dim: The axis of the components.

    Returns:
        Degrees in [0, 180], `dim` removed; float32, or float64 where an input is. NaN where a vector is
        zero or not finite, since it has no direction.

    Raises:
        ValueError: The shapes differ, or `dim` does not have 3 components.

    Examples:
        >>> import torch
        >>> angular_error(torch.tensor([[0.0, 0.0, -1.0]]), torch.tensor([[0.0, -2.0, -2.0]]))
        tensor([45.])
    """
    _check_components("pred", pred, dim)
    if pred.shape != target.shape:
        raise ValueError(f"pred has shape {tuple(pred.shape)} and target {tuple(target.shape)}; they must be equal")
    a = normalize(pred.to(_work_dtype(pred, target)), dim=dim)
    b = normalize(target.to(_work_dtype(pred, target)), dim=dim)
    (ax, ay, az), (bx, by, bz) = a.unbind(dim), b.unbind(dim)
    cosine = ax * bx + ay * by + az * bz
    # Component by component: torch.linalg.cross is several times slower on the CPU.
    squared_sine = (ay * bz - az * by).square() + (az * bx - ax * bz).square() + (ax * by - ay * bx).square()
    parallel = squared_sine == 0
    sine = torch.where(parallel, 1, squared_sine).sqrt()
    has_direction = (a.detach().abs().amax(dim) > 0) & (b.detach().abs().amax(dim) > 0)
    # At the origin the arc tangent has no slope, and torch 2.9 gives NaN for it.
    angle = torch.atan2(torch.where(parallel, 0, sine), torch.where(has_direction, cosine, 1))
    return torch.where(has_direction, torch.rad2deg(angle), math.nan)


def convert_normals(normals: Tensor, source: Convention, target: Convention, *, dim: int = 1) -> Tensor:
    """Express normals in the axes of another convention; there and back is exact.

    Args:
        normals: 3 components along `dim`, in the axes of `source`.
        source: The convention they are in.
        target: The convention they are wanted in.
        dim: The axis of the components.

    Returns:
        A new tensor of the same shape and dtype.

    Raises:
        ValueError: `dim` does not have 3 components, or a convention is not known.
        TypeError: The normals are not floating point.

    Examples:
        >>> import torch
        >>> wall = torch.tensor([[0.0, 0.0, -1.0]])
        >>> convert_normals(wall, Convention.OPENCV, Convention.DSINE)[0, 2]
        tensor(1.)
    """
    _check_normals(normals, dim)
    signs = [a * b for a, b in zip(Convention.parse(source).signs, Convention.parse(target).signs, strict=True)]
    shape = [1] * normals.ndim
    shape[dim] = 3
    # Adding zero turns the -0.0 of a flipped zero into 0.0, so that files compare equal byte for byte.
    return normals * torch.tensor(signs, dtype=normals.dtype, device=normals.device).view(shape) + 0


def rotate_normals(normals: Tensor, rotation: Tensor, *, dim: int = 1) -> Tensor:
    """Turn every normal: R n.

    Args:
        normals: (B, 3, H, W), or any shape with 3 components along `dim`.
        rotation: (3, 3), or (B, 3, 3) with one matrix for each entry of the first axis of `normals`.
        dim: The axis of the components; not the first when `rotation` is a batch.

    Returns:
        The same shape and dtype as `normals`.

    Raises:
        ValueError: `rotation` is not a rotation, or of another shape.
        TypeError: The normals are not floating point.
    """
    _check_normals(normals, dim)
    rotation = rotation.to(normals.device, _work_dtype(normals))
    if rotation.shape[-2:] != (3, 3) or rotation.ndim not in (2, 3):
        raise ValueError(f"rotation has shape {tuple(rotation.shape)}; wanted (3, 3) or (B, 3, 3)")
    if rotation.ndim == 3 and (dim % normals.ndim == 0 or rotation.shape[0] != normals.shape[0]):
        raise ValueError(
            f"rotation has shape {tuple(rotation.shape)} for normals of shape {tuple(normals.shape)}; "
            "a batch of rotations needs one for each entry of the first axis"
        )
    _check_rotation(rotation)
    last = normals.to(rotation.dtype).movedim(dim, -1)
    if rotation.ndim == 3:
        rotation = rotation.view(-1, *[1] * (last.ndim - 2), 3, 3)
    # Column by column: autocast and TF32 would round a matrix product.
    columns = zip(rotation.unbind(-1), last.unbind(-1), strict=True)
    turned = torch.stack([column * component.unsqueeze(-1) for column, component in columns]).sum(0)
    return turned.movedim(-1, dim).to(normals.dtype)


def depth_to_normals(
    depth: Tensor,
    intrinsics: Tensor,
    *,
    window: int = 7,
    min_valid: float = 0.8,
    max_step: float = 0.15,
) -> tuple[Tensor, Tensor]:
    """Normals of the plane that fits each window of a depth map best.

    Least squares for n . X = 1 over the points X of the window. With m their mean and C their
    covariance the solution is n = (C + m m^T)^-1 m, which is parallel to adj(C) m: exact on planes,
    also where C is singular. The points are taken relative to the middle of the window and in
    units of its depth, so that float32 gives the same normals at 0.2 m and at 500 m.

    Args:
        depth: (B, 1, H, W), z in any unit; 0, negative or non-finite means no depth.
        intrinsics: (B, 3, 3) or (3, 3), in pixels, pixel centres at integers.
        window: Side of the square window in pixels; odd, at least 3.
        min_valid: Least share of the window's pixels, of those inside the picture, that must have depth; the
            middle one must.
        max_step: Largest spread of depth in the window, as a share of the middle pixel's depth; beyond it the
            window spans an edge.

    Returns:
        Normals (B, 3, H, W), `Convention.OPENCV`, facing the camera, 0 where invalid, in float32 or
        the dtype of a float64 depth; and the mask (B, H, W), bool. Differentiable in `depth`.

    Raises:
        ValueError: A shape, the intrinsics or an argument is out of range; the message names it.
        TypeError: Depth is not floating point.

    Examples:
        >>> import torch
        >>> wall = torch.full((1, 1, 9, 9), 2.0)
        >>> K = torch.tensor([[[100.0, 0, 4], [0, 100, 4], [0, 0, 1]]])
        >>> normals, mask = depth_to_normals(wall, K)
        >>> [round(x) for x in normals[0, :, 4, 4].tolist()], int(mask.sum())
        ([0, 0, -1], 81)
    """
    _check_depth(depth, window, min_valid, max_step)
    intrinsics = _check_intrinsics(intrinsics, depth)
    if depth.device.type == "mps":  # It has no float64.
        options = {"window": window, "min_valid": min_valid, "max_step": max_step}
        normals, mask = depth_to_normals(depth.cpu(), intrinsics.cpu(), **options)  # type: ignore[arg-type]
        return normals.to(depth.device), mask.to(depth.device)
    dtype = _work_dtype(depth)
    depth = depth.to(dtype)
    has_depth = torch.isfinite(depth) & (depth > 0)
    depth = torch.where(has_depth, depth, 0)

    radius = window // 2
    count = _window_sum(has_depth.to(dtype), radius)
    inside = _window_sum(torch.ones_like(depth[:1, :, :, :1]), radius, dims=(-2,)) * _window_sum(
        torch.ones_like(depth[:1, :, :1]), radius, dims=(-1,)
    )
    nearest = -_window_maximum(torch.where(has_depth, -depth.detach(), -math.inf), window)
    farthest = _window_maximum(torch.where(has_depth, depth.detach(), -math.inf), window)
    # The slack is for shares that binary fractions do not hold, such as 0.8 of 35 pixels.
    mask = has_depth & (count >= min_valid * inside - 1e-3) & (farthest - nearest <= max_step * depth)

    padded, count, middle = functional.pad(depth.double(), (radius,) * 4), count.double(), depth.double()
    strips = []
    for top, bottom in _strips(depth):
        here = (..., slice(top, bottom), slice(None))
        around = padded[..., top : bottom + 2 * radius, :]
        moments = _window_moments(around, count[here], middle[here], radius)
        found, is_plane = _plane_normals(*moments, intrinsics.double(), top, torch.finfo(dtype).eps)
        valid = mask[here] & is_plane
        strips.append((normalize(torch.where(valid, found, 0)).to(dtype), valid.squeeze(1)))
    normals, mask = (torch.cat(parts, -2) for parts in zip(*strips, strict=True))
    return normals, mask


def _strips(depth: Tensor) -> list[tuple[int, int]]:
    """Rows from and to, of which a processor's cache holds what is computed of them."""
    batch, _, height, width = depth.shape
    rows = max(STRIP_PIXELS // max(batch * width, 1), 1) if depth.device.type == "cpu" else height
    return [(top, min(top + rows, height)) for top in range(0, height, rows)]


def _window_maximum(values: Tensor, window: int) -> Tensor:
    """The largest value of each window, -inf beyond the border: of two, of two twos, and so on, along each axis."""
    values = functional.pad(values, (window // 2,) * 4, value=-math.inf)
    for dim in (-1, -2):
        span = 1
        while span < window:
            step = min(span, window - span)
            length = values.shape[dim] - step
            values = torch.maximum(values.narrow(dim, 0, length), values.narrow(dim, step, length))
            span += step
    return values


def _window_sum(values: Tensor, radius: int, dims: tuple[int, ...] = (-1, -2)) -> Tensor:
    """The sum of each window, 0 beyond the border."""
    for dim in dims:
        (values,) = _line_sums(_pad_line(values, radius, dim), radius, dim, powers=(0,))
    return values


def _pad_line(values: Tensor, radius: int, dim: int) -> Tensor:
    return functional.pad(values, (radius, radius) if dim == -1 else (0, 0, radius, radius))


def _line_sums(padded: Tensor, radius: int, dim: int, *, powers: tuple[int, ...]) -> list[Tensor]:
    """The sums of offset**power times value over the pixels up to `radius` away along one axis, for each power."""
    length = padded.shape[dim] - 2 * radius
    sums = [padded.narrow(dim, radius, length).clone() if power == 0 else None for power in powers]
    for offset in (*range(-radius, 0), *range(1, radius + 1)):
        there = padded.narrow(dim, radius + offset, length)
        sums = [
            there * offset**power if total is None else total.add_(there, alpha=offset**power)
            for total, power in zip(sums, powers, strict=True)
        ]
    return [total for total in sums if total is not None]


def _window_moments(
    padded: Tensor, count: Tensor, middle: Tensor, radius: int
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Sum and covariance of each window's points, in coordinates that know nothing of the camera.

    A point of depth z that is (dx, dy) pixels away from a middle one of depth z0 is (dx z, dy z, z - z0), a linear map
    of its place in space less that of the middle one. Their moments are made of sums of dx**i dy**j z and of
    dx**i dy**j z**2, each of which is a sum along x and then along y: 14 sums over a line, whatever the window. They
    are float64, since z - z0 cancels.

    Returns:
        The sum of dx z, dy z and z; and the covariances xx, xy, xz, yy, yz, zz, times the square of the number of
        points. Each (B, 1, H, W).
    """
    line, line_x = _line_sums(padded, radius, -1, powers=(0, 1))
    z, y = _line_sums(line, radius, -2, powers=(0, 1))
    (x,) = _line_sums(line_x, radius, -2, powers=(0,))
    line, line_x, line_xx = _line_sums(padded.square(), radius, -1, powers=(0, 1, 2))
    zz, yz, yy = _line_sums(line, radius, -2, powers=(0, 1, 2))
    xz, xy = _line_sums(line_x, radius, -2, powers=(0, 1))
    (xx,) = _line_sums(line_xx, radius, -2, powers=(0,))

    step = z - middle * count
    xz, yz, zz = xz - middle * x, yz - middle * y, zz - middle * (z + step)
    pairs = ((xx, x, x), (xy, x, y), (xz, x, step), (yy, y, y), (yz, y, step), (zz, step, step))
    return (x, y, z), tuple(count * moment - a * b for moment, a, b in pairs)


def _plane_normals(
    total: tuple[Tensor, ...], covariance: tuple[Tensor, ...], intrinsics: Tensor, top: int, eps: float
) -> tuple[Tensor, Tensor]:
    """adj(C) m from the coordinates of `_window_moments` back to those of the camera, for rows from `top` on.

    With K_p the intrinsics whose principal point is moved to the pixel itself, a point is K_p^-1 of its coordinates
    there, and adj(A C A^T) = adj(A)^T adj(C) adj(A).

    Returns:
        Normals (B, 3, H, W) of any length, facing the camera; and (B, 1, H, W), bool: whether the points span a plane.
    """
    xx, xy, xz, yy, yz, zz = covariance
    # The adjugate of a symmetric matrix.
    a, b, c = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
    d, e, f = xx * zz - xz * xz, xy * xz - xx * yz, xx * yy - xy * xy
    x, y, z = total
    x, y, z = a * x + b * y + c * z, b * x + d * y + e * z, c * x + e * y + f * z
    fx, skew, cx, fy_x, fy, cy = (k.view(-1, 1, 1, 1) for k in intrinsics[:, :2].flatten(1).unbind(1))
    u = torch.arange(x.shape[3], dtype=x.dtype, device=x.device)
    v = torch.arange(top, top + x.shape[2], dtype=x.dtype, device=x.device).view(-1, 1)
    normals = -torch.cat([fx * x + fy_x * y, skew * x + fy * y, (cx - u) * x + (cy - v) * y + z], 1)
    return normals, _is_plane((a, d, f), (xx, yy, zz), (fx + fy) / 2, eps)


def _is_plane(adjugate: tuple[Tensor, ...], variances: tuple[Tensor, ...], focal: Tensor, eps: float) -> Tensor:
    """Whether points span a plane: on a line they leave its direction open, and the adjugate is rounding error.

    Of both matrices the diagonal is given. Depth is first scaled by the focal length, so that all three coordinates are
    pixel footprints; `eps` is the rounding of the depth.
    """
    a, d, f = (entry.detach() for entry in adjugate)
    xx, yy, zz = (variance.detach() for variance in variances)
    # An adjugate has no negative eigenvalue where the matrix has none, and so its largest entry on the diagonal.
    size = torch.maximum(torch.maximum(a, d) * focal.square(), f)
    return size > 8 * eps * (xx + yy + zz * focal.square()).square()


def _check_depth(depth: Tensor, window: int, min_valid: float, max_step: float) -> None:
    if depth.ndim != 4 or depth.shape[1] != 1 or 0 in depth.shape[2:]:
        raise ValueError(f"depth has shape {tuple(depth.shape)}; wanted (B, 1, H, W) with pixels in it")
    if not depth.is_floating_point():
        raise TypeError(f"depth has dtype {depth.dtype}; wanted floating point (divide millimetres by 1000.0)")
    if window < 3 or window % 2 == 0:
        raise ValueError(f"window={window}: wanted an odd number of pixels, at least 3")
    if not 0 < min_valid <= 1:
        raise ValueError(f"min_valid={min_valid}: wanted a share in (0, 1]")
    if not max_step > 0:
        raise ValueError(f"max_step={max_step}: wanted a positive share of the depth")


def _check_intrinsics(intrinsics: Tensor, depth: Tensor) -> Tensor:
    """The intrinsics as (B, 3, 3), on the depth's device and in the dtype of the work."""
    batch = depth.shape[0]
    if intrinsics.ndim == 2:
        intrinsics = intrinsics.expand(batch, *intrinsics.shape)
    if intrinsics.shape != (batch, 3, 3):
        raise ValueError(f"intrinsics has shape {tuple(intrinsics.shape)}; wanted (3, 3) or ({batch}, 3, 3)")
    intrinsics = intrinsics.to(depth.device, _work_dtype(depth))
    bottom = torch.tensor([0.0, 0.0, 1.0], dtype=intrinsics.dtype, device=depth.device)
    finite = torch.isfinite(intrinsics).all((1, 2))
    fits = finite & (intrinsics.diagonal(dim1=1, dim2=2) > 0).all(1) & (intrinsics[:, 2] == bottom).all(1)
    if not bool(fits.all()):
        raise ValueError(
            f"intrinsics={intrinsics[~fits][0].tolist()}: wanted [[fx, s, cx], [0, fy, cy], [0, 0, 1]] in pixels, "
            "fx and fy > 0"
        )
    return intrinsics


def _work_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 where a tensor has it, else float32: half precision cannot hold an angle."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def _check_components(name: str, vectors: Tensor, dim: int) -> None:
    if not -vectors.ndim <= dim < vectors.ndim or vectors.shape[dim] != 3:
        raise ValueError(f"{name} has shape {tuple(vectors.shape)}; wanted 3 components along dim={dim}")


def _check_normals(normals: Tensor, dim: int) -> None:
    _check_components("normals", normals, dim)
    if not normals.is_floating_point():
        raise TypeError(f"normals has dtype {normals.dtype}; wanted floating point (for colours, rgb_to_normals)")


def _check_rotation(rotation: Tensor) -> None:
    identity = torch.eye(3, dtype=rotation.dtype, device=rotation.device)
    product = (rotation.unsqueeze(-2) * rotation.unsqueeze(-3)).sum(-1)
    near = (product - identity).abs() < 1e-3
    # A NaN is near nothing, and so refused too.
    if not bool(near.all() and (torch.linalg.det(rotation) > 0).all()):
        raise ValueError("rotation is not a rotation matrix: R R^T must be the identity and det R = 1")
