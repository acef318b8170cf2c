"""The wheel and the sdist: what is in them, and that they work where nothing else of the project is."""

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = """
import sys, torch, normalkit
model = normalkit.UNetNormals("test_resnet", pretrained=False)
print(normalkit.__file__, tuple(normalkit.predict(model, torch.rand(3, 40, 50)).shape))
"""


def called(*words, path, **options):
    environment = os.environ | {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, **options)


def pip(*words, path=""):
    done = called(sys.executable, "-m", "pip", "install", "-q", "--no-warn-conflicts", *words, path=path)
    if "No matching distribution found" in done.stderr:
        pytest.skip("the tools that build are not to be had here, without a network")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with both, and that of the tools that built them."""
    folder = tmp_path_factory.mktemp("built")
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    pip("--target", folder / "tools", *requires)
    words = (sys.executable, "-m", "hatchling", "build", "-d", folder / "dist")
    done = called(*words, path=folder / "tools", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_wheel_holds_the_library_alone(built):
    (wheel,) = (built / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {"normalkit"}
    rooms = {f"normalkit/models/rooms/{name}" for name in ("README.md", "config.json", "model.safetensors")}
    rooms |= {
        f"normalkit/data/reference_rooms/{number:03}_{name}"
        for number in range(100)
        for name in ("img.jpg", "normal.png")
    }
    assert rooms <= set(names)
    assert {Path(name).suffix for name in set(names) - rooms} <= {".py", ".typed", ".js", ".css"}
    source = ROOT / "src" / "normalkit"
    kept = {
        path.relative_to(source.parent).as_posix() for path in source.rglob("*") if path.suffix in (".py", ".typed")
    }
    assert kept <= set(names)
    assert not [name for name in names if "test" in name or Path(name).name.startswith(".")]


@pytest.mark.slow
def test_the_sdist_holds_no_data_and_no_hidden_files(built):
    (sdist,) = (built / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [member.name.split("/", 1)[1] for member in archive.getmembers() if member.isfile()]
    kinds = {".py", ".typed", ".js", ".css", ".md", ".json", ".safetensors", ".toml", ".txt", ".ipynb", ""}
    assert {Path(name).suffix for name in names if "/reference_rooms/" not in name} <= kinds
    assert [name for name in names if Path(name).name.startswith(".")] in ([], [".gitignore"])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_what_is_installed_predicts(built, kind, tmp_path):
    """Of this environment the dependencies alone are taken: the library is that of the file."""
    (file,) = (built / "dist").glob(kind)
    pip("--no-deps", "--no-build-isolation", "--target", tmp_path / "site", file, path=built / "tools")
    done = called(sys.executable, "-c", CODE, path=tmp_path / "site", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=1)[0].startswith(str(tmp_path / "site"))
    assert done.stdout.endswith("(3, 40, 50)\n")
