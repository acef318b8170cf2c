"""How the field's data sets lie on disk: where each file is, which way its normals point, and which pictures count."""

from __future__ import annotations

import csv
import os
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normalkit.data.folder import guess_patterns
from normalkit.geometry import Convention

__all__ = ["LAYOUTS", "Camera", "Layout", "Match", "SplitList", "detect_layout", "find_layouts", "parse_layout"]

_ABOVE = r"(?P<above>.*?/)"
"""The folders above the layout's own, so that one may open the whole data set, or a scene of it."""


class Camera(NamedTuple):
    """The pinhole camera that all pictures of a data set share, in pixels of the size that they were released at."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def matrix(self, width: int, height: int) -> Tensor | None:
        """The 3 x 3 matrix for pictures of another size; None where they are not just scaled, but cropped."""
        if width * self.height != height * self.width:
            return None
        scale = width / self.width
        # Pixel centres lie at integers, so the picture's corner is at -0.5.
        cx, cy = ((c + 0.5) * scale - 0.5 for c in (self.cx, self.cy))
        return torch.tensor([[self.fx * scale, 0, cx], [0, self.fy * scale, cy], [0, 0, 1]])


class Match(NamedTuple):
    """A picture of a layout, and the parts of its path, by which the layout names its other files."""

    path: Path
    parts: Mapping[str, str]


@dataclass(frozen=True)
class SplitList:
    """An official list of what belongs to which split.

    Attributes:
        file: Its name, with `{split}` or `*` in it perhaps; looked for in the layout's own folder and those above.
        key: How it names a picture, in parts of the picture's path.
        read: The keys that it has for a split.
        required: Whether the split is undefined without it; otherwise it is used where it is there.
        home: Where to get it.
    """

    file: str
    key: str
    read: Callable[[Path, str], set[str]]
    required: bool
    home: str


@dataclass(frozen=True)
class Layout:
    """How a data set lies on disk.

    Attributes:
        name: By which it is asked for.
        title: What it is.
        images: A regular expression of its pictures' whole paths, whose groups the other files are named by.
        example: A path that fits it, without the part above.
        normals: The label of a picture; None where `RGBDNormals` computes it from the depth.
        convention: The axes of the label files.
        validity: Which pixels have a label, in words.
        splits: Their names; the first is the one that is scored.
        source: Where these facts are from.
        masks: Files in which 0 is invalid; None where the labels themselves say so.
        masks_may_lack: Whether a data set may do without them, all of them.
        intrinsics: Files of 3 x 3 matrices.
        camera: The matrix that all pictures share, or nearly.
        camera_varies: Whether single pictures differ from `camera`, so that a sample's intrinsics are unknown.
        faces_camera: Whether labels that look away from the camera are turned round, as surfaces of no thickness
            modelled inside out need.
        resizes: Whether pictures of another size are resized to their labels.
        split_list: What tells the splits apart, where the folders do not.
        counts: Pictures in each split, where the field always scores so many.
        requires: Another file without which a path is none of this layout.
    """

    name: str
    title: str
    images: str
    example: str
    normals: str | None
    convention: Convention
    validity: str
    splits: tuple[str, ...]
    source: str
    masks: str | None = None
    masks_may_lack: bool = False
    intrinsics: str | None = None
    camera: Camera | None = None
    camera_varies: bool = False
    faces_camera: bool = False
    resizes: bool = False
    split_list: SplitList | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    requires: str | None = None

    def match(self, path: str) -> Match | None:
        """The picture at an absolute path, with / between folders; None where it is none of this layout."""
        found = re.fullmatch(self.images, path)
        if found is None or not (self.requires is None or Path(self.requires.format(**found.groupdict())).is_file()):
            return None
        return Match(Path(path), found.groupdict(default=""))

    def file(self, template: str, match: Match) -> Path:
        """Another file of a picture, from one of the layout's templates."""
        return Path(template.format(**match.parts))

    def choose(self, root: Path, matches: Iterable[Match], split: str | None = None) -> list[Match]:
        """The pictures of a split.

        Args:
            root: The folder that was opened.
            matches: All its pictures.
            split: One of `splits`, "all", or None for the first of `splits`.

        Raises:
            ValueError: The split is not known, or its list cannot be read.
            FileNotFoundError: The list of the split is missing, or no picture belongs to it.
        """
        split = self.splits[0] if split is None else split
        matches = list(matches)
        if split == "all":
            return matches
        if split not in self.splits:
            raise ValueError(f"split={split!r}: {self.name} has {', '.join(self.splits)}; all takes every picture")
        chosen = [match for match in matches if match.parts.get("split", split) == split]
        if self.split_list is not None:
            chosen = self._listed(root, chosen, split, self.split_list)
        if not chosen:
            present = sorted({match.parts["split"] for match in matches if "split" in match.parts})
            found = f"has {' and '.join(present)}" if present else f"has {len(matches)} other pictures"
            raise FileNotFoundError(
                f"{root}: no picture of split={split!r} of {self.name}; the folder {found}: unpack that part too, or "
                "choose another split"
            )
        return chosen

    def _listed(self, root: Path, matches: list[Match], split: str, listing: SplitList) -> list[Match]:
        allowed = {above: _read_lists(root, above, split, listing) for above in {m.parts["above"] for m in matches}}
        if all(keys is None for keys in allowed.values()) and not listing.required:
            return matches
        missing = sorted(above for above, keys in allowed.items() if keys is None)
        if missing:
            file = listing.file.format(split=split, Split=split.capitalize())
            raise FileNotFoundError(
                f"{Path(missing[0]) / file}: missing; it says which pictures of {self.name} are split={split!r}. "
                f"Get it from {listing.home}, or take every picture with split='all'"
            )
        return [m for m in matches if listing.key.format(**m.parts).strip("/") in (allowed[m.parts["above"]] or ())]


def parse_layout(name: str | Layout) -> Layout:
    """A layout by its name.

    Raises:
        ValueError: No layout has this name; the message lists those there are.
    """
    if isinstance(name, Layout):
        return name
    try:
        return LAYOUTS[name]
    except KeyError:
        raise ValueError(f"dataset={name!r} is not known; choose one of {', '.join(LAYOUTS)}") from None


def find_layouts(root: str | os.PathLike[str], layouts: Iterable[Layout] | None = None) -> dict[str, list[Match]]:
    """The pictures below a folder that lie as a known data set does.

    Args:
        root: The folder: of a data set, of a part of it, or above several.
        layouts: Those to look for; None for all.

    Returns:
        Pictures in order of their paths, by the layout's name; without those that none was found of.

    Raises:
        FileNotFoundError: The folder is missing.
    """
    wanted = list(LAYOUTS.values() if layouts is None else layouts)
    found: dict[str, list[Match]] = {}
    for path in _files(Path(root)):
        for layout in wanted:
            match = layout.match(path)
            if match is not None:
                found.setdefault(layout.name, []).append(match)
                break
    return found


def detect_layout(root: str | os.PathLike[str]) -> Layout:
    """The layout that a folder has.

    Raises:
        FileNotFoundError: The folder is missing.
        ValueError: It has none that is known, or several.
    """
    found = find_layouts(root)
    if not found:
        known = ", ".join(f"{layout.name} ({layout.example})" for layout in LAYOUTS.values())
        images, normals = guess_patterns(Path(root)) or ("*_rgb.png", "*_normal.png")
        raise ValueError(
            f"{root}: in no known layout; known are {known}. For any other pairs of files give patterns: "
            f"images={images!r} and normals={normals!r}"
        )
    if len(found) > 1:
        which = " and ".join(f"{name} ({len(ms)} pictures, such as {ms[0].path})" for name, ms in found.items())
        raise ValueError(f"{root}: in several layouts at once, {which}; open one of their folders, or say dataset=")
    return LAYOUTS[next(iter(found))]


def _files(root: Path) -> Iterator[str]:
    """The absolute paths of all files below a folder, in order, with / between folders."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; give the one that the data set was unpacked into")
    for folder, folders, names in os.walk(os.path.abspath(root)):
        folders.sort()
        for name in sorted(names):
            yield Path(folder, name).as_posix()


def _read_lists(root: Path, above: str, split: str, listing: SplitList) -> set[str] | None:
    """The keys of all lists in the nearest folder that has one; None where none has."""
    top = Path(os.path.abspath(root))
    pattern = listing.file.format(split=split, Split=split.capitalize())
    for folder in (Path(above), *Path(above).parents):
        files = sorted(folder.glob(pattern))
        if files:
            return set().union(*(listing.read(file, split) for file in files))
        if not folder.is_relative_to(top) or folder == top:
            break
    return None


def _text_lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]


def _read_image_list(path: Path, split: str) -> set[str]:
    """DSINE's lists: a picture's path a line."""
    return set(_text_lines(path))


def _read_sequences(path: Path, split: str) -> set[str]:
    """7-Scenes: `sequence3` stands for the folder `seq-03`."""
    keys = set()
    for line in _text_lines(path):
        number = re.fullmatch(r"sequence(\d+)", line)
        if number is None:
            raise ValueError(f"{path}: has the line {line!r}; wanted lines such as sequence3")
        keys.add(f"seq-{int(number[1]):02}")
    return keys


def _read_rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not set(columns) <= set(rows[0]):
        raise ValueError(f"{path}: wanted a table with the columns {', '.join(columns)}; download the list again")
    return rows


def _read_hypersim(path: Path, split: str) -> set[str]:
    columns = ("scene_name", "camera_name", "frame_id", "included_in_public_release", "split_partition_name")
    return {
        f"{row['scene_name']}/{row['camera_name']}/{int(row['frame_id']):04}"
        for row in _read_rows(path, columns)
        if row["split_partition_name"] == split and row["included_in_public_release"] == "True"
    }


def _read_buildings(path: Path, split: str) -> set[str]:
    return {row["id"] for row in _read_rows(path, ("id", "train", "val", "test")) if row[split] == "1"}


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, dicts and strings; refuses whatever might run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, and only lists of paths are read")


FRAMENET_STEP = 200
"""FrameNet's own evaluation, and those after it, score every 200th picture of the test list: 300 of them."""


def _read_framenet(path: Path, split: str) -> set[str]:
    """A dict of splits, each with three lists: colours, orientations, masks; the paths are of FrameNet's machine."""
    try:
        with open(path, "rb") as file:
            colours = [str(name) for name in _PlainUnpickler(file).load()[split][0]]
    except (pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: no list of FrameNet's split={split!r} ({error}); download it again") from error
    return {
        "/".join(name.split("/")[-2:]).rpartition("-color.")[0]
        for name in colours[:: FRAMENET_STEP if split == "test" else 1]
    }


def _dsine(
    name: str, title: str, images: str, example: str, *, label: str, splits: tuple[str, ...], counts: Mapping[str, int]
) -> Layout:
    """A data set of DSINE's evaluation release, which all lie alike."""
    folder = "split" if "(?P<split>" in images else "scene"
    return Layout(
        name=name,
        title=f"{title}, as DSINE's evaluation release has it",
        images=_ABOVE + images,
        example=example,
        normals=f"{{above}}{{{folder}}}/{{frame}}_normal{label}",
        convention=Convention.DSINE,
        validity="not black" if label == ".png" else "longer than 0.5",
        splits=splits,
        source=f"github.com/baegwangbin/DSINE: README.md, data/datasets/{name}",
        intrinsics=f"{{above}}{{{folder}}}/{{frame}}_intrins.npy",
        split_list=SplitList(
            file="{split}.txt",
            key=f"{{{folder}}}/{{frame}}_img{Path(example).suffix}",
            read=_read_image_list,
            required=False,
            home=f"data/datasets/{name}/split of github.com/baegwangbin/DSINE",
        ),
        counts=counts,
    )


LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        _dsine(
            "nyuv2",
            "NYUv2 with GeoNet's normals",
            r"(?P<split>test|train)/(?P<frame>\d{6})_img\.png",
            "test/000000_img.png",
            label=".png",
            splits=("test", "train"),
            counts={"test": 654, "train": 795},
        ),
        _dsine(
            "scannet",
            "ScanNet with FrameNet's normals",
            r"(?P<scene>scene\d{4}_\d\d)/(?P<frame>\d{6})_img\.png",
            "scene0532_00/000000_img.png",
            label=".png",
            splits=("test",),
            counts={"test": 300},
        ),
        _dsine(
            "ibims",
            "iBims-1 with normals from planes fitted to the depth",
            r"(?P<scene>ibims)/(?P<frame>[a-z]+_\d\d)_img\.png",
            "ibims/corridor_01_img.png",
            label=".exr",
            splits=("test",),
            counts={"test": 100},
        ),
        Layout(
            name="diode",
            title="DIODE with its normal maps",
            images=_ABOVE
            + r"(?P<split>train|val)/(?P<folder>(?:indoors|outdoor)/scene_\d{5}/scan_\d{5})/"
            + r"(?P<frame>\d{5}_\d{5}_(?:indoors|outdoor)_\d{3}_\d{3})\.png",
            example="val/indoors/scene_00019/scan_00183/00019_00183_indoors_000_010.png",
            normals="{above}{split}/{folder}/{frame}_normal.npy",
            convention=Convention.OPENGL,
            validity="the depth mask is not 0 and the normal not zero; turned to the camera",
            splits=("val", "train"),
            source="github.com/diode-dataset/diode-devkit: README.md, diode.py, intrinsics.txt; for the axes "
            "github.com/YvanYin/Metric3D: training/mono/datasets/diode_dataset.py",
            masks="{above}{split}/{folder}/{frame}_depth_mask.npy",
            camera=Camera(886.81, 927.06, 512, 384, 1024, 768),
            faces_camera=True,
        ),
        Layout(
            name="hypersim",
            title="Hypersim's camera-space normals and tone-mapped previews",
            images=_ABOVE
            + r"(?P<scene>ai_\d{3}_\d{3})/images/scene_(?P<camera>cam_\d\d)_final_preview/"
            + r"frame\.(?P<frame>\d{4})\.tonemap\.jpg",
            example="ai_001_001/images/scene_cam_00_final_preview/frame.0000.tonemap.jpg",
            normals="{above}{scene}/images/scene_{camera}_geometry_hdf5/frame.{frame}.normal_cam.hdf5",
            convention=Convention.OPENGL,
            validity="finite and longer than 0.5; made unit length and turned to the camera",
            splits=("test", "val", "train"),
            source="github.com/apple/ml-hypersim: README.md, issue 26 (normals of zero, of other lengths, inside out), "
            "contrib/mikeroberts3000 (cameras)",
            # 60 degrees across, but for scenes with a tilted or shifted lens.
            camera=Camera(886.81, 886.81, 511.5, 383.5, 1024, 768),
            camera_varies=True,
            faces_camera=True,
            split_list=SplitList(
                file="metadata_images_split_scene_v1.csv",
                key="{scene}/{camera}/{frame}",
                read=_read_hypersim,
                required=True,
                home="evermotion_dataset/analysis of github.com/apple/ml-hypersim",
            ),
        ),
        Layout(
            name="taskonomy",
            title="Taskonomy, and what Omnidata renders in its layout",
            images=_ABOVE
            + r"rgb/(?P<dataset>(?:[^/]+/(?=[^/]+/))?)(?P<building>(?:[^/]+/)?)"
            + r"(?P<view>point_\d+_view_\d+)_domain_rgb\.png",
            example="rgb/taskonomy/allensville/point_0_view_0_domain_rgb.png",
            normals="{above}normal/{dataset}{building}{view}_domain_normal.png",
            convention=Convention.TASKONOMY,
            validity="not mid-grey; and white in the mask, where there are masks",
            splits=("test", "val", "train"),
            source="github.com/EPFL-VILAB/omnidata: omnidata_tools/torch/dataloader, issue 13 (axes); "
            "github.com/StanfordVL/taskonomy: data/README.md",
            masks="{above}mask_valid/{dataset}{building}{view}_domain_mask_valid.png",
            masks_may_lack=True,
            split_list=SplitList(
                file="train_val_test_*.csv",
                key="{building}",
                read=_read_buildings,
                required=True,
                home="omnidata_tools/torch/dataloader/component_datasets of github.com/EPFL-VILAB/omnidata",
            ),
        ),
        Layout(
            name="framenet",
            title="ScanNet with FrameNet's normals, as FrameNet releases it",
            images=_ABOVE + r"(?P<scene>scene\d{4}_\d\d)/(?P<frame>frame-\d{6})-color\.(?:png|jpg)",
            example="scene0000_00/frame-000000-color.png",
            normals="{above}{scene}/{frame}-normal.png",
            convention=Convention.OPENCV,
            validity="white in the orientation mask, and neither black nor mid-grey",
            splits=("test", "train"),
            source="github.com/hjwdzh/FrameNet: src/dataset.py; for the axes github.com/MARSLab-UMN/"
            "TiltedImageSurfaceNormal: dataset_loader/dataset_loader_scannet.py",
            masks="{above}{scene}/{frame}-orient-mask.png",
            camera=Camera(577.591, 578.73, 318.905, 242.684, 640, 480),
            resizes=True,
            split_list=SplitList(
                file="train_test_split.pkl",
                key="{scene}/{frame}",
                read=_read_framenet,
                required=True,
                home="download.cs.stanford.edu/orion/framenet",
            ),
            counts={"test": 300},
        ),
        Layout(
            name="7scenes",
            title="7-Scenes, or any recording in its layout; normals from the depth",
            # Hypersim's previews are called frame.0000.color.jpg.
            images=_ABOVE
            + r"(?P<sequence>(?:seq-\d+/)?)(?P<frame>(?!frame\.\d{4}\.color\.jpg)[^/]+)\.color\.(?:png|jpg)",
            example="seq-01/frame-000000.color.png",
            normals=None,
            convention=Convention.OPENCV,
            validity="a plane fits the depth around it",
            splits=("all", "test", "train"),
            source="microsoft.com/en-us/research/project/rgb-d-dataset-7-scenes",
            camera=Camera(585, 585, 320, 240, 640, 480),
            split_list=SplitList(
                file="{Split}Split.txt",
                key="{sequence}",
                read=_read_sequences,
                required=True,
                home="the scene's own archive",
            ),
        ),
        Layout(
            name="tum",
            title="TUM RGB-D; normals from the depth",
            images=_ABOVE + r"(?P<frame>rgb)\.txt",
            example="rgb.txt beside depth.txt",
            normals=None,
            convention=Convention.OPENCV,
            validity="a plane fits the depth around it",
            splits=("all",),
            source="cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats",
            camera=Camera(525, 525, 319.5, 239.5, 640, 480),
            requires="{above}depth.txt",
        ),
    )
}
"""The known layouts by their names."""
