"""Files that a stranger might give, and what reading them does: a program of its own, since some might end it.

python tests/strangers.py FOLDER NUMBER tries every hostile file, and NUMBER damaged copies of a good file of each
format, and writes what happened to FOLDER/report.json. Memory is limited, so that a file which asks for more than it
should is found out.
"""

import io
import json
import os
import random
import resource
import shutil
import struct
import sys
import tarfile
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pngs import png_claiming

from normalkit import Convention, NormalFolder, RGBDNormals, SMPNormals, UNetNormals, load_model, predict, read_normals
from normalkit.cli import find_pictures
from normalkit.data import ShardedNormals, read_labeled_images, write_shards
from normalkit.data.sample import make_sample
from normalkit.images import read_depth, read_image, read_intrinsics, read_mask
from normalkit.models.checkpoint import read_config
from normalkit.nn.weights import read_safetensors, read_torch_file

LIMIT = 1_500_000_000
"""Bytes of memory above what the libraries take."""

MOST_MEMORY = 100_000_000
"""Bytes that reading a hostile file may take; the worst of them claims 43 GB."""

CHECKED = (
    "16.png",
    "8.png",
    "picture.png",
    "data.tar",
    "model.safetensors",
    "weights.pth",
    "manifest.json",
    "shard-000000.json",
    "shard-000000.tar",
)
"""Good files of formats with checksums: a damaged copy is refused, or gives what the whole one does."""


class Hostile:
    """What a pickle runs when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.target = str(folder / "HACKED")

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (self.target,)


def make_good_files(folder: Path) -> dict[str, Callable[[Path], object]]:
    """A good file of each format, and how it is read: what it gives, in a form that can be compared."""
    from normalkit import write_normals

    draw = torch.Generator().manual_seed(0)
    normals = torch.nn.functional.normalize(torch.randn(3, 24, 32, generator=draw), dim=0)
    for name, bits in (("8.png", 8), ("16.png", 16), ("a.npy", 8), ("a.exr", 8)):
        write_normals(folder / name, normals, bits=bits)
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    for name in ("picture.png", "picture.jpg"):
        Image.fromarray(pixels).save(folder / name)
    import h5py

    with h5py.File(folder / "a.hdf5", "w") as file:
        file.create_dataset("dataset", data=normals.permute(1, 2, 0).numpy(), chunks=True, compression="gzip")
    with tarfile.open(folder / "data.tar", "w") as archive:
        for label in ("cat", "dog"):
            archive.add(folder / "picture.png", f"train/{label}/1.png")
    torch.manual_seed(0)
    model = UNetNormals("test_resnet", pretrained=False, decoder_channels=(4,) * 5)
    model.save_pretrained(folder / "model")
    torch.save(
        {name: value.clone() for name, value in model.encoder.model.state_dict().items()}, folder / "weights.pth"
    )
    (folder / "K.txt").write_text("500 0 16\n0 500 12\n0 0 1\n")
    make_shards(folder / "shards")
    record = next(ShardedNormals(folder / "shards").records([0]))
    (folder / "shard-000000.record").write_bytes(record)

    def checkpoint(path: Path) -> list[bytes]:
        (folder / "damaged").mkdir(exist_ok=True)
        for file in (folder / "model" / "model.safetensors", path):
            (folder / "damaged" / file.name).write_bytes(file.read_bytes())
        return [tensor.numpy().tobytes() for tensor in load_model(folder / "damaged").state_dict().values()]

    def sharded(path: Path) -> list[list[object]]:
        shutil.copytree(folder / "shards", folder / "damaged_shards", dirs_exist_ok=True)
        (folder / "damaged_shards" / path.name).write_bytes(path.read_bytes())
        data = ShardedNormals(folder / "damaged_shards")
        return [values(data[i]) for i in range(len(data))]

    def tensors(read: Callable[[Path], dict[str, torch.Tensor]]) -> Callable[[Path], dict[str, bytes]]:
        return lambda path: {name: tensor.numpy().tobytes() for name, tensor in read(path).items()}

    def vectors(path: Path) -> list[bytes]:
        return [part.numpy().tobytes() for part in read_normals(path, convention=Convention.OPENCV)]

    def labelled(path: Path) -> list[bytes]:
        data = read_labeled_images(path, progress=False)
        return [data.images.numpy().tobytes(), data.labels.numpy().tobytes()]

    return {
        **dict.fromkeys(("8.png", "16.png", "a.npy", "a.exr", "a.hdf5"), vectors),
        **dict.fromkeys(("picture.png", "picture.jpg"), lambda path: read_image(path).numpy().tobytes()),
        "data.tar": labelled,
        "model.safetensors": tensors(read_safetensors),
        "config.json": checkpoint,
        "weights.pth": tensors(read_torch_file),
        "K.txt": lambda path: read_intrinsics(path).numpy().tobytes(),
        **dict.fromkeys(("manifest.json", "shard-000000.json", "shard-000000.tar"), sharded),
        # Behind its checksum, which a stranger writes as well.
        "shard-000000.record": lambda path: values(ShardedNormals(folder / "shards").decode(0, path.read_bytes())),
    }


def place(folder: Path, name: str) -> Path:
    """Where `make_good_files` put a file."""
    return next(path for path in (folder / name, folder / "model" / name, folder / "shards" / name) if path.exists())


def make_shards(folder: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    normals, mask = torch.randn(3, 24, 32, generator=draw), torch.ones(24, 32, dtype=torch.bool)
    samples = [
        make_sample(normals.abs().clamp(0, 1), normals, mask, None, str(i), depth=normals[:1].abs()) for i in range(3)
    ]
    write_shards(samples, folder, samples_per_shard=2, progress=False)


def values(sample: dict[str, object]) -> list[object]:
    """What a sample holds, to be compared."""
    return [value.numpy().tobytes() if isinstance(value, torch.Tensor) else value for value in sample.values()]


def damaged(data: bytes, draw: random.Random) -> bytes:
    """A copy that is cut short, or has one to three bits flipped, or a stretch of other bytes."""
    kind = draw.randrange(4)
    if kind == 0:
        return data[: draw.randrange(1, len(data))]
    broken = bytearray(data)
    if kind == 1:
        start = draw.randrange(len(data))
        broken[start : start + 16] = draw.randbytes(len(broken[start : start + 16]))
    else:
        # The headers, where the most can go wrong, as often as all the rest.
        end = len(data) if kind == 2 else min(len(data), 512)
        for _ in range(draw.randint(1, 3)):
            broken[draw.randrange(end)] ^= 1 << draw.randrange(8)
    return bytes(broken)


def try_damaged(folder: Path, number: int) -> dict[str, Counter]:
    """What became of damaged copies of each good file: `refused`, `same`, `other` content, or an error's class."""
    readers = make_good_files(folder)
    results: dict[str, Counter] = {}
    for name, read in readers.items():
        source = place(folder, name)
        data, whole, draw = source.read_bytes(), read(source), random.Random(name)
        (folder / "copies").mkdir(exist_ok=True)
        results[name] = Counter()
        for _ in range(number):
            copy = folder / "copies" / name
            copy.write_bytes(damaged(data, draw))
            try:
                results[name]["same" if read(copy) == whole else "other"] += 1
            except (ValueError, FileNotFoundError) as error:  # A damaged manifest may name a file that is not there.
                results[name]["refused" if name.split(".")[0] in str(error) else f"unnamed: {error}"] += 1
            except Exception as error:
                results[name][f"{type(error).__name__}: {error}"] += 1
    return results


def hostile_files(folder: Path) -> dict[str, Callable[[], object]]:
    """What must be refused, by name."""
    return {
        **hostile_weights(folder),
        **hostile_configs(folder),
        **hostile_pictures(folder),
        **hostile_arrays(folder),
        **hostile_archives(folder),
        **hostile_shards(folder),
        **hostile_links(folder),
    }


def hostile_weights(folder: Path) -> dict[str, Callable[[], object]]:
    folder = new(folder / "weights")
    torch.save({"weight": Hostile(folder)}, folder / "code.pth")
    torch.save({"weight": Hostile(folder)}, folder / "old.pth", _use_new_zipfile_serialization=False)
    zeros = io.BytesIO()
    torch.save({"weight": torch.zeros(MOST_MEMORY // 3)}, zeros)
    with (
        zipfile.ZipFile(zeros) as good,
        zipfile.ZipFile(folder / "bomb.pth", "w", zipfile.ZIP_DEFLATED, True, 1) as bad,
    ):
        for name in good.namelist():
            bad.writestr(name, good.read(name))
    (folder / "long.safetensors").write_bytes(struct.pack("<Q", 2**40) + b"{}" * 99)
    claim = {"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    text = json.dumps(claim).encode()
    (folder / "claim.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))
    (folder / "text.pth").write_text("no weights " * 99)

    def encoder(name: str) -> Callable[[], object]:
        return lambda: UNetNormals("test_resnet", pretrained=folder / name)

    return {path.name: encoder(path.name) for path in sorted(folder.iterdir())}


def hostile_configs(folder: Path) -> dict[str, Callable[[], object]]:
    folder = new(folder / "configs")
    torch.save({"weight": Hostile(folder)}, folder / "code.pth")
    UNetNormals("test_resnet", pretrained=False, decoder_channels=(4,) * 5).save_pretrained(folder / "unet")
    SMPNormals("FPN", "tu-test_resnet", pretrained=False).save_pretrained(folder / "fpn")
    cases: dict[str, Callable[[], object]] = {}

    def add(name: str, base: str, text: str | None = None, **config: object) -> None:
        copy = new(folder / f"case{len(cases)}")
        header = json.loads((folder / base / "config.json").read_text())
        changed = json.dumps({**header, "config": {**header["config"], **config}})
        (copy / "config.json").write_text(changed if text is None else text)
        (copy / "model.safetensors").write_bytes((folder / base / "model.safetensors").read_bytes())
        cases[f"config: {name}"] = lambda: load_model(copy)

    add("too many brackets", "unet", "[" * 200_000)
    add("too long a number", "unet", '{"format": ' + "1" * 9000 + "}")
    add("too long", "unet", " " * 1_000_001)
    add("more weights than memory", "unet", decoder_channels=[2_000_000, 4, 4, 4, 4])
    add("a number that is none", "unet", decoder_channels=[10**30, 4, 4, 4, 4])
    add("a million layers", "unet", decoder_channels=[1] * 100_000)
    add("a resolution of no picture", "unet", resolution=10**9)
    add("a path for an encoder", "unet", encoder="../../etc/passwd")
    add("an address for an encoder", "unet", encoder="hf-hub:timm/resnet18.a1_in1k")
    add("a folder for an encoder", "unet", encoder="local-dir:/tmp")
    add("a path for weights", "unet", pretrained=str(folder / "code.pth"))
    for name, value in [("encoder", None), ("skips", {"a": 1}), ("normalize", "no"), ("image_mean", "abc")]:
        add(f"{name}={value!r}", "unet", **{name: value})
    for options in (
        {"checkpoint_path": str(folder / "code.pth")},
        {"pretrained_cfg_overlay": {"url": "http://example.com/a.pth"}},
        {"cache_dir": "/tmp"},
        {"aux_params": {"classes": 3}},
        {"decoder_pyramid_channels": 10**6},
        {"upsampling": 10**9},
    ):
        add(f"options={next(iter(options))}", "fpn", options=options)
    add("options='abc'", "fpn", options="abc")
    return cases


def hostile_pictures(folder: Path) -> dict[str, Callable[[], object]]:
    folder = new(folder / "pictures")
    small = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8))
    for suffix in ("jpg", "gif", "bmp"):
        small.save(folder / f"huge.{suffix}")
    side = 60_000
    (folder / "huge.png").write_bytes(png_claiming(side, side))
    patch(folder / "huge.jpg", b"\xff\xc0", 5, struct.pack(">HH", side, side))
    patch(folder / "huge.gif", b"GIF8", 6, struct.pack("<HH", side, side))
    patch(folder / "huge.bmp", b"BM", 18, struct.pack("<ii", side, side))
    (folder / "huge.ppm").write_bytes(b"P6 60000 60000 255\n" + bytes(99))
    (folder / "huge.tif").write_bytes(tiff_claiming(side, side))
    (folder / "text.png").write_bytes(
        png_claiming(8, 8, extra=(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**26), 1)))
    )
    # Headers that claim less than the limit, with nothing behind them.
    (folder / "lying.png").write_bytes(png_claiming(12_000, 12_000))
    (folder / "vector.png").write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    (folder / "program.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    names = sorted(path.name for path in folder.iterdir())
    cases: dict[str, Callable[[], object]] = {n: (lambda n=n: read_image(folder / n)) for n in names}
    cases["huge.png as normals"] = lambda: read_normals(folder / "huge.png", convention=Convention.OPENCV)
    cases["huge.png as a mask"] = lambda: read_mask(folder / "huge.png")
    cases["lying.png as normals"] = lambda: read_normals(folder / "lying.png", convention=Convention.OPENCV)
    model = UNetNormals("test_resnet", pretrained=False, decoder_channels=(4,) * 5)
    cases["an address for a picture"] = lambda: predict(model, "http://example.com/a.png")
    cases["an address for a checkpoint"] = lambda: load_model("https://example.com/model")
    return cases


def hostile_arrays(folder: Path) -> dict[str, Callable[[], object]]:
    import h5py
    import OpenEXR

    folder = new(folder / "arrays")
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {(2**20, 2**20, 3)}, }}".ljust(117) + "\n"
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
    (folder / "claim.npy").write_bytes(npy + bytes(64))
    with open(folder / "holes.npy", "wb") as file:
        file.write(npy.replace(str((2**20, 2**20, 3)).encode(), b"(60000, 60000, 3)".ljust(22)))
        file.truncate(60_000**2 * 12 + 1000)
    np.save(folder / "code.npy", np.array([[[Hostile(folder)] * 3]], object), allow_pickle=True)
    with h5py.File(folder / "bomb.hdf5", "w") as file:
        file.create_dataset("dataset", shape=(12_000, 12_000, 3), dtype="f8", chunks=(100, 100, 3), compression="gzip")
    with h5py.File(folder / "deep.hdf5", "w") as file:
        file.create_dataset("dataset", shape=(2, 2, 10**9), dtype="f4", chunks=(1, 1, 1000))
    (folder / "secret.bin").write_bytes(bytes(48))
    with h5py.File(folder / "external.hdf5", "w") as file:
        file.create_dataset("dataset", shape=(2, 2, 3), dtype="f4", external=[(str(folder / "secret.bin"), 0, 48)])
    with h5py.File(folder / "link.hdf5", "w") as file:
        file["dataset"] = h5py.ExternalLink(str(folder / "other.hdf5"), "dataset")
    with h5py.File(folder / "other.hdf5", "w") as file:
        file["dataset"] = np.ones((2, 2, 3), np.float32)
    plane = np.random.default_rng(0).random((4, 6)).astype(np.float32)
    for name, corner in (("huge.exr", (59_999, 59_999)), ("lying.exr", (11_999, 11_999)), ("negative.exr", (-9, 3))):
        OpenEXR.File({}, dict.fromkeys("RGB", plane)).write(str(folder / name))
        for window in (b"dataWindow", b"displayWindow"):
            patch(folder / name, window + b"\0box2i\0", len(window) + 1 + 6 + 4, struct.pack("<4i", 0, 0, *corner))
    names = sorted(path.name for path in folder.iterdir() if path.name not in ("secret.bin", "other.hdf5"))
    cases = {n: (lambda n=n: read_normals(folder / n, convention=Convention.OPENCV)) for n in names}
    return cases | {"huge.exr as depth": lambda: read_depth(folder / "huge.exr")}


def hostile_archives(folder: Path) -> dict[str, Callable[[], object]]:
    folder = new(folder / "archives")
    cases: dict[str, Callable[[], object]] = {}
    picture = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture, "PNG")

    def add(name: str, member: tarfile.TarInfo) -> None:
        path = folder / f"case{len(cases)}.tar"
        with tarfile.open(path, "w") as archive:
            for label in ("cat", "dog"):
                good = tarfile.TarInfo(f"train/{label}/1.png")
                good.size = len(picture.getvalue())
                archive.addfile(good, io.BytesIO(picture.getvalue()))
            archive.fileobj.write(member.tobuf(tarfile.GNU_FORMAT))
            archive.fileobj.write(bytes(2048))
        cases[f"archive: {name}"] = lambda: read_labeled_images(path, progress=False)

    for name, kind, size in [
        ("a name of 8 GB", tarfile.GNUTYPE_LONGNAME, 2**33),
        ("facts of 8 GB", tarfile.XHDTYPE, 2**33),
        ("facts of all of 8 GB", tarfile.XGLTYPE, 2**33),
        ("holes", tarfile.GNUTYPE_SPARSE, 512),
        ("a symbolic link", tarfile.SYMTYPE, 0),
        ("a hard link", tarfile.LNKTYPE, 0),
        ("a device", tarfile.CHRTYPE, 0),
        ("a member of 1 TB", tarfile.REGTYPE, 2**40),
    ]:
        member = tarfile.TarInfo("train/cat/2.png")
        member.type, member.size, member.linkname = kind, size, "/etc/passwd"
        add(name, member)
    beside = tarfile.TarInfo("beside.bin")
    beside.size = 2**40
    add("1 TB beside the split", beside)
    outside = tarfile.TarInfo("train/../../x/1.png")
    add("a path out of it", outside)
    return cases


def hostile_shards(folder: Path) -> dict[str, Callable[[], object]]:
    folder = folder / "shards"
    cases: dict[str, Callable[[], object]] = {}

    def add(name: str, change: Callable[[Path], object]) -> None:
        copy = folder / f"case{len(cases)}"
        make_shards(copy)
        change(copy)
        cases[f"shards: {name}"] = lambda: ShardedNormals(copy)[1]

    def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
        facts = json.loads(path.read_text())
        change(facts)
        path.write_text(json.dumps(facts))

    def with_holes(copy: Path) -> None:
        os.truncate(copy / "shard-000000.tar", 2**40)
        edit(copy / "manifest.json", lambda facts: facts["shards"][0].update(bytes=2**40))
        edit(copy / "shard-000000.json", lambda facts: facts["offsets"].__setitem__(-1, 2**40))

    def linked(copy: Path) -> None:
        (copy / "shard-000000.tar").rename(folder / "outside.tar")
        (copy / "shard-000000.tar").symlink_to(folder / "outside.tar")

    def elsewhere(file: str) -> Callable[[Path], object]:
        return lambda copy: edit(copy / "manifest.json", lambda facts: facts["shards"][0].update(file=file))

    add("a sample of 1 TB", with_holes)
    add("a link out of the folder", linked)
    add("a path out of the folder", elsewhere("../case0/shard-000000.tar"))
    add("an address", elsewhere("http://example.com/shard-000000.tar"))
    add("too many brackets", lambda copy: (copy / "shard-000000.json").write_text("[" * 200_000))
    return cases


def hostile_links(folder: Path) -> dict[str, Callable[[], object]]:
    folder = new(folder / "links")
    outside = new(folder / "outside")
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    Image.fromarray(pixels).save(outside / "secret.png")
    for name in (
        "pairs",
        "scenes",
        "photos",
        "labels/train/cat",
        "labels/train/dog",
        "folders/train",
        "tum/rgb",
        "tum/depth",
    ):
        new(folder / name)
    good = folder / "photos" / "a.png"
    Image.fromarray(pixels).save(good)
    (folder / "photos" / "b.png").symlink_to(outside / "secret.png")
    for name in (
        "pairs/a_img.png",
        "pairs/b_img.png",
        "pairs/a_normal.png",
        "scenes/a.color.png",
        "scenes/a.normal.png",
    ):
        (folder / name).write_bytes(good.read_bytes())
    (folder / "pairs" / "b_normal.png").symlink_to(outside / "secret.png")
    for name in ("b.color.png", "b.normal.png"):
        (folder / "scenes" / name).symlink_to(outside / "secret.png")
    (folder / "labels" / "train" / "cat" / "1.png").write_bytes(good.read_bytes())
    (folder / "labels" / "train" / "dog" / "1.png").symlink_to(outside / "secret.png")
    for label in ("cat", "dog"):
        (folder / "folders" / "train" / label).symlink_to(new(outside / label))
        (outside / label / "1.png").write_bytes(good.read_bytes())
    for name in ("rgb", "depth"):
        (folder / "tum" / f"{name}.txt").write_text("1.0 ../outside/secret.png\n")
    UNetNormals("test_resnet", pretrained=False, decoder_channels=(4,) * 5).save_pretrained(folder / "model")
    (folder / "model" / "config.json").rename(outside / "config.json")
    (folder / "model" / "config.json").symlink_to(outside / "config.json")
    convention = Convention.OPENCV
    return {
        "a link in pairs of files": lambda: NormalFolder(folder / "pairs", convention=convention, check=False),
        "a link in a recording": lambda: RGBDNormals(folder / "scenes", cache=folder / "cache"),
        "a link among labelled pictures": lambda: read_labeled_images(folder / "labels", progress=False),
        "a link to a class": lambda: read_labeled_images(folder / "folders", progress=False),
        "a link among photos": lambda: find_pictures([folder / "photos"]),
        "a list that leads out": lambda: RGBDNormals(folder / "tum", cache=folder / "cache"),
        "a link in a checkpoint": lambda: read_config(folder / "model"),
    }


def new(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def patch(path: Path, mark: bytes, offset: int, data: bytes) -> None:
    """Overwrite what stands so many bytes after the mark's first byte."""
    content = bytearray(path.read_bytes())
    start = content.index(mark) + offset
    content[start : start + len(data)] = data
    path.write_bytes(content)


def tiff_claiming(width: int, height: int) -> bytes:
    """A TIFF of one strip that is not there."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    tags += [(278, 4, height), (279, 4, 2**32 - 1)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def memory(field: str) -> int:
    """Bytes that this process has, by a field of its status: VmSize, VmRSS or VmHWM."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split(f"{field}:")[1].split()[0])


def try_hostile(folder: Path) -> list[dict[str, object]]:
    """What became of each hostile file."""
    report = []
    for name, read in hostile_files(folder).items():
        begun, before = time.monotonic(), memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # The peak is the present, from here on.
        try:
            read()
            error, message = "", "was taken"
        except BaseException as caught:
            error, message = type(caught).__name__, str(caught)
        peak = memory("VmHWM") - before
        seconds = time.monotonic() - begun
        report.append({"name": name, "error": error, "message": message, "peak": peak, "seconds": seconds})
    return report


def main() -> None:
    folder, number = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    # Whatever is loaded on first use is no file's doing.
    readers = make_good_files(new(folder / "warm"))
    for name, read in readers.items():
        read(place(folder / "warm", name))
    limit = memory("VmSize") + LIMIT
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    hostile = try_hostile(new(folder / "hostile"))
    copies = try_damaged(new(folder / "damaged"), number)
    hacked = [str(path) for path in folder.rglob("HACKED")]
    report = {"hostile": hostile, "damaged": copies, "hacked": hacked}
    # Not to stdout, where OpenEXR writes too.
    (folder / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
