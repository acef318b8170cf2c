import errno
import importlib.util
import io
import math
import re
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from normalkit.codec import normals_to_rgb, read_normals, rgb_to_normals, stated_convention, write_normals
from normalkit.geometry import Convention
from normalkit.images import FileBytes

needs_exr = pytest.mark.skipif(importlib.util.find_spec("OpenEXR") is None, reason="the extra exr is not installed")
needs_h5py = pytest.mark.skipif(importlib.util.find_spec("h5py") is None, reason="the extra datasets is not installed")
EXR = pytest.param("exr", 8, marks=needs_exr)
FORMATS = [("png", 8), ("png", 16), ("npy", 8), EXR]

# The stated bounds, in degrees; float32 alone is right to 1e-5.
BOUND = {("png", 8): 0.39, ("png", 16): 0.0016, ("npy", 8): 2e-5, ("exr", 8): 2e-5}

# By hand from the table of conventions: the factor of x, y, z from OPENCV.
SIGNS = {
    Convention.OPENCV: (1, 1, 1),
    Convention.OPENGL: (1, -1, -1),
    Convention.DSINE: (-1, -1, -1),
    Convention.TASKONOMY: (1, 1, -1),
}


def degrees(a, b, axis=0):
    """Angles in float64, by numpy."""
    a, b = (np.moveaxis(np.asarray(v, np.float64), axis, -1) for v in (a, b))
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), (a * b).sum(-1)))


def sphere(*shape, seed=0):
    """Unit vectors (3, *shape) in every direction, float64."""
    vectors = np.random.default_rng(seed).standard_normal((3, *shape))
    return vectors / np.linalg.norm(vectors, axis=0)


NORMALS = torch.from_numpy(sphere(5, 7)).float()
MASK = torch.from_numpy(np.random.default_rng(1).random((5, 7)) > 0.3)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_colours_are_the_nearest_codes():
    vectors = sphere(40, 50)
    rgb = normals_to_rgb(torch.from_numpy(vectors))
    assert rgb.dtype == torch.uint8
    levels = np.arange(256) / 255 * 2 - 1
    nearest = np.abs(vectors[..., None] - levels).argmin(-1)
    assert np.array_equal(rgb.numpy(), nearest)


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5), (2, 6, 3, 4, 5)])
def test_layout_and_mask_have_any_leading_axes(shape):
    normals = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(shape[:-3] + shape[-2:], dtype=torch.bool)
    mask[..., 0, :] = False
    rgb = normals_to_rgb(normals, mask)
    back, valid = rgb_to_normals(rgb)
    assert rgb.shape == back.shape == normals.shape
    assert not rgb[..., 0, :].any()
    short = torch.linalg.vector_norm(normals, dim=-3) <= 0.5
    assert torch.equal(valid, mask & ~short)
    assert (back.norm(dim=-3) - valid.float()).abs().max() < 1e-6


@pytest.mark.parametrize(
    "bad", [(0, 0, 0), (math.nan, 0, 1), (0, math.inf, 1), (0, -math.inf, 0), (0.3, 0, 0), (0.2, -0.2, 0.2)]
)
def test_what_is_no_normal_is_black_and_black_and_grey_are_no_normals(bad):
    normals = torch.tensor([[bad, (0, 0, -1.0)]]).permute(2, 0, 1)
    rgb = normals_to_rgb(normals)
    assert rgb[..., 0, 0].tolist() == [0, 0, 0]
    assert rgb_to_normals(rgb)[1].tolist() == [[False, True]]
    for grey in (127, 128):
        back, valid = rgb_to_normals(torch.full((3, 1, 1), grey, dtype=torch.uint8))
        assert not valid.any()
        assert not back.any()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3), st.floats(0.6, 1e30))
def test_any_direction_of_any_length_comes_back(direction, length):
    vector = np.array(direction)
    norm = np.linalg.norm(vector)
    if norm < 1e-6:
        vector, norm = np.array([-1.0, -1.0, -1.0]), math.sqrt(3)
    rgb = normals_to_rgb(torch.from_numpy(vector / norm * length).view(3, 1, 1))
    assert rgb.any()
    back, valid = rgb_to_normals(rgb)
    assert valid.all()
    assert degrees(back[:, 0, 0], vector) <= 0.39


@pytest.mark.parametrize(
    ("dtype", "levels", "bound"), [(np.uint8, 255, 0.39), (np.uint16, 65535, 0.0016), (np.int32, 65535, 0.0016)]
)
def test_the_stated_bounds_hold_and_are_tight(dtype, levels, bound):
    vectors = sphere(400, 500)
    codes = np.rint((vectors + 1) / 2 * levels).astype(dtype)
    back, mask = rgb_to_normals(torch.from_numpy(codes))
    assert mask.all()
    assert back.dtype == torch.float32
    error = degrees(back, vectors).max()
    assert 0.85 * bound < error <= bound


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: normals_to_rgb(torch.zeros(4, 4)), ValueError, r"normals has shape \(4, 4\)"),
        (lambda: normals_to_rgb(torch.zeros(2, 4, 4)), ValueError, r"wanted \(\.\.\., 3, H, W\)"),
        (lambda: normals_to_rgb(torch.zeros(3, 4, 4, dtype=torch.int32)), TypeError, "int32"),
        (lambda: normals_to_rgb(NORMALS, MASK[1:]), ValueError, "mask has shape"),
        (lambda: normals_to_rgb(NORMALS, MASK.float()), TypeError, "mask has dtype"),
        (lambda: rgb_to_normals(torch.zeros(5, 7, 3, dtype=torch.uint8)), ValueError, r"rgb has shape \(5, 7, 3\)"),
        (lambda: rgb_to_normals(torch.zeros(3, 4, 4)), TypeError, "float32; wanted uint8"),
    ],
)
def test_unfit_tensors_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(("suffix", "bits"), FORMATS)
@pytest.mark.parametrize("convention", Convention)
def test_what_is_written_is_read(tmp_path, suffix, bits, convention):
    path = tmp_path / f"a.{suffix}"
    write_normals(path, NORMALS * 3, MASK, convention=convention, bits=bits)
    for argument in (None, convention, convention.name.lower()):
        normals, mask = read_normals(path, convention=argument)
        assert normals.shape == (3, 5, 7)
        assert normals.dtype == torch.float32
        assert torch.equal(mask, MASK)
        assert not normals[:, ~mask].any()
        assert (normals.norm(dim=0)[mask] - 1).abs().max() < 1e-6
        assert degrees(normals, NORMALS)[MASK].max() <= BOUND[suffix, bits]
    assert list(contents(tmp_path)) == [path.name]


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_files_of_any_size_and_content_come_back(tmp_path_factory, data):
    suffix, bits = data.draw(st.sampled_from([("png", 8), ("png", 16), ("npy", 8)]))
    height, width, seed = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9)), data.draw(st.integers(0, 99))
    normals = torch.from_numpy(sphere(height, width, seed=seed))
    broken = torch.from_numpy(np.random.default_rng(seed).random((height, width)) < 0.2)
    directions = normals.clone()
    normals[0, broken] = data.draw(st.sampled_from([math.nan, math.inf]))
    path = tmp_path_factory.mktemp("codec") / f"a.{suffix}"
    write_normals(path, normals, convention=data.draw(st.sampled_from(Convention)), bits=bits)
    back, mask = read_normals(path)
    assert torch.equal(mask, ~broken)
    assert degrees(back, directions)[mask.numpy()].max(initial=0) <= BOUND[suffix, bits]


def expected(convention):
    """What the file must hold, (H, W, 3): by numpy alone."""
    return np.where(MASK.numpy()[..., None], NORMALS.permute(1, 2, 0).numpy() * SIGNS[convention], 0)


@pytest.mark.parametrize("convention", Convention)
def test_png_as_pillow_and_opencv_see_it(tmp_path, convention):
    codes = np.where(MASK.numpy()[..., None], (expected(convention).astype(np.float64) + 1) / 2, 0)
    write_normals(tmp_path / "8.png", NORMALS, MASK, convention=convention)
    with Image.open(tmp_path / "8.png") as picture:
        assert picture.mode == "RGB"
        assert np.array_equal(np.asarray(picture), np.rint(codes * 255))
        assert picture.text == {"normalkit:convention": convention.name}
        picture.load()
    write_normals(tmp_path / "16.png", NORMALS, MASK, convention=convention, bits=16)
    values = cv2.imread(str(tmp_path / "16.png"), cv2.IMREAD_UNCHANGED)
    assert values.dtype == np.uint16
    assert np.abs(values[..., ::-1] - codes * 65535).max() <= 0.51
    assert (values[~MASK.numpy()] == 0).all()
    with Image.open(tmp_path / "16.png") as picture:
        picture.verify()
        assert picture.info["normalkit:convention"] == convention.name
        assert picture.size == (7, 5)


@pytest.mark.parametrize("convention", Convention)
def test_npy_as_numpy_sees_it(tmp_path, convention):
    path = tmp_path / "a.npy"
    write_normals(path, NORMALS, MASK, convention=convention)
    for values in (np.load(path), np.load(path, mmap_mode="r")):
        assert values.dtype == np.dtype("<f4")
        assert np.abs(values - expected(convention)).max() < 1e-6
        assert not values[~MASK.numpy()].any()
    data = path.read_bytes()
    assert (10 + struct.unpack("<H", data[8:10])[0]) % 64 == 0
    with path.open("rb") as file:
        np.load(file)
        assert np.load(file) == f"normalkit:convention={convention.name}"


@needs_exr
@pytest.mark.parametrize("convention", Convention)
def test_exr_as_openexr_sees_it(tmp_path, convention):
    import OpenEXR

    write_normals(tmp_path / "a.exr", NORMALS, MASK, convention=convention)
    file = OpenEXR.File(str(tmp_path / "a.exr"))
    assert file.header()["normalkit:convention"] == convention.name
    values = file.channels()["RGB"].pixels
    assert values.dtype == np.float32
    assert np.abs(values - expected(convention)).max() < 1e-6


@pytest.mark.parametrize(("suffix", "bits"), FORMATS)
def test_a_wall_seen_head_on_in_every_convention(tmp_path, suffix, bits):
    wall = torch.tensor([0.0, 0.0, -1.0]).view(3, 1, 1).expand(3, 2, 2)
    for convention in Convention:
        path = tmp_path / f"{convention.name}.{suffix}"
        write_normals(path, wall, convention=convention, bits=bits)
        assert degrees(read_normals(path)[0], wall).max() <= BOUND[suffix, bits]
    # The same bytes without their label, read as what they are not, point elsewhere.
    if suffix == "npy":
        np.save(tmp_path / "a.npy", np.load(tmp_path / "OPENGL.npy"))
        assert degrees(read_normals(tmp_path / "a.npy", convention="opencv")[0], wall).min() == pytest.approx(180)


@pytest.mark.parametrize(("suffix", "bits"), FORMATS)
def test_two_conventions_for_one_file_are_an_error(tmp_path, suffix, bits):
    write_normals(tmp_path / f"a.{suffix}", NORMALS, convention="opengl", bits=bits)
    with pytest.raises(ValueError, match=rf"a\.{suffix}: .* is OPENGL, but convention=DSINE"):
        read_normals(tmp_path / f"a.{suffix}", convention=Convention.DSINE)
    with pytest.raises(ValueError, match="convention='upward' is not known"):
        read_normals(tmp_path / f"a.{suffix}", convention="upward")


def test_a_convention_nobody_knows_is_refused_by_name(tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        np.save(file, expected(Convention.OPENCV).astype(np.float32))
        np.save(file, np.array("normalkit:convention=UPWARD"))
    with pytest.raises(ValueError, match=r"a\.npy: the file's own convention='UPWARD' is not known"):
        read_normals(tmp_path / "a.npy")


def save_exr(path, **channels):
    import OpenEXR

    OpenEXR.File({}, channels).write(str(path))


def foreign(path, kind):
    """Write `NORMALS` under `MASK` with another library, in OPENGL axes; give the bound in degrees."""
    values = expected(Convention.OPENGL)
    codes = np.where(MASK.numpy()[..., None], (values + 1) / 2, 0)
    nans = np.where(MASK.numpy()[..., None], values, np.nan)
    if kind == "8-bit":
        Image.fromarray(np.rint(codes * 255).astype(np.uint8)).save(path)
    elif kind == "16-bit":
        cv2.imwrite(str(path), np.rint(codes * 65535).astype(np.uint16)[..., ::-1])
    elif kind == "alpha":
        # Colours of good normals under what is transparent, too.
        hidden = NORMALS.permute(1, 2, 0).numpy() * SIGNS[Convention.OPENGL]
        rgba = np.dstack([np.rint((hidden + 1) / 2 * 255), MASK.numpy() * 255]).astype(np.uint8)
        Image.fromarray(rgba, "RGBA").save(path)
    elif kind in ("<f2", "<f8", ">f4"):
        np.save(path, nans.astype(kind))
    elif kind.startswith("hdf5"):
        import h5py

        with h5py.File(path, "w") as file:
            file.create_dataset(
                "dataset", data=nans.astype(kind.removeprefix("hdf5 ")), chunks=True, compression="gzip"
            )
    elif kind == "fortran":
        np.save(path, np.asfortranarray(values.astype(np.float32)))
    elif kind == "half":
        save_exr(path, **{name: nans[..., i].astype(np.float16) for i, name in enumerate("RGB")})
    elif kind == "blender":
        planes = {f"ViewLayer.Normal.{name}": values[..., i].astype(np.float32) for i, name in enumerate("XYZ")}
        colours = {f"ViewLayer.Combined.{name}": np.ones((5, 7), np.float32) for name in "RGBA"}
        save_exr(path, **planes, **colours)


@pytest.mark.parametrize(
    ("suffix", "kind", "bound"),
    [
        ("png", "8-bit", 0.39),
        ("png", "16-bit", 0.0016),
        ("png", "alpha", 0.39),
        ("npy", "<f2", 0.03),
        ("npy", "<f8", 2e-5),
        ("npy", ">f4", 2e-5),
        ("npy", "fortran", 2e-5),
        pytest.param("exr", "half", 0.03, marks=needs_exr),
        pytest.param("exr", "blender", 2e-5, marks=needs_exr),
        pytest.param("hdf5", "hdf5 <f2", 0.03, marks=needs_h5py),
        pytest.param("hdf5", "hdf5 <f8", 2e-5, marks=needs_h5py),
    ],
)
def test_files_of_others_are_read_once_their_convention_is_given(tmp_path, suffix, kind, bound):
    path = tmp_path / f"a.{suffix}"
    foreign(path, kind)
    with pytest.raises(ValueError, match=rf"a\.{suffix}: .*pass convention="):
        read_normals(path)
    normals, mask = read_normals(path, convention=Convention.OPENGL)
    assert torch.equal(mask, MASK)
    assert not normals[:, ~mask].any()
    assert degrees(normals, NORMALS)[MASK].max() <= bound


@pytest.mark.parametrize(("suffix", "bits"), FORMATS)
@pytest.mark.parametrize("convention", Convention)
def test_a_file_s_convention_is_read_alone(tmp_path, suffix, bits, convention):
    path = tmp_path / f"a.{suffix}"
    write_normals(path, NORMALS, MASK, convention=convention, bits=bits)
    assert stated_convention(path) is convention


def test_a_file_of_others_states_none(tmp_path):
    foreign(tmp_path / "a.png", "8-bit")
    foreign(tmp_path / "a.npy", "<f8")
    assert stated_convention(tmp_path / "a.png") is stated_convention(tmp_path / "a.npy") is None
    with pytest.raises(FileNotFoundError, match=r"b\.npy does not exist"):
        stated_convention(tmp_path / "b.npy")


@needs_h5py
@pytest.mark.parametrize("array", [np.ones((4, 5)), np.ones((3, 4, 5)), np.ones((4, 5, 3), np.uint8)])
def test_hdf5_of_other_arrays_is_refused_by_name(tmp_path, array):
    import h5py

    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["dataset"] = array
    with pytest.raises(ValueError, match=r"a\.hdf5: holds .* of shape .*; wanted floating point \(H, W, 3\)"):
        read_normals(tmp_path / "a.hdf5", convention=Convention.OPENGL)


def test_hdf5_is_read_and_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"kept in \.png, \.npy or \.exr; \.hdf5 is not known"):
        write_normals(tmp_path / "a.hdf5", NORMALS)


def png_of(array, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", **options)
    return buffer.getvalue()


def npy_of(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npy_claiming(shape):
    return npy_of(np.zeros((1, 1, 3))).replace(b"(1, 1, 3)", shape.encode().ljust(9))


GREY = np.full((4, 4), 9, np.uint8)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jpg", b"", r"\.jpg is lossy"),
        ("a.JPEG", b"", r"\.jpeg is lossy"),
        ("a.tiff", b"", r"kept in \.png, \.npy, \.exr or \.hdf5; \.tiff is not known"),
        ("a", b"", "no suffix is not known"),
        ("a.png", b"", "empty"),
        ("a.npy", b"", "empty"),
        pytest.param("a.exr", b"", "empty", marks=needs_exr),
        ("a.png", b"no picture" * 9, "not a PNG"),
        ("a.npy", b"no array" * 9, "not a .npy file"),
        pytest.param("a.exr", b"no render" * 9, "not an OpenEXR file", marks=needs_exr),
        ("a.npy", npy_claiming("(9**9,1,3)"), "not a .npy file"),
        ("a.npy", npy_claiming("(9999,9,3"), "not a .npy file"),
        ("a.npy", npy_claiming("(99,99,3)"), "truncated"),
        ("a.png", png_of(GREY), "1 channel"),
        ("a.png", png_of(np.dstack([GREY, GREY])), "grey with alpha"),
        ("a.npy", npy_of(np.ones((4, 4))), r"float64 of shape \(4, 4\)"),
        ("a.npy", npy_of(np.ones((3, 4, 4))), "transpose"),
        ("a.npy", npy_of(np.ones((0, 4, 3))), r"shape \(0, 4, 3\)"),
        ("a.npy", npy_of(np.ones((4, 4, 3), np.uint8)), "uint8"),
        ("a.npy", npy_of(np.array([[[None] * 3]]), allow_pickle=True), "object"),
    ],
)
def test_unfit_files_are_refused_by_name(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message) as info:
        read_normals(tmp_path / name, convention=Convention.OPENCV)
    assert str(tmp_path / name) in str(info.value)


def test_a_png_header_that_claims_too_much_is_refused_before_decoding(tmp_path, png_claiming):
    (tmp_path / "a.png").write_bytes(png_claiming(60_000, 60_000, colour=2))
    with pytest.raises(ValueError, match=r"a\.png: .*pixels; .*shrink"):
        read_normals(tmp_path / "a.png", convention=Convention.OPENCV)


@needs_exr
@pytest.mark.parametrize(
    ("names", "dtype", "message"),
    [
        ("RG", np.float32, "channels G, R; wanted"),
        (("a.X", "a.Y", "a.Z", "b.X", "b.Y", "b.Z", "R", "G", "B"), np.float32, "once"),
        (("smaX", "smaY", "smaZ"), np.float32, "wanted R, G, B or X, Y, Z"),
        ("RGB", np.uint32, "uint32; wanted half or float"),
    ],
)
def test_exr_with_other_channels_is_refused_by_name(tmp_path, names, dtype, message):
    save_exr(tmp_path / "a.exr", **{name: np.ones((4, 4), dtype) for name in names})
    with pytest.raises(ValueError, match=message) as info:
        read_normals(tmp_path / "a.exr", convention=Convention.OPENCV)
    assert "a.exr" in str(info.value)


@pytest.mark.parametrize(("suffix", "bits"), FORMATS)
def test_truncated_files_are_refused_by_name(tmp_path, suffix, bits):
    path = tmp_path / f"a.{suffix}"
    write_normals(path, torch.from_numpy(sphere(40, 40)).float(), bits=bits)
    data = path.read_bytes()
    # A NPY without the text behind it is whole, and only says less.
    end = 128 + 40 * 40 * 12 if suffix == "npy" else len(data)
    for keep in (4, 60, end // 2, end - 1):
        path.write_bytes(data[:keep])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            read_normals(path, convention=Convention.OPENCV)


@pytest.mark.parametrize("suffix", ["png", "npy", pytest.param("exr", marks=needs_exr)])
def test_missing_files_and_folders_are_refused_by_name(tmp_path, suffix):
    (tmp_path / f"folder.{suffix}").mkdir()
    with pytest.raises(FileNotFoundError, match=rf"missing\.{suffix} does not exist"):
        read_normals(tmp_path / f"missing.{suffix}")
    with pytest.raises(IsADirectoryError, match=rf"folder\.{suffix} is a folder"):
        read_normals(tmp_path / f"folder.{suffix}")


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("a.jpg", {}, ValueError, "lossy"),
        ("a.bmp", {}, ValueError, "kept in .png, .npy or .exr"),
        ("a.png", {"bits": 12}, ValueError, "bits=12"),
        ("a.npy", {"bits": 16}, ValueError, "bits=16 for .*leave bits out"),
        ("a.png", {"convention": "upward"}, ValueError, "convention='upward'"),
        ("a.png", {"normals": NORMALS[None]}, ValueError, "one picture, not a batch"),
        ("a.png", {"normals": NORMALS.permute(1, 2, 0)}, ValueError, r"\(5, 7, 3\)"),
        ("a.png", {"normals": NORMALS[:, :0]}, ValueError, r"\(3, 0, 7\)"),
        ("a.png", {"normals": NORMALS.to(torch.uint8)}, TypeError, "uint8"),
        ("a.png", {"mask": MASK.T}, ValueError, "mask has shape"),
        ("a.png", {"mask": MASK.to(torch.uint8)}, TypeError, "mask has dtype"),
        ("missing/a.png", {}, FileNotFoundError, "missing/a.png: its folder does not exist"),
        ("missing/a.npy", {}, FileNotFoundError, "missing/a.npy: its folder does not exist"),
        pytest.param("missing/a.exr", {}, FileNotFoundError, "its folder does not exist", marks=needs_exr),
    ],
)
def test_what_cannot_be_written_leaves_nothing_behind(tmp_path, name, options, error, message):
    if "missing" not in name:
        (tmp_path / name).write_bytes(b"before")
    before = contents(tmp_path)
    with pytest.raises(error, match=message):
        write_normals(tmp_path / name, **{"normals": NORMALS, **options})
    assert contents(tmp_path) == before


@pytest.mark.parametrize("suffix", ["png", "npy"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full")], ids=["Ctrl-C", "full disk"])
def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path, monkeypatch, suffix, error):
    write_normals(tmp_path / f"a.{suffix}", NORMALS)
    before = contents(tmp_path)

    def break_off(path, data):
        with path.open("wb") as file:
            file.write(data[:50])
        raise error

    monkeypatch.setattr(Path, "write_bytes", break_off)
    with pytest.raises(type(error)) as info:
        write_normals(tmp_path / f"a.{suffix}", -NORMALS)
    assert isinstance(error, KeyboardInterrupt) or f"a.{suffix}: the disk is full" in str(info.value)
    assert contents(tmp_path) == before


@needs_exr
def test_an_openexr_failure_names_the_file(tmp_path, monkeypatch):
    import OpenEXR

    class Failing:
        def __init__(self, header, channels):
            pass

        def write(self, path):
            raise RuntimeError("no space")

    monkeypatch.setattr(OpenEXR, "File", Failing)
    with pytest.raises(OSError, match=r"a\.exr: OpenEXR failed.*no space"):
        write_normals(tmp_path / "a.exr", NORMALS)
    assert contents(tmp_path) == {}


def test_exr_without_its_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(ImportError, match=r'pip install "normalkit\[exr\]"'):
        write_normals(tmp_path / "a.exr", NORMALS)
    with pytest.raises(ImportError, match="normalkit"):
        read_normals(tmp_path / "a.exr")
    assert contents(tmp_path) == {}


def test_real_labels(real_data):
    paths = sorted((real_data / "red_kitchen" / "val").glob("*.normal.png"))
    if not paths:
        pytest.skip("red_kitchen is not among the real data")
    normals, mask = read_normals(paths[0], convention=Convention.OPENCV)
    rgb = cv2.imread(str(paths[0]))[..., ::-1].astype(np.float64)
    assert np.array_equal(mask.numpy(), rgb.any(-1))
    assert degrees(normals.permute(1, 2, 0), rgb / 127.5 - 1, axis=-1)[mask.numpy()].max() < 1e-4


def test_normals_in_memory_are_read_as_the_file_is(tmp_path):
    normals = torch.tensor([0.0, 0.6, -0.8]).view(3, 1, 1).expand(3, 4, 5)
    for name in ("a.png", "a.npy"):
        write_normals(tmp_path / name, normals, convention=Convention.TASKONOMY)
        data = FileBytes(f"shard/{name}", (tmp_path / name).read_bytes())
        for ours, theirs in zip(read_normals(data), read_normals(tmp_path / name), strict=True):
            assert torch.equal(ours, theirs)
        with pytest.raises(ValueError, match=rf"shard/{name}: the file says that its convention is TASKONOMY"):
            read_normals(data, convention="DSINE")
    with pytest.raises(ValueError, match=r"shard/a\.exr: normals are kept in \.png or \.npy"):
        read_normals(FileBytes("shard/a.exr", b"v/1"), convention="OPENCV")
