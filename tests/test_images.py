import importlib.util
import io
import struct
import sys
import tracemalloc
import warnings

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pngs import png_claiming

from normalkit import images
from normalkit.images import (
    FileBytes,
    read_depth,
    read_hdf5,
    read_image,
    read_intrinsics,
    read_mask,
    read_npy,
    read_png,
)

needs_exr = pytest.mark.skipif(importlib.util.find_spec("OpenEXR") is None, reason="the extra exr is not installed")

# 4 x 6 with no symmetry, in colours that 8 x 8 JPEG blocks are not needed for.
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def hwc(picture):
    return picture.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tiff", "gif", "ppm", "jpg"])
def test_files_of_every_format_match_opencv(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    smooth = np.indices((32, 48)).sum(0).astype(np.uint8)[..., None] * np.array([1, 2, 3], np.uint8)
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(smooth).save(path, **options)
    wanted = smooth
    if suffix in ("jpg", "gif"):
        wanted = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    picture = read_image(path)
    assert picture.dtype == torch.uint8
    assert picture.shape == (3, 32, 48)
    assert np.abs(hwc(picture).astype(int) - wanted).max() <= (2 if suffix == "jpg" else 0)
    assert torch.equal(read_image(str(path)), picture)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_picture_upright(tmp_path, orientation):
    # How a camera stores an upright picture under each value of the tag (EXIF 2.3, 4.6.4).
    stored = {
        1: PIXELS,
        2: PIXELS[:, ::-1],
        3: PIXELS[::-1, ::-1],
        4: PIXELS[::-1],
        5: PIXELS.transpose(1, 0, 2),
        6: np.rot90(PIXELS, 1),
        7: np.rot90(PIXELS, 2).transpose(1, 0, 2),
        8: np.rot90(PIXELS, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    assert np.array_equal(hwc(read_image(path)), PIXELS)
    with Image.open(path) as opened:
        assert np.array_equal(hwc(read_image(opened)), PIXELS)


def test_grey_palette_and_bilevel_become_rgb():
    grey = PIXELS[..., 0]
    assert np.array_equal(hwc(read_image(Image.fromarray(grey))), np.stack([grey] * 3, -1))
    few = Image.fromarray(PIXELS // 128 * 128).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    assert np.array_equal(hwc(read_image(few)), PIXELS // 128 * 128)
    assert np.array_equal(hwc(read_image(Image.fromarray(grey > 99))), np.stack([(grey > 99) * 255] * 3, -1))


@pytest.mark.parametrize("form", ["RGBA", "LA", "P", "tRNS"])
def test_what_is_transparent_shows_white(tmp_path, form):
    path = tmp_path / "a.png"
    if form in ("RGBA", "LA"):
        alpha = np.array([[0, 255, 51]], np.uint8)
        channels = [np.full((1, 3), 100, np.uint8)] * (3 if form == "RGBA" else 1)
        Image.fromarray(np.dstack([*channels, alpha]), form).save(path)
        wanted = [255, 100, 224]  # 100 * 0.2 + 255 * 0.8
    elif form == "P":
        picture = Image.fromarray(np.array([[0, 1, 1]], np.uint8), "P")
        picture.putpalette([10, 10, 10, 100, 100, 100])
        picture.save(path, transparency=0)
        wanted = [255, 100, 100]
    else:
        Image.fromarray(np.array([[10, 100, 100]], np.uint8)).save(path, transparency=10)
        wanted = [255, 100, 100]
    assert read_image(path).tolist() == [[wanted]] * 3


def test_cmyk_and_the_first_frame(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert (read_image(tmp_path / "a.jpg").float().mean((1, 2)) - torch.tensor([255.0, 0, 0])).abs().max() < 3
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif")[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_grey_is_rounded_to_8(tmp_path, suffix):
    values = np.array([[0, 128, 129, 385, 386, 65535]], np.uint16)
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), values)
    wanted = np.rint(values / 257).astype(int).tolist()
    assert read_image(tmp_path / f"a.{suffix}").tolist() == [wanted] * 3
    assert read_image(values).tolist() == [wanted] * 3
    assert read_image(torch.from_numpy(values)).tolist() == [wanted] * 3
    assert read_image(values.astype(">u2")).tolist() == [wanted] * 3


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_arrays_and_tensors_give_the_same_picture(dtype):
    array = PIXELS if dtype == np.uint8 else (PIXELS / 255).astype(dtype)
    assert np.array_equal(hwc(read_image(array)), PIXELS)
    assert np.array_equal(hwc(read_image(array[::-1])), PIXELS[::-1])
    assert np.array_equal(hwc(read_image(torch.from_numpy(array).permute(2, 0, 1))), PIXELS)
    for grey in (array[..., 0], array[..., :1], torch.from_numpy(array[..., 0]), torch.from_numpy(array[None, ..., 0])):
        assert np.array_equal(hwc(read_image(grey)), np.stack([PIXELS[..., 0]] * 3, -1))


def test_the_result_shares_no_memory_with_the_source():
    array, tensor = PIXELS.copy(), torch.from_numpy(PIXELS.transpose(2, 0, 1).copy())
    for source in (array, tensor):
        read_image(source).zero_()
    assert np.array_equal(array, PIXELS)
    assert np.array_equal(hwc(tensor), PIXELS)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (np.zeros((3, 4, 5)), ValueError, r"\(3, 4, 5\); wanted \(H, W, 3\).*transpose"),
        (np.zeros((4, 5, 4), np.uint8), ValueError, r"drop an alpha"),
        (np.zeros((0, 5, 3)), ValueError, r"\(0, 5, 3\)"),
        (np.zeros((4, 5, 3), np.int64), TypeError, "int64; wanted uint8"),
        (np.zeros((4, 5, 3), bool), TypeError, "bool"),
        (np.full((4, 5, 3), 255.0), ValueError, "from 255.0 to 255.0; wanted .*divide by 255"),
        (np.full((4, 5), np.nan), ValueError, "nan"),
        (np.full((4, 5), -0.1), ValueError, "-0.1"),
        (torch.zeros(1, 3, 4, 5), ValueError, r"\(1, 3, 4, 5\).*one picture of a batch"),
        (torch.zeros(4, 5, 3), ValueError, "permute"),
        (torch.zeros(3, 4, 5, dtype=torch.int64), TypeError, "int64"),
        (7, TypeError, "int; wanted a path"),
        (None, TypeError, "NoneType"),
    ],
)
def test_unfit_arrays_and_tensors_are_refused(source, error, message):
    with pytest.raises(error, match=message):
        read_image(source)


def picture_bytes(kind):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_truncated_files_are_refused_by_name(tmp_path, kind):
    data = picture_bytes(kind)
    for keep in (10, len(data) // 2, len(data) - 40):
        (tmp_path / "a.bin").write_bytes(data[:keep])
        with pytest.raises(ValueError, match=r"a\.bin"):
            read_image(tmp_path / "a.bin")


@pytest.mark.parametrize("read", [read_image, read_depth, read_intrinsics, read_mask])
def test_missing_empty_foreign_files_and_folders_are_refused_by_name(tmp_path, read):
    suffix = ".txt" if read is read_intrinsics else ".png"
    (tmp_path / f"empty{suffix}").touch()
    (tmp_path / f"text{suffix}").write_text("this is no picture\n" * 50)
    (tmp_path / f"noise{suffix}").write_bytes(np.random.default_rng(0).bytes(999))
    (tmp_path / f"folder{suffix}").mkdir()
    for name, error in [
        ("missing", FileNotFoundError),
        ("empty", ValueError),
        ("text", ValueError),
        ("noise", ValueError),
        ("folder", IsADirectoryError),
    ]:
        with pytest.raises(error, match=f"{name}{suffix}"):
            read(tmp_path / f"{name}{suffix}")


def test_a_kind_of_tiff_that_pillow_does_not_know_is_not_called_no_tiff(tmp_path):
    cv2.imwrite(str(tmp_path / "a.tif"), np.zeros((4, 5, 3), np.float32))
    with pytest.raises(ValueError, match=r"a\.tif: not a .*, or a rare kind of one; convert it"):
        read_image(tmp_path / "a.tif")


def test_formats_that_start_other_programs_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(ValueError, match=r"a\.png: not a JPEG, PNG"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("size", [(12_000, 12_501), (15_000, 15_000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.parametrize("read", [read_image, read_depth])
def test_a_header_that_claims_too_much_is_refused_before_decoding(tmp_path, size, read):
    (tmp_path / "bomb.png").write_bytes(png_claiming(*size, colour=0))
    tracemalloc.start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"bomb\.png: .*pixels.*shrink"):
            read(tmp_path / "bomb.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_the_pixel_limit_holds_for_pil_pictures_too(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 23)
    with pytest.raises(ValueError, match="6 x 4 pixels"):
        read_image(Image.fromarray(PIXELS))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP"])
def test_broken_bytes_give_a_picture_or_an_error_that_names_the_file(tmp_path, kind):
    data, random = picture_bytes(kind), np.random.default_rng(2)
    errors = []
    for _ in range(60):
        broken = bytearray(data)
        for where in random.integers(0, 200, 3):
            broken[where] = random.integers(256)
        (tmp_path / "a.bin").write_bytes(broken)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert read_image(tmp_path / "a.bin").shape[0] == 3
        except ValueError as error:
            errors.append(str(error))
    assert errors
    assert all("a.bin" in message for message in errors)


def test_depth_png_is_in_units_of_scale(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.array([[0, 1, 5000, 65535]], np.uint16))
    depth = read_depth(tmp_path / "a.png")
    assert depth.dtype == torch.float32
    assert torch.equal(depth, torch.tensor([[[0, 1, 5000, 65535]]]) / 1000.0)
    assert read_depth(tmp_path / "a.png", scale=5000)[0, 0].tolist() == pytest.approx([0, 0.0002, 1, 13.107])


@pytest.mark.parametrize(
    "array",
    [
        np.array([[0, -1, np.nan, np.inf, 1.5]]),
        np.array([[0, -1, np.nan, np.inf, 1.5]], ">f4"),
        np.array([[[0, 0, 0, 1e300, 1.5]]]),
        np.array([[0, 0, 0, 0, 1.5]], np.float16)[None],
        np.array([[0, 0, 0, 0, 1500]], np.uint16),
        np.asfortranarray(np.array([[0, -5, 0, 0, 1500]], np.int32)),
    ],
)
def test_depth_npy(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    assert torch.equal(read_depth(tmp_path / "a.npy"), torch.tensor([[[0, 0, 0, 0, 1.5]]]))


def test_depth_npy_with_a_channel_last(tmp_path):
    depth = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "a.npy", depth[..., None])
    assert np.array_equal(read_depth(tmp_path / "a.npy")[0].numpy(), depth)


@needs_exr
@pytest.mark.parametrize("names", [("Y",), ("Z", "R", "G", "B"), ("ViewLayer.Depth.Z", "ViewLayer.Combined.R")])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_depth_exr(tmp_path, names, dtype):
    import OpenEXR

    depth = np.array([[0, 1.5, np.inf, np.nan]], dtype)
    channels = {names[0]: depth} | dict.fromkeys(names[1:], depth + 7)
    OpenEXR.File({}, channels).write(str(tmp_path / "a.exr"))
    assert read_depth(tmp_path / "a.exr").tolist() == [[[0, 1.5, 0, 0]]]


def save_exr(path, channels, **header):
    import OpenEXR

    OpenEXR.File(header, channels).write(str(path))


PLANE = np.ones((4, 6), np.float32)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.png", lambda path: cv2.imwrite(path, PIXELS[..., 0]), "has 8 bits and 1 channel.*picture of depth"),
        ("a.png", lambda path: cv2.imwrite(path, PIXELS), "has 8 bits and 3 channel"),
        ("a.png", lambda path: cv2.imwrite(path, PIXELS.astype(np.uint16)), "has 16 bits and 3 channel"),
        ("a.png", lambda path: Image.fromarray(PIXELS).convert("P").save(path), "palette"),
        ("a.jpg", lambda path: cv2.imwrite(path, PIXELS), r"depth is read from \.png, \.npy, \.exr"),
        ("a.npy", lambda path: np.save(path, np.ones((2, 3, 4))), r"shape \(2, 3, 4\); wanted \(H, W\)"),
        ("a.npy", lambda path: np.save(path, np.ones((0, 4))), r"shape \(0, 4\)"),
        ("a.npy", lambda path: np.save(path, PIXELS[..., 0]), "uint8"),
        ("a.npy", lambda path: np.save(path, np.array([[None]]), allow_pickle=True), "object"),
        ("a.npy", lambda path: np.save(path, np.ones((2, 2), complex)), "complex"),
        pytest.param("a.exr", lambda path: save_exr(path, {"R": PLANE, "G": PLANE}), "channels G, R", marks=needs_exr),
        pytest.param(
            "a.exr",
            lambda path: save_exr(path, {"Z": PLANE}, displayWindow=(np.int32([0, 0]), np.int32([9, 9]))),
            "display window",
            marks=needs_exr,
        ),
    ],
)
def test_depth_of_another_kind_is_refused_by_name(tmp_path, name, write, message):
    write(str(tmp_path / name))
    with pytest.raises(ValueError, match=message) as info:
        read_depth(tmp_path / name)
    assert name in str(info.value)


@pytest.mark.parametrize("suffix", ["png", "npy", pytest.param("exr", marks=needs_exr)])
def test_truncated_depth_is_refused_by_name(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    depth = np.random.default_rng(0).integers(0, 9000, (64, 64)).astype(np.uint16)
    if suffix == "png":
        cv2.imwrite(str(path), depth)
    elif suffix == "npy":
        np.save(path, depth)
    else:
        save_exr(path, {"Z": depth.astype(np.float32)})
    data = path.read_bytes()
    for keep in (5, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:keep])
        with pytest.raises(ValueError, match=rf"a\.{suffix}"):
            read_depth(path)


def test_a_truncated_png_is_refused_even_where_the_decoder_gives_what_it_has(tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 9000, (64, 64)).astype(np.uint16))
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: np.zeros((64, 64), np.uint16))
    with pytest.raises(ValueError, match=r"a\.png: the file is truncated"):
        read_depth(tmp_path / "a.png")


@needs_exr
def test_the_pixel_limit_holds_for_exr(tmp_path, monkeypatch):
    save_exr(tmp_path / "a.exr", {"Z": PLANE})
    monkeypatch.setattr(images, "MAX_PIXELS", 23)
    with pytest.raises(ValueError, match=r"a\.exr: .*6 x 4 pixels"):
        read_depth(tmp_path / "a.exr")


@pytest.mark.parametrize("shape", ["(1000000, 1000000)", "(-1, 4)", "(4611686018427387904, 8)", "'x'", "(2,"])
def test_a_npy_header_that_lies_is_refused_before_memory_is_taken(tmp_path, shape):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    (tmp_path / "a.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(64)
    )
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"a\.npy"):
        read_depth(tmp_path / "a.npy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


@needs_exr
@pytest.mark.parametrize("corner", [(99_999, 99_999), (2**30, 2**30), (5, 99_999), (-5, 3)])
def test_an_exr_header_that_lies_is_refused(tmp_path, corner):
    save_exr(tmp_path / "a.exr", {"Z": PLANE})
    data = bytearray((tmp_path / "a.exr").read_bytes())
    for name in (b"dataWindow", b"displayWindow"):
        start = data.index(name + b"\0box2i\0") + len(name) + 1 + 6 + 4
        data[start : start + 16] = struct.pack("<4i", 0, 0, *corner)
    (tmp_path / "a.exr").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.exr"):
        read_depth(tmp_path / "a.exr")


def test_exr_without_its_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(ImportError, match=r'pip install "normalkit\[exr\]"'):
        read_depth(tmp_path / "a.exr")


@pytest.mark.parametrize("scale", [0, -1000, float("nan"), float("inf")])
def test_scale_is_a_positive_number(tmp_path, scale):
    with pytest.raises(ValueError, match="scale="):
        read_depth(tmp_path / "a.png", scale=scale)


@pytest.mark.parametrize("text", ["500 0 159.5\n0 510 119.5\n0 0 1\n", "5e2, 0, 159.5\n\n0,510,119.5\n 0,0,1"])
def test_intrinsics_from_text_and_npy(tmp_path, text):
    wanted = np.array([[500, 0, 159.5], [0, 510, 119.5], [0, 0, 1]])
    (tmp_path / "K.txt").write_text(text)
    np.save(tmp_path / "K.npy", wanted)
    for name in ("K.txt", "K.npy"):
        matrix = read_intrinsics(tmp_path / name)
        assert matrix.dtype == torch.float32
        assert np.array_equal(matrix.numpy(), wanted)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("525 525 319.5 239.5", r"shape \(1, 4\)"),
        ("500 0 160\n0 500 120\n0 0", "not a camera matrix"),
        ("500 0 160\n0 500 120\n0 0 1\n0 0 0", r"shape \(4, 3\)"),
        ("500 0 160\n0 five 120\n0 0 1", "five"),
        ("-500 0 160\n0 500 120\n0 0 1", "fx and fy > 0"),
        ("500 0 160\n0 0 120\n0 0 1", "fx and fy > 0"),
        ("500 0 160\n0 500 120\n0 0 2", "no camera matrix"),
        ("500 0 0\n0 500 0\n160 120 1", "no camera matrix"),
        ("500 0 160\n3 500 120\n0 0 1", "no camera matrix"),
        ("nan 0 160\n0 500 120\n0 0 1", "no camera matrix"),
        ("1e99 0 160\n0 500 120\n0 0 1", "no camera matrix"),
        ("0 " * 600_000, "too large"),
    ],
)
def test_other_intrinsics_are_refused_by_name(tmp_path, text, message):
    (tmp_path / "K.txt").write_text(text)
    with pytest.raises(ValueError, match=message) as info:
        read_intrinsics(tmp_path / "K.txt")
    assert "K.txt" in str(info.value)


# masks


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 4), (1, 3, 4), (3, 4, 1)])
def test_masks_of_npy_are_what_is_not_zero(tmp_path, dtype, shape):
    values = np.array([[0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 1]])
    np.save(tmp_path / "mask.npy", values.reshape(shape).astype(dtype))
    mask = read_mask(tmp_path / "mask.npy")
    assert mask.dtype == torch.bool
    assert mask.tolist() == (values > 0).tolist()


@pytest.mark.parametrize("array", [np.ones((3, 4, 3)), np.ones(4), np.ones((0, 4)), np.array([["a"]])])
def test_other_arrays_are_no_masks(tmp_path, array):
    np.save(tmp_path / "mask.npy", array)
    with pytest.raises(ValueError, match=r"mask\.npy: holds .*wanted numbers \(H, W\), 0 for invalid"):
        read_mask(tmp_path / "mask.npy")


# HDF5


def save_hdf5(path, **arrays):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "holds nothing; wanted one array of pixels called dataset"),
        ({"depth": np.ones((2, 3))}, "holds depth; wanted one array"),
        ({"dataset": np.ones(3)}, "holds dataset; wanted one array"),
        ({"dataset": np.ones((0, 3))}, "claims 3 x 0 pixels"),
    ],
)
def test_hdf5_of_another_kind_is_refused_by_name(tmp_path, arrays, message):
    save_hdf5(tmp_path / "a.hdf5", **arrays)
    with pytest.raises(ValueError, match=rf"a\.hdf5: .*{message}"):
        read_hdf5(tmp_path / "a.hdf5")


def test_broken_hdf5_is_refused_by_name(tmp_path, monkeypatch):
    save_hdf5(tmp_path / "a.hdf5", dataset=np.random.default_rng(0).random((40, 50, 3)))
    data = (tmp_path / "a.hdf5").read_bytes()
    for name, content in (("cut", data[: len(data) // 2]), ("text", b"no HDF5" * 99), ("empty", b"")):
        (tmp_path / f"{name}.hdf5").write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}\.hdf5: "):
            read_hdf5(tmp_path / f"{name}.hdf5")
    with pytest.raises(FileNotFoundError, match=r"none\.hdf5 does not exist"):
        read_hdf5(tmp_path / "none.hdf5")
    monkeypatch.setattr(images, "MAX_PIXELS", 1999)
    with pytest.raises(ValueError, match="claims 50 x 40 pixels"):
        read_hdf5(tmp_path / "a.hdf5")


def test_hdf5_without_its_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r'pip install "normalkit\[datasets\]"'):
        read_hdf5(tmp_path / "a.hdf5")


def test_real_frames(real_data):
    frames = sorted((real_data / "red_kitchen" / "val").glob("*.depth.png"))
    if not frames:
        pytest.skip("red_kitchen is not among the real data")
    depth = read_depth(frames[0])
    oracle = cv2.imread(str(frames[0]), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(depth[0].numpy(), (oracle / np.float32(1000)).astype(np.float32))
    colour = read_image(str(frames[0]).replace("depth.png", "color.jpg"))
    assert colour.shape == (3, *oracle.shape)
    assert read_intrinsics(next((real_data / "red_kitchen").rglob("camera-intrinsics.txt")))[2].tolist() == [0, 0, 1]


# In memory


def test_what_is_in_memory_reads_as_the_file_does(tmp_path):
    draw = np.random.default_rng(0)
    colours = draw.integers(0, 65536, (5, 7, 3), np.uint16)
    cv2.imwrite(str(tmp_path / "colours.png"), colours)
    Image.fromarray(draw.integers(0, 256, (5, 7, 3), np.uint8)).save(tmp_path / "photo.jpg")
    with open(tmp_path / "values.npy", "wb") as file:
        np.save(file, np.asfortranarray(draw.normal(size=(2, 3, 4))))
        np.save(file, np.array("a text"))
    files = {path.name: FileBytes(path.name, path.read_bytes()) for path in tmp_path.iterdir()}
    values, text = read_npy(files["values.npy"])
    np.testing.assert_array_equal(values, np.load(tmp_path / "values.npy"))
    assert text == "a text"
    assert values.flags.writeable
    np.testing.assert_array_equal(read_png(files["colours.png"])[0], colours[..., ::-1])
    assert torch.equal(read_image(files["photo.jpg"]), read_image(tmp_path / "photo.jpg"))
    for name, message in (("photo.jpg", "truncated or broken"), ("values.npy", "does not fit"), ("x.png", "is empty")):
        data = files[name].data[:200] if name in files else b""
        with pytest.raises(ValueError, match=message) as caught:
            {"x.png": read_png, "values.npy": read_npy}.get(name, read_image)(FileBytes(name, data))
        assert str(caught.value).startswith(name)
