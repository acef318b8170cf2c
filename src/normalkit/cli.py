"""The `normalkit` command, its subcommands, and what scripts share with it.

What a subcommand needs is imported when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn, TypeVar

import tyro

from normalkit.files import atomic_file, check_links, check_writable

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import Dataset

    from normalkit.data.sample import Sample
    from normalkit.models import NormalEstimator
    from normalkit.outputs import Outputs

__all__ = ["find_pictures", "for_each_file", "main", "result_paths", "run_script"]

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")
"""Suffixes of the pictures in a folder; a file that is named itself may have any."""
BAD_INPUT = (OSError, ValueError, ImportError, ArithmeticError, MemoryError)
"""What is reported in one line. Anything else is a fault of the program, and shows where it happened."""

LARGE_PHOTO, USUAL_TILE = 16_000_000, 1024
"""Photos of more pixels than this are worked through in tiles, unless told how; the network would need gigabytes."""

Format = Literal["png", "png16", "npy", "exr"]
ConventionName = Literal["OPENCV", "OPENGL", "DSINE", "TASKONOMY"]
DatasetName = Literal["nyuv2", "scannet", "ibims", "diode", "hypersim", "taskonomy", "framenet", "7scenes", "tum"]
Device = Annotated[str, tyro.conf.arg(help="cpu, cuda, cuda:1, mps, ...")]
Config = TypeVar("Config")


@dataclass(frozen=True)
class Predict:
    """Estimate the normals of photos and videos; writes NAME.normals.png or .mp4 for each."""

    photos: tyro.conf.Positional[tuple[Path, ...]]
    """Picture and video files, or folders of them."""
    checkpoint: str | None = None
    """Folder of a trained model, such as runs/surface_normals/best; or OWNER/NAME of one on the Hugging Face Hub. By
    default the small network that comes with normalkit, which was trained on generated rooms."""
    out: Path = Path("normals")
    """Folder for the results; made if missing."""
    format: Format | None = None
    """png has 8 bits a channel, png16 16; npy and exr are float32. By default png of photos, and of videos an mp4 of
    their colours, to look at; with a format a video becomes a folder with a file for each frame."""
    convention: ConventionName = "OPENCV"
    """Axes of the files written, which also say so themselves; and of the colours."""
    flip: bool = False
    """Average with the prediction for the mirrored photo: a little better, at twice the time."""
    tile: int | None = None
    """Work through large photos in overlapping tiles of so many pixels, blended without a seam; 1024 by default for
    photos above 16 megapixels, none for others."""
    preview: bool = False
    """Also write NAME.preview.png or .mp4: the photo beside the colours of its normals."""
    relight: tuple[float, float, float] | None = None
    """Also write NAME.relit.png or .mp4: the photo with a lamp added in this direction, x right, y down, z forward:
    0 0 -1 is a flash on the camera, 0 -1 0 a lamp overhead."""
    points: bool = False
    """Also write NAME.points.ply: the surface as points, up to scale; needs --fov or --intrinsics."""
    fov: float | None = None
    """Field of view of the photo's longer side in degrees; a phone's main camera has 65 to 75."""
    intrinsics: Path | None = None
    """Instead of it, a text or NPY file with the camera's 3 x 3 matrix, in pixels of these photos."""
    error: bool = False
    """Also write NAME.error.png: the error that the network expects of each pixel, in hundredths of a degree as 16-bit
    grey, and show it in the preview, white from 60 degrees on; needs a network that was trained to say so."""
    webcam: int | None = None
    """A camera of this machine, 0 for the first, instead of files; Ctrl-C ends the recording."""
    max_frames: int | None = None
    """At most so many frames of each video, and of the webcam."""
    device: Device = "cpu"

    def run(self) -> int:
        """Do it; 1 if any photo or video failed."""
        from normalkit.models.checkpoint import load_model
        from normalkit.outputs import Outputs
        from normalkit.tiling import check_tile
        from normalkit.uncertainty import check_sure

        outputs = Outputs(
            self.out,
            format=self.format,
            convention=self.convention,
            preview=self.preview,
            light=self.relight,
            points=self.points,
            fov=self.fov,
            intrinsics=self.intrinsics,
            error=self.error,
        )
        sources = self._sources()
        results = result_paths(sources, self.out, suffix=outputs.suffix)
        outputs.check(sources)
        if self.tile is not None:
            check_tile(self.tile)
        if self.max_frames is not None and self.max_frames < 1:
            raise ValueError(f"--max-frames {self.max_frames}: wanted at least 1")
        model = load_model(self.checkpoint, device=_checked_device(self.device))
        if self.error:
            check_sure(model)
        check_writable(self.out)
        return for_each_file(results, lambda source, result: self._one(model, outputs, source, result))

    def _sources(self) -> list[Path]:
        from normalkit.video import VIDEOS

        if self.webcam is None:
            return find_pictures(self.photos, suffixes=PICTURES + VIDEOS)
        if self.photos:
            raise ValueError("--webcam stands instead of files; give one or the other")
        return [Path(f"webcam{self.webcam}.mp4")]

    def _one(self, model: NormalEstimator, outputs: Outputs, source: Path, result: Path) -> None:
        from normalkit.images import read_image
        from normalkit.inference import predict, predict_with_error
        from normalkit.outputs import is_video, write_frames
        from normalkit.video import open_video, open_webcam

        def tile_of(image: Tensor) -> int | None:
            return USUAL_TILE if image[0].numel() > LARGE_PHOTO and self.tile is None else self.tile

        def normals_of(image: Tensor) -> Tensor:
            return predict(model, image, flip=self.flip, tile=tile_of(image))

        if self.webcam is not None or is_video(source):
            with open_video(source) if self.webcam is None else open_webcam(self.webcam) as frames:
                write_frames(frames, normals_of, outputs, source, result, max_frames=self.max_frames)
        else:
            image = read_image(source)
            if self.error:
                normals, error = predict_with_error(model, image, flip=self.flip, tile=tile_of(image))
                outputs.write_photo(source, result, image, normals, error)
            else:
                outputs.write_photo(source, result, image, normals_of(image))


@dataclass(frozen=True)
class Demo:
    """Serve a page for the browser: drop a photo, see its normals, move a light over it."""

    checkpoint: str | None = None
    """Folder of a trained model; or OWNER/NAME of one on the Hugging Face Hub. By default the small network that comes
    with normalkit."""
    host: str = "127.0.0.1"
    """Address to listen on; the default is reached from this machine alone, and there is no password."""
    port: int = 7860
    """Port to listen on."""
    device: Device = "cpu"

    def run(self) -> int:
        """Do it, until Ctrl-C."""
        from normalkit.demo import serve
        from normalkit.models.checkpoint import load_model

        serve(load_model(self.checkpoint, device=_checked_device(self.device)), host=self.host, port=self.port)
        return 0


@dataclass(frozen=True, kw_only=True)
class _DataOptions:
    """What tells the files of a data set."""

    dataset: DatasetName | None = None
    """Which data set it is; found out by its files if left out."""
    split: str | None = None
    """Its split; the one that the field scores if left out, all for every picture."""
    images: str | None = None
    """Pattern of the image files with one *, such as 'rgb/*.png'."""
    normals: str | None = None
    """Pattern of the normal files with one *, such as 'normal/*.png'."""
    masks: str | None = None
    """Pattern of the mask files, where 0 is invalid."""
    convention: ConventionName | None = None
    """Axes of the normal files; needed where neither these nor the data set say so."""

    def open(self, data: str | Path | None) -> Dataset[Sample]:
        """The data set in a folder, or at the address of shards; None for the reference rooms."""
        from normalkit.data import open_dataset
        from normalkit.geometry import Convention

        return open_dataset(
            data,
            dataset=self.dataset,
            split=self.split,
            images=self.images,
            normals=self.normals,
            masks=self.masks,
            convention=None if self.convention is None else Convention[self.convention],
        )


@dataclass(frozen=True, kw_only=True)
class Evaluate(_DataOptions):
    """Score a checkpoint on a folder of pictures with known normals."""

    checkpoint: str | None = None
    """Folder of a trained model; or OWNER/NAME of one on the Hugging Face Hub. By default the small network that comes
    with normalkit."""
    data: str | None = None
    """A data set as it was released, an RGB-D recording, shards, or with --images and --normals any folder of pairs. By
    default the hundred reference rooms that come with normalkit, on which figures of all versions compare."""
    flip: bool = False
    """Average with the prediction for the mirrored picture."""
    per_image: bool = False
    """Average the figures of single pictures, instead of pooling all pixels."""
    batch_size: int = 1
    """Pictures at a time; more than 1 needs pictures of one size."""
    json: Path | None = None
    """Also write the figures to this file."""
    device: Device = "cpu"

    def run(self) -> int:
        """Do it."""
        from normalkit.data import evaluation_loader
        from normalkit.models.checkpoint import load_model
        from normalkit.training import evaluate, format_figures

        model = load_model(self.checkpoint, device=_checked_device(self.device))
        dataset = self.open(self.data)
        loader = evaluation_loader(dataset, batch_size=self.batch_size)
        if self.json is not None:
            check_writable(self.json.parent)
        figures = evaluate(model, loader, flip=self.flip, reduction="per_image" if self.per_image else "pooled")
        if self.data is None:
            print("reference rooms")
        print(format_figures(figures))
        if self.json is not None:
            with atomic_file(self.json) as temporary:
                temporary.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        return 0


@dataclass(frozen=True)
class CheckData:
    """Say what a folder of normals is: its layout, its splits, and which way its normals point."""

    data: tyro.conf.Positional[Path]
    """Folder of a data set as it was released, or of images and normals."""
    dataset: DatasetName | None = None
    """Which data set it is; found out by its files if left out."""
    normals: str | None = None
    """Pattern of the normal files with one *, such as 'normal/*.png', where neither a known layout nor their names
    tell."""
    images: str | None = None
    """Pattern of the pictures with one *, to draw them beside those."""
    convention: ConventionName | None = None
    """What the normals are said to be; by default what the data set or the files say."""
    pictures: int = 12
    """How many to look at; more of them make it surer."""
    out: Path | None = None
    """Also draw some of them to this file, as each convention understands them."""

    def run(self) -> int:
        """Do it; 1 if the normals are not what they are said to be."""
        from normalkit.data.check import check_folder, report_figure
        from normalkit.geometry import Convention

        convention = None if self.convention is None else Convention[self.convention]
        report = check_folder(
            self.data,
            dataset=self.dataset,
            images=self.images,
            normals=self.normals,
            convention=convention,
            pictures=self.pictures,
        )
        print("\n".join(report.lines()))
        if self.out is not None:
            from normalkit.visualize import save_figure

            save_figure(report_figure(report), self.out)
            print(f"{self.data} -> {self.out}")
        if report.evidence is None:
            return 0
        assert report.declared is not None
        raise ValueError(f"{self.data}: its normals are said to be {report.declared.name}, but {report.evidence}")


@dataclass(frozen=True, kw_only=True)
class Shard(_DataOptions):
    """Write a data set as tar shards, to stream from a disk or object storage; the same command goes on with it."""

    data: tyro.conf.Positional[Path]
    """A data set as it was released, an RGB-D recording, or with --images and --normals any folder of pairs."""
    out: Path
    """Folder of the shards; made if missing."""
    samples_per_shard: int = 1000
    """Shards of 100 MB to 1 GB are usual."""
    format: Literal["png", "png16", "npy"] = "png16"
    """Of labels that are not copied, as PNG files are: png has 8 bits a channel, png16 16; npy is float32."""
    shuffle: int | None = None
    """Write the samples in an order drawn with this seed, for training; the data set's own if left out."""
    part: tuple[int, int] = (0, 1)
    """I N writes every N-th shard from the I-th on: for N jobs that write into one folder."""
    workers: int = 0
    """Processes that write."""

    def run(self) -> int:
        """Do it."""
        from normalkit.data import write_shards

        dataset = self.open(self.data)
        manifest = write_shards(
            dataset,
            self.out,
            samples_per_shard=self.samples_per_shard,
            normals=self.format,
            shuffle=self.shuffle,
            part=self.part,
            workers=self.workers,
        )
        if manifest.shards is None:
            print(f"{self.out}: part {self.part[0]} of {self.part[1]} is written; others are not yet")
        else:
            size = sum(shard.bytes for shard in manifest.shards) / 1e6
            print(f"{self.out}: {manifest.samples} samples in {len(manifest.shards)} shards, {size:,.1f} MB")
        return 0


@dataclass(frozen=True)
class DepthToNormals:
    """Compute normals from depth images; writes NAME.normals.png for each."""

    depths: tyro.conf.Positional[tuple[Path, ...]]
    """16-bit PNG, NPY or EXR depth files."""
    intrinsics: Path
    """Text or NPY file with the camera's 3 x 3 matrix, in pixels of these depth images."""
    out: Path
    """Folder for the results; made if missing."""
    scale: float = 1000.0
    """Units a metre in PNG files: 1000 for millimetres, 5000 for TUM."""
    window: int = 7
    """Side of the window that a plane is fitted to, pixels."""
    min_valid: float = 0.8
    """Least share of the window that must have depth."""
    max_step: float = 0.15
    """Largest spread of depth in the window, as a share of the depth."""
    format: Format = "png"
    """png has 8 bits a channel, png16 16; npy and exr are float32."""
    convention: ConventionName = "OPENCV"
    """Axes of the files written."""

    def run(self) -> int:
        """Do it; 1 if any file failed."""
        import torch

        from normalkit.geometry import depth_to_normals
        from normalkit.images import read_depth, read_intrinsics
        from normalkit.outputs import file_suffix

        results = result_paths(self.depths, self.out, suffix=file_suffix(self.format))
        matrix = read_intrinsics(self.intrinsics)

        def normals_from(depth: Tensor) -> Tensor:
            return depth_to_normals(
                depth[None], matrix, window=self.window, min_valid=self.min_valid, max_step=self.max_step
            )[0][0]

        # An argument out of range fails here, once, and not for each file.
        normals_from(torch.ones(1, 1, 1))
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"--scale {self.scale}: wanted a positive number, file units to a metre")
        check_writable(self.out)

        def one(path: Path, result: Path) -> None:
            _write(result, normals_from(read_depth(path, scale=self.scale)), self.format, self.convention)

        return for_each_file(results, one)


@dataclass(frozen=True)
class Export:
    """Write a checkpoint as an ONNX file, checked in ONNX Runtime against the model."""

    checkpoint: tyro.conf.Positional[str]
    """Folder of a trained model; or OWNER/NAME of one on the Hugging Face Hub."""
    out: Path
    """The .onnx file; its folder is made if missing."""
    size: tuple[int, int] | None = None
    """Height and width in pixels, for a network that takes one size alone; images of any size if left out."""

    def run(self) -> int:
        """Do it."""
        from normalkit.export import export_onnx
        from normalkit.models.base import ImageModel
        from normalkit.models.checkpoint import HEADER, read_config
        from normalkit.models.hub import find_checkpoint

        folder = find_checkpoint(self.checkpoint)
        model = ImageModel.from_pretrained(folder)
        check_writable(self.out.parent)
        metadata = {name: value for name, value in read_config(folder).items() if name not in HEADER}
        difference = export_onnx(model, self.out, size=self.size, metadata=metadata)
        print(f"{self.checkpoint} -> {self.out} (within {difference:.1g} of the model)")
        return 0


@dataclass(frozen=True)
class Info:
    """Say what a checkpoint is: its network, axes, training data and figures."""

    checkpoint: tyro.conf.Positional[str]
    """Folder of a trained model; or OWNER/NAME of one on the Hugging Face Hub."""

    def run(self) -> int:
        """Do it."""
        from normalkit.models.base import ImageModel
        from normalkit.models.checkpoint import read_config
        from normalkit.models.hub import find_checkpoint
        from normalkit.training import dotted

        folder = find_checkpoint(self.checkpoint)
        header = read_config(folder)
        model = ImageModel.from_pretrained(folder)
        print(f"{header['model']}, {sum(p.numel() for p in model.parameters()) / 1e6:.2f} million parameters")
        for name, value in dotted(header):
            print(f"  {name:<24} {value}")
        return 0


Command = (
    Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[CheckData, tyro.conf.subcommand("check-data")]
    | Annotated[Shard, tyro.conf.subcommand("shard")]
    | Annotated[DepthToNormals, tyro.conf.subcommand("depth-to-normals")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Info, tyro.conf.subcommand("info")]
)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; exits with 1 and one line on bad input, with 2 on words that it does not know.

    Args:
        args: The words after `normalkit`; by default those of the process.
    """
    command = tyro.cli(Command, prog="normalkit", args=args, config=(tyro.conf.OmitArgPrefixes,))
    sys.exit(_exit_code("normalkit", command.run))


def run_script(main: Callable[[Config], int | None], config: type[Config]) -> NoReturn:
    """Read a script's command line, run it, and exit as `normalkit` does.

    Bad input is one line on stderr and exit code 1. A run that was interrupted exits with 128 plus the signal's
    number, as shells have it: 130 for Ctrl-C, 143 for SIGTERM, 129 for a closed terminal.

    Args:
        main: Takes the configuration; what it returns is the exit code, None for 0.
        config: A dataclass whose fields are the script's options.
    """
    sys.exit(_exit_code(Path(sys.argv[0]).name, lambda: main(tyro.cli(config))))


def find_pictures(paths: Iterable[Path], *, suffixes: Sequence[str] = PICTURES) -> list[Path]:
    """The given files, and the pictures in the given folders.

    Of a folder, hidden files and the results of `normalkit predict` are left out.

    Args:
        paths: Files and folders.
        suffixes: Of what is taken from a folder.

    Returns:
        Paths in the order given, a folder's by name; none twice.

    Raises:
        FileNotFoundError: One does not exist, or a folder holds no pictures.
        ValueError: A link leads out of a folder.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder")
        inside = [path] if not path.is_dir() else sorted(p for p in path.iterdir() if _is_picture(p, suffixes))
        if not inside:
            raise FileNotFoundError(f"{path}: no pictures in this folder ({', '.join(suffixes)})")
        if path.is_dir():
            check_links(path, inside)
        found |= dict.fromkeys(inside)
    return list(found)


def result_paths(
    sources: Sequence[Path], out: Path, *, suffix: str | Callable[[Path], str] = ".png"
) -> dict[Path, Path]:
    """Where each source's result goes: NAME.normals and the suffix, in one folder.

    Args:
        sources: Files to work on.
        out: Folder of the results.
        suffix: Of the results; or a function of the source that gives it.

    Returns:
        Result by source.

    Raises:
        ValueError: There are no sources, two would have the same result, or a result would replace a source.
    """
    if not sources:
        raise ValueError("no files given")
    suffix_of = suffix if callable(suffix) else lambda source: suffix
    results = {source: out / f"{source.stem}.normals{suffix_of(source)}" for source in sources}
    originals = {source.resolve(): source for source in sources}
    owners: dict[Path, Path] = {}
    for source, result in results.items():
        if owners.setdefault(result, source) != source:
            raise ValueError(f"{owners[result]} and {source} would both be written to {result}; use two folders")
        if result.resolve() in originals:
            raise ValueError(
                f"{originals[result.resolve()]} would be overwritten by the result of {source}; choose another folder"
            )
    return results


def for_each_file(
    results: Mapping[Path, Path], work: Callable[[Path, Path], None], *, program: str = "normalkit"
) -> int:
    """Work through files; one that fails is reported on stderr and does not stop the rest.

    On a terminal, several files have a progress bar.

    Args:
        results: Where each source's result goes.
        work: Takes a source and its result.
        program: Stands in front of what is reported.

    Returns:
        The exit code: 1 if any failed, else 0.
    """
    from tqdm import tqdm

    failed = 0
    # `disable=None`: only on a terminal.
    quiet = None if len(results) > 1 else True
    for source, result in tqdm(results.items(), unit="file", leave=False, dynamic_ncols=True, disable=quiet):
        try:
            work(source, result)
        except BAD_INPUT as error:
            failed += 1
            message = _one_line(error)
            where = "" if str(source) in message or str(result) in message else f"{source}: "
            tqdm.write(f"{program}: {where}{message}", file=sys.stderr)
        else:
            tqdm.write(f"{source} -> {result}")
    if failed:
        print(f"{program}: {failed} of {len(results)} files failed", file=sys.stderr)
    return 1 if failed else 0


def _is_picture(path: Path, suffixes: Sequence[str]) -> bool:
    hidden_or_result = path.name.startswith(".") or path.stem.endswith((".normals", ".preview", ".relit", ".error"))
    return path.suffix.lower() in suffixes and not hidden_or_result and path.is_file()


def _checked_device(name: str) -> str:
    import torch

    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        here += ["mps"] if torch.backends.mps.is_available() else []
        raise ValueError(f"--device {name}: not on this machine, which has {', '.join(here)}") from error
    return name


def _write(path: Path, normals: Tensor, kind: Format, convention: str) -> None:
    from normalkit.codec import write_normals

    write_normals(path, normals, convention=convention, bits=16 if kind == "png16" else 8)


def _exit_code(name: str, work: Callable[[], int | None]) -> int:
    """Do the work; bad input and interrupts become one line and a code."""
    try:
        with _plain_warnings(name):
            code = work() or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; Python would complain on flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        message, code = "stopped", 130
    except BAD_INPUT as error:
        message, code = _one_line(error), 1
    except RuntimeError as error:
        from normalkit.training import Interrupted

        if not isinstance(error, Interrupted):
            raise
        message, code = _one_line(error), error.exit_code
    print(f"{name}: {message}", file=sys.stderr)
    return code


@contextlib.contextmanager
def _plain_warnings(name: str) -> Iterator[None]:
    """Print this package's warnings as one line: where in its code they came up tells a user nothing."""
    usual, package = warnings.formatwarning, Path(__file__).parent

    def plain(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        ours = Path(filename).is_relative_to(package)
        return f"{name}: warning: {message}\n" if ours else usual(message, category, filename, lineno, line)

    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if "in DataLoader worker process" in lines[0]:
        # Such an error carries the worker's traceback; the last line is the class and the message.
        return lines[-1].partition(": ")[2] or lines[-1]
    return " ".join(lines)


if __name__ == "__main__":
    main()
