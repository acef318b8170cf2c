"""Reading what normals are estimated from: pictures, masks, depth maps, camera intrinsics."""

from __future__ import annotations

import errno
import io
import math
import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FileBytes", "read_depth", "read_image", "read_intrinsics", "read_mask", "to_pillow"]

MAX_PIXELS = 150_000_000
"""The largest camera sensor has 150 million pixels; a header that claims more is broken or hostile."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""The formats of photographs and figures. Pillow knows many more, some of which start other programs."""

MAX_VALUES = 4 * MAX_PIXELS
"""Numbers of one file that are read into memory: four channels of the largest picture."""

MAX_EXPANSION = 100
"""Times that a file of measurements may be larger in memory, if more than `FREE_BYTES`."""
FREE_BYTES = 256_000_000

_MAX_TEXT = 1_000_000
"""Bytes; nine numbers need a few hundred."""


class FileBytes(NamedTuple):
    """A file that is in memory already, such as a member of a tar file; PNG, NPY and pictures are read from it.

    Attributes:
        name: Whose suffix tells the format, and which messages call it.
        data: What is in it.
    """

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name


File = str | os.PathLike[str] | FileBytes
"""A file, on the disk or in memory."""


def read_image(source: File | Image.Image | NDArray[Any] | Tensor) -> Tensor:
    """A picture in one form, whatever it comes as.

    From a file or a PIL picture: turned upright by its EXIF orientation; grey, palette and CMYK become RGB;
    16 bits become 8 by rounding; what is transparent shows white; an animation gives its first frame.

    Args:
        source: A path (JPEG, PNG, WebP, BMP, TIFF, GIF or PPM) or its `FileBytes`, a PIL picture, an array (H, W, 3),
            (H, W, 1) or (H, W), or a tensor (3, H, W), (1, H, W) or (H, W). Arrays and tensors are uint8, uint16 (0 to
            65535), or floating point in [0, 1].

    Returns:
        (3, H, W) uint8 RGB, on the CPU; it shares no memory with `source`.

    Raises:
        OSError: The file is missing or a folder, or may not be read.
        ValueError: The file is empty, truncated, no picture, or above `MAX_PIXELS` (found before decoding); or
            `source` has another shape or values out of range.
        TypeError: `source` is something else, or of another dtype.

    Examples:
        >>> read_image(np.full((2, 4), 0.5)).shape
        torch.Size([3, 2, 4])
    """
    if isinstance(source, Tensor):
        if source.ndim == 2:
            source = source.unsqueeze(0)
        if source.ndim != 3 or source.shape[0] not in (1, 3) or source.numel() == 0:
            raise ValueError(
                f"tensor has shape {tuple(source.shape)}; wanted (3, H, W): take one picture of a batch with [i], "
                "and put channels first with .permute(2, 0, 1)"
            )
        return _to_uint8(source.detach().cpu(), "tensor").expand(3, -1, -1).contiguous()
    if isinstance(source, np.ndarray):
        return _from_array(source, "array")
    if isinstance(source, Image.Image):
        return _from_picture(source, getattr(source, "filename", "") or "the picture")
    if isinstance(source, str | os.PathLike | FileBytes):
        with open_picture(source, FORMATS) as picture:
            check_png(source, picture)
            return _from_picture(picture, str(source))
    raise TypeError(f"source is a {type(source).__name__}; wanted a path, PIL picture, numpy array or torch tensor")


def to_pillow(image: Tensor) -> Image.Image:
    """A picture for Pillow, each value rounded to the nearest of 256.

    Args:
        image: (3, H, W), float in [0, 1] or uint8.
    """
    from PIL import Image

    pixels = image if image.dtype == torch.uint8 else (image * 255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def read_depth(path: str | os.PathLike[str], *, scale: float = 1000.0) -> Tensor:
    """A depth map in metres.

    Args:
        path: `.png` with 16 bits of grey; `.npy` of shape (H, W), (1, H, W) or (H, W, 1); or `.exr` with one
            channel, or one called Z, or one whose name ends in `.Z` or `.V`. Floating-point files hold metres.
        scale: File units to a metre, for files of integers: 1000 for millimetres (Kinect, 7-Scenes, ScanNet),
            5000 for TUM RGB-D.

    Returns:
        (1, H, W) float32; 0 where there is no depth, which files write as 0, a negative number, NaN or infinity.

    Raises:
        OSError: The file is missing or a folder, or may not be read.
        ValueError: The file is broken or of another kind, or `scale` is not a positive number.
        ImportError: `.exr` without the package OpenEXR.
    """
    if not 0 < scale < math.inf:
        raise ValueError(f"scale={scale}: wanted a positive number, file units to a metre")
    readers = {".png": _depth_png, ".npy": _depth_npy, ".exr": _depth_exr}
    reader = readers.get(Path(path).suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: depth is read from {', '.join(readers)}; convert it, without loss (no JPEG)")
    array = reader(path)
    # A float64 beyond float32 becomes infinite, and so no depth; that is no news.
    with np.errstate(over="ignore"):
        depth = torch.from_numpy(array.astype(np.float32))
    if not np.issubdtype(array.dtype, np.floating):
        depth = depth / scale
    return torch.where(torch.isfinite(depth) & (depth > 0), depth, 0).unsqueeze(0)


def read_intrinsics(path: str | os.PathLike[str]) -> Tensor:
    """A camera matrix [[fx, s, cx], [0, fy, cy], [0, 0, 1]], in pixels.

    Args:
        path: `.npy` of shape (3, 3), or a text file of three lines of three numbers, parted by blanks or commas.

    Returns:
        (3, 3) float32.

    Raises:
        OSError: The file is missing or a folder, or may not be read.
        ValueError: It does not hold such a matrix.
    """
    if Path(path).suffix.lower() == ".npy":
        matrix = read_npy(path)[0]
    else:
        check_readable(path)
        if os.path.getsize(path) > _MAX_TEXT:
            raise ValueError(f"{path}: too large for a camera matrix; wanted three lines of three numbers")
        try:
            lines = Path(path).read_text().replace(",", " ").splitlines()
            matrix = np.array([[float(word) for word in line.split()] for line in lines if line.strip()])
        except ValueError as error:
            raise ValueError(f"{path}: not a camera matrix ({error}); wanted three lines of three numbers") from error
    if matrix.shape != (3, 3) or matrix.dtype.kind not in "fiu":
        raise ValueError(
            f"{path}: holds {matrix.dtype} of shape {matrix.shape}; wanted the 3 x 3 camera matrix "
            "[[fx, s, cx], [0, fy, cy], [0, 0, 1]] in pixels"
        )
    with np.errstate(over="ignore"):
        matrix = matrix.astype(np.float32)
    fixed = [matrix[1, 0], *matrix[2]] == [0, 0, 0, 1]
    if not (np.isfinite(matrix).all() and matrix[0, 0] > 0 and matrix[1, 1] > 0 and fixed):
        raise ValueError(
            f"{path}: {matrix.tolist()} is no camera matrix; wanted [[fx, s, cx], [0, fy, cy], [0, 0, 1]] in pixels, "
            "fx and fy > 0"
        )
    return torch.from_numpy(matrix)


def read_mask(path: File) -> Tensor:
    """Which pixels count, from a picture or an array: those that are not 0.

    Args:
        path: A picture, in which 0 is 0 in every channel but alpha; or `.npy` of shape (H, W), (1, H, W) or (H, W, 1).

    Returns:
        (H, W) bool.

    Raises:
        OSError: The file is missing or a folder, or may not be read.
        ValueError: It is empty, broken, or of another kind.
    """
    if Path(str(path)).suffix.lower() == ".npy":
        array = _one_plane(read_npy(path)[0])
        if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "bfiu":
            raise ValueError(
                f"{path}: holds {array.dtype} of shape {array.shape}; wanted numbers (H, W), 0 for invalid"
            )
        return torch.from_numpy(array != 0)
    with open_picture(path, FORMATS) as picture, pillow_errors(path, FORMATS):
        check_png(path, picture)
        # As stored: in a conversion to 8 bits a 1 of 16 would become 0.
        values = torch.from_numpy(np.array(picture) != 0)
        colours = [i for i, band in enumerate(picture.getbands()) if band != "A"]
    return values if values.ndim == 2 else values[..., colours].any(-1)


def check_readable(path: File) -> None:
    """Refuse what is no file with something in it.

    Raises:
        OSError: The file is missing or a folder.
        ValueError: It is empty.
    """
    if not isinstance(path, FileBytes):
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, f"{path} is a folder; wanted a file in it")
        if not os.path.exists(path):
            raise FileNotFoundError(errno.ENOENT, f"{path} does not exist; check the spelling and the current folder")
    if (len(path.data) if isinstance(path, FileBytes) else os.path.getsize(path)) == 0:
        raise ValueError(f"{path}: the file is empty; copy or download it again")


def check_size(path: File, width: int, height: int) -> None:
    """Refuse a size that no picture has, before memory is taken for it.

    Raises:
        ValueError: There is no pixel, or more than `MAX_PIXELS`.
    """
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(
            f"{path}: the file claims {width} x {height} pixels; wanted 1 to {MAX_PIXELS:,}: shrink or split it"
        )


def size_text(picture: Tensor) -> str:
    """Width and height of (..., H, W), for messages."""
    return f"{picture.shape[-1]} x {picture.shape[-2]}"


def _check_values(path: File, count: int) -> None:
    """Refuse more numbers than any picture has; they may be a few bytes in the file, or none at all."""
    if count > MAX_VALUES:
        raise ValueError(f"{path}: claims {count:,} numbers; wanted at most {MAX_VALUES:,}: shrink or split it")


def _check_expansion(path: str | os.PathLike[str], unpacked: int) -> None:
    """Refuse a small file of measurements that would fill the memory: they do not compress as zeros do."""
    size = os.path.getsize(path)
    if unpacked > max(FREE_BYTES, MAX_EXPANSION * size):
        raise ValueError(f"{path}: {size:,} bytes that unpack to {unpacked:,}; shrink it, or save it uncompressed")


def open_picture(path: File, formats: tuple[str, ...]) -> Image.Image:
    """A PIL picture of which the header alone is read; a context manager that closes the file.

    Args:
        path: The file.
        formats: Pillow's names of the formats that are allowed.

    Raises:
        OSError: The file is missing or a folder, or may not be read.
        ValueError: It is empty, of another format, broken, or has more than `MAX_PIXELS`.
    """
    check_readable(path)
    with pillow_errors(path, formats), warnings.catch_warnings():
        # `check_size` refuses what the warning is about.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        picture = Image.open(io.BytesIO(path.data) if isinstance(path, FileBytes) else path, formats=formats)
    try:
        check_size(path, *picture.size)
    except ValueError:
        picture.close()
        raise
    return picture


def check_png(path: File, picture: Image.Image) -> None:
    """Compare every checksum of a PNG, as decoders do not: they may give what they have of a damaged one.

    Args:
        path: The file.
        picture: What was opened from it, and is left as it is; those of other formats have no checksums.

    Raises:
        ValueError: One is wrong.
    """
    if picture.format != "PNG":
        return
    with pillow_errors(path, ("PNG",)), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        # Another one, since a picture that was verified cannot be read any more.
        source = io.BytesIO(path.data) if isinstance(path, FileBytes) else path
        with Image.open(source, formats=("PNG",)) as again:
            again.verify()


@contextmanager
def pillow_errors(path: File, formats: tuple[str, ...]) -> Iterator[None]:
    """Turn what Pillow raises on broken files, half a dozen types, into a ValueError that names the file."""
    try:
        yield
    except UnidentifiedImageError as error:
        wanted = ", ".join(formats)
        raise ValueError(
            f"{path}: not a {wanted} file, whatever its name says, or a rare kind of one; convert it"
        ) from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: more than {MAX_PIXELS:,} pixels; shrink or split it ({error})") from error
    except (OSError, SyntaxError, EOFError, ValueError, IndexError, TypeError, struct.error, zlib.error) as error:
        # With a number it is the system's: permissions, a failing disk.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path}: the file is truncated or broken ({error}); copy or download it again") from error


def read_png(path: File) -> tuple[NDArray[Any], Mapping[str, Any]]:
    """The values of a PNG as they are, which Pillow cannot give for 16-bit colour, and its text.

    Returns:
        uint8 or uint16, (H, W) or (H, W, C) with channels in the order RGBA; and what the file says of itself,
        texts by their keyword.

    Raises:
        OSError: The file is missing or a folder, or may not be read.
        ValueError: It is empty, no PNG, broken, neither grey nor RGB nor RGBA, or more than `MAX_PIXELS`.
    """
    import cv2

    with open_picture(path, ("PNG",)) as picture:
        if picture.mode not in ("L", "I", "I;16", "RGB", "RGBA"):
            raise ValueError(f"{path}: has a palette, grey with alpha, or one bit; save it as plain grey, RGB or RGBA")
        info = {str(key): value for key, value in picture.info.items()}
        check_png(path, picture)
    data = np.frombuffer(path.data, np.uint8) if isinstance(path, FileBytes) else np.fromfile(path, np.uint8)
    try:
        values: NDArray[Any] | None = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"{path}: the file is broken ({error}); copy or download it again") from error
    if values is None:
        raise ValueError(f"{path}: the file is broken; copy or download it again")
    if values.ndim == 3:
        values = values[..., [2, 1, 0, 3][: values.shape[2]]]
    return values, info


def read_npy(path: File) -> tuple[NDArray[Any], str]:
    """The array of a `.npy` file, and the text which may stand behind it as a second array.

    Raises:
        OSError: The file is missing or a folder, or may not be read.
        ValueError: It is empty, truncated, not in this format, or holds Python objects.
    """
    check_readable(path)
    with io.BytesIO(path.data) if isinstance(path, FileBytes) else open(path, "rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        array = _next_array(file, path, size)
        # One more array may follow in the same file, as numpy documents; numpy.load gives the first.
        text = _next_array(file, path, size) if file.tell() < size else np.array("")
    return array, str(text) if text.dtype.kind == "U" and text.ndim == 0 else ""


def _next_array(file: BinaryIO, path: File, size: int) -> NDArray[Any]:
    header_readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, fortran, dtype = header_readers[np.lib.format.read_magic(file)](file)
    except (ValueError, KeyError, TypeError, SyntaxError, TokenError, RecursionError) as error:
        raise ValueError(f"{path}: not a .npy file, or broken ({error}); save it with numpy.save") from error
    if dtype.kind not in "fiubU":
        raise ValueError(f"{path}: holds {dtype}; wanted an array of numbers: save it with array.astype('float32')")
    count = math.prod(shape)
    present = size - file.tell()
    if min(shape, default=1) < 0 or count * dtype.itemsize > present:
        raise ValueError(
            f"{path}: shape {shape} of {dtype} does not fit the {present} bytes that follow; the file is truncated "
            "or broken: copy or save it again"
        )
    _check_values(path, count)
    # Of a bytearray, since an array over bytes could not be written to.
    data = bytearray(file.read(count * dtype.itemsize))
    values = np.frombuffer(data, dtype) if data else np.empty(count, dtype)
    return values.reshape(shape, order="F" if fortran else "C")


def read_exr(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], Mapping[str, Any]]:
    """The channels of an OpenEXR file, each (H, W), by name, and its header.

    Raises:
        OSError: The file is missing or a folder, or may not be read.
        ValueError: It is empty, broken, cropped, has several parts, or more than `MAX_PIXELS`.
        ImportError: The package OpenEXR is not installed.
    """
    exr = import_exr()
    check_readable(path)
    with open(path, "rb"):
        pass  # The system's own error, where the file may not be read: OpenEXR's does not tell.
    try:
        file = exr.File(os.fspath(path), header_only=True)
        header: dict[str, Any] = file.header()
        (left, top), (right, bottom) = (corner.tolist() for corner in header["dataWindow"])
    except (RuntimeError, ValueError, IndexError, KeyError) as error:
        raise ValueError(f"{path}: not an OpenEXR file, or broken ({error})") from error
    check_size(path, right - left + 1, bottom - top + 1)
    window, display = [np.array(header[name]).tolist() for name in ("dataWindow", "displayWindow")]
    if len(file.parts) != 1 or window != display:
        raise ValueError(
            f"{path}: has {len(file.parts)} part(s), data window {window} and display window {display}; wanted one "
            "part, and the two windows equal: save it uncropped"
        )
    count = len(header["channels"]) * (right - left + 1) * (bottom - top + 1)
    _check_values(path, count)
    _check_expansion(path, 4 * count)
    try:
        # A part whose pixels cannot be decoded is left out, without an error.
        channels = exr.File(os.fspath(path), separate_channels=True).channels()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: the file is truncated or broken; copy or render it again ({error})") from error
    if any((channel.xSampling, channel.ySampling) != (1, 1) for channel in channels.values()):
        raise ValueError(f"{path}: has sub-sampled channels; save every channel at full size")
    return {name: channel.pixels for name, channel in channels.items()}, header


def import_exr() -> Any:
    """The package OpenEXR.

    Raises:
        ImportError: It is not installed; the message says how to.
    """
    try:
        import OpenEXR
    except ImportError as error:
        raise ImportError('.exr needs the package OpenEXR: pip install "normalkit[exr]"') from error
    return OpenEXR


def read_hdf5(path: str | os.PathLike[str]) -> NDArray[Any]:
    """The one array of an HDF5 file, under the name `dataset`, as Hypersim keeps a picture in each file.

    Raises:
        OSError: The file is missing or a folder, or may not be read.
        ValueError: It is empty, broken, has no such array, or one of more than `MAX_PIXELS` rows and columns.
        ImportError: The package h5py is not installed.
    """
    h5py = import_h5py()
    check_readable(path)
    with open(path, "rb"):
        pass  # The system's own error, where the file may not be read: HDF5's does not tell.
    try:
        with h5py.File(os.fspath(path), "r") as file:
            array = file.get("dataset")
            if not isinstance(array, h5py.Dataset) or array.ndim < 2:
                held = ", ".join(file) or "nothing"
                raise ValueError(f"{path}: holds {held}; wanted one array of pixels called dataset, as in Hypersim")
            check_size(path, array.shape[1], array.shape[0])
            _check_values(path, array.size)
            _check_expansion(path, array.nbytes)
            inside = isinstance(file.get("dataset", getlink=True), h5py.HardLink)
            if not inside or array.external or array.is_virtual or array.dtype.kind not in "fiub":
                raise ValueError(f"{path}: its dataset is in another file, or holds no numbers; wanted it in this file")
            values: NDArray[Any] = array[()]
    except (OSError, RuntimeError, KeyError, MemoryError, TypeError) as error:
        raise ValueError(f"{path}: not an HDF5 file, or broken ({error}); copy or download it again") from error
    return values


def import_h5py() -> Any:
    """The package h5py.

    Raises:
        ImportError: It is not installed; the message says how to.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError('.hdf5 needs the package h5py: pip install "normalkit[datasets]"') from error
    return h5py


def _depth_png(path: str | os.PathLike[str]) -> NDArray[Any]:
    depth = read_png(path)[0]
    if depth.dtype != np.uint16 or depth.ndim != 2:
        raise ValueError(
            f"{path}: has {8 * depth.itemsize} bits and {1 if depth.ndim == 2 else depth.shape[2]} channel(s); wanted "
            "16-bit grey: 8 bits are a picture of depth, not a measurement"
        )
    return depth


def _depth_npy(path: str | os.PathLike[str]) -> NDArray[Any]:
    array = read_npy(path)[0]
    depth = _one_plane(array)
    if depth.ndim != 2 or depth.size == 0 or depth.dtype.kind not in "fiu" or depth.dtype.itemsize == 1:
        raise ValueError(
            f"{path}: holds {array.dtype} of shape {array.shape}; wanted (H, W) of floating-point metres, or integers "
            "of at least 16 bits"
        )
    return depth


def _one_plane(array: NDArray[Any]) -> NDArray[Any]:
    """Without the single channel that may stand first or last."""
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        return array.squeeze(0 if array.shape[0] == 1 else 2)
    return array


def _depth_exr(path: str | os.PathLike[str]) -> NDArray[Any]:
    channels = read_exr(path)[0]
    names = list(channels)
    if len(names) > 1:
        names = [name for name in names if name == "Z" or name.endswith((".Z", ".V"))]
    if len(names) != 1:
        raise ValueError(f"{path}: has channels {', '.join(channels)}; wanted one, or one called Z")
    return channels[names[0]]


def _from_picture(picture: Image.Image, name: str) -> Tensor:
    check_size(name, *picture.size)
    with pillow_errors(name, FORMATS):
        array = _decode(picture)
    # 16-bit grey; Pillow holds some files of it in 32 bits.
    if array.dtype.kind in "iu" and array.dtype.itemsize > 1:
        if array.min() < 0 or array.max() > 65535:
            raise ValueError(f"{name}: has grey values from {array.min()} to {array.max()}; wanted 0 to 65535")
        array = array.astype(np.uint16)
    return _from_array(array, name)


def _decode(picture: Image.Image) -> NDArray[Any]:
    """Upright: (H, W, 3) uint8, or (H, W) where grey has more than 8 bits."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F" or picture.mode.startswith("I"):
        return np.array(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.array(picture.convert("RGB"))


def _from_array(array: NDArray[Any], name: str) -> Tensor:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3) or array.size == 0:
        raise ValueError(
            f"{name} has shape {array.shape}; wanted (H, W, 3): drop an alpha channel with [..., :3], and put channels "
            "last with .transpose(1, 2, 0)"
        )
    if array.dtype.kind not in "fu":
        raise TypeError(f"{name} has dtype {array.dtype}; wanted uint8, uint16, or floating point in [0, 1]")
    native = np.ascontiguousarray(array.transpose(2, 0, 1), dtype=array.dtype.newbyteorder("="))
    return _to_uint8(torch.tensor(native), name).expand(3, -1, -1).contiguous()


def _to_uint8(picture: Tensor, name: str) -> Tensor:
    if picture.dtype == torch.uint8:
        return picture.clone()
    if picture.dtype == torch.uint16:
        # The nearest of value / 257: 65535 is 255.
        return ((picture.to(torch.int32) + 128) // 257).to(torch.uint8)
    if not picture.is_floating_point():
        raise TypeError(f"{name} has dtype {picture.dtype}; wanted uint8, uint16, or floating point in [0, 1]")
    low, high = float(picture.min()), float(picture.max())
    # Written as `not (x <= y)` so that a NaN is refused too.
    if not (low >= 0 and high <= 1):
        raise ValueError(f"{name} has values from {low} to {high}; wanted [0, 1]: divide by 255, or clip it")
    return (picture.to(torch.float32) * 255).round().to(torch.uint8)
