"""Models on disk: a folder with `model.safetensors`, `config.json` and a card, `README.md`; and never a pickle."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, Unpack

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

import normalkit
from normalkit.files import atomic_folder, check_links, recover_folder
from normalkit.geometry import Convention
from normalkit.models.base import ImageModel, NormalEstimator
from normalkit.models.bilinear import BilinearNormals
from normalkit.models.card import model_card
from normalkit.models.cifar import BaseNet, ImprovedNet
from normalkit.models.hub import CARD, CONFIG, WEIGHTS, HubOptions, find_checkpoint
from normalkit.models.smp import SMPNormals
from normalkit.models.unet import UNetNormals
from normalkit.nn.weights import DAMAGE, DIGEST, digest, read_safetensors

__all__ = ["HEADER", "load_as", "load_model", "model_header", "read_config", "save_model", "write_model"]

M = TypeVar("M", bound=ImageModel)

FORMAT = 1
"""The layout of `config.json`; raised when an older reader would misread it."""

HEADER = ("format", "normalkit", "model", "config", "convention")
"""What `config.json` always has; its other entries are metadata."""

ROOMS = Path(__file__).parent / "rooms"
"""The model that comes with the library."""

MODELS: dict[str, type[ImageModel]] = {
    model.__name__: model for model in (UNetNormals, BilinearNormals, SMPNormals, BaseNet, ImprovedNet)
}
"""The classes that a checkpoint may name."""

MAX_CONFIG = 1_000_000
"""Bytes of a config, which has a few thousand."""
MAX_LIST = 100
"""Entries of a list in the constructor arguments, each of which may be a layer."""


def save_model(
    folder: str | Path,
    model: ImageModel,
    *,
    metadata: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model to a folder, which is replaced in one step once it is whole.

    Args:
        folder: The folder to write or replace; its parent must exist.
        model: A model of a class that `MODELS` lists.
        metadata: More entries for `config.json`: training data, metrics, the command. A figure that is not
            finite is written as null, since JSON has no NaN. The card shows `data` and `metrics`.
        dtype: Floating point for the weights in the file: `torch.float16` takes half the space, and a loaded model
            has float32 again. None for the model's own.

    Raises:
        OSError: The folder cannot be written.
        TypeError: The model is of another class, the metadata hold what JSON has not, or `dtype` is not floating point.
        ValueError: The metadata use a name that the format has taken, `dtype` cannot hold a weight, or `optimized` made
            the model.
    """
    with atomic_folder(folder) as temporary:
        write_model(temporary, model, metadata=metadata, dtype=dtype)


def write_model(
    folder: str | Path,
    model: ImageModel,
    *,
    metadata: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model's files into an open folder, such as that of `atomic_folder`, beside others.

    Args:
        folder: An existing folder.
        model: As `save_model` takes it.
        metadata: As `save_model` takes them.
        dtype: As `save_model` takes it.

    Raises:
        OSError: The files cannot be written.
        TypeError: The model is of another class, the metadata hold what JSON has not, or `dtype` is not floating point.
        ValueError: The metadata use a name that the format has taken, `dtype` cannot hold a weight, or `optimized` made
            the model.
    """
    kind = type(model).__name__
    if MODELS.get(kind) is not type(model):
        raise TypeError(
            f"model is a {kind}; wanted one of {', '.join(MODELS)}: unwrap what `torch.compile` or a trainer "
            "put around it"
        )
    if model.is_optimized:
        raise ValueError("model is an optimized one, whose weights fit no config; save the model that it was made of")
    header = model_header(model)
    metadata = dict(metadata or {})
    taken = sorted(header.keys() & metadata.keys())
    if taken:
        raise ValueError(f"metadata: the format has taken {', '.join(taken)}; choose other names")
    header = _finite({**header, **metadata})
    try:
        text = json.dumps(header, indent=2, allow_nan=False)
    except TypeError as error:
        raise TypeError(
            f"metadata: {error}; wanted strings, numbers, booleans, None, lists and dictionaries"
        ) from error
    weights = {name: _stored(name, tensor, dtype) for name, tensor in model.state_dict().items()}
    # One entry of metadata: safetensors writes several in random order, and equal models are to be equal files.
    # Not `save_file`, which hides the system's reason for a failed write, and lets no one else read the file.
    Path(folder, WEIGHTS).write_bytes(save(weights, metadata={DIGEST: digest(weights)}))
    Path(folder, CONFIG).write_text(text + "\n", encoding="utf-8")
    card = model_card(header, parameters=sum(parameter.numel() for parameter in model.parameters()))
    Path(folder, CARD).write_text(card, encoding="utf-8")


def model_header(model: ImageModel) -> dict[str, Any]:
    """What every `config.json` begins with: `HEADER`, the convention for normal estimators alone.

    Args:
        model: Of any class; its config as its attributes are now.
    """
    header: dict[str, Any] = {
        "format": FORMAT,
        "normalkit": normalkit.__version__,
        "model": type(model).__name__,
        "config": dict(model.config),
    }
    if isinstance(model, NormalEstimator):
        header["config"] |= {"normalize": model.normalize, "resolution": model.resolution}
        # Left out where there is none, as classes of one's own may not take it.
        header["config"].pop("concentration", None)
        header["config"] |= {} if model.concentration is None else {"concentration": model.concentration}
        header["convention"] = Convention.OPENCV.name
    return header


def _stored(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A tensor as the file has it; counters stay integers."""
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(f"dtype={dtype}: wanted floating point, such as torch.float16")
    plain = tensor.detach().cpu().contiguous()
    if dtype is None or not plain.is_floating_point():
        return plain
    stored = plain.to(dtype)
    if not bool((stored.isfinite() == plain.isfinite()).all()):
        raise ValueError(
            f"dtype={dtype}: {name} has values up to {plain.abs().max():.3g}, which it cannot hold; use torch.bfloat16"
        )
    return stored


def read_config(folder: str | Path) -> dict[str, Any]:
    """What a checkpoint is, without its weights.

    Args:
        folder: A folder that `save_model` wrote.

    Returns:
        `format`, `normalkit` (version), `model` (class), `config` (constructor arguments), `convention`, and
        whatever metadata was given.

    Raises:
        FileNotFoundError: The folder or its config is missing.
        ValueError: The config is not valid JSON, too long, not of a checkpoint that this version reads, or behind a
            link that leads out of the folder.
    """
    folder = recover_folder(folder)
    path = folder / CONFIG
    if not folder.is_dir():
        why = "is a file; give the checkpoint folder that holds it" if folder.exists() else "there is no such folder"
        raise FileNotFoundError(f"{folder}: {why}")
    inside = [str(folder / name) for name in ("best", "last") if (folder / name / CONFIG).is_file()]
    if inside and not (folder / WEIGHTS).exists():
        raise FileNotFoundError(f"{folder}: the folder of a run; give its checkpoint, {' or '.join(inside)}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing; wanted a checkpoint folder with {CONFIG} and {WEIGHTS}")
    # A snapshot of a Hugging Face cache has links to the blobs beside it.
    check_links(folder.parents[1] if folder.parent.name == "snapshots" else folder, [path, folder / WEIGHTS])
    if path.stat().st_size > MAX_CONFIG:
        raise ValueError(f"{path}: has {path.stat().st_size:,} bytes; wanted at most {MAX_CONFIG:,}: take another one")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); the file is damaged: take another checkpoint") from error
    _check_header(path, config)
    return dict(config)


def load_model(
    source: str | Path | None = None, *, device: str | torch.device = "cpu", **hub: Unpack[HubOptions]
) -> NormalEstimator:
    """Build a saved normal estimator and load its weights; no code in the files is run.

    Of a local folder nothing is downloaded; of a model on the Hub its own weights, and never the encoder's from timm.

    Args:
        source: A folder that `save_model` wrote; or `owner/name` of a model on the Hub, where there is no such folder.
            None for the small U-Net that comes with normalkit, which was trained on generated rooms.
        device: Where to put the model.
        hub: `revision`, `cache_dir`, `token` and `local_files_only`, as `normalkit.models.hub.find_checkpoint` takes
            them.

    Returns:
        The model, in eval mode.

    Raises:
        FileNotFoundError: The folder or one of its files is missing, or the Hub has no such model.
        OSError: The Hub cannot be reached.
        ValueError: A file is damaged, the weights are not those of the model which the config describes, or that is
            no normal estimator.
    """
    return NormalEstimator.from_pretrained(ROOMS if source is None else source, device=device, **hub)


def load_as(kind: type[M], source: str | Path, *, device: str | torch.device = "cpu", **hub: Unpack[HubOptions]) -> M:
    """Load a saved model of a class, or of one of its subclasses: what `from_pretrained` calls.

    Args:
        kind: Such as `ImageModel`, for whatever the folder holds.
        source: As `load_model` takes it.
        device: Where to put the model.
        hub: As `load_model` takes them.

    Returns:
        The model, in eval mode.

    Raises:
        FileNotFoundError: The folder or one of its files is missing, or the Hub has no such model.
        OSError: The Hub cannot be reached.
        ValueError: The folder holds a model of another class, a file is damaged, or the weights are not those of the
            model which the config describes.
    """
    folder = find_checkpoint(source, **hub)
    header = read_config(folder)
    found = MODELS[header["model"]]
    if not issubclass(found, kind):
        raise ValueError(
            f"{source}: holds a {found.__name__}, not a {kind.__name__}; use {found.__name__}.from_pretrained"
        )
    path = Path(folder, WEIGHTS)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing; wanted a checkpoint folder with {CONFIG} and {WEIGHTS}")
    stored = _stored_shapes(path)
    # Without memory for the weights first: a config may ask for more than there is.
    with torch.device("meta"):
        _check_shapes(path, _build(Path(folder, CONFIG), header), stored)
    weights = read_safetensors(path)
    model = _build(Path(folder, CONFIG), header)
    assert isinstance(model, kind)
    _check_kinds(path, model, weights)
    model.load_state_dict(weights)
    return model.to(device).eval()


def _stored_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Of the tensors of a safetensors file, by its header alone."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except DAMAGE as error:
        raise ValueError(
            f"{path}: not a whole safetensors file ({error}); it may be truncated: copy it again, or take another one"
        ) from error


def _check_shapes(path: Path, model: ImageModel, stored: Mapping[str, tuple[int, ...]]) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    wrong = sorted(name for name in wanted.keys() | stored.keys() if wanted.get(name) != stored.get(name))
    if wrong:
        listed = [f"{name} (file {stored.get(name, 'none')}, model {wanted.get(name, 'none')})" for name in wrong[:5]]
        raise ValueError(
            f"{path}: {len(wrong)} tensors are not those of the {type(model).__name__} in {CONFIG}: "
            f"{', '.join(listed)}{' ...' if len(wrong) > 5 else ''}; the two files are not of one checkpoint"
        )


def _check_kinds(path: Path, model: ImageModel, weights: Mapping[str, Tensor]) -> None:
    """Refuse integers for weights, and the reverse; half precision is taken for full."""
    for name, tensor in model.state_dict().items():
        if weights[name].is_floating_point() != tensor.is_floating_point():
            raise ValueError(f"{path}: {name} is {weights[name].dtype}; wanted {tensor.dtype}: the file is damaged")


def _build(path: Path, header: Mapping[str, Any]) -> ImageModel:
    kind: Callable[..., ImageModel] = MODELS[header["model"]]
    parameters = inspect.signature(kind).parameters
    arguments = parameters.keys() - {"pretrained"}
    unknown = sorted(header["config"].keys() - arguments)
    if unknown:
        raise ValueError(
            f"{path}: {header['model']} has no argument {', '.join(unknown)}; it has {', '.join(sorted(arguments))}"
        )
    long = [name for name, value in header["config"].items() if isinstance(value, list) and len(value) > MAX_LIST]
    if long:
        raise ValueError(f"{path}: {', '.join(long)} has more than {MAX_LIST} entries; no model has as many layers")
    try:
        return kind(**header["config"], **({"pretrained": False} if "pretrained" in parameters else {}))
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path}: not the config of a {header['model']}: {reason}") from error


def _check_header(path: Path, config: object) -> None:
    wanted = {"format": int, "normalkit": str, "model": str, "config": dict}
    if not isinstance(config, dict):
        raise ValueError(f"{path}: wanted a JSON object with {', '.join(wanted)}; it holds a {type(config).__name__}")
    for name, kind in wanted.items():
        if type(config.get(name)) is not kind:
            raise ValueError(
                f"{path}: {name}={config.get(name)!r}; wanted a {kind.__name__}, as `save_model` writes it"
            )
    if not 1 <= config["format"] <= FORMAT:
        raise ValueError(
            f"{path}: format {config['format']}, written by normalkit {config['normalkit']}; normalkit "
            f"{normalkit.__version__} reads formats up to {FORMAT}: run `pip install --upgrade normalkit`"
        )
    if config["model"] not in MODELS:
        raise ValueError(f"{path}: model={config['model']!r} is not known; wanted one of {', '.join(MODELS)}")
    if issubclass(MODELS[config["model"]], NormalEstimator) and config.get("convention") != Convention.OPENCV.name:
        raise ValueError(
            f"{path}: convention={config.get('convention')!r}; models answer in OPENCV: convert the training labels "
            "with `convert_normals` and train again"
        )


def _finite(value: Any) -> Any:
    """The same, with None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
