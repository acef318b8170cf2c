"""What a folder of normals is: its layout, its splits, and which way its normals point."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import Dataset

from normalkit.axes import SURE, AxesGuess, contradiction, guess_convention, view_rays
from normalkit.codec import read_normals, stated_convention
from normalkit.data.folder import find_stars, guess_patterns
from normalkit.data.layouts import Layout, detect_layout, find_layouts, parse_layout
from normalkit.data.opening import open_dataset
from normalkit.data.pairs import spread
from normalkit.data.published import PublishedNormals
from normalkit.data.sample import Sample
from normalkit.geometry import Convention, convert_normals
from normalkit.images import read_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FolderReport", "Look", "check_folder", "report_figure"]

PICTURES = 12
DRAWN = 4
LIKELY = 0.8
RIVALS = 3
"""Guesses that a verdict names where the data cannot tell."""
LISTED = 0.01
"""A guess that no convention has is listed from this sureness on."""


@dataclass(frozen=True)
class Look:
    """A picture that was looked at.

    Attributes:
        name: What to call it.
        image: (3, H, W); None where only normals were given.
        normals: (3, H, W), in the axes of the file.
        mask: (H, W), bool.
        intrinsics: (3, 3), NaN where unknown.
    """

    name: str
    image: Tensor | None
    normals: Tensor
    mask: Tensor
    intrinsics: Tensor


@dataclass(frozen=True)
class FolderReport:
    """What `check_folder` found.

    Attributes:
        root: The folder.
        layout: Its layout; None for pairs of files by patterns.
        pairs: Those patterns in words; "" with a layout.
        counts: Pictures by split.
        declared: The convention that the layout, the files or the caller say; None where nobody does.
        guesses: From `guess_convention`, the likeliest first.
        looks: The pictures that were looked at.
    """

    root: Path
    layout: Layout | None
    pairs: str
    counts: Mapping[str, int | None]
    declared: Convention | None
    guesses: Sequence[AxesGuess]
    looks: Sequence[Look]

    @property
    def verdict(self) -> str:
        """The answer in a line: which convention, and how sure that is."""
        best = self.guesses[0]
        pictures = f"{len(self.looks)} picture{'s' * (len(self.looks) != 1)}"
        if best.sureness >= SURE:
            return f"{_named(best)}; sure: {best.sureness:.1%}, from {pictures}"
        if best.sureness >= LIKELY:
            return f"{_named(best)}; likely: {best.sureness:.0%}, from {pictures}; more of them would make it surer"
        rivals = [guess for guess in self.guesses if guess.sureness >= 0.05]
        options = ", ".join(f"{_named(guess)} {guess.sureness:.0%}" for guess in rivals[:RIVALS])
        options += f" and {len(rivals) - RIVALS} others" if len(rivals) > RIVALS else ""
        return f"the data cannot tell, from {pictures}: {options}; look at more pictures, of rooms and at a slant"

    @property
    def evidence(self) -> str | None:
        """Why the normals are not what they are said to be; None where they may be."""
        return None if self.declared is None else contradiction(self.guesses, self.declared)

    def lines(self) -> list[str]:
        """The report as text."""
        kind = self.pairs if self.layout is None else f"{self.layout.name}: {self.layout.title}"
        lines = [f"layout     {kind}", f"pictures   {', '.join(_count(*item) for item in self.counts.items())}"]
        if self.layout is not None:
            lines += [f"valid      {self.layout.validity}", f"source     {self.layout.source}"]
        said = "by nobody" if self.declared is None else self.declared.name
        lines += [f"declared   {said}", f"found      {self.verdict}", ""]
        shown = [guess for guess in self.guesses if guess.convention is not None or guess.sureness >= LISTED]
        return [*lines, _HEADING, *(_row(guess) for guess in shown)]


def check_folder(
    root: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    images: str | None = None,
    normals: str | None = None,
    convention: Convention | None = None,
    pictures: int = PICTURES,
) -> FolderReport:
    """Look at a folder: which layout it has, and which way its normals point.

    Args:
        root: The folder.
        dataset: Its layout, one of `normalkit.data.layouts.LAYOUTS`; None to find out. A folder in none of them is
            looked through for pairs of images and normals, by their names.
        images: Pattern of the pictures with one `*`, to draw them beside the normals; goes with `normals`.
        normals: Pattern of the normal files with one `*`, for a folder in no known layout.
        convention: What the normals are said to be, where the layout or the files do not say, or say it wrongly.
        pictures: How many to look at, evenly spread.

    Raises:
        FileNotFoundError: Files are missing; the message names them.
        ValueError: The folder is in no known layout or in several, no picture has a valid pixel, or an argument is
            not as above.
    """
    if pictures < 1:
        raise ValueError(f"pictures={pictures}: wanted at least 1")
    if (normals is None and images is not None) or (normals is not None and dataset is not None):
        raise ValueError(
            f"images={images!r}, normals={normals!r}, dataset={dataset!r}: images go with normals, and "
            "neither with a data set"
        )
    root = Path(root)
    pairs = "" if normals is None else f"pairs of files: {images} and {normals}" if images else f"files: {normals}"
    if normals is None and dataset is None and not find_layouts(root):
        images, normals = guess_patterns(root) or (None, None)
        pairs = f"pairs of files: {images} and {normals}, by their names"
    if normals is not None:
        layout = None
        names = find_stars(root, "normals", normals)
        counts: dict[str, int | None] = {"all": len(names)}
        some = [names[i] for i in spread(len(names), pictures)]
        declared, looks = _stated(root, some, normals), _look_at_files(root, some, images, normals)
    else:
        layout = detect_layout(root) if dataset is None else parse_layout(dataset)
        data = _open_all(root, layout)
        counts = {"all": len(data), **_split_counts(root, layout)}  # type: ignore[arg-type]
        declared = layout.convention
        looks = _look_at_samples(data, layout.convention, pictures)
    guesses = guess_convention(
        [look.normals for look in looks], [look.mask for look in looks], [look.intrinsics for look in looks]
    )
    return FolderReport(root, layout, pairs, counts, convention or declared, guesses, looks)


def report_figure(report: FolderReport) -> Figure:
    """Some of the pictures that were looked at, as each convention understands them.

    Args:
        report: From `check_folder`.

    Returns:
        The figure; see `normalkit.visualize.convention_grid`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from normalkit.visualize.grid import convention_grid

    looks = [report.looks[i] for i in spread(len(report.looks), DRAWN)]
    likely = [guess for guess in report.guesses if guess.convention is not None]
    return convention_grid(
        [look.image for look in looks],
        [look.normals for look in looks],
        [look.mask for look in looks],
        [view_rays(look.mask.shape[0], look.mask.shape[1], look.intrinsics) for look in looks],
        notes={guess.convention: f"{guess.facing:.1%}" for guess in likely if guess.convention is not None},
        names=[look.name for look in looks],
        title=f"Which way do the normals point? {report.verdict}",
    )


def _open_all(root: Path, layout: Layout) -> Dataset[Sample]:
    if layout.normals is None:
        return open_dataset(root, dataset=layout.name, split="all")
    # Not turned to the camera, which would hide that z points the other way.
    return PublishedNormals(root, replace(layout, faces_camera=False, counts={}), split="all", check=False)


def _look_at_samples(data: Dataset[Sample], convention: Convention, pictures: int) -> list[Look]:
    looks = []
    for i in spread(len(data), pictures):  # type: ignore[arg-type]
        sample = data[i]
        raw = convert_normals(sample["normals"], Convention.OPENCV, convention, dim=0)
        looks.append(Look(sample["name"], sample["image"], raw, sample["mask"], sample["intrinsics"]))
    return looks


def _look_at_files(root: Path, names: Sequence[str], images: str | None, normals: str) -> list[Look]:
    if images is not None:
        find_stars(root, "images", images)  # Else a pattern without a star would give the same picture to all.
    looks = []
    for name in names:
        path = root / normals.replace("*", name)
        axes = stated_convention(path) or Convention.OPENCV
        unit, mask = read_normals(path, convention=axes)
        raw = convert_normals(unit, Convention.OPENCV, axes, dim=0)
        image = None if images is None else read_image(root / images.replace("*", name))
        looks.append(Look(name, image, raw, mask, torch.full((3, 3), math.nan)))
    return looks


def _stated(root: Path, names: Sequence[str], normals: str) -> Convention | None:
    """The convention that the files themselves say."""
    stated = {name: stated_convention(root / normals.replace("*", name)) for name in names}
    if len(set(stated.values())) > 1:
        says = ", ".join(f"{name}: {c.name if c else 'none'}" for name, c in stated.items())
        raise ValueError(
            f"{root}: files of normals={normals!r} say different conventions ({says}); part them by folders"
        )
    return stated[names[0]]


def _split_counts(root: Path, layout: Layout) -> dict[str, int | None]:
    """Pictures by split; None where the list that says so is missing."""
    matches = find_layouts(root, [layout]).get(layout.name, [])
    counts: dict[str, int | None] = {}
    for split in layout.splits:
        if split == "all":
            continue
        try:
            counts[split] = len(layout.choose(root, matches, split))
        except FileNotFoundError:
            counts[split] = None
    return counts


_HEADING = f"{'axes x, y, z':<28}{'convention':<12}{'sure':>6}{'face the camera':>17}{'walls':>7}{'floors':>8}"


def _row(guess: AxesGuess) -> str:
    name = "-" if guess.convention is None else guess.convention.name
    shares = f"{guess.sureness:>6.0%}{guess.facing:>17.1%}{_percent(guess.walls):>7}{_percent(guess.floors):>8}"
    return f"{', '.join(guess.axes):<28}{name:<12}{shares}"


def _count(split: str, number: int | None) -> str:
    return f"{split} {'not here' if number is None else number}"


def _named(guess: AxesGuess) -> str:
    axes = ", ".join(f"{letter} {way}" for letter, way in zip("xyz", guess.axes, strict=True))
    return f"{guess.name} ({axes})"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0%}"
