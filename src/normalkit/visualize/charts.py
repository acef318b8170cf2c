"""Charts: training curves, confusion matrices, ablation studies, and how well a network knows its errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from normalkit.visualize.figure import BODY, HEADING, SMALL, require_matplotlib, shortened, text_width, titled_figure

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from normalkit.uncertainty import Sparsification

__all__ = ["confusion_matrix_figure", "sparsification_figure", "study_figure", "training_curves"]

_Colour = str | tuple[float, float, float, float]

# Okabe and Ito's colours, which the colour-blind can tell apart.
_BLUE, _VERMILION, _GREEN = "#0072B2", "#D55E00", "#009E73"

_LINE = 0.36
"""Inches from one line of a study to the next."""
_MOST_PANELS = 5
"""Of a study in one row."""
_SEED, _MEAN, _SINGLE, _REPORTED = "one seed", "mean ± standard deviation", "single run", "reported"
"""The legend of a study."""
_MATRIX_HEADING = "Rows: truth; columns: prediction; per cent of each row"
_LONGEST_NAME = 2.2
"""Inches; a longer name of a variant or a class is shortened."""

_CLASSIFIER = ("train_accuracy", "accuracy")
_NORMALS = ("train_mean", "mean", "median")
"""Keys of a training's rows that say what was trained."""


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
    require_matplotlib()
    if not rows:
        raise ValueError("rows is empty: there is nothing to draw before the first epoch has ended")
    by_epoch = _epochs(rows)
    # A value that is empty in every row says what was trained, too.
    keys = {key for row in rows for key in row}
    classifier = not keys.isdisjoint(_CLASSIFIER)
    normals = not classifier or not keys.isdisjoint(_NORMALS) or any(map(_is_threshold, keys))
    count = 1 + 2 * normals + classifier
    figure = titled_figure(3.2 * count, 3.0, title)
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
        >>> import torch
        >>> figure = confusion_matrix_figure(torch.tensor([[3, 1], [0, 4]]), ["cat", "dog"])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['75.0', '25.0', '0', '100']
    """
    require_matplotlib()
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm

    _check_counts(counts, classes)
    numbers = counts.detach().cpu().double().numpy()
    totals = numbers.sum(1, keepdims=True)
    shares = np.divide(100 * numbers, totals, out=np.full_like(numbers, math.nan), where=totals > 0)
    columns = [shortened(name, _LONGEST_NAME, BODY) for name in classes]
    rows = [name if total else f"{name}: no images" for name, total in zip(columns, totals, strict=True)]
    longest = max(text_width(name, BODY) for name in columns)
    # Cells as wide as a column's name, unless that made the page too wide: then names stand upright.
    side = max(min(max(longest + 0.1, 0.44), 0.66) * len(columns), text_width(_MATRIX_HEADING, HEADING, "bold"))
    upright = longest > side / len(columns) - 0.06
    width = side + max(text_width(name, BODY) for name in rows) + 0.5
    figure = titled_figure(width, 0.8 * side + (longest if upright else 0.15) + 0.65, title)
    axes = figure.subplots()
    shade = colormaps["Blues"].with_extremes(bad="0.88")
    axes.imshow(np.ma.masked_invalid(shares), cmap=shade, norm=PowerNorm(0.5, 0, 100), aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        colour = "0.6" if not share > 0 else "white" if share > 35 else "black"
        number = axes.text(column, row, _percent(share), ha="center", va="center", color=colour, fontsize=BODY)
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

    More than five panels stand in rows of equal length, so that a page need not shrink them beyond reading.

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
    require_matplotlib()
    _check_study(names, values, reported or {})
    shown = [shortened(name, _LONGEST_NAME, BODY) for name in names]
    margin = max(text_width(name, BODY) for name in shown) + 0.4
    panel = 4.2 if len(values) == 1 else 2.5 if len(values) <= 3 else 2.0
    rows = math.ceil(len(values) / _MOST_PANELS)
    columns = math.ceil(len(values) / rows)
    height = 0.5 + rows * (0.6 + _LINE * len(names))
    figure = titled_figure(margin + panel * columns, height, title)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes in panels[len(values) :]:
        axes.remove()
    panels = panels[: len(values)]
    for axes, (heading, runs) in zip(panels, values.items(), strict=True):
        _study_panel(axes, runs, (reported or {}).get(heading, [None] * len(names)))
        text = shortened(heading, panel - 0.2, HEADING, "bold")
        axes.set_title(text, fontsize=HEADING, fontweight="bold", parse_math=False)
    panels[0].set_yticks(range(len(shown)), shown, parse_math=False)
    panels[0].set_ylim(len(shown) - 0.4, -0.6)
    drawn: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        drawn |= dict(zip(labels, handles, strict=True))
    order = [label for label in (_SEED, _MEAN, _SINGLE, _REPORTED) if label in drawn]
    handles = [drawn[label] for label in order]
    figure.legend(handles, order, loc="outside lower center", ncols=4, fontsize=BODY, frameon=False)
    return figure


def sparsification_figure(curve: Sparsification, *, title: str | None = None) -> Figure:
    """Draw how the mean error falls as the pixels that the network is least sure of are taken away.

    Beside the curve stand that of the best order, by the true errors, and the level line of one that knows nothing.

    Args:
        curve: As `normalkit.uncertainty.sparsification` returns it.
        title: Stands above the panel.

    Returns:
        The figure, for `save_figure`, a notebook or TensorBoard; pyplot does not know it.

    Raises:
        ImportError: matplotlib is not installed.
    """
    require_matplotlib()
    figure = titled_figure(4.6, 3.4, title)
    axes = figure.subplots()
    removed = (100 * curve.removed).numpy()
    axes.plot(removed, curve.error.numpy(), color=_BLUE, linewidth=1.6, label="least sure first")
    axes.plot(
        removed, curve.best.numpy(), color=_GREEN, linewidth=1.6, linestyle="--", label="worst first (best order)"
    )
    axes.axhline(float(curve.error[0]), color="0.6", linewidth=1, linestyle=":", label="in no order")
    axes.fill_between(removed, curve.best.numpy(), curve.error.numpy(), color=_BLUE, alpha=0.1, linewidth=0)
    axes.set_title(f"area between the curves: {curve.area:.2f}°", fontsize=HEADING)
    axes.set_xlabel("pixels taken away (%)", fontsize=HEADING)
    axes.set_ylabel("mean error of the rest (degrees)", fontsize=HEADING)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, None)
    axes.tick_params(labelsize=BODY)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", linewidth=0.6)
    _draw_legend(axes)
    return figure


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
            fontsize=BODY,
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

    axes.set_title(heading, fontsize=HEADING, fontweight="bold")
    axes.set_ylabel(unit, fontsize=HEADING)
    axes.set_xlabel("epoch", fontsize=HEADING)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.tick_params(labelsize=BODY)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.grid(color="0.9", linewidth=0.6)
        _draw_legend(axes)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(
            0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", va="center", color="0.4", fontsize=HEADING
        )


def _draw_legend(axes: Axes) -> None:
    axes.legend(fontsize=BODY, framealpha=0.8, edgecolor="none")


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
    axes.tick_params(labelsize=BODY, length=0)
    axes.set_xlabel("prediction", fontsize=HEADING)
    axes.set_ylabel("truth", fontsize=HEADING)
    axes.set_title(_MATRIX_HEADING, fontsize=HEADING, fontweight="bold")
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
        axes.annotate(text, (mean, line), (0, 6), textcoords="offset points", ha="center", fontsize=SMALL)
    lines = [line for line, value in enumerate(reported) if value is not None]
    if lines:
        values = [value for value in reported if value is not None]
        axes.plot(values, lines, "D", color=_VERMILION, fillstyle="none", markersize=6.5, zorder=3, label=_REPORTED)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(labelsize=BODY)
    axes.tick_params(axis="y", length=0)
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], min_n_ticks=2))
    axes.margins(x=0.08)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
