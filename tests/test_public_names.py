"""The public names: promised, found, and loaded only when used."""

import ast
import importlib
import importlib.metadata
import inspect
import pkgutil
import subprocess
import sys

import pytest
from packaging.version import Version

import normalkit

# A name leaves this list only with a major version.
PUBLIC_NAMES = [
    "AngMFLoss",
    "AngularLoss",
    "AngularMetrics",
    "BaseNet",
    "BilinearHead",
    "BilinearNormals",
    "Convention",
    "ImprovedNet",
    "NormalFolder",
    "NormalHead",
    "PublishedNormals",
    "RGBDNormals",
    "SMPNormals",
    "ShardedNormals",
    "SurfaceNormalMetrics",
    "SurfaceNormals",
    "SyntheticRooms",
    "TimmEncoder",
    "UNetDecoder",
    "UNetNormals",
    "__version__",
    "angular_error",
    "angular_loss",
    "convert_normals",
    "depth_to_normals",
    "export_onnx",
    "export_program",
    "guess_convention",
    "load_model",
    "normals_to_rgb",
    "predict",
    "read_normals",
    "rgb_to_normals",
    "rotate_normals",
    "save_model",
    "surface_normal_metrics",
    "write_normals",
    "write_shards",
]
LOADED_ON_USE = [name for name in PUBLIC_NAMES if name != "__version__"]


def _names_for_type_checkers() -> dict[str, str]:
    """Name to module, from the imports under `if TYPE_CHECKING`."""
    tree = ast.parse(inspect.getsource(normalkit))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    return {alias.name: node.module for node in block.body for alias in node.names}


def test_public_names_are_those_promised():
    assert normalkit.__all__ == PUBLIC_NAMES
    assert set(PUBLIC_NAMES) <= set(dir(normalkit))


def test_type_checkers_and_interpreter_see_the_same_names():
    for_interpreter = {name: f"normalkit.{home}" for name, home in normalkit._HOMES.items()}
    assert _names_for_type_checkers() == for_interpreter
    assert sorted(for_interpreter) == LOADED_ON_USE


@pytest.mark.parametrize("name", LOADED_ON_USE)
def test_name_is_the_object_of_its_module(name):
    module = importlib.import_module(_names_for_type_checkers()[name])
    value = getattr(normalkit, name)
    assert value is getattr(module, name)
    assert value.__module__ == module.__name__
    assert name in module.__all__
    assert value.__doc__


def test_the_version_is_that_of_the_installed_package():
    assert normalkit.__version__ == importlib.metadata.version("normalkit")
    assert Version(normalkit.__version__) >= Version("0.1.0.dev0")


def test_no_name_hides_a_module():
    modules = {module.name for module in pkgutil.iter_modules(normalkit.__path__)}
    assert modules.isdisjoint(PUBLIC_NAMES)


def test_angular_metrics_is_an_alias():
    assert normalkit.AngularMetrics is normalkit.SurfaceNormalMetrics


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'normalkit' has no attribute 'UnetNormals'"):
        _ = normalkit.UnetNormals


def _loaded_by(statement: str) -> set[str]:
    """Top-level packages in a fresh interpreter after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return set(run.stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    heavy = {"accelerate", "cv2", "matplotlib", "numpy", "OpenEXR", "tensorboard", "timm", "torch", "tqdm", "tyro"}
    assert _loaded_by("import normalkit").isdisjoint(heavy)


def test_public_names_load_no_command_line_or_trainer_package():
    # torchmetrics imports matplotlib and tqdm is timm's own, so neither is ours to keep out.
    optional = {"accelerate", "cv2", "OpenEXR", "tensorboard", "tyro"}
    loaded = _loaded_by("from normalkit import *")
    assert "torch" in loaded
    assert loaded.isdisjoint(optional)
