"""Normals as files and colours: 8- and 16-bit PNG, NPY, EXR, with their convention and validity."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from normalkit.files import atomic_file
from normalkit.geometry import Convention, convert_normals, normalize, valid_normals
from normalkit.images import File, FileBytes, import_exr, read_exr, read_hdf5, read_npy, read_png

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["encode_normals", "normals_to_rgb", "read_normals", "rgb_to_normals", "write_normals"]

CONVENTION_KEY = "normalkit:convention"
"""The name under which files carry their convention."""

_Contents = tuple["NDArray[Any]", "NDArray[np.bool_] | None", str | None]
"""The values (H, W, 3), which of them are valid where the format says so apart, and the convention that is stated."""


def normals_to_rgb(normals: Tensor, mask: Tensor | None = None) -> Tensor:
    """Draw normals as colours: (n + 1) / 2 * 255, rounded to the nearest.

    Normals of another length are normalised first. `rgb_to_normals` gives the direction back to
    within 0.39 degrees, asin(sqrt(3) / 255).

    Args:
        normals: (..., 3, H, W), floating point, in any one convention.
        mask: (..., H, W), bool; None for all.

    Returns:
        uint8 of the same shape; (0, 0, 0), which no unit normal gives, where the mask says so or the normal
        is not finite or not longer than 0.5.

    Raises:
        ValueError: A shape is wrong.
        TypeError: A dtype is wrong.

    Examples:
        >>> wall = torch.tensor([0.0, 0.0, -1.0]).view(3, 1, 1)
        >>> normals_to_rgb(wall).flatten().tolist()
        [128, 128, 0]
    """
    return _quantize(*_unit_normals(normals, mask), levels=255).to(torch.uint8)


def rgb_to_normals(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Read normals from colours: the inverse of `normals_to_rgb`.

    Args:
        rgb: (..., 3, H, W): uint8 with 255 levels, or uint16 or int32 with 65535, which keeps directions
            to within 0.0016 degrees.

    Returns:
        Unit normals of the same shape, float32, 0 where invalid; and the mask (..., H, W), bool: not
        (0, 0, 0), and longer than 0.5, so that neither black nor mid-grey is a normal.

    Raises:
        ValueError: The shape is wrong.
        TypeError: The dtype is wrong.
    """
    if rgb.ndim < 3 or rgb.shape[-3] != 3:
        raise ValueError(f"rgb has shape {tuple(rgb.shape)}; wanted (..., 3, H, W)")
    if rgb.dtype not in (torch.uint8, torch.uint16, torch.int32):
        raise TypeError(f"rgb has dtype {rgb.dtype}; wanted uint8, or uint16 or int32 for 16-bit colours")
    levels = 255 if rgb.dtype == torch.uint8 else 65535
    codes = rgb.to(torch.float32)
    vectors = codes * (2 / levels) - 1
    mask = valid_normals(vectors, (codes != 0).any(-3), dim=-3)
    return _where(mask, normalize(vectors, dim=-3)), mask


def write_normals(
    path: str | os.PathLike[str],
    normals: Tensor,
    mask: Tensor | None = None,
    *,
    convention: Convention | str = Convention.OPENCV,
    bits: int = 8,
) -> None:
    """Write normals to a file that says which way they point; whole or not at all.

    The suffix chooses the format:

    - `.png`: 8 or 16 bits a channel, (n + 1) / 2 of the full range, right to 0.39 or 0.0016 degrees; the
      convention is the text `normalkit:convention`. Invalid pixels are (0, 0, 0).
    - `.npy`: float32 (H, W, 3), which `numpy.load(path)` gives; the convention follows as a second array of
      the same file, a string. Invalid pixels are 0.
    - `.exr`: float32 channels R, G, B, as viewers expect; the convention is the string attribute
      `normalkit:convention`. Invalid pixels are 0.

    Args:
        path: The file to write or replace; its folder must exist.
        normals: (3, H, W), floating point, `Convention.OPENCV`; any length above 0.5.
        mask: (H, W), bool; None for all. Pixels that are not finite or too short are invalid anyway.
        convention: The axes of the file. The normals are converted to it.
        bits: 8 or 16 bits a channel; 16 for `.png` alone.

    Raises:
        OSError: The folder is missing or cannot be written, or the disk is full.
        ValueError: The suffix, a shape, `bits` or `convention` is none of the above.
        TypeError: A dtype is wrong.
        ImportError: `.exr` without the package OpenEXR.
    """
    suffix = _known_suffix(path, (".png", ".npy", ".exr"))
    convention = Convention.parse(convention)
    if bits not in ((8, 16) if suffix == ".png" else (8,)):
        raise ValueError(f"bits={bits} for {path}: wanted 8 or 16 for .png; .npy and .exr are float32, leave bits out")
    if suffix != ".exr":
        data = encode_normals(normals, mask, suffix=suffix, convention=convention, bits=bits)
        with atomic_file(os.fspath(path)) as temporary:
            temporary.write_bytes(data)
        return
    unit, _ = _as_written(normals, mask, convention)
    import_exr()
    with atomic_file(os.fspath(path)) as temporary:
        _save_exr(temporary, unit, convention, path)


def encode_normals(
    normals: Tensor,
    mask: Tensor | None = None,
    *,
    suffix: str = ".png",
    convention: Convention | str = Convention.OPENCV,
    bits: int = 8,
) -> bytes:
    """What `write_normals` would write into a file.

    Args:
        normals: As for `write_normals`.
        mask: As for `write_normals`.
        suffix: `.png` or `.npy`.
        convention: The axes of the file.
        bits: 8 or 16 bits a channel of `.png`.

    Raises:
        ValueError: A shape or `convention` is none of those.
        TypeError: A dtype is wrong.
    """
    convention = Convention.parse(convention)
    unit, valid = _as_written(normals, mask, convention)
    return _encode_png(unit, valid, convention, bits) if suffix == ".png" else _encode_npy(unit, convention)


def _as_written(normals: Tensor, mask: Tensor | None, convention: Convention) -> tuple[Tensor, Tensor]:
    """Unit normals in the axes of a file, and which are valid."""
    if normals.ndim != 3 or normals.numel() == 0:
        raise ValueError(f"normals has shape {tuple(normals.shape)}; wanted (3, H, W): one picture, not a batch")
    unit, valid = _unit_normals(normals.detach().cpu(), None if mask is None else mask.cpu())
    return convert_normals(unit, Convention.OPENCV, convention, dim=0), valid


def read_normals(path: File, *, convention: Convention | str | None = None) -> tuple[Tensor, Tensor]:
    """Read normals from a file of `write_normals`, or of anyone else.

    Args:
        path: `.png`, 8 or 16 bits, RGB, or RGBA with what is fully transparent invalid; `.npy`, floating point,
            (H, W, 3); `.exr` with channels R, G, B or X, Y, Z, which may have a common prefix (`Normal.X`); or
            `.hdf5` with the array `dataset`, floating point, (H, W, 3), as Hypersim's. The first two may be
            `normalkit.images.FileBytes`.
        convention: The axes of the file. Needed where it does not carry them, as only files of `write_normals` do.

    Returns:
        Unit normals (3, H, W), float32, `Convention.OPENCV`, 0 where invalid; and the mask (H, W), bool: False for
        black and mid-grey in a PNG, and for what is zero, not longer than 0.5 or not finite elsewhere.

    Raises:
        OSError: The file is missing or a folder, or may not be read.
        ValueError: It is empty, broken or of another kind; it carries a convention other than the one given;
            or there is none at all.
        ImportError: `.exr` without the package OpenEXR, or `.hdf5` without h5py.
    """
    wanted = None if convention is None else Convention.parse(convention)
    values, mask, carried = _reader(path)(path)
    source = _choose_convention(path, carried, wanted)
    # Contiguous: sums over components that lie side by side take half as long again.
    vectors = torch.from_numpy(values).permute(2, 0, 1).contiguous()
    if vectors.is_floating_point():
        unit, valid = _unit_normals(vectors, None)
    else:
        unit, valid = rgb_to_normals(vectors)
    if mask is not None:
        valid = valid & torch.from_numpy(mask)
    return _where(valid, convert_normals(unit, source, Convention.OPENCV, dim=0)), valid


def stated_convention(path: str | os.PathLike[str]) -> Convention | None:
    """The convention that a file of normals states; None where it states none, as only files of `write_normals` do.

    Raises:
        OSError: The file is missing or a folder, or may not be read.
        ValueError: It is empty, broken or of another kind, or states a convention that is not known.
        ImportError: A package for its format is not installed.
    """
    carried = _reader(path)(path)[2]
    return None if carried is None else _parse_carried(path, carried)


def _known_suffix(path: File, known: tuple[str, ...]) -> str:
    suffix = Path(str(path)).suffix.lower()
    kept = f"{', '.join(known[:-1])} or {known[-1]}"
    if suffix in (".jpg", ".jpeg", ".webp"):
        raise ValueError(f"{path}: {suffix} is lossy and turns normals by degrees; use {kept}")
    if suffix not in known:
        raise ValueError(f"{path}: normals are kept in {kept}; {suffix or 'no suffix'} is not known")
    return suffix


def _choose_convention(path: File, carried: str | None, wanted: Convention | None) -> Convention:
    if carried is None:
        if wanted is None:
            known = ", ".join(Convention.__members__)
            raise ValueError(f"{path}: the file does not say which way its normals point; pass convention= ({known})")
        return wanted
    source = _parse_carried(path, carried)
    if wanted not in (None, source):
        raise ValueError(
            f"{path}: the file says that its convention is {source.name}, but convention={wanted.name}; "
            "leave the argument out, or write the file anew if it is wrong"
        )
    return source


def _parse_carried(path: File, carried: str) -> Convention:
    try:
        return Convention.parse(carried)
    except ValueError as error:
        raise ValueError(f"{path}: the file's own {error}") from error


def _reader(path: File) -> Callable[[Any], _Contents]:
    if isinstance(path, FileBytes):
        in_memory = {".png": _read_png, ".npy": _read_npy}
        return in_memory[_known_suffix(path, tuple(in_memory))]
    readers = {".png": _read_png, ".npy": _read_npy, ".exr": _read_exr, ".hdf5": _read_hdf5}
    return readers[_known_suffix(path, tuple(readers))]


def _unit_normals(normals: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Unit vectors in float32, 0 where invalid, and which are valid."""
    if normals.ndim < 3 or normals.shape[-3] != 3:
        raise ValueError(f"normals has shape {tuple(normals.shape)}; wanted (..., 3, H, W)")
    if not normals.is_floating_point():
        raise TypeError(f"normals has dtype {normals.dtype}; wanted floating point (for colours, rgb_to_normals)")
    valid = valid_normals(normals, mask, dim=-3)
    return _where(valid, normalize(normals, dim=-3).to(torch.float32)), valid


def _where(mask: Tensor, vectors: Tensor) -> Tensor:
    return torch.where(mask.unsqueeze(-3), vectors, 0)


def _quantize(unit: Tensor, mask: Tensor, *, levels: int) -> Tensor:
    # float32 holds integers to 2^24 exactly, so that 16 bits round as well as 8.
    return _where(mask, ((unit + 1) * (levels / 2)).round().clamp(0, levels))


def _encode_png(unit: Tensor, mask: Tensor, convention: Convention, bits: int) -> bytes:
    import cv2

    codes = _quantize(unit, mask, levels=2**bits - 1).permute(1, 2, 0).numpy()
    ok, encoded = cv2.imencode(".png", codes[..., ::-1].astype(np.uint8 if bits == 8 else np.uint16))
    if not ok:
        raise ValueError(f"normals of shape {tuple(unit.shape)} do not fit a PNG")
    text = b"tEXt" + CONVENTION_KEY.encode() + b"\0" + convention.name.encode()
    # Length, type and text, checksum; right after the 8 bytes of signature and 25 of header.
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    data = encoded.tobytes()
    return data[:33] + chunk + data[33:]


def _encode_npy(unit: Tensor, convention: Convention) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(unit.permute(1, 2, 0).numpy()))
    # Behind the array, not a comment in its header: strict readers refuse that, but ignore what follows.
    np.save(buffer, np.array(f"{CONVENTION_KEY}={convention.name}"))
    return buffer.getvalue()


def _save_exr(temporary: Path, unit: Tensor, convention: Convention, path: str | os.PathLike[str]) -> None:
    exr = import_exr()
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage, CONVENTION_KEY: convention.name}
    channels = {name: np.ascontiguousarray(unit[i].numpy()) for i, name in enumerate("RGB")}
    try:
        exr.File(header, channels).write(str(temporary))
    except RuntimeError as error:
        raise OSError(f"cannot write {path}: OpenEXR failed, as on a full disk ({error}); free some space") from error


def _read_png(path: File) -> _Contents:
    values, info = read_png(path)
    channels = 1 if values.ndim == 2 else values.shape[2]
    if channels not in (3, 4):
        raise ValueError(f"{path}: has {channels} channel(s); normals have three, RGB")
    mask = values[..., 3] > 0 if channels == 4 else None
    return np.ascontiguousarray(values[..., :3]), mask, info.get(CONVENTION_KEY)


def _read_npy(path: File) -> _Contents:
    values, text = read_npy(path)
    key, _, name = text.partition("=")
    return _vectors(path, values), None, (name if key == CONVENTION_KEY else None)


def _read_hdf5(path: str | os.PathLike[str]) -> _Contents:
    return _vectors(path, read_hdf5(path)), None, None


def _vectors(path: File, values: NDArray[Any]) -> NDArray[Any]:
    """An array (H, W, 3) in a precision that torch computes in."""
    if values.ndim != 3 or values.shape[2] != 3 or values.size == 0 or values.dtype.kind != "f":
        raise ValueError(
            f"{path}: holds {values.dtype} of shape {values.shape}; wanted floating point (H, W, 3): put the "
            "components last with .transpose(1, 2, 0)"
        )
    return np.ascontiguousarray(values, dtype=np.float64 if values.itemsize > 4 else np.float32)


def _read_exr(path: str | os.PathLike[str]) -> _Contents:
    channels, header = read_exr(path)
    values = np.stack([channels[name] for name in _vector_channels(path, channels)], -1)
    if values.dtype.kind != "f":
        raise ValueError(f"{path}: its channels hold {values.dtype}; wanted half or float")
    return values.astype(np.float32), None, header.get(CONVENTION_KEY)


def _vector_channels(path: str | os.PathLike[str], channels: Mapping[str, Any]) -> list[str]:
    """The names of the channels of x, y and z."""
    # A render's colours may stand beside its normals: x, y, z first.
    for x, y, z in ("XYZ", "RGB"):
        prefixes = [name[:-1] for name in channels if name == x or name.endswith(f".{x}")]
        triples = [[prefix + x, prefix + y, prefix + z] for prefix in prefixes]
        triples = [names for names in triples if all(name in channels for name in names)]
        if len(triples) == 1:
            return triples[0]
        if triples:
            break
    raise ValueError(f"{path}: has channels {', '.join(channels)}; wanted R, G, B or X, Y, Z, once")
