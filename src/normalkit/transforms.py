"""Normal-aware transforms: when torchvision v2 moves the picture, the vectors turn with it.

Every geometric functional is described once, by a `Motion`: where pixels go, how vectors turn, and the
size of the new picture. `SurfaceNormals` and `Intrinsics`, the two tv_tensors here, both follow it. A functional
without a motion raises, since torchvision would otherwise pass the labels through untouched.

A few of torchvision's transforms look for pictures by type and leave everything else as it is, and cannot be made to
raise from here: AutoAugment and its kin, MixUp and CutMix. They refuse a sample with a `tv_tensors.Mask`, as those of
`normalkit.data` are.
"""

from __future__ import annotations

import base64
import functools
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image as Picture
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from torchvision.transforms.v2.functional import _utils as registry
from torchvision.tv_tensors import Image, Mask, TVTensor, Video, wrap

from normalkit.codec import normals_to_rgb
from normalkit.geometry import Convention, convert_normals, normalize, valid_normals

__all__ = ["Intrinsics", "Motion", "RandomCameraRotation", "SurfaceNormals", "training_transform"]

SHOWN, SHOWN_SIDE = 8, 512
"""Pictures of a batch that a notebook shows, and the most pixels of their longer side."""


class SurfaceNormals(TVTensor):
    """Surface normals as a tv_tensor: `Convention.OPENCV`, unit length where valid, zero where not.

    Transforms of `torchvision.transforms.v2` turn the vectors together with the picture, never blend two of
    them, and mark what comes from outside the picture invalid, whatever `fill` or interpolation they are given.

    Args:
        data: (..., 3, H, W) floating point; vectors of any length. One that is not finite or no longer than
            0.5 is invalid and becomes zero.
        convention: The axes of `data`; converted to OPENCV here, once.

    Raises:
        ValueError: The shape has no 3 components on the third axis from the right.
        TypeError: The dtype is not floating point.

    Examples:
        >>> import torch
        >>> from torchvision.transforms import v2
        >>> left = SurfaceNormals(torch.tensor([-1.0, 0.0, 0.0]).view(3, 1, 1).expand(3, 2, 2))
        >>> v2.functional.horizontal_flip(left)[:, 0, 0].tolist()
        [1.0, 0.0, 0.0]
    """

    def __new__(cls, data: Any, *, convention: Convention = Convention.OPENCV) -> SurfaceNormals:
        """Convert, normalise and mark as surface normals."""
        tensor = torch.as_tensor(data)
        if tensor.ndim < 3 or tensor.shape[-3] != 3:
            raise ValueError(f"data has shape {tuple(tensor.shape)}; wanted (..., 3, H, W)")
        if not tensor.is_floating_point():
            raise TypeError(f"data has dtype {tensor.dtype}; wanted floating point (decode files with read_normals)")
        valid = valid_normals(tensor, dim=-3).unsqueeze(-3)
        tensor = convert_normals(normalize(tensor, dim=-3), convention, Convention.OPENCV, dim=-3)
        return torch.where(valid, tensor, 0).as_subclass(cls)

    @property
    def mask(self) -> Tensor:
        """Which pixels are valid: (..., H, W), bool."""
        return valid_normals(self.as_subclass(Tensor), dim=-3)

    def _repr_html_(self) -> str | None:
        """What a notebook shows: the usual colours, transparent where invalid, and what it is; None for no picture."""
        normals = self.detach().as_subclass(Tensor)
        if normals.ndim < 3 or normals.shape[-3] != 3 or normals.numel() == 0:
            return None  # The notebook then shows the text.
        pictures = normals.reshape(-1, *normals.shape[-3:])
        drawn = "".join(_html_picture(picture) for picture in pictures[:SHOWN])
        more = f", the first {SHOWN} drawn" if len(pictures) > SHOWN else ""
        valid = 100 * float(valid_normals(normals, dim=-3).float().mean())
        kind = f"{str(normals.dtype).removeprefix('torch.')} on {normals.device}"
        shape = " x ".join(map(str, normals.shape))
        return f"<div>{drawn}<br>SurfaceNormals {shape}, {kind}, OPENCV, {valid:.1f} % valid{more}</div>"


def _html_picture(normals: Tensor) -> str:
    """An img element with the picture in it."""
    # Fewer pixels than a screen can show make a notebook's file smaller; nearest, since normals do not blend.
    step = max(1, -(-max(normals.shape[-2:]) // SHOWN_SIDE))
    normals = normals[:, ::step, ::step].cpu()
    alpha = valid_normals(normals, dim=0).to(torch.uint8) * 255
    colours = torch.cat([normals_to_rgb(normals.float()), alpha[None]]).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Picture.fromarray(colours).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    height, width = alpha.shape
    # Small ones enlarged, so that their pixels are seen.
    scale = max(1, 128 // max(height, width))
    return (
        f'<img src="data:image/png;base64,{data}" width="{width * scale}" height="{height * scale}" '
        'style="display:inline;image-rendering:pixelated;margin:2px" alt="surface normals">'
    )


class Intrinsics(TVTensor):
    """Camera intrinsics as a tv_tensor, so that what moves the picture updates them.

    A picture turned by other than multiples of 90 degrees has a matrix [[a, b, cx], [c, d, cy], [0, 0, 1]], b and c not
    0, unless its pixels are square. A mirrored picture is that of a mirrored room.

    Args:
        data: (3, 3) floating point, pixels, pixel centres at integers; NaN where unknown.
        canvas_size: (height, width) of the picture they belong to.

    Raises:
        ValueError: The shape is not (3, 3).
        TypeError: The dtype is not floating point.
    """

    canvas_size: tuple[int, int]

    def __new__(cls, data: Any, *, canvas_size: tuple[int, int]) -> Intrinsics:
        """Mark as intrinsics of a picture of the given size."""
        tensor = torch.as_tensor(data)
        if tensor.shape != (3, 3):
            raise ValueError(f"intrinsics has shape {tuple(tensor.shape)}; wanted (3, 3)")
        if not tensor.is_floating_point():
            raise TypeError(f"intrinsics has dtype {tensor.dtype}; wanted floating point")
        intrinsics: Intrinsics = tensor.as_subclass(cls)
        intrinsics.canvas_size = (int(canvas_size[0]), int(canvas_size[1]))
        return intrinsics

    @classmethod
    def wrap(cls, tensor: Tensor, like: Intrinsics, **kwargs: Any) -> Intrinsics:
        """Mark `tensor` as intrinsics of the same picture as `like`; `torchvision.tv_tensors.wrap` calls this."""
        return cls(tensor, canvas_size=kwargs.get("canvas_size", like.canvas_size))

    @classmethod
    def _wrap_output(cls, output: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """Keep the picture's size through clone, to, detach and deepcopy; what is no 3 x 3 matrix stays plain."""
        like = next((x for x in (*args, *(kwargs or {}).values()) if isinstance(x, cls)), None)
        if like is None or not isinstance(output, Tensor) or output.shape != (3, 3):
            return output
        return cls.wrap(output.as_subclass(Tensor), like)


class Motion(NamedTuple):
    """What a geometric transform does.

    Attributes:
        pixels: (3, 3) float64, homogeneous: old pixel coordinates to new ones.
        turn: (3, 3) float64, orthogonal: old vectors to new ones (a mirror has determinant -1).
        canvas: (height, width) of the new picture.
    """

    pixels: Tensor
    turn: Tensor
    canvas: tuple[int, int]


def _matrix(*rows: Sequence[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def _scale_and_shift(x_scale: float, x_shift: float, y_scale: float, y_shift: float) -> Tensor:
    return _matrix((x_scale, 0, x_shift), (0, y_scale, y_shift), (0, 0, 1))


def _mirror(x: float, y: float) -> Tensor:
    return torch.diag(_matrix((x, y, 1.0))[0])


_STILL = _mirror(1, 1)


def _horizontal_flip(canvas: tuple[int, int]) -> Motion:
    return Motion(_scale_and_shift(-1, canvas[1] - 1, 1, 0), _mirror(-1, 1), canvas)


def _vertical_flip(canvas: tuple[int, int]) -> Motion:
    return Motion(_scale_and_shift(1, 0, -1, canvas[0] - 1), _mirror(1, -1), canvas)


def _crop(canvas: tuple[int, int], top: int, left: int, height: int, width: int) -> Motion:
    return Motion(_scale_and_shift(1, -left, 1, -top), _STILL, (height, width))


def _resize(
    canvas: tuple[int, int],
    size: Sequence[int] | int | None,
    interpolation: Any = None,
    max_size: int | None = None,
    antialias: bool | None = None,
) -> Motion:
    new = F.resize(torch.empty((1, *canvas), device="meta"), size, max_size=max_size).shape[-2:]
    y, x = (after / before for after, before in zip(new, canvas, strict=True))
    return Motion(_scale_and_shift(x, (x - 1) / 2, y, (y - 1) / 2), _STILL, (new[0], new[1]))


def _resized_crop(
    canvas: tuple[int, int],
    top: int,
    left: int,
    height: int,
    width: int,
    size: list[int],
    interpolation: Any = None,
    antialias: bool | None = None,
) -> Motion:
    cut = _crop(canvas, top, left, height, width)
    grown = _resize(cut.canvas, size)
    return Motion(grown.pixels @ cut.pixels, _STILL, grown.canvas)


def _center_crop(canvas: tuple[int, int], output_size: Sequence[int] | int) -> Motion:
    sizes = [output_size] if isinstance(output_size, int) else list(output_size)
    height, width = sizes if len(sizes) == 2 else sizes * 2
    # torchvision pads a picture that is too small, the odd pixel at the bottom right, and then crops.
    pad_y, pad_x = max(height - canvas[0], 0) // 2, max(width - canvas[1], 0) // 2
    padded = (max(canvas[0], height), max(canvas[1], width))
    top, left = round((padded[0] - height) / 2), round((padded[1] - width) / 2)
    return _crop(canvas, top - pad_y, left - pad_x, height, width)


def _pad(canvas: tuple[int, int], padding: Sequence[int] | int, fill: Any = None, padding_mode: str = "") -> Motion:
    sides = [padding] if isinstance(padding, int) else list(padding)
    left, top, right, bottom = {1: sides * 4, 2: sides * 2}.get(len(sides), sides)
    return Motion(_scale_and_shift(1, left, 1, top), _STILL, (canvas[0] + top + bottom, canvas[1] + left + right))


def _spin(
    canvas: tuple[int, int],
    degrees: float,
    scale: float,
    center: Sequence[float] | None,
    shift: Sequence[float],
    new_canvas: tuple[int, int],
) -> Motion:
    """Turn the picture counter-clockwise about a point, given as torchvision does: from the corner, not a centre."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = _matrix((cos, sin, 0), (-sin, cos, 0), (0, 0, 1))
    x, y = (canvas[1] / 2, canvas[0] / 2) if center is None else center
    x, y = x - 0.5, y - 0.5
    to_origin = _scale_and_shift(1, -x, 1, -y)
    grow_x, grow_y = (new_canvas[1] - canvas[1]) / 2, (new_canvas[0] - canvas[0]) / 2
    back = _scale_and_shift(scale, x + shift[0] + grow_x, scale, y + shift[1] + grow_y)
    return Motion(back @ turn @ to_origin, turn, new_canvas)


def _rotate(
    canvas: tuple[int, int],
    angle: float,
    interpolation: Any = None,
    expand: bool = False,
    center: Sequence[float] | None = None,
    fill: Any = None,
) -> Motion:
    # torchvision's own rule for the size, asked of a picture without pixels.
    blank = torch.empty((1, *canvas), device="meta")
    new = F.rotate(blank, angle, expand=True, center=center).shape[-2:] if expand else canvas
    return _spin(canvas, angle, 1.0, center, (0.0, 0.0), (new[0], new[1]))


def _affine(
    canvas: tuple[int, int],
    angle: float,
    translate: Sequence[float],
    scale: float,
    shear: Sequence[float] | float,
    interpolation: Any = None,
    fill: Any = None,
    center: Sequence[float] | None = None,
) -> Motion:
    if any(s != 0 for s in ([shear] if isinstance(shear, int | float) else shear)):
        raise ValueError(f"shear={shear}: no camera sees a sheared picture, so its normals are unknown; use shear=0")
    # torchvision's affine counts degrees clockwise, its rotate counter-clockwise.
    return _spin(canvas, -angle, scale, center, translate, canvas)


_MOTIONS: dict[Callable[..., Any], Callable[..., Motion]] = {
    F.horizontal_flip: _horizontal_flip,
    F.vertical_flip: _vertical_flip,
    F.crop: _crop,
    F.resize: _resize,
    F.resized_crop: _resized_crop,
    F.center_crop: _center_crop,
    F.pad: _pad,
    F.rotate: _rotate,
    F.affine: _affine,
}


def _move_normals(normals: SurfaceNormals, *args: Any, motion: Callable[..., Motion], **kwargs: Any) -> SurfaceNormals:
    """Take the nearest old pixel for each new one, and turn its vector; outside the old picture is invalid."""
    old = normals.as_subclass(Tensor)
    pixels, turn, canvas = motion(tuple(old.shape[-2:]), *args, **kwargs)
    moved = _move_pixels(old, torch.linalg.inv(pixels), canvas)
    if turn is not _STILL:
        # Column by column: autocast and TF32 would round a matrix product.
        first, second, third = turn.to(moved)[:, :, None, None].unbind(1)
        x, y, z = torch.split(moved, 1, dim=-3)
        moved = first * x + second * y + third * z
    result: SurfaceNormals = moved.as_subclass(SurfaceNormals)
    return result


def _move_pixels(old: Tensor, back: Tensor, canvas: tuple[int, int]) -> Tensor:
    """The nearest old pixel of each new one, 0 where there is none; `back` leads from new pixels to old ones."""
    height, width = old.shape[-2:]
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in canvas)
    if not (back[0, 1] or back[1, 0] or back[2, :2].any()):
        # Neither turned nor in perspective: whole rows and columns, without a place for each pixel.
        row, in_height = _nearest(back[1, 1] * rows + back[1, 2], height)
        column, in_width = _nearest(back[0, 0] * columns + back[0, 2], width)
        moved = old.index_select(-2, row.to(old.device)).index_select(-1, column.to(old.device))
        inside = in_height[:, None] & in_width
    else:
        y, x = rows[:, None], columns
        depth = back[2, 0] * x + back[2, 1] * y + back[2, 2]
        column, in_width = _nearest((back[0, 0] * x + back[0, 1] * y + back[0, 2]) / depth, width)
        row, in_height = _nearest((back[1, 0] * x + back[1, 1] * y + back[1, 2]) / depth, height)
        index = (row * width + column).flatten().to(old.device)
        moved = old.flatten(-2).index_select(-1, index).reshape(*old.shape[:-2], *canvas)
        inside = in_height & in_width
    return moved if inside.all() else moved.masked_fill(~inside.to(old.device), 0)


def _move_picture(old: Tensor, back: Tensor, canvas: tuple[int, int], *, scale: float) -> Tensor:
    """Between the old pixels (..., C, H, W), 0 where there are none; made smaller first where `scale` is below 1."""
    height, width = old.shape[-2:]
    picture = old.reshape(-1, *old.shape[-3:])
    small = [max(round(side * min(scale, 1)), 1) for side in (height, width)]
    picture = (F.resize(picture, small, antialias=True) if small != [height, width] else picture).float()
    y, x = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in canvas), indexing="ij")
    places = torch.einsum("ij,jhw->ihw", back, torch.stack([x, y, torch.ones_like(x)]))
    # From -1 to 1 between the borders, whatever the number of pixels.
    grid = (2 * places[:2] / places[2] + 1) / torch.tensor([width, height]).view(2, 1, 1) - 1
    grid = grid.permute(1, 2, 0).to(picture)[None].expand(len(picture), -1, -1, -1)
    moved = torch.nn.functional.grid_sample(picture, grid, mode="bilinear", align_corners=False)
    moved = moved.reshape(*old.shape[:-2], *canvas)
    return moved if old.is_floating_point() else moved.round().to(old.dtype)


def _nearest(place: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The pixel nearest to each place along an axis, and whether the picture has it."""
    # Half-way cases go up, as torchvision's nearest-exact; the 1e-9 keeps rounding errors out of the choice.
    pixel = (place + (0.5 + 1e-9)).floor().long()
    return pixel.clamp(0, side - 1), (pixel >= 0) & (pixel < side)


def _move_intrinsics(intrinsics: Intrinsics, *args: Any, motion: Callable[..., Motion], **kwargs: Any) -> Intrinsics:
    pixels, turn, canvas = motion(intrinsics.canvas_size, *args, **kwargs)
    old = intrinsics.as_subclass(Tensor)
    new = pixels @ old.double() @ turn.mT
    return Intrinsics((new / new[2, 2]).to(old.dtype), canvas_size=canvas)


def _five_crop(inpt: TVTensor, size: Sequence[int] | int) -> tuple[TVTensor, ...]:
    height, width = F.get_size(inpt)
    sizes = [size] if isinstance(size, int) else list(size)
    h, w = sizes if len(sizes) == 2 else sizes * 2
    if h > height or w > width:
        raise ValueError(f"size={size} is larger than the picture, {height} x {width}")
    corners = [(0, 0), (0, width - w), (height - h, 0), (height - h, width - w)]
    return (*(F.crop(inpt, top, left, h, w) for top, left in corners), F.center_crop(inpt, [h, w]))


def _ten_crop(inpt: TVTensor, size: Sequence[int] | int, vertical_flip: bool = False) -> tuple[TVTensor, ...]:
    flipped = F.vertical_flip(inpt) if vertical_flip else F.horizontal_flip(inpt)
    return (*_five_crop(inpt, size), *_five_crop(flipped, size))


def _get_size(inpt: SurfaceNormals | Intrinsics) -> list[int]:
    return list(inpt.canvas_size if isinstance(inpt, Intrinsics) else inpt.shape[-2:])


def _to_dtype(inpt: SurfaceNormals | Intrinsics, dtype: torch.dtype = torch.float, scale: bool = False) -> TVTensor:
    if not dtype.is_floating_point:
        raise TypeError(f"dtype={dtype}: {type(inpt).__name__} are floating point (normals_to_rgb makes a picture)")
    return inpt.to(dtype)


def _refuse(inpt: TVTensor, *args: Any, functional: str, **kwargs: Any) -> TVTensor:
    raise TypeError(
        f"{functional} moves pixels as no camera does, or in a way not known here, so {type(inpt).__name__} cannot "
        f"follow; use one of {', '.join(sorted(known.__name__ for known in _MOTIONS))}, or for a change of perspective "
        "normalkit.transforms.RandomCameraRotation"
    )


def _register_kernels() -> None:
    own: dict[Callable[..., Any], Callable[..., Any]] = {
        F.five_crop: _five_crop,
        F.ten_crop: _ten_crop,
        F.get_size: _get_size,
        F.to_dtype: _to_dtype,
    }
    for kind, move in ((SurfaceNormals, _move_normals), (Intrinsics, _move_intrinsics)):
        for functional, motion in _MOTIONS.items():
            v2.functional.register_kernel(functional, kind)(functools.partial(move, motion=motion))
        for functional, kernel in own.items():
            v2.functional.register_kernel(functional, kind)(kernel)
        # Whatever moves a segmentation mask moves pixels: every such functional that is not known above raises.
        for functional, kernels in list(registry._KERNEL_REGISTRY.items()):
            if Mask in kernels and kind not in kernels:
                refuse = functools.partial(_refuse, functional=functional.__name__)
                v2.functional.register_kernel(functional, kind)(refuse)


_register_kernels()


class _RequireNormals(v2.Transform):
    """Refuse a sample whose labels torchvision would not move: plain tensors beside an image."""

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        if not any(isinstance(x, SurfaceNormals) for x in flat_inputs):
            raise TypeError(
                "the sample holds no SurfaceNormals, so that its labels would stay while the picture moves; wrap them: "
                "SurfaceNormals(normals), Mask(mask), Image(image)"
            )

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return inpt


class RandomCameraRotation(v2.Transform):
    """Pan, tilt and roll the camera about its centre, and zoom in, at random.

    The new picture is one that the camera takes of the same scene, whatever the depth; what the old one does not show
    of it is black in the picture, and invalid in the normals. Beside `Image`, `Mask` and `SurfaceNormals` it takes,
    and needs, the `Intrinsics`; the zoom lengthens their focal lengths.

    Args:
        pan: Largest turn to the left or right, degrees.
        tilt: Largest turn up or down, degrees.
        roll: Largest turn of the picture either way, degrees.
        zoom: Largest factor of the focal length; 1 for none. Its logarithm is uniform from 0 up.
        size: Height and width of the new picture, which shows the middle of what one of the old size would, as much as
            its shape allows. Only its pixels are computed, so that a smaller picture costs less. None for the old size.

    Raises:
        ValueError: An angle is not in [0, 45], `zoom` is below 1, or `size` is not two positive numbers. From the
            transform: the sample has no intrinsics, or unknown ones.
        TypeError: From the transform: there is a `size`, and the sample has other tv_tensors than those above.

    Examples:
        >>> from torchvision.tv_tensors import Image
        >>> camera = Intrinsics(torch.tensor([[50.0, 0, 31], [0, 50, 23], [0, 0, 1]]), canvas_size=(48, 64))
        >>> sample = {"image": Image(torch.rand(3, 48, 64)), "intrinsics": camera}
        >>> RandomCameraRotation(pan=5)(sample)["image"].shape
        torch.Size([3, 48, 64])
    """

    def __init__(
        self,
        *,
        pan: float = 0.0,
        tilt: float = 0.0,
        roll: float = 0.0,
        zoom: float = 1.0,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if size is not None and (len(size) != 2 or any(type(side) is not int or side < 1 for side in size)):
            raise ValueError(f"size={size}: wanted (height, width) in pixels, or None")
        for name, angle in (("pan", pan), ("tilt", tilt), ("roll", roll)):
            if not 0 <= angle <= 45:
                raise ValueError(f"{name}={angle}: wanted degrees in [0, 45]")
        if not 1 <= zoom < math.inf:
            raise ValueError(f"zoom={zoom}: wanted a factor of at least 1")
        self.pan, self.tilt, self.roll, self.zoom, self.size = pan, tilt, roll, zoom, size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the angles; see `torchvision.transforms.v2.Transform`."""
        camera = next((x for x in flat_inputs if isinstance(x, Intrinsics)), None)
        if camera is None or not camera.isfinite().all():
            raise ValueError(
                "the sample's intrinsics are missing or unknown, so the camera cannot be turned; give the data set "
                "the intrinsics, or use v2.RandomRotation, which turns the picture about its middle"
            )
        angles = (2 * torch.rand(3, dtype=torch.float64) - 1) * torch.tensor([self.pan, self.tilt, self.roll]).deg2rad()
        (cp, ct, cr), (sp, st, sr) = angles.cos().tolist(), angles.sin().tolist()
        pan = _matrix((cp, 0, sp), (0, 1, 0), (-sp, 0, cp))
        tilt = _matrix((1, 0, 0), (0, ct, -st), (0, st, ct))
        roll = _matrix((cr, -sr, 0), (sr, cr, 0), (0, 0, 1))
        turn = roll @ tilt @ pan
        matrix = camera.as_subclass(Tensor).double().cpu()
        zoomed, factor = matrix.clone(), 1.0
        if self.zoom > 1:
            factor = self.zoom ** float(torch.rand((), dtype=torch.float64))
            zoomed[:2, :2] *= factor
        height, width = camera.canvas_size
        new_height, new_width = size = self.size or (height, width)
        scale = max(new_height / height, new_width / width)
        # Middle to middle; the picture's own is half a pixel before the pixel of that number.
        fit = _scale_and_shift(
            scale, (new_width - 1 - scale * (width - 1)) / 2, scale, (new_height - 1 - scale * (height - 1)) / 2
        )
        return {"motion": Motion(fit @ zoomed @ turn @ torch.linalg.inv(matrix), turn, size), "scale": scale * factor}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Turn one part of the sample."""
        motion = params["motion"]
        if isinstance(inpt, SurfaceNormals):
            return _move_normals(inpt, motion=lambda canvas: motion)
        if isinstance(inpt, Intrinsics):
            return _move_intrinsics(inpt, motion=lambda canvas: motion)
        back = torch.linalg.inv(motion.pixels)
        if isinstance(inpt, Mask):
            return Mask(_move_pixels(inpt.as_subclass(Tensor), back, motion.canvas))
        if isinstance(inpt, Tensor) and (isinstance(inpt, Image | Video) or not isinstance(inpt, TVTensor)):
            moved = _move_picture(inpt.as_subclass(Tensor), back, motion.canvas, scale=params["scale"])
            return wrap(moved, like=inpt) if isinstance(inpt, TVTensor) else moved
        if self.size is not None:
            raise TypeError(f"a {type(inpt).__name__} cannot be turned and resized at once; leave `size` out")
        # torchvision counts pixels from the corner of the picture, and wants the way back.
        half = _scale_and_shift(1, 0.5, 1, 0.5)
        corner = half @ back @ torch.linalg.inv(half)
        coefficients = (corner / corner[2, 2]).flatten()[:8].tolist()
        return F.perspective(inpt, None, None, interpolation=v2.InterpolationMode.BILINEAR, coefficients=coefficients)


def training_transform(
    size: tuple[int, int],
    *,
    min_scale: float = 0.5,
    max_rotation: float = 8.0,
    max_pan: float = 0.0,
    max_tilt: float = 0.0,
    jitter: float = 0.4,
) -> v2.Compose:
    """Random view and colours for training: crop or camera rotation, flip, colour jitter.

    The vectors and the intrinsics follow because they are tv_tensors.

    Without `max_pan` and `max_tilt` the view is a crop anywhere in the picture, turned about its middle. With either it
    is that of a camera which turns and zooms, so that its axis stays in the middle: to a network that is not told the
    intrinsics, a crop elsewhere looks like a turned camera, with normals that did not turn.

    Args:
        size: (height, width) of the result; what is cut out has its aspect ratio, so that pixels stay square.
        min_scale: Least share of the picture's area that the view shows, in (0, 1].
        max_rotation: Largest turn of the picture either way, degrees.
        max_pan: Largest turn of the camera to the left or right, degrees; needs the intrinsics.
        max_tilt: Largest turn of the camera up or down, degrees; needs the intrinsics.
        jitter: Strength of changes in brightness, contrast and saturation, in [0, 1); 0 for none.

    Returns:
        A transform of a sample dict of tv_tensors, as the data sets of `normalkit.data` hand it on; it draws anew at
        each call, from torch's random numbers.

    Raises:
        ValueError: An argument is out of range.
        TypeError: From the transform: the sample holds no `SurfaceNormals`.
    """
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"size={size}: wanted (height, width) in pixels")
    if not 0 < min_scale <= 1:
        raise ValueError(f"min_scale={min_scale}: wanted a share of the picture's area in (0, 1]")
    if not 0 <= max_rotation <= 180:
        raise ValueError(f"max_rotation={max_rotation}: wanted degrees in [0, 180]")
    for name, angle in (("max_pan", max_pan), ("max_tilt", max_tilt)):
        if not 0 <= angle <= 45:
            raise ValueError(f"{name}={angle}: wanted degrees in [0, 45]")
    if not 0 <= jitter < 1:
        raise ValueError(f"jitter={jitter}: wanted a strength in [0, 1)")
    aspect = width / height
    turns = bool(max_pan or max_tilt)
    steps: list[v2.Transform] = [_RequireNormals()]
    if turns:
        steps.append(
            RandomCameraRotation(pan=max_pan, tilt=max_tilt, roll=max_rotation, zoom=min_scale**-0.5, size=size)
        )
    else:
        steps.append(v2.RandomResizedCrop((height, width), scale=(min_scale, 1.0), ratio=(aspect, aspect)))
    steps.append(v2.RandomHorizontalFlip())
    if max_rotation and not turns:
        steps.append(v2.RandomRotation(max_rotation, interpolation=v2.InterpolationMode.BILINEAR))
    if jitter:
        steps.append(v2.ColorJitter(jitter, jitter, jitter, hue=jitter / 8))
    return v2.Compose(steps)
