"""Models for other programs: ONNX files, and programs of `torch.export`, for batches and images of any size."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from normalkit.files import atomic_file
from normalkit.models.base import ImageModel, NormalEstimator
from normalkit.models.checkpoint import model_header
from normalkit.models.cifar import SIDE, Classifier

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch.export import ExportedProgram

__all__ = ["TOLERANCE", "export_onnx", "export_program"]

TOLERANCE = 1e-4
"""By how much an exported model's answer may differ from the model's own."""

LARGEST_FILE = 2_000_000_000
"""Bytes; protobuf, which ONNX files are made of, ends at 2 GiB."""

AXES = "x right, y down, z forward, seen from the camera; normals face it; a wall seen head-on is (0, 0, -1)"
IMAGES = "(batch, 3, height, width), RGB, float32 in [0, 1]"

AXIS_NAMES = {0: "batch", 2: "height", 3: "width"}


def export_onnx(
    model: ImageModel,
    path: str | Path,
    *,
    size: tuple[int, int] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> float:
    """Write a model as an ONNX file, once ONNX Runtime has given the model's answers with it.

    The file's input is `images` (B, 3, H, W), RGB in [0, 1], and its output `normals` (B, 3, H, W), or `scores` of a
    classifier: normalising, padding, scaling to `resolution` and unit length are inside. Its metadata say what it is,
    and in which axes it answers.

    Args:
        model: Of any class in `normalkit.models`; exported in eval mode and float32, and left as it was.
        path: The `.onnx` file to write or replace; its folder must exist.
        size: Height and width, in pixels, for a network that can be exported for one size alone; None for any size.
            Batches may have any length.
        metadata: What else is known of the model, such as a checkpoint's metrics; of types that JSON has.

    Returns:
        The largest difference from the model's answers that the check found, at most `TOLERANCE`. Of unit normals each
        counts by its length before it was made one, up to the picture's median: a vector near zero has no firm
        direction.

    Raises:
        ValueError: The model has no ONNX form, or none for any size; its file gives other answers; it is too large; or
            an argument does not fit. Nothing is written then.
        TypeError: The model is of another class.
        ImportError: The packages of the extra `onnx` are not installed.
        OSError: The file cannot be written.
    """
    _import_runtime()
    if Path(path).suffix != ".onnx":
        raise ValueError(f"path={str(path)!r}: wanted a name that ends in .onnx")
    network = _prepared(model)
    with atomic_file(path) as temporary:
        proto = _onnx_model(network, _program(network, size))
        _describe(proto, network, metadata or {})
        temporary.write_bytes(proto.SerializeToString())
        return _check(temporary, network, size)


def export_program(model: ImageModel, *, size: tuple[int, int] | None = None) -> ExportedProgram:
    """A model as a program of `torch.export`, which runs without the Python code of its modules.

    `torch.export.save` writes it. The program itself checks that each side of its images, padded, is more than
    one stride; `program.module(check_guards=False)` takes smaller ones too.

    Args:
        model: As `export_onnx` takes it.
        size: As `export_onnx` takes it.

    Returns:
        The program, in float32 on the CPU; its argument is `images`.

    Raises:
        ValueError: The model cannot be exported, or not for any size, or `size` does not fit.
        TypeError: The model is of another class.

    Examples:
        >>> from normalkit import UNetNormals
        >>> model = UNetNormals("test_resnet", pretrained=False)
        >>> normals = export_program(model).module()(torch.rand(3, 3, 50, 70))
        >>> normals.shape
        torch.Size([3, 3, 50, 70])
    """
    return _program(_prepared(model), size)


def _program(network: ImageModel, size: tuple[int, int] | None) -> ExportedProgram:
    _check_size(network, size)
    dynamic = torch.export.Dim.DYNAMIC
    free = isinstance(network, NormalEstimator) and size is None
    if free:
        _check_windows(network)
    axes = {0: dynamic, 2: dynamic, 3: dynamic} if free else {0: dynamic}
    images = torch.zeros(2, 3, *_example_size(network, size))
    try:
        with torch.no_grad():
            return torch.export.export(network, (images,), dynamic_shapes={"images": axes})
    # Whatever the network's own code raises on a size without a value comes through, in classes of all kinds.
    except Exception as error:
        raise ValueError(_refusal(network, error, free=free)) from error


def _prepared(model: ImageModel) -> ImageModel:
    """A copy for inference, on the CPU and in float32."""
    if not isinstance(model, ImageModel):
        raise TypeError(
            f"model is a {type(model).__name__}; wanted one of normalkit.models: unwrap what `torch.compile` or a "
            "trainer put around it"
        )
    return copy.deepcopy(model).cpu().float().eval()


def _check_size(network: ImageModel, size: tuple[int, int] | None) -> None:
    if size is None:
        return
    if len(size) != 2 or any(type(side) is not int or side < 1 for side in size):
        raise ValueError(f"size={size!r}: wanted height and width, pixels")
    if isinstance(network, Classifier) and tuple(size) != (SIDE, SIDE):
        raise ValueError(f"size={size}: a {type(network).__name__} takes images of {SIDE} x {SIDE}; leave it out")


def _example_size(network: ImageModel, size: tuple[int, int] | None) -> tuple[int, int]:
    """More than one stride along each side, since `torch.export` takes a 1 for a constant."""
    if size is not None:
        return size
    if not isinstance(network, NormalEstimator):
        return SIDE, SIDE
    return network.stride + network.stride // 2 + 1, 2 * network.stride + network.stride // 2 + 1


def _check_windows(network: ImageModel) -> None:
    # Tried all the same, Swin's padding and masks of its windows keep torch.export busy for many minutes.
    if any(hasattr(module, "window_size") for module in network.modules()):
        raise ValueError(_refusal(network, ValueError("its windows of attention need it as a number"), free=True))


def _refusal(network: ImageModel, error: BaseException, *, free: bool) -> str:
    # The first error in the chain is the one that names the operator.
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # Of violated constraints torch lists each behind a dash, below a heading.
    reason = next((line for line in lines if line.startswith("- ")), lines[0]).removeprefix("- ")
    names = [str(network.config[name]) for name in ("arch", "encoder") if name in network.config]
    what = f"model: a {type(network).__name__}" + (f" of {' on '.join(names)}" if names else "")
    if free:
        return f"{what} cannot be exported for images of any size ({reason}); give one, such as size=(480, 640)"
    return f"{what} cannot be exported ({reason}); choose another encoder or architecture, or leave its options out"


def _onnx_model(network: ImageModel, program: ExportedProgram) -> ModelProto:
    import onnx

    weights = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    if weights > LARGEST_FILE:
        raise ValueError(
            f"model: its weights take {weights / 1e9:.1f} GB, and an ONNX file holds {LARGEST_FILE / 1e9:.0f}; choose "
            "a smaller encoder"
        )
    output = "normals" if isinstance(network, NormalEstimator) else "scores"
    try:
        # onnxscript prints what it simplified.
        with contextlib.redirect_stdout(io.StringIO()):
            converted = torch.onnx.export(program, verbose=False, input_names=["images"], output_names=[output])
    except torch.onnx.errors.OnnxExporterError as error:
        raise ValueError(_refusal(network, error, free=False)) from error
    assert converted is not None
    proto: ModelProto = converted.model_proto
    _name_axes(proto)
    onnx.checker.check_model(proto)
    return proto


def _name_axes(proto: ModelProto) -> None:
    """Call the free axes of the input and the output what they are, instead of s14 and the like."""
    # Shapes of what lies between are hints that ONNX Runtime finds by itself.
    del proto.graph.value_info[:]
    names: dict[str, str] = {}
    for value in (*proto.graph.input, *proto.graph.output):
        for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
            if dimension.dim_param:
                dimension.dim_param = names.setdefault(dimension.dim_param, AXIS_NAMES.get(axis, dimension.dim_param))


def _describe(proto: ModelProto, network: ImageModel, metadata: Mapping[str, Any]) -> None:
    import onnx

    entries = {**model_header(network), "images": IMAGES}
    if isinstance(network, NormalEstimator):
        length = "unit vectors" if network.normalize else "of any length"
        entries |= {"axes": AXES, "normals": f"(batch, 3, height, width), {length}"}
    else:
        entries["scores"] = "(batch, classes), logits"
    if metadata:
        entries["metadata"] = dict(metadata)
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in entries.items()}
    onnx.helper.set_model_props(proto, texts)


def _check(file: Path, network: ImageModel, size: tuple[int, int] | None) -> float:
    """The largest difference between ONNX Runtime's answers and the network's."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    free = isinstance(network, NormalEstimator) and size is None
    # Its errors have no common class but this: of an operator that it lacks, or shapes that hold for the example alone.
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        trials = [
            (images, torch.from_numpy(session.run(None, {"images": images.numpy()})[0]))
            for images in _trial_images(network, size)
        ]
    except Exception as error:
        raise ValueError(_refusal(network, error, free=free)) from error
    largest = 0.0
    for images, found in trials:
        difference = _difference(network, images, found)
        if not difference <= TOLERANCE:
            raise ValueError(
                f"model: for images {tuple(images.shape)} its ONNX file answers otherwise, by {difference:.2g} where "
                f"{TOLERANCE:g} is allowed; nothing was written. Give one size, such as size=(480, 640), or choose "
                "another encoder or architecture"
            )
        largest = max(largest, difference)
    return largest


def _trial_images(network: ImageModel, size: tuple[int, int] | None) -> Iterator[Tensor]:
    """Batches of noise: with padding and without, of one stride and of several, scaled up and down; or of one size."""
    sizes = [_example_size(network, size)] * 2
    if isinstance(network, NormalEstimator) and size is None:
        stride = network.stride
        sizes = [(2 * stride, stride), (stride + stride // 2 - 1, 3 * stride - 1), (1, 2 * stride + 1)]
        if network.resolution is not None:
            # The others may all be smaller than it.
            sizes.append((2 * network.resolution - 1, network.resolution + 1))
    generator = torch.Generator().manual_seed(0)
    for batch, sides in enumerate(sizes, start=1):
        yield torch.rand(batch, 3, *sides, generator=generator)


def _difference(network: ImageModel, images: Tensor, found: Tensor) -> float:
    """NaN where the shapes are not the same, or one answer is finite alone."""
    with torch.no_grad():
        expected = network(images)
        if found.shape != expected.shape:
            return float("nan")
        apart = torch.where(found.isnan() & expected.isnan(), 0.0, (found - expected).abs())
        if isinstance(network, NormalEstimator) and network.normalize:
            length = network(images, normalize=False).norm(dim=1, keepdim=True)
            middle = length.flatten(1).median(dim=1).values.view(-1, 1, 1, 1)
            apart = apart * (length / middle).nan_to_num(1.0).clamp(max=1.0)
        else:
            apart = apart / expected.abs().max().clamp(min=1.0)
    return float(apart.max())


def _import_runtime() -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(f'an ONNX file needs the package {package}: pip install "normalkit[onnx]"') from error
