"""Opening a folder with normals, of whatever kind it is."""

from __future__ import annotations

import os
from pathlib import Path

from torch.utils.data import Dataset, Subset

from normalkit.data.folder import NormalFolder
from normalkit.data.layouts import Layout, detect_layout, find_layouts, parse_layout
from normalkit.data.published import PublishedNormals
from normalkit.data.reference import reference_rooms
from normalkit.data.rgbd import INTRINSICS_FILE, RGBDNormals
from normalkit.data.sample import Sample
from normalkit.data.shards import ShardedNormals, is_sharded
from normalkit.geometry import Convention
from normalkit.images import FORMATS, open_picture

__all__ = ["open_dataset"]


def open_dataset(
    root: str | os.PathLike[str] | None = None,
    *,
    dataset: str | None = None,
    split: str | None = None,
    images: str | None = None,
    normals: str | None = None,
    masks: str | None = None,
    convention: Convention | None = None,
) -> Dataset[Sample]:
    """Open a folder to score on: pairs of files where patterns are given, else shards or a data set in a known layout.

    Args:
        root: The folder, or the address of shards; None for the reference rooms that come with normalkit.
        dataset: One of `normalkit.data.layouts.LAYOUTS`, such as "nyuv2"; None to find out by the files.
        split: Its split; None for the one that the field scores.
        images: Pattern for `NormalFolder`; goes with `normals`.
        normals: Pattern for `NormalFolder`.
        masks: Pattern for `NormalFolder`.
        convention: Axes of the normal files; None where they or the layout state them.

    Raises:
        ValueError: Only one of `images` and `normals` is given, or `masks` alone, or they and a data set, or any of
            them without a folder; or the folder is in no known layout, or in several.
        FileNotFoundError: Files are missing; the message names them.
    """
    patterns = f"images={images!r}, normals={normals!r}, masks={masks!r}"
    if root is None:
        if any(given is not None for given in (dataset, split, images, normals, masks, convention)):
            raise ValueError(
                f"dataset={dataset!r}, split={split!r}, {patterns}, convention={convention}: of which folder?"
            )
        return reference_rooms()
    if images is None and normals is None and masks is None:
        if dataset is None and is_sharded(root):
            if split is not None:
                raise ValueError(f"split={split!r}: {root} is shards, which are of one split; leave it out")
            return ShardedNormals(root, convention=convention)
        layout = detect_layout(root) if dataset is None else parse_layout(dataset)
        if layout.normals is None:
            return _open_recording(Path(root), layout, split, convention)
        return PublishedNormals(root, layout, split=split, convention=convention)
    if images is None or normals is None:
        raise ValueError(
            f"{patterns}: a folder of pairs needs both images and normals, patterns such as 'rgb/*.png' and "
            "'normal/*.png'"
        )
    if dataset is not None or split is not None:
        raise ValueError(f"dataset={dataset!r}, split={split!r} and {patterns}: give a data set or patterns, not both")
    return NormalFolder(root, images=images, normals=normals, masks=masks, convention=convention)


def _open_recording(root: Path, layout: Layout, split: str | None, convention: Convention | None) -> Dataset[Sample]:
    """A recording, with the camera that its data set documents where no file says otherwise."""
    matches = find_layouts(root, [layout]).get(layout.name, [])
    if layout.requires is not None and matches:
        # A list of frames each: the recording is where the list is.
        if len(matches) > 1:
            raise ValueError(
                f"{root}: {len(matches)} recordings, {', '.join(str(m.path.parent) for m in matches)}; open one"
            )
        root = matches[0].path.parent
    camera = None
    if layout.camera is not None and matches and not any(root.rglob(INTRINSICS_FILE)):
        with open_picture(_first_picture(matches[0].path), FORMATS) as picture:
            size = picture.size
        camera = layout.camera[:4] if size == layout.camera[4:] else None
    recording = RGBDNormals(root, intrinsics=camera, convention=convention or Convention.OPENCV)
    chosen = {m.path for m in layout.choose(root, matches, split)}
    if len(chosen) == len(matches):
        return recording
    return Subset(recording, [i for i, frame in enumerate(recording.frames) if frame.color.absolute() in chosen])


def _first_picture(path: Path) -> Path:
    """The picture itself, or the first one of a list of times and files."""
    if path.suffix != ".txt":
        return path
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((path.parent / line.split()[1] for line in lines if len(line.split()) > 1 and line[0] != "#"), path)
