"""Pairs of image and normal files from any folder."""

from __future__ import annotations

import glob
import itertools
import os
import re
from pathlib import Path, PurePosixPath

from torch.utils.data import Dataset

from normalkit.data.pairs import Pair, Sources, check_convention, read_pair
from normalkit.data.sample import Sample, Transform, make_sample
from normalkit.files import check_links
from normalkit.geometry import Convention

__all__ = ["NormalFolder", "find_stars", "guess_patterns"]

LOOKED_AT = 10_000
"""Files of which a guess of the patterns takes notice; a few hundred of each kind would do."""

_KIND = r"(?:rgb|colou?r|images?|img|photos?|normals?)"
_NAME = re.compile(rf"(?P<before>{_KIND}[_.-])?(?P<star>.+?)(?P<after>[_.-]{_KIND})?(?P<suffix>\.\w+)", re.IGNORECASE)
"""What may stand around the part of a name that an image and its normals share."""
_PICTURE = re.compile("rgb|colou?r|image|img|photo")
_IMAGES, _NORMALS = (".png", ".jpg", ".jpeg", ".webp"), (".png", ".npy", ".exr", ".h5", ".hdf5")


class NormalFolder(Dataset[Sample]):
    """Images and normals in files, paired by what the `*` of their patterns stands for.

    Args:
        root: Folder that the patterns are relative to.
        images: Pattern of the image files with one `*`, such as `rgb/*.png` or `*_img.png`. Every other character
            stands for itself.
        normals: Pattern of the normal files (PNG, NPY, EXR or HDF5), such as `normal/*.png` or `*_normal.exr`.
        convention: The axes of the normal files; None when each file states its own, as those written by
            normalkit do.
        masks: Pattern of mask images, where 0 is invalid and anything else valid; None where the normals say so
            themselves.
        intrinsics: Pattern of 3 x 3 matrices (text or NPY), in pixels, or without a `*` one file for all; None where
            unknown (NaN in the sample).
        check: Whether to look at a few files, and refuse normals that contradict `convention`.
        transform: Called with each sample dict of tv_tensors; see `normalkit.data.sample.transform_sample`.

    Raises:
        FileNotFoundError: The folder is missing, no image matches, or an image lacks one of the other files.
        ValueError: A pattern is not as above, a link leads out of the folder, the first pair cannot be used (another
            convention, different sizes), or the normals point another way than `convention` says; the message has the
            evidence.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        images: str = "*_img.png",
        normals: str = "*_normal.png",
        convention: Convention | None,
        masks: str | None = None,
        intrinsics: str | None = None,
        check: bool = True,
        transform: Transform | None = None,
    ) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root}: no such folder; the patterns are relative to it")
        given = {"images": images, "normals": normals, "masks": masks, "intrinsics": intrinsics}
        self.patterns = {what: _check_pattern(what, p) for what, p in given.items() if p is not None}
        if self.patterns["images"] == self.patterns["normals"]:
            raise ValueError(f"images and normals are both {images!r}; wanted two patterns that tell them apart")
        self.convention = None if convention is None else Convention.parse(convention)
        self.transform = transform
        self.names = find_stars(self.root, "images", self.patterns["images"])
        for what in self.patterns:
            missing = [name for name in self.names if not self._path(what, name).is_file()]
            if missing:
                raise FileNotFoundError(
                    f"{self.root}: {len(missing)} of {len(self.names)} images have no file for "
                    f"{what}={self.patterns[what]!r}; the first is {self._path(what, missing[0])}"
                )
            check_links(self.root, [self._path(what, name) for name in self.names])
        read_pair(self._pair(0), convention=self.convention)  # Else it fails in a worker an hour later.
        if check and self.convention is not None:
            check_convention(self.root, [self._pair(i) for i in range(len(self))], self.convention)

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        """The sample dict of a pair; see `normalkit.data.sample.make_sample`."""
        pair = self._pair(index)
        return make_sample(*read_pair(pair, convention=self.convention), pair.name, transform=self.transform)

    def sources(self, index: int) -> Sources:
        """The files of a pair."""
        pair = self._pair(index)
        return Sources(pair.image, pair.normals, self.convention)

    def _pair(self, index: int) -> Pair:
        name = self.names[index]
        files = {what: self._path(what, name) for what in self.patterns}
        return Pair(name, files["images"], files["normals"], files.get("masks"), files.get("intrinsics"))

    def _path(self, what: str, name: str) -> Path:
        return self.root / self.patterns[what].replace("*", name)


def find_stars(root: Path, what: str, pattern: str) -> list[str]:
    """What the `*` of a pattern stands for in the files that match it, in order.

    Args:
        root: The folder that the pattern is relative to.
        what: The argument that the pattern came in, for messages.
        pattern: With one `*`; every other character stands for itself.

    Raises:
        FileNotFoundError: No file matches.
        ValueError: It is no such pattern.
    """
    before, after = _check_pattern(what, pattern).split("*")
    # Escaped, since a [ or ? is a letter here, as it is in the other patterns.
    found = root.glob(f"{glob.escape(before)}*{glob.escape(after)}")
    paths = sorted(path.relative_to(root).as_posix() for path in found if path.is_file())
    if not paths:
        raise FileNotFoundError(f"{root}: no file matches {what}={pattern!r}")
    return [path[len(before) : len(path) - len(after)] for path in paths]


def guess_patterns(root: Path) -> tuple[str, str] | None:
    """Patterns of images and normals for `NormalFolder`, by the names of folders and files.

    What has "normal" in its folder's or its own name is taken for normals; the images are those files whose names are
    the same but for such a word.

    Args:
        root: The folder.

    Returns:
        The patterns of the images and of the normals, of the largest set where there are several; None where no
        normals have their images.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as root:
        ...     for name in ("1_rgb.jpg", "1_normal.png", "2_rgb.jpg", "2_normal.png"):
        ...         Path(root, name).touch()
        ...     guess_patterns(Path(root))
        ('*_rgb.jpg', '*_normal.png')
    """
    stars: dict[str, set[str]] = {}
    files = (Path(folder, name) for folder, _, names in os.walk(root) for name in names)
    for path in itertools.islice(files, LOOKED_AT):
        name = _NAME.fullmatch(path.name)
        # A name with a star of its own is in no pattern.
        if name is None or "*" in path.as_posix() or path.suffix.lower() not in (*_IMAGES, *_NORMALS):
            continue
        around = f"{name['before'] or ''}*{name['after'] or ''}{name['suffix']}"
        pattern = (path.parent.relative_to(root) / around).as_posix()
        stars.setdefault(pattern, set()).add(name["star"])
    normals = [p for p in stars if "normal" in p.lower() and p.lower().endswith(_NORMALS)]
    images = [p for p in stars if "normal" not in p.lower() and p.lower().endswith(_IMAGES)]
    pairs = [(image, normal) for normal in normals for image in images if stars[normal] <= stars[image]]

    def likeness(pair: tuple[str, str]) -> tuple[int, int, bool]:
        image, normal = pair
        shared = [a == b for a, b in zip(image.split("/"), normal.split("/"), strict=False)]
        # Depth and masks may have the same names as the pictures, and so may another scene.
        return len(stars[normal]), sum(shared), bool(_PICTURE.search(image.lower()))

    return max(sorted(pairs), key=likeness, default=None)


def _check_pattern(argument: str, pattern: str) -> str:
    """The pattern as paths are written, without a leading ./ or doubled slashes."""
    stars = pattern.count("*")
    if not (stars == 1 or (stars == 0 and argument == "intrinsics")) or Path(pattern).is_absolute():
        raise ValueError(f"{argument}={pattern!r}: wanted a relative pattern with exactly one *, such as 'rgb/*.png'")
    if argument == "masks" and pattern.lower().endswith((".jpg", ".jpeg", ".webp")):
        raise ValueError(f"masks={pattern!r}: lossy files have no exact 0 around edges; wanted PNG")
    return PurePosixPath(pattern).as_posix()
