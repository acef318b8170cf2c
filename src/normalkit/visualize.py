"""Figures: normals by colour, error maps and comparison grids; training curves, confusions and ablation studies.

The figures are matplotlib's own objects, built without pyplot: they need neither a display nor the main thread,
and leave no figure open behind them. matplotlib comes with the extra `train` and is loaded by the first figure.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from normalkit.codec import normals_to_rgb
from normalkit.files import atomic_file
from normalkit.geometry import Convention, angular_error, convert_normals, normalize, valid_normals

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure
    from matplotlib.text import Text

__all__ = [
    "colour_sphere",
    "comparison_grid",
    "confusion_matrix_figure",
    "error_map",
    "save_figure",
    "study_figure",
    "training_curves",
]

_Picture = npt.NDArray[np.uint8]
_Side = Literal["left", "center", "right"]
_Weight = Literal["normal", "bold"]
_Colour = str | tuple[float, float, float, float]

_NO_TRUTH = (128, 128, 128)
"""Mid-grey is the code of the zero vector: the colour farthest from that of every normal."""

_NO_PREDICTION = (0, 229, 255)
"""Neither the colour map of errors nor a normal that faces the camera comes near this cyan."""

_FORMATS = (".png", ".pdf", ".svg", ".jpg", ".jpeg")

# Sizes in inches, on a page as wide as a paper's text where pictures are 4 : 3.
_MARGIN = 0.08
_GAP = 0.07
_TITLE_LINE = 0.2
_HEADER = 0.24
_CAPTION = 0.19
_FOOTER = 1.2
_PICTURE_AREA = 2.2
_MIN_CELL, _MAX_CELL, _MAX_PICTURE_HEIGHT = 1.5, 2.7, 2.6

# As long as a plus; a hyphen is not.
_MINUS = "\N{MINUS SIGN}"

# Sizes of letters in points.
_TITLE, _HEADING, _BODY, _SMALL = 10.0, 9.0, 7.5, 7.0

# Okabe and Ito's colours, which the colour-blind can tell apart.
_BLUE, _VERMILION, _GREEN = "#0072B2", "#D55E00", "#009E73"

_LINE = 0.36
"""Inches from one line of a study to the next."""
_SEED, _MEAN, _SINGLE, _REPORTED = "one seed", "mean ± standard deviation", "single run", "reported"
"""The legend of a study."""
_MATRIX_HEADING = "Rows: truth; columns: prediction; per cent of each row"
_LONGEST_NAME = 2.2
"""Inches; a longer name of a variant or a class is shortened."""

_CLASSIFIER = ("train_accuracy", "accuracy")
_NORMALS = ("train_mean", "mean", "median")
"""Keys of a training's rows that say what was trained."""


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
    names: Sequence[str] | None = None,
    max_error: float = 60.0,
    convention: Convention = Convention.OPENCV,
    title: str | None = None,
) -> Figure:
    """Draw images beside their normals: one row an image, with the truth and the error where the truth is given.

    Below the rows stand the key to the colours of normals and, with the truth, the colour bar of the error,
    which all rows share. Under each error map stand the mean and median error of its valid pixels. Pixels
    without truth are grey; pixels whose prediction is zero or not finite are cyan.

    Args:
        images: (B, 3, H, W), float in [0, 1] or uint8; or a sequence of (3, H, W), which may differ in size.
        predictions: Normals of the same shapes, `Convention.OPENCV`, any length.
        normals: The truth, of the same shapes, `Convention.OPENCV`; None draws images and predictions alone.
        masks: (B, H, W) bool, or a sequence of (H, W): where the truth counts; None for all valid labels.
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
    _require_matplotlib()
    if not 0 < max_error <= 180:
        raise ValueError(f"max_error={max_error}: wanted degrees in (0, 180]")
    _check_columns(images=images, predictions=predictions, normals=normals, masks=masks)
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
            name=names[i] if names else "",
            scale=scale,
            convention=convention,
        )
        for i in range(len(images))
    ]
    headings = ["Image", "Prediction"] if normals is None else ["Image", "Truth", "Prediction", "Angular error"]
    return _draw_grid(rows, headings, title, scale, convention)


def training_curves(rows: Sequence[Mapping[str, float | str | None]], *, title: str | None = None) -> Figure:
    """Draw a training run by epoch: the loss, and what its rows have of a normals network or of a classifier.

    For normals that is the angular error, and the shares of pixels within thresholds; for a classifier, whose rows
    have an accuracy, it is that alone. Values may be missing, empty or not finite: their points are left out, and a
    panel without any says so. Where an epoch comes twice, as after a resumed run, the later row counts. A dotted line
    marks the epoch with the lowest validation mean, or the highest validation accuracy.

    Args:
        rows: One mapping an epoch, as read from the training's CSV. Drawn are the keys `train_loss`, `val_loss`,
            `train_mean`, `mean` and `median` (degrees), every key that is a number, such as "11.25": the
            per cent of pixels with a smaller error; and `train_accuracy` and `accuracy` (per cent). `epoch` is
            counted from 1 where it is missing.
        title: Stands above the panels.

    Returns:
        The figure, for `save_figure`, a notebook or TensorBoard; pyplot does not know it.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: There are no rows, or a value is not a number; the message names its row and key.

    Examples:
        >>> figure = training_curves([{"epoch": 1, "train_loss": 0.5, "mean": 30.0}])
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss', 'degrees', 'per cent of pixels']
        >>> figure = training_curves([{"epoch": 1, "train_loss": 0.5, "accuracy": 70.0}])
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss', 'per cent of images']
    """
    _require_matplotlib()
    if not rows:
        raise ValueError("rows is empty: there is nothing to draw before the first epoch has ended")
    by_epoch = _epochs(rows)
    # A value that is empty in every row says what was trained, too.
    keys = {key for row in rows for key in row}
    classifier = not keys.isdisjoint(_CLASSIFIER)
    normals = not classifier or not keys.isdisjoint(_NORMALS) or any(map(_is_threshold, keys))
    count = 1 + 2 * normals + classifier
    figure = _titled_figure(3.2 * count, 3.0, title)
    panels = iter(figure.subplots(1, count))
    loss = next(panels)
    _curves(loss, by_epoch, {"train_loss": ("training", _BLUE), "val_loss": ("validation", _VERMILION)})
    _finish_panel(loss, "Loss", "loss")
    if normals:
        _normals_panels(next(panels), next(panels), by_epoch)
    if classifier:
        accuracy = next(panels)
        _curves(accuracy, by_epoch, {"train_accuracy": ("training", _BLUE), "accuracy": ("validation", _VERMILION)})
        _finish_panel(accuracy, "Accuracy", "per cent of images")
    if normals:
        _mark_epoch(figure.axes, by_epoch, "mean", min, "lowest mean: {:.1f}°", named=figure.axes[1])
    else:
        _mark_epoch(figure.axes, by_epoch, "accuracy", max, "highest: {:.1f} %", named=figure.axes[1])
    return figure


def confusion_matrix_figure(counts: Tensor, classes: Sequence[str], *, title: str | None = None) -> Figure:
    """Draw how often each class was taken for each: rows are the truth, columns the predictions.

    Each cell has its share of the row, in per cent, so that the diagonal is each class's own accuracy. The shades
    follow the root of the share, in which confusions of a few per cent can be seen. A row without images is grey.

    Args:
        counts: (C, C) numbers of images, the truth along the first axis.
        classes: The C names; one that is too long is shortened in its middle.
        title: Stands above the figure.

    Returns:
        The figure, for `save_figure`, a notebook or TensorBoard; pyplot does not know it.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The shapes do not match, or a count is negative or not finite.

    Examples:
        >>> figure = confusion_matrix_figure(torch.tensor([[3, 1], [0, 4]]), ["cat", "dog"])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['75.0', '25.0', '0', '100']
    """
    _require_matplotlib()
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm

    _check_counts(counts, classes)
    numbers = counts.detach().cpu().double().numpy()
    totals = numbers.sum(1, keepdims=True)
    shares = np.divide(100 * numbers, totals, out=np.full_like(numbers, math.nan), where=totals > 0)
    columns = [_shortened(name, _LONGEST_NAME, _BODY) for name in classes]
    rows = [name if total else f"{name}: no images" for name, total in zip(columns, totals, strict=True)]
    longest = max(_text_width(name, _BODY) for name in columns)
    # Cells as wide as a column's name, unless that made the page too wide: then names stand upright.
    side = max(min(max(longest + 0.1, 0.44), 0.66) * len(columns), _text_width(_MATRIX_HEADING, _HEADING, "bold"))
    upright = longest > side / len(columns) - 0.06
    width = side + max(_text_width(name, _BODY) for name in rows) + 0.5
    figure = _titled_figure(width, 0.8 * side + (longest if upright else 0.15) + 0.65, title)
    axes = figure.subplots()
    shade = colormaps["Blues"].with_extremes(bad="0.88")
    axes.imshow(np.ma.masked_invalid(shares), cmap=shade, norm=PowerNorm(0.5, 0, 100), aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        colour = "0.6" if not share > 0 else "white" if share > 35 else "black"
        number = axes.text(column, row, _percent(share), ha="center", va="center", color=colour, fontsize=_BODY)
        # It lies within the picture; to measure hundreds of them takes seconds.
        number.set_in_layout(False)
    _finish_matrix(axes, columns, rows)
    axes.tick_params(axis="x", rotation=90 if upright else 0)
    return figure


def study_figure(
    names: Sequence[str],
    values: Mapping[str, Sequence[Sequence[float]]],
    *,
    reported: Mapping[str, Sequence[float | None]] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a study: one line a variant, one panel a figure of merit; seeds, their mean and standard deviation.

    Args:
        names: Of the variants, from the top; one that is too long is shortened in its middle.
        values: By a panel's heading, for each variant its values, one a seed; none where it has not run.
        reported: By the same headings, for each variant the value of the work that is reproduced, if there is one.
        title: Stands above the panels.

    Returns:
        The figure, for `save_figure`, a notebook or TensorBoard; pyplot does not know it.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: There is nothing to draw, an entry has not one item for each variant, a heading of `reported`
            has no panel, or a value is not finite.

    Examples:
        >>> values = {"accuracy (%)": [[88.1, 88.9, 88.4], [86.0, 86.3, 85.5]]}
        >>> figure = study_figure(["full network", "no batch norm"], values, reported={"accuracy (%)": [90.1, None]})
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['one seed', 'mean ± standard deviation', 'reported']
    """
    _require_matplotlib()
    _check_study(names, values, reported or {})
    shown = [_shortened(name, _LONGEST_NAME, _BODY) for name in names]
    margin = max(_text_width(name, _BODY) for name in shown) + 0.4
    panel = 4.2 if len(values) == 1 else 2.5 if len(values) <= 3 else 2.0
    figure = _titled_figure(margin + panel * len(values), 1.1 + _LINE * len(names), title)
    panels = figure.subplots(1, len(values), sharey=True, squeeze=False)[0]
    for axes, (heading, runs) in zip(panels, values.items(), strict=True):
        _study_panel(axes, runs, (reported or {}).get(heading, [None] * len(names)))
        text = _shortened(heading, panel - 0.2, _HEADING, "bold")
        axes.set_title(text, fontsize=_HEADING, fontweight="bold", parse_math=False)
    panels[0].set_yticks(range(len(shown)), shown, parse_math=False)
    panels[0].set_ylim(len(shown) - 0.4, -0.6)
    drawn: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        drawn |= dict(zip(labels, handles, strict=True))
    order = [label for label in (_SEED, _MEAN, _SINGLE, _REPORTED) if label in drawn]
    handles = [drawn[label] for label in order]
    figure.legend(handles, order, loc="outside lower center", ncols=4, fontsize=_BODY, frameon=False)
    return figure


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 200) -> None:
    """Write a figure to a file, whole or not at all.

    The figure stays usable, for instance for a second format: nothing but the caller holds it, so there is
    nothing to close.

    Args:
        figure: From a function of this module, or of one's own.
        path: Its suffix chooses the format: .png, .pdf, .svg, .jpg or .jpeg.
        dpi: Pixels an inch, for the pictures inside vector formats too; print wants 300.

    Raises:
        ValueError: The suffix is not one of these, or `dpi` is not positive.
        OSError: The file cannot be written; what stood there before is kept.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise ValueError(f"path={str(path)!r}: cannot tell the format; end it in one of {', '.join(_FORMATS)}")
    if not dpi > 0:
        raise ValueError(f"dpi={dpi}: wanted a positive number of pixels an inch")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format=suffix[1:])


def _require_matplotlib() -> None:
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError('drawing figures needs matplotlib: pip install "normalkit[train]"') from error


def _titled_figure(width: float, height: float, title: str | None) -> Figure:
    """An empty figure that lays itself out, higher by its title's lines."""
    lines = _wrapped(title, width - 2 * _MARGIN, _TITLE) if title else []
    figure = _new_figure(width, height + (_TITLE_LINE * len(lines) + 0.1 if lines else 0), layout="constrained")
    if lines:
        figure.suptitle("\n".join(lines), fontsize=_TITLE, fontweight="bold", parse_math=False)
    return figure


def _new_figure(width: float, height: float, *, layout: Literal["constrained"] | None = None) -> Figure:
    """An empty white figure, in inches, that pyplot does not know."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    return figure


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
    wanted = tuple(image.shape[1:] if column == "masks" else image.shape)
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
    *,
    name: str,
    scale: ScalarMappable,
    convention: Convention,
) -> _Row:
    photo = _picture(image if image.dtype == torch.uint8 else (image.float().clamp(0, 1) * 255).round())
    prediction = normalize(prediction.double(), dim=0)
    dead = prediction.abs().amax(0) == 0
    predicted = _colours(prediction, ~dead, _NO_PREDICTION, convention)
    if truth is None:
        return _Row([photo, predicted], [name, ""], False, bool(dead.any()))
    truth = truth.double()
    valid = valid_normals(truth, mask, dim=0)
    error = error_map(prediction, truth, mask)
    drawn: _Picture = scale.to_rgba(error.numpy(), bytes=True)[..., :3].copy()
    drawn[dead.numpy()] = _NO_PREDICTION
    drawn[~valid.numpy()] = _NO_TRUTH
    pictures = [photo, _colours(truth, valid, _NO_TRUTH, convention), predicted, drawn]
    return _Row(pictures, [name, "", "", _error_caption(error)], not bool(valid.all()), bool(dead.any()))


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
        self.figure = _new_figure(width, height)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        across, down = self.width, self.height
        return self.figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))

    def picture(self, pixels: _Picture, left: float, top: float, width: float, height: float) -> None:
        axes = self.axes(left, top, width, height)
        axes.imshow(pixels, aspect="auto")
        axes.set_axis_off()

    def text(
        self, x: float, baseline: float, text: str, *, size: float, ha: _Side = "center", weight: _Weight = "normal"
    ) -> Text:
        # A name with two dollar signs is no formula.
        across, up = x / self.width, 1 - baseline / self.height
        return self.figure.text(across, up, text, fontsize=size, ha=ha, va="baseline", weight=weight, parse_math=False)


def _draw_grid(
    rows: list[_Row], headings: list[str], title: str | None, scale: ScalarMappable, convention: Convention
) -> Figure:
    cell, sizes = _picture_sizes([row.pictures[0].shape[:2] for row in rows])
    pitch = cell + _GAP
    width = 2 * _MARGIN + len(headings) * pitch - _GAP
    lines = _wrapped(title, width - 2 * _MARGIN, _TITLE) if title else []
    captions = [_CAPTION if any(row.captions) else 0.0 for row in rows]
    top = _MARGIN + len(lines) * _TITLE_LINE + _HEADER
    height = top + sum(h + c + _GAP for (_, h), c in zip(sizes, captions, strict=True)) + _FOOTER
    page = _Page(width, height)

    for i, line in enumerate(lines):
        page.text(width / 2, _MARGIN + i * _TITLE_LINE + 0.13, line, size=_TITLE, weight="bold")
    centres = [_MARGIN + cell / 2 + i * pitch for i in range(len(headings))]
    for x, heading in zip(centres, headings, strict=True):
        page.text(x, top - 0.08, heading, size=_HEADING, weight="bold")
    for row, (across, down), caption in zip(rows, sizes, captions, strict=True):
        for x, pixels, text in zip(centres, row.pictures, row.captions, strict=True):
            page.picture(pixels, x - across / 2, top, across, down)
            if text:
                page.text(x, top + down + 0.13, _shortened(text, cell, _BODY), size=_BODY)
        top += down + caption + _GAP

    swatches = [("no truth", _NO_TRUTH)] * any(row.no_truth for row in rows)
    swatches += [("no prediction", _NO_PREDICTION)] * any(row.no_prediction for row in rows)
    _draw_sphere_key(page, width / 2, top, convention)
    if "Angular error" in headings:
        left = centres[-1] - cell / 2
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
    page.text(right + gap, level, f"{ahead[0]}x", size=_SMALL, ha="left")
    page.text(left - gap, level, f"{behind[0]}x", size=_SMALL, ha="right")
    page.text(middle, lower + letters, f"{ahead[1]}y", size=_SMALL)
    page.text(middle, upper - gap, f"{behind[1]}y", size=_SMALL)
    page.text(middle, level, f"{behind[2]}z", size=_SMALL, weight="bold").set_color("white")
    lines = ["Colour of a normal n:", "RGB = (n + 1) / 2,", f"{convention.name} axes;", "sphere seen by the camera"]
    for i, line in enumerate(lines):
        page.text(right + 0.4, upper + 0.16 + 0.15 * i, line, size=_SMALL, ha="left")


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
    axes.tick_params(labelsize=_SMALL, width=0.5, length=2, pad=2)
    page.text(left + cell / 2, top + 0.5, "angular error (degrees)", size=_SMALL)


def _draw_swatches(page: _Page, swatches: list[tuple[str, tuple[int, int, int]]], left: float, top: float) -> None:
    side = 0.11
    for i, (text, colour) in enumerate(swatches):
        page.picture(np.full((1, 1, 3), colour, np.uint8), left, top + 0.18 * i, side, side)
        page.text(left + side + 0.06, top + 0.18 * i + 0.09, text, size=_SMALL, ha="left")


def _text_width(text: str, size: float, weight: _Weight = "normal") -> float:
    """Inches that a line of letters of `size` points takes."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size, weight=weight)
    return float(text_to_path.get_text_width_height_descent(text, font, False)[0]) / 72


def _shortened(text: str, width: float, size: float, weight: _Weight = "normal") -> str:
    """The text, or its beginning and end about an ellipsis: file names differ in their end."""
    text = " ".join(text.split())

    def without(dropped: int) -> str:
        kept = len(text) - dropped
        return f"{text[: kept // 2]}…{text[kept // 2 + dropped :]}" if dropped else text

    def fits(dropped: int) -> bool:
        return _text_width(without(dropped), size, weight) <= width

    return without(bisect_left(range(len(text)), True, key=fits))


def _wrapped(text: str, width: float, size: float) -> list[str]:
    """The lines of a bold title; a word longer than a line is shortened."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and _text_width(longer, size, "bold") > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return [_shortened(line, width, size, "bold") for line in lines]


def _is_threshold(key: object) -> bool:
    try:
        return isinstance(key, str) and 0 < float(key) < math.inf
    except ValueError:
        return False


def _epochs(rows: Sequence[Mapping[str, float | str | None]]) -> dict[float, dict[str, float]]:
    """Each epoch's numbers, in order; a later row replaces an earlier one of the same epoch."""
    drawn = {"epoch", "train_loss", "val_loss", *_NORMALS, *_CLASSIFIER}
    epochs: dict[float, dict[str, float]] = {}
    for i, row in enumerate(rows):
        numbers: dict[str, float] = {}
        for key, value in row.items():
            if not (key in drawn or _is_threshold(key)) or value is None or value == "":
                continue
            try:
                number = float(value)
            except (TypeError, ValueError):
                raise ValueError(f"rows[{i}][{key!r}]={value!r} is not a number; mend it in the CSV file") from None
            if math.isfinite(number):
                numbers[key] = number
        epochs[numbers.pop("epoch", i + 1)] = numbers
    return dict(sorted(epochs.items()))


def _curves(axes: Axes, by_epoch: dict[float, dict[str, float]], labels: Mapping[str, tuple[str, _Colour]]) -> None:
    """One line for each key that has a number; `labels` gives its name and colour."""
    for key, (label, colour) in labels.items():
        points = [(epoch, numbers[key]) for epoch, numbers in by_epoch.items() if key in numbers]
        if points:
            # Past some thirty epochs the dots would hide the line.
            marker = "o" if len(points) <= 30 else ""
            axes.plot(*zip(*points, strict=True), color=colour, label=label, marker=marker, markersize=3, linewidth=1.4)


def _normals_panels(error: Axes, share: Axes, by_epoch: dict[float, dict[str, float]]) -> None:
    from matplotlib import colormaps

    measures = {
        "train_mean": ("mean, training", _BLUE),
        "mean": ("mean, validation", _VERMILION),
        "median": ("median, validation", _GREEN),
    }
    _curves(error, by_epoch, measures)
    _finish_panel(error, "Angular error", "degrees")
    shares = sorted({key for row in by_epoch.values() for key in row if _is_threshold(key)}, key=float)
    # Thresholds are ordered, and so are their colours, dark to light; yellow is too faint for a line.
    colours = [colormaps["viridis"](x) for x in np.linspace(0, 0.8, len(shares))]
    _curves(share, by_epoch, {key: (f"< {key}°", c) for key, c in zip(shares, colours, strict=True)})
    share.set_ylim(0, 100)
    _finish_panel(share, "Validation error below a threshold", "per cent of pixels")
    if share.lines:
        # Beside the panel, in the order of its lines: within, it would always hide one.
        handles, names = share.get_legend_handles_labels()
        share.legend(
            handles[::-1],
            names[::-1],
            loc="center left",
            bbox_to_anchor=(1, 0.5),
            handlelength=1.2,
            fontsize=_BODY,
            frameon=False,
        )


def _mark_epoch(
    panels: Sequence[Axes],
    by_epoch: dict[float, dict[str, float]],
    key: str,
    choose: Callable[..., float],
    label: str,
    *,
    named: Axes,
) -> None:
    """A dotted line through all panels at the epoch whose value `choose` takes; one of them says what it is."""
    values = {epoch: numbers[key] for epoch, numbers in by_epoch.items() if key in numbers}
    if not values:
        return
    best = choose(values, key=values.__getitem__)
    for axes in panels:
        if axes.lines:
            name = f"{label.format(values[best])}, epoch {best:g}" if axes is named else "_"
            axes.axvline(best, color="0.5", linewidth=0.9, linestyle=":", zorder=0, label=name)
    _draw_legend(named)


def _finish_panel(axes: Axes, heading: str, unit: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(heading, fontsize=_HEADING, fontweight="bold")
    axes.set_ylabel(unit, fontsize=_HEADING)
    axes.set_xlabel("epoch", fontsize=_HEADING)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.tick_params(labelsize=_BODY)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.grid(color="0.9", linewidth=0.6)
        _draw_legend(axes)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(
            0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", va="center", color="0.4", fontsize=_HEADING
        )


def _draw_legend(axes: Axes) -> None:
    axes.legend(fontsize=_BODY, framealpha=0.8, edgecolor="none")


def _check_counts(counts: Tensor, classes: Sequence[str]) -> None:
    wanted = (len(classes), len(classes))
    if isinstance(classes, str) or not classes or tuple(counts.shape) != wanted:
        raise ValueError(
            f"counts has shape {tuple(counts.shape)} and classes {len(classes)} names; wanted (C, C) counts and C names"
        )
    if not bool((counts.isfinite() & (counts >= 0)).all()):
        raise ValueError("counts has entries that are negative or not finite; wanted numbers of images")


def _percent(share: float) -> str:
    """At most four letters, for a cell; none at all is told from a little."""
    if math.isnan(share):
        return ""
    return f"{share:.0f}" if share in (0, 100) else f"{share:.1f}"


def _finish_matrix(axes: Axes, columns: Sequence[str], rows: Sequence[str]) -> None:
    axes.set_xticks(range(len(columns)), columns, parse_math=False)
    axes.set_yticks(range(len(rows)), rows, parse_math=False)
    axes.tick_params(labelsize=_BODY, length=0)
    axes.set_xlabel("prediction", fontsize=_HEADING)
    axes.set_ylabel("truth", fontsize=_HEADING)
    axes.set_title(_MATRIX_HEADING, fontsize=_HEADING, fontweight="bold")
    axes.spines[:].set_visible(False)
    # White lines between the cells.
    axes.set_xticks(np.arange(len(columns) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="minor", length=0)


def _check_study(
    names: Sequence[str],
    values: Mapping[str, Sequence[Sequence[float]]],
    reported: Mapping[str, Sequence[float | None]],
) -> None:
    unknown = sorted(set(reported) - set(values))
    if unknown:
        raise ValueError(f"reported has {', '.join(unknown)}, which values has not; wanted the headings of values")
    for argument, panels in (("values", values), ("reported", reported)):
        for heading, entries in panels.items():
            if len(entries) != len(names):
                raise ValueError(
                    f"{argument}[{heading!r}] has {len(entries)} entries for {len(names)} names; wanted as many"
                )
    drawn = [value for runs in values.values() for seeds in runs for value in seeds]
    if not drawn:
        raise ValueError("values is empty: there is nothing to draw before the first run has ended")
    given = (value for row in reported.values() for value in row if value is not None)
    if not all(map(math.isfinite, [*drawn, *given])):
        raise ValueError("values or reported has a number that is not finite; leave it out")


def _study_panel(axes: Axes, runs: Sequence[Sequence[float]], reported: Sequence[float | None]) -> None:
    """A line a variant: the mean, its value above and a bar about it; the seeds below; the reported value hollow."""
    from matplotlib.ticker import MaxNLocator

    for line, seeds in enumerate(runs):
        if not seeds:
            continue
        mean, several = float(np.mean(seeds)), len(seeds) > 1
        if several:
            below = [line + 0.2] * len(seeds)
            axes.scatter(seeds, below, s=12, color=_BLUE, alpha=0.4, linewidths=0, label=_SEED)
        spread = float(np.std(seeds, ddof=1)) if several else None
        bar = axes.errorbar(mean, line, xerr=spread, fmt="o", color=_BLUE, markersize=5, elinewidth=1.3, capsize=2.5)
        bar.set_label(_MEAN if several else _SINGLE)
        text = f"{mean:#.3g}".rstrip(".")
        axes.annotate(text, (mean, line), (0, 6), textcoords="offset points", ha="center", fontsize=_SMALL)
    lines = [line for line, value in enumerate(reported) if value is not None]
    if lines:
        values = [value for value in reported if value is not None]
        axes.plot(values, lines, "D", color=_VERMILION, fillstyle="none", markersize=6.5, zorder=3, label=_REPORTED)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(labelsize=_BODY)
    axes.tick_params(axis="y", length=0)
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], min_n_ticks=2))
    axes.margins(x=0.08)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
