"""Pictures of normals: their colours and the key to them, error maps, and grids of images beside their normals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from normalkit.codec import normals_to_rgb
from normalkit.geometry import Convention, angular_error, convert_normals, normalize, valid_normals
from normalkit.visualize.figure import (
    BODY,
    HEADING,
    MARGIN,
    SMALL,
    TITLE,
    TITLE_LINE,
    Weight,
    new_figure,
    require_matplotlib,
    shortened,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure
    from matplotlib.text import Text

__all__ = ["colour_sphere", "comparison_grid", "convention_grid", "error_map"]

_Picture = npt.NDArray[np.uint8]
_Side = Literal["left", "center", "right"]

_NO_TRUTH = (128, 128, 128)
"""Mid-grey is the code of the zero vector: the colour farthest from that of every normal."""

_NO_PREDICTION = (0, 229, 255)
"""Neither the colour map of errors nor a normal that faces the camera comes near this cyan."""

# Sizes in inches, on a page as wide as a paper's text where pictures are 4 : 3.
_GAP = 0.07
_HEADER = 0.24
_CAPTION = 0.19
_FOOTER = 1.2
_PICTURE_AREA = 2.2
_MIN_CELL, _MAX_CELL, _MAX_PICTURE_HEIGHT = 1.5, 2.7, 2.6

# As long as a plus; a hyphen is not.
_MINUS = "\N{MINUS SIGN}"


def colour_sphere(size: int, *, convention: Convention = Convention.OPENCV) -> Tensor:
    """The key to the colours of normals: a sphere as the camera sees it, each point in its normal's colour.

    The first and last rows and columns touch the sphere, so that where `size` is odd the middles of the sides
    show the normals along x and y exactly, and the centre the one that faces the camera.

    Args:
        size: Side of the picture in pixels, at least 3.
        convention: The axes whose components are drawn.

    Returns:
        uint8 (3, size, size), white around the sphere.

    Raises:
        ValueError: `size` is less than 3.

    Examples:
        >>> colour_sphere(65)[:, 32, 32].tolist()  # (0, 0, -1)
        [128, 128, 0]
    """
    if size < 3:
        raise ValueError(f"size={size}: wanted at least 3 pixels")
    across = torch.linspace(-1, 1, size, dtype=torch.float64)
    y, x = torch.meshgrid(across, across, indexing="ij")
    squared_z = 1 - x.square() - y.square()
    normals = torch.stack([x, y, -squared_z.clamp_min(0).sqrt()]).float()
    rgb = normals_to_rgb(convert_normals(normals, Convention.OPENCV, convention, dim=0))
    # The tolerance keeps the end points of the axes, where rounding may leave a little less than 0.
    return torch.where(squared_z >= -1e-12, rgb, 255)


def error_map(pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """The angular error of each pixel.

    Args:
        pred: (..., 3, H, W) normals of any length.
        target: Labels of the same shape, in the same convention.
        mask: (..., H, W) bool, the pixels that count; None for all.

    Returns:
        Degrees (..., H, W); NaN where the label is not valid (see `valid_normals`), and where the prediction
        is zero or not finite.

    Raises:
        ValueError: The shapes differ.
        TypeError: The mask is not boolean.

    Examples:
        >>> wall = torch.tensor([0.0, 0.0, -1.0]).view(3, 1, 1)
        >>> floor = torch.tensor([0.0, -1.0, 0.0]).view(3, 1, 1)
        >>> error_map(wall, floor)
        tensor([[90.]])
    """
    if pred.ndim < 3 or pred.shape[-3] != 3:
        raise ValueError(f"pred has shape {tuple(pred.shape)}; wanted (..., 3, H, W)")
    error = angular_error(pred, target, dim=-3)
    return torch.where(valid_normals(target, mask, dim=-3), error, math.nan)


def comparison_grid(
    images: Tensor | Sequence[Tensor],
    predictions: Tensor | Sequence[Tensor],
    normals: Tensor | Sequence[Tensor] | None = None,
    masks: Tensor | Sequence[Tensor] | None = None,
    *,
    expected: Tensor | Sequence[Tensor] | None = None,
    names: Sequence[str] | None = None,
    max_error: float = 60.0,
    convention: Convention = Convention.OPENCV,
    title: str | None = None,
) -> Figure:
    """Draw images beside their normals: one row an image, with the truth and the error where the truth is given.

    Below the rows stand the key to the colours of normals and, with the truth, the colour bar of the error,
    which all rows share. Under each error map stand the mean and median error of its valid pixels. Pixels
    without truth are grey; pixels whose prediction is zero or not finite are cyan. The error that the network expects
    may stand beside them, in the same colours.

    Args:
        images: (B, 3, H, W), float in [0, 1] or uint8; or a sequence of (3, H, W), which may differ in size.
        predictions: Normals of the same shapes, `Convention.OPENCV`, any length.
        normals: The truth, of the same shapes, `Convention.OPENCV`; None draws images and predictions alone.
        masks: (B, H, W) bool, or a sequence of (H, W): where the truth counts; None for all valid labels.
        expected: (B, H, W), or a sequence of (H, W): the error that the network expects of each pixel, degrees, as
            `normalkit.uncertainty.estimate` gives it; None for none.
        names: One for each image; one that is too long is shortened in its middle.
        max_error: Degrees at the end of the colour bar; larger errors have the colour of its end.
        convention: The axes in which normals are coloured; the inputs stay in OPENCV.
        title: Stands above the grid.

    Returns:
        The figure, for `save_figure`, a notebook or TensorBoard; pyplot does not know it.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: Numbers of rows or shapes differ, or a value is out of range; the message names the argument.
        TypeError: An image or a mask has the wrong dtype.

    Examples:
        >>> images = torch.rand(2, 3, 48, 64)
        >>> predictions = torch.randn(2, 3, 48, 64)
        >>> figure = comparison_grid(images, predictions, names=["desk", "wall"])
        >>> [text.get_text() for text in figure.texts[:2]]
        ['Image', 'Prediction']
    """
    require_matplotlib()
    if not 0 < max_error <= 180:
        raise ValueError(f"max_error={max_error}: wanted degrees in (0, 180]")
    _check_columns(images=images, predictions=predictions, normals=normals, masks=masks, expected=expected)
    if names is not None and (isinstance(names, str) or len(names) != len(images)):
        raise ValueError(f"names={names!r} for {len(images)} images; wanted a list with one name for each")
    convention = Convention.parse(convention)
    scale = _error_scale(max_error)
    rows = [
        _grid_row(
            images[i].detach().cpu(),
            predictions[i].detach().cpu(),
            None if normals is None else normals[i].detach().cpu(),
            None if masks is None else masks[i].cpu(),
            None if expected is None else expected[i].detach().cpu(),
            name=names[i] if names else "",
            scale=scale,
            convention=convention,
        )
        for i in range(len(images))
    ]
    headings = ["Image", "Prediction"] if normals is None else ["Image", "Truth", "Prediction", "Angular error"]
    headings += ["Expected error"] * (expected is not None)
    swatches = [("no truth", _NO_TRUTH)] * any(row.no_truth for row in rows)
    swatches += [("no prediction", _NO_PREDICTION)] * any(row.no_prediction for row in rows)
    return _draw_grid(rows, headings, title, scale, convention, swatches)


def convention_grid(
    images: Sequence[Tensor | None],
    normals: Sequence[Tensor],
    masks: Sequence[Tensor],
    rays: Sequence[Tensor],
    *,
    notes: Mapping[Convention, str],
    names: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw normals as each convention understands them: the right one has no cyan.

    A row a picture: the image, where there is one; the normals in the colours of the file; and, for each convention,
    what they are if the file is in it, in OPENCV colours. Pixels that would then look away from the camera, which no
    surface that is seen does, are cyan; pixels without a normal are grey.

    Args:
        images: (3, H, W), float in [0, 1] or uint8; all of them None for none.
        normals: (3, H, W), in the axes of the file, any length.
        masks: (H, W) bool, where the normals count.
        rays: (3, H, W), the direction in which each pixel looks, OPENCV.
        notes: A word to stand beside each convention's name, such as how sure it is.
        names: One for each row.
        title: Stands above the grid.

    Returns:
        The figure; pyplot does not know it.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: Numbers of rows or shapes differ.
    """
    require_matplotlib()
    if not len(images) == len(normals) == len(masks) == len(rays) > 0:
        counts = (len(images), len(normals), len(masks), len(rays))
        raise ValueError(f"images, normals, masks, rays: {counts} entries; wanted as many of each, and at least one")
    rows = []
    for i, image in enumerate(images):
        raw, valid = normals[i].double(), valid_normals(normals[i], masks[i], dim=0)
        shown = [] if image is None else [_photo(image)]
        shown.append(_colours(raw, valid, _NO_TRUTH, Convention.OPENCV))
        for convention in notes:
            meant = convert_normals(raw, convention, Convention.OPENCV, dim=0)
            drawn = _colours(meant, valid, _NO_TRUTH, Convention.OPENCV)
            drawn[((meant * rays[i]).sum(0) > 0).numpy() & valid.numpy()] = _NO_PREDICTION
            shown.append(drawn)
        captions = [names[i] if names else "", *[""] * (len(shown) - 1)]
        rows.append(_Row(shown, captions, not bool(valid.all()), False))
    headings = [
        *["Image"] * (images[0] is not None),
        "In the file",
        *(f"{c.name}: {note}" for c, note in notes.items()),
    ]
    swatches = [("looks away from the camera", _NO_PREDICTION)]
    swatches += [("no normal", _NO_TRUTH)] * any(row.no_truth for row in rows)
    return _draw_grid(rows, headings, title, None, Convention.OPENCV, swatches)


@dataclass(frozen=True)
class _Row:
    """One row of a grid.

    Attributes:
        pictures: (H, W, 3), one a column.
        captions: The line under each picture; empty for none.
        no_truth: Whether a pixel has the colour that says so.
        no_prediction: The same.
    """

    pictures: list[_Picture]
    captions: list[str]
    no_truth: bool
    no_prediction: bool


def _check_columns(**columns: Tensor | Sequence[Tensor] | None) -> None:
    """Check images, predictions, normals and masks before anything is drawn."""
    images = columns["images"]
    if images is None or len(images) == 0:
        raise ValueError("images is empty: wanted at least one")
    if columns["normals"] is None and columns["masks"] is not None:
        raise ValueError("masks without normals: a mask says where the truth counts, so give `normals` too")
    for name, given in columns.items():
        if given is None:
            continue
        if len(given) != len(images):
            raise ValueError(f"{name} has {len(given)} entries for {len(images)} images; wanted as many")
        for i in range(len(images)):
            _check_entry(name, i, given[i], images[i])


def _check_entry(column: str, index: int, entry: Tensor, image: Tensor) -> None:
    name = f"{column}[{index}]"
    if not isinstance(entry, Tensor):
        raise TypeError(f"{name} is of type {type(entry).__name__}; wanted a tensor (`normalkit.images.read_image`)")
    if column == "images":
        _check_image(name, entry)
        return
    wanted = tuple(image.shape[1:] if column in ("masks", "expected") else image.shape)
    if tuple(entry.shape) != wanted:
        raise ValueError(f"{name} has shape {tuple(entry.shape)}; wanted {wanted}, to go with images[{index}]")
    if column == "masks" and entry.dtype != torch.bool:
        raise TypeError(f"{name} has dtype {entry.dtype}; wanted torch.bool (use `mask > 0`)")
    if column != "masks" and not entry.is_floating_point():
        raise TypeError(f"{name} has dtype {entry.dtype}; wanted floating point (`rgb_to_normals` reads colours)")


def _check_image(name: str, image: Tensor) -> None:
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(f"{name} has shape {tuple(image.shape)}; wanted (3, H, W) (a batch of one is `image[None]`)")
    if image.dtype == torch.uint8:
        return
    if not image.is_floating_point():
        raise TypeError(f"{name} has dtype {image.dtype}; wanted floating point in [0, 1], or uint8")
    # A tenth more is what a sharpening resize overshoots; normalised or 8-bit values lie far outside.
    if not bool(((image > -0.1) & (image < 1.1)).all()):
        low, high = (float(x) for x in image.aminmax())
        raise ValueError(
            f"{name} has values from {low:.3g} to {high:.3g}; wanted [0, 1] (divide 8-bit values by 255; "
            "do not normalise, the networks do it themselves)"
        )


def _grid_row(
    image: Tensor,
    prediction: Tensor,
    truth: Tensor | None,
    mask: Tensor | None,
    expected: Tensor | None,
    *,
    name: str,
    scale: ScalarMappable,
    convention: Convention,
) -> _Row:
    photo = _photo(image)
    prediction = normalize(prediction.double(), dim=0)
    dead = prediction.abs().amax(0) == 0
    predicted = _colours(prediction, ~dead, _NO_PREDICTION, convention)
    guess: list[_Picture] = []
    if expected is not None:
        guess = [scale.to_rgba(expected.float().numpy(), bytes=True)[..., :3].copy()]
        guess[0][dead.numpy()] = _NO_PREDICTION
    words = [f"mean {float(expected.mean()):.1f}°"] if expected is not None else []
    if truth is None:
        return _Row([photo, predicted, *guess], [name, "", *words], False, bool(dead.any()))
    truth = truth.double()
    valid = valid_normals(truth, mask, dim=0)
    error = error_map(prediction, truth, mask)
    drawn: _Picture = scale.to_rgba(error.numpy(), bytes=True)[..., :3].copy()
    drawn[dead.numpy()] = _NO_PREDICTION
    drawn[~valid.numpy()] = _NO_TRUTH
    pictures = [photo, _colours(truth, valid, _NO_TRUTH, convention), predicted, drawn, *guess]
    return _Row(pictures, [name, "", "", _error_caption(error), *words], not bool(valid.all()), bool(dead.any()))


def _error_caption(error: Tensor) -> str:
    known = error[~error.isnan()].numpy()
    if known.size == 0:
        return "no valid pixel"
    return f"mean {known.mean():.1f}°, median {np.median(known):.1f}°"


def _colours(normals: Tensor, valid: Tensor, otherwise: tuple[int, int, int], convention: Convention) -> _Picture:
    """Normals (3, H, W) in OPENCV as colours in the axes of `convention`, one colour where they are not valid."""
    known = normalize(torch.where(valid, normals, 0), dim=0)
    drawn = _picture(normals_to_rgb(convert_normals(known, Convention.OPENCV, convention, dim=0), valid))
    drawn[~valid.numpy()] = otherwise
    return drawn


def _photo(image: Tensor) -> _Picture:
    return _picture(image if image.dtype == torch.uint8 else (image.float().clamp(0, 1) * 255).round())


def _picture(rgb: Tensor) -> _Picture:
    """(3, H, W) to (H, W, 3), as a new array."""
    return np.array(rgb.permute(1, 2, 0).numpy(), dtype=np.uint8, order="C")


def _error_scale(max_error: float) -> ScalarMappable:
    """Degrees to colours; brightness grows evenly with the error."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(0, max_error), colormaps["inferno"])


class _Page:
    """A figure whose parts are placed in inches from its top left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = new_figure(width, height)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        across, down = self.width, self.height
        return self.figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))

    def picture(self, pixels: _Picture, left: float, top: float, width: float, height: float) -> None:
        axes = self.axes(left, top, width, height)
        axes.imshow(pixels, aspect="auto")
        axes.set_axis_off()

    def text(
        self, x: float, baseline: float, text: str, *, size: float, ha: _Side = "center", weight: Weight = "normal"
    ) -> Text:
        # A name with two dollar signs is no formula.
        across, up = x / self.width, 1 - baseline / self.height
        return self.figure.text(across, up, text, fontsize=size, ha=ha, va="baseline", weight=weight, parse_math=False)


def _draw_grid(
    rows: list[_Row],
    headings: list[str],
    title: str | None,
    scale: ScalarMappable | None,
    convention: Convention,
    swatches: list[tuple[str, tuple[int, int, int]]],
) -> Figure:
    cell, sizes = _picture_sizes([row.pictures[0].shape[:2] for row in rows])
    pitch = cell + _GAP
    width = 2 * MARGIN + len(headings) * pitch - _GAP
    lines = wrapped(title, width - 2 * MARGIN, TITLE) if title else []
    captions = [_CAPTION if any(row.captions) else 0.0 for row in rows]
    top = MARGIN + len(lines) * TITLE_LINE + _HEADER
    height = top + sum(h + c + _GAP for (_, h), c in zip(sizes, captions, strict=True)) + _FOOTER
    page = _Page(width, height)

    for i, line in enumerate(lines):
        page.text(width / 2, MARGIN + i * TITLE_LINE + 0.13, line, size=TITLE, weight="bold")
    centres = [MARGIN + cell / 2 + i * pitch for i in range(len(headings))]
    for x, heading in zip(centres, headings, strict=True):
        page.text(x, top - 0.08, heading, size=HEADING, weight="bold")
    for row, (across, down), caption in zip(rows, sizes, captions, strict=True):
        for x, pixels, text in zip(centres, row.pictures, row.captions, strict=True):
            page.picture(pixels, x - across / 2, top, across, down)
            if text:
                page.text(x, top + down + 0.13, shortened(text, cell, BODY), size=BODY)
        top += down + caption + _GAP

    left = centres[-1] - cell / 2
    with_bar = scale is not None and headings[-1].endswith("error")
    _draw_sphere_key(page, min(width / 2, left - 1.45) if with_bar else width / 2, top, convention)
    if scale is not None and with_bar:
        _draw_colour_bar(page, scale, left, top, cell)
        _draw_swatches(page, swatches, left + 0.1, top + 0.72)
    else:
        # In line with the words beside the sphere.
        _draw_swatches(page, swatches, width / 2 + 0.07, top + 0.88)
    return page.figure


def _picture_sizes(shapes: Sequence[Sequence[int]]) -> tuple[float, list[tuple[float, float]]]:
    """The width of all columns, and the width and height of each row's pictures of (H, W) pixels, in inches."""
    # The geometric mean of the aspects, so that neither the widest nor the tallest picture rules the page.
    aspect = math.exp(sum(math.log(width / height) for height, width in shapes) / len(shapes))
    cell = min(max(math.sqrt(_PICTURE_AREA * aspect), _MIN_CELL), _MAX_CELL)
    sizes = []
    for height, width in shapes:
        shrink = min(cell / width, _MAX_PICTURE_HEIGHT / height)
        # A strip of pixels, however thin, is still seen.
        sizes.append((max(width * shrink, 0.05), max(height * shrink, 0.05)))
    return cell, sizes


def _draw_sphere_key(page: _Page, x: float, top: float, convention: Convention) -> None:
    """The sphere about `x`, the axis along which the normal points at each of its ends, and how to read it."""
    diameter, gap, letters = 0.72, 0.05, 0.13
    left, upper = x - 1.05, top + 0.06 + letters
    right, lower = left + diameter, upper + diameter
    middle, level = (left + right) / 2, (upper + lower) / 2 + 0.035
    page.picture(_picture(colour_sphere(512, convention=convention)), left, upper, diameter, diameter)
    ahead = ["+" if sign > 0 else _MINUS for sign in convention.signs]
    behind = [_MINUS if sign > 0 else "+" for sign in convention.signs]
    page.text(right + gap, level, f"{ahead[0]}x", size=SMALL, ha="left")
    page.text(left - gap, level, f"{behind[0]}x", size=SMALL, ha="right")
    page.text(middle, lower + letters, f"{ahead[1]}y", size=SMALL)
    page.text(middle, upper - gap, f"{behind[1]}y", size=SMALL)
    page.text(middle, level, f"{behind[2]}z", size=SMALL, weight="bold").set_color("white")
    lines = ["Colour of a normal n:", "RGB = (n + 1) / 2,", f"{convention.name} axes;", "sphere seen by the camera"]
    for i, line in enumerate(lines):
        page.text(right + 0.4, upper + 0.16 + 0.15 * i, line, size=SMALL, ha="left")


def _draw_colour_bar(page: _Page, scale: ScalarMappable, left: float, top: float, cell: float) -> None:
    from matplotlib.ticker import MaxNLocator

    inset = 0.1
    axes = page.axes(left + inset, top + 0.08, cell - 2 * inset, 0.12)
    largest = scale.norm.vmax
    bar = page.figure.colorbar(
        scale, cax=axes, orientation="horizontal", extend="neither" if largest == 180 else "max", extendfrac=0.06
    )
    bar.locator = MaxNLocator(4, steps=[1, 1.5, 2, 3, 4.5, 5, 10])
    bar.update_ticks()
    bar.outline.set_linewidth(0.5)
    axes.tick_params(labelsize=SMALL, width=0.5, length=2, pad=2)
    page.text(left + cell / 2, top + 0.5, "angular error (degrees)", size=SMALL)


def _draw_swatches(page: _Page, swatches: list[tuple[str, tuple[int, int, int]]], left: float, top: float) -> None:
    side = 0.11
    for i, (text, colour) in enumerate(swatches):
        page.picture(np.full((1, 1, 3), colour, np.uint8), left, top + 0.18 * i, side, side)
        page.text(left + side + 0.06, top + 0.18 * i + 0.09, text, size=SMALL, ha="left")
