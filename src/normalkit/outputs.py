"""What `normalkit predict` writes of a photo or a video: its normals, and what shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from normalkit.codec import normals_to_rgb, write_normals
from normalkit.files import atomic_file, atomic_folder
from normalkit.geometry import Convention, convert_normals
from normalkit.images import import_exr, read_intrinsics, to_pillow
from normalkit.integrate import fov_intrinsics
from normalkit.pointcloud import photo_points, write_ply
from normalkit.video import VIDEOS, Frames, write_video
from normalkit.visualize.relight import check_light, relight

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = ["Outputs", "file_suffix", "is_video", "write_frames"]

WEBCAM_RATE = 10
"""Frames a second of a recording; a network that takes longer for one leaves it standing."""

WHITE = 60.0
"""Degrees of error that are white in a preview; 0 is black."""


def is_video(path: Path) -> bool:
    """Whether a file's name says so."""
    return path.suffix.lower() in VIDEOS


def file_suffix(kind: str) -> str:
    """The suffix of a format of normals, once what it needs is known to be installed.

    Args:
        kind: png, png16, npy or exr.

    Raises:
        ImportError: A package is not.
    """
    if kind == "exr":
        import_exr()
    return ".png" if kind == "png16" else f".{kind}"


@dataclass(frozen=True)
class Outputs:
    """The files to write of each source, whose name is NAME: NAME.normals and what is asked for.

    Of a photo: `NAME.normals.png`, or `.npy` or `.exr`; `NAME.preview.png`, the photo beside the colours of its
    normals and, where it is written, the error; `NAME.relit.png`; `NAME.points.ply`; `NAME.error.png`, the error that
    the network expects, in hundredths of a degree as 16-bit grey. Of a video: `NAME.normals.mp4`, the colours of its
    normals, or, where a format is given, a folder `NAME.normals` with a file of it for each frame;
    `NAME.preview.mp4` and `NAME.relit.mp4`.

    Args:
        folder: Where to.
        format: Of the normals; None for PNG with 8 bits of photos, and a video of videos.
        convention: The axes of the normals' files and colours.
        preview: Whether to write previews.
        light: As in `relight`; None for none.
        points: Whether to write point clouds, of photos.
        fov: As in `fov_intrinsics`, for point clouds.
        intrinsics: File of the camera's matrix, for the same.
        error: Whether to write expected errors, of photos.
    """

    folder: Path
    format: str | None = None
    convention: str = "OPENCV"
    preview: bool = False
    light: tuple[float, float, float] | None = None
    points: bool = False
    fov: float | None = None
    intrinsics: Path | None = None
    error: bool = False

    def check(self, sources: Sequence[Path]) -> None:
        """Refuse what cannot be done, before any work.

        Raises:
            ValueError: Arguments contradict one another, or a file would replace a source.
            OSError: The intrinsics cannot be read.
            ImportError: A package for the format is not installed.
        """
        if self.format is not None:
            file_suffix(self.format)
        if self.light is not None:
            check_light(self.light)
        if (self.fov is not None) + (self.intrinsics is not None) != self.points:
            raise ValueError(
                "a point cloud needs to know the camera, and nothing else does: give --points with one of --fov and "
                "--intrinsics"
            )
        self._matrix(2, 2)
        for name in ("points", "error"):
            if getattr(self, name) and any(map(is_video, sources)):
                raise ValueError(f"--{name} is for photos; leave the videos out")
        originals = {source.resolve() for source in sources}
        for source in sources:
            for kind in ("preview.png", "preview.mp4", "relit.png", "relit.mp4", "error.png"):
                if self._path(source, kind).resolve() in originals:
                    raise ValueError(f"{self._path(source, kind)} would be overwritten; choose another folder")

    def suffix(self, source: Path) -> str:
        """Of the result that has the normals; empty where that is a folder."""
        if is_video(source):
            return ".mp4" if self.format is None else ""
        return file_suffix(self.format or "png")

    def write_photo(
        self, source: Path, result: Path, image: Tensor, normals: Tensor, error: Tensor | None = None
    ) -> None:
        """Write all of a photo.

        Args:
            source: The photo's file.
            result: Where the normals go.
            image: (3, H, W) uint8.
            normals: (3, H, W), `Convention.OPENCV`.
            error: (H, W), degrees; needed where it is to be written.
        """
        self._write_normals(result, normals)
        if self.error:
            assert error is not None
            with atomic_file(self._path(source, "error.png")) as temporary:
                Image.fromarray((100 * error).round().numpy().astype(np.uint16)).save(temporary)
        for kind, picture in self._pictures(image, normals, error).items():
            with atomic_file(self._path(source, f"{kind}.png")) as temporary:
                # A level that costs a fifth of the default's time, for a file a few per cent larger.
                to_pillow(picture).save(temporary, compress_level=2)
        if self.points:
            matrix = self._matrix(image.shape[1], image.shape[2])
            assert matrix is not None
            write_ply(self._path(source, "points.ply"), *photo_points(image, normals, matrix))

    @contextmanager
    def writing_video(self, source: Path, result: Path, *, rate: float) -> Iterator[Callable[[Tensor, Tensor], None]]:
        """Write all of a video, whole or not at all.

        Args:
            source: The video's file.
            result: Where the normals go.
            rate: Frames a second.

        Yields:
            A function that takes each frame and its normals, as `write_photo` does.
        """
        with ExitStack() as stack:
            kinds = [kind for kind, wanted in (("preview", self.preview), ("relit", self.light)) if wanted]
            paths = {kind: self._path(source, f"{kind}.mp4") for kind in kinds}
            if self.format is None:
                paths["normals"] = result
                folder = None
            else:
                folder = stack.enter_context(atomic_folder(result))
            puts = {kind: stack.enter_context(write_video(path, rate=rate)) for kind, path in paths.items()}
            done = 0

            def put(image: Tensor, normals: Tensor) -> None:
                nonlocal done
                if folder is not None:
                    self._write_normals(folder / f"{done:06}{file_suffix(self.format or 'png')}", normals)
                done += 1
                pictures = self._pictures(image, normals)
                for kind, write in puts.items():
                    write(self._colours(normals) if kind == "normals" else pictures[kind])

            yield put

    def _path(self, source: Path, ending: str) -> Path:
        return self.folder / f"{source.stem}.{ending}"

    def _write_normals(self, path: Path, normals: Tensor) -> None:
        write_normals(path, normals, convention=self.convention, bits=16 if self.format == "png16" else 8)

    def _pictures(self, image: Tensor, normals: Tensor, error: Tensor | None = None) -> dict[str, Tensor]:
        pictures = {}
        if self.preview:
            grey = [] if error is None else [(error * (255 / WHITE)).clamp(0, 255).round().byte().expand_as(image)]
            pictures["preview"] = torch.cat([image, self._colours(normals), *grey], 2)
        if self.light is not None:
            pictures["relit"] = relight(image, normals, self.light)
        return pictures

    def _colours(self, normals: Tensor) -> Tensor:
        return normals_to_rgb(convert_normals(normals, Convention.OPENCV, Convention[self.convention], dim=0))

    def _matrix(self, height: int, width: int) -> Tensor | None:
        if self.fov is not None:
            return fov_intrinsics(self.fov, height, width)
        return None if self.intrinsics is None else read_intrinsics(self.intrinsics)


def write_frames(
    frames: Frames,
    estimate: Callable[[Tensor], Tensor],
    outputs: Outputs,
    source: Path,
    result: Path,
    *,
    max_frames: int | None = None,
) -> None:
    """Write all of a video or a webcam, with a progress bar on a terminal.

    A webcam is recorded until Ctrl-C and as fast as it happens: each frame stands until the next one is estimated.

    Args:
        frames: Of the video or the webcam.
        estimate: (3, H, W) uint8 to its normals.
        outputs: What to write.
        source: The video's file, or a name for the webcam.
        result: Where the normals go.
        max_frames: At most so many are taken; None for all.

    Raises:
        ValueError: There is no frame; or, after what there is was written, the file had fewer than it claims.
    """
    begin, written = monotonic(), 0
    rate = WEBCAM_RATE if frames.live else frames.rate
    stop = suppress(KeyboardInterrupt) if frames.live else nullcontext()
    with outputs.writing_video(source, result, rate=rate) as put, stop:
        for image in _bar(frames, max_frames):
            normals = estimate(image)
            due = 1 + (int((monotonic() - begin) * rate) if frames.live else written)
            for _ in range(due - written):
                put(image, normals)
            written = max(due, written)
    if max_frames is None and frames.missing():
        raise ValueError(
            f"{source}: the last {frames.missing()} of its {frames.count} frames cannot be decoded; {result} has the "
            "others"
        )


def _bar(frames: Frames, max_frames: int | None) -> tqdm[Tensor]:
    from tqdm import tqdm

    total = min((n for n in (frames.count, max_frames) if n is not None), default=None)
    name = f"{frames.name}, Ctrl-C ends it" if frames.live else Path(frames.name).name
    # `disable=None`: only on a terminal.
    return tqdm(islice(frames, max_frames), name, total, leave=False, unit="frame", dynamic_ncols=True, disable=None)
