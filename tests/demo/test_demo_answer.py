"""What the page gives for a photo; Gradio itself is not needed here."""

import io
import re

import numpy as np
import pytest
import torch
from coloured import Itself, coloured
from PIL import Image
from pngs import png_claiming

from normalkit.codec import read_normals, rgb_to_normals
from normalkit.demo import answer
from normalkit.demo.answer import message, photo_path, read_photo, view_of, write_download
from normalkit.geometry import Convention, angular_error


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "kept"
    place.mkdir()
    return place


def shown(view, folder):
    """What the view's element names: its texts, the photo and the normals (H, W, 3)."""
    texts = dict(re.findall(r'data-(\w+)="([^"]*)"', view))
    files = [texts.pop(name).removeprefix("gradio_api/file=") for name in ("photo", "normals")]
    assert all(str(folder) in file for file in files)
    return texts, *[np.array(Image.open(file).convert("RGB")) for file in files]


def test_the_view_has_the_photo_and_the_colours_of_its_normals(folder):
    picture = coloured(48, 64)
    Image.fromarray(picture).save(folder / "a.png")
    texts, photo, normals = shown(view_of(Itself(), folder / "a.png", folder), folder)
    assert texts == {"name": "a.png", "size": "64 x 48", "note": ""}
    # One code in two hundred rounds to its neighbour once its vector has length 1.
    np.testing.assert_allclose(normals.astype(int), picture, atol=1)
    assert np.abs(photo.astype(int) - picture).mean() < 2


def test_a_large_photo_is_shrunk_and_says_so(folder, monkeypatch):
    monkeypatch.setattr(answer, "MAX_SIDE", 64)
    monkeypatch.setattr(answer, "VIEW_SIDE", 32)
    picture = coloured(150, 200)
    Image.fromarray(picture).save(folder / "a.png")
    texts, photo, normals = shown(view_of(Itself(), folder / "a.png", folder), folder)
    assert texts["size"] == "64 x 48"
    assert texts["note"] == "Shrunk from 200 x 150 to 64 x 48 pixels; normalkit predict keeps its size."
    assert photo.shape == normals.shape == (24, 32, 3)
    # Pillow shrinks by another implementation.
    expected = np.array(Image.fromarray(picture).resize((32, 24), Image.Resampling.BILINEAR))
    assert np.abs(normals.astype(int) - expected).max() <= 3
    kept = write_download(Itself(), folder / "a.png", folder, kind="png", convention="OPENCV")
    assert Image.open(kept).size == (64, 48)


def test_a_large_jpeg_is_shrunk_as_it_is_decoded_and_says_its_own_size_upright(folder, monkeypatch):
    monkeypatch.setattr(answer, "MAX_SIDE", 64)
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned by 90 degrees.
    Image.fromarray(coloured(300, 400)).save(folder / "a.jpg", quality=95, exif=exif)
    pixels, note = read_photo(folder / "a.jpg")
    assert note == "Shrunk from 300 x 400 to 48 x 64 pixels; normalkit predict keeps its size."
    expected = np.array(Image.fromarray(np.rot90(coloured(300, 400), -1)).resize((48, 64), Image.Resampling.BILINEAR))
    assert np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - expected).mean() < 3


@pytest.mark.parametrize(("kind", "degrees"), [("png", 0.4), ("png16", 0.002), ("npy", 1e-3)])
@pytest.mark.parametrize("convention", ["OPENCV", "OPENGL"])
def test_a_download_has_the_normals_and_says_its_axes(folder, kind, degrees, convention):
    Image.fromarray(coloured(48, 64)).save(folder / "my photo.png")
    file = write_download(Itself(), folder / "my photo.png", folder, kind=kind, convention=convention)
    assert file.name == f"my photo.normals.{'npy' if kind == 'npy' else 'png'}"
    # It states its convention, so that none is given here.
    normals, mask = read_normals(file)
    truth, _ = rgb_to_normals(torch.from_numpy(coloured(48, 64)).permute(2, 0, 1))
    assert mask.all()
    assert angular_error(normals, truth, dim=0).max() < degrees
    if kind == "npy":
        signs = np.array(Convention[convention].signs)
        np.testing.assert_allclose(np.load(file) * signs, truth.permute(1, 2, 0), atol=1e-5)


def test_an_address_cannot_be_guessed(folder):
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    views = {view_of(Itself(), folder / "a.png", folder) for _ in range(3)}
    assert len(views) == 3
    assert all(re.search(r"/[0-9a-f]{32}/photo\.jpg", view) for view in views)


def test_a_name_is_text_wherever_it_stands(folder):
    name = '"><img src=x onerror=alert(1)>.png'
    Image.new("RGB", (4, 4)).save(folder / name, "PNG")
    assert "<img" not in view_of(Itself(), folder / name, folder)
    assert message(name) == (
        '<div class="nk-message" role="alert">&quot;&gt;&lt;img src=x onerror=alert(1)&gt;.png</div>'
    )


PICTURES = {
    "grey.png": lambda: Image.new("L", (5, 4), 100),
    "palette.gif": lambda: Image.new("P", (5, 4), 3),
    "cmyk.jpg": lambda: Image.new("CMYK", (5, 4), (0, 255, 255, 0)),
    "16bit.png": lambda: Image.fromarray(np.full((4, 5), 257 * 100, np.uint16)),
    "alpha.png": lambda: Image.new("RGBA", (5, 4), (0, 0, 0, 0)),
    "1pixel.webp": lambda: Image.new("RGB", (1, 1), (100, 100, 100)),
    "flat.png": lambda: Image.new("RGB", (3000, 1), (100, 100, 100)),
}


@pytest.mark.parametrize(
    ("name", "colour"),
    [
        ("grey.png", (100, 100, 100)),
        ("palette.gif", None),
        ("cmyk.jpg", (255, 0, 0)),
        ("16bit.png", (100, 100, 100)),
        ("alpha.png", (255, 255, 255)),
        ("1pixel.webp", None),
        ("flat.png", (100, 100, 100)),
    ],
)
def test_pictures_of_every_kind_are_answered(folder, name, colour):
    picture = PICTURES[name]()
    picture.save(folder / name)
    _, photo, normals = shown(view_of(Itself(), folder / name, folder), folder)
    width, height = picture.size
    if width == 3000:
        width, height = 768, 1
    assert photo.shape == normals.shape == (height, width, 3)
    if colour is not None:
        assert np.abs(photo.astype(int) - colour).max() <= 3


def test_the_photo_stands_upright(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned by 90 degrees.
    Image.new("RGB", (8, 4)).save(folder / "a.jpg", exif=exif)
    assert read_photo(folder / "a.jpg")[0].shape == (3, 8, 4)


def test_what_is_no_photo_is_refused_by_its_name_alone(folder):
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(whole, "JPEG")
    files = {
        "notes.jpg": (b"hello, this is text", "not a JPEG"),
        "empty.png": (b"", "the file is empty"),
        "half.jpg": (whole.getvalue()[:600], "truncated or broken"),
        "page.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a JPEG"),
        "huge.png": (png_claiming(60_000, 60_000, colour=2), "more than 150,000,000 pixels"),
        "large.png": (png_claiming(10_000, 5_001, colour=2), "10000 x 5001 pixels; this page takes up to 50 million"),
    }
    for name, (content, said) in files.items():
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(said)) as refusal:
            view_of(Itself(), folder / name, folder)
        assert str(refusal.value).startswith(f"{name}: ")
        assert str(folder) not in str(refusal.value)
    # Nothing was written for them.
    assert sorted(path.name for path in folder.iterdir()) == sorted(files)


@pytest.mark.parametrize(
    "payload", [None, 7, "a.png", [], {}, {"path": None}, {"path": "/etc/passwd"}, {"url": "http://example.org/a.png"}]
)
def test_a_payload_that_is_no_upload_is_refused(folder, payload):
    with pytest.raises(ValueError, match="no photo that was dropped"):
        photo_path(payload, folder)


def test_an_upload_is_found_and_a_link_out_of_the_folder_is_none(folder, tmp_path):
    (folder / "a.png").write_bytes(b"a")
    assert photo_path({"path": str(folder / "a.png"), "url": "http://x"}, folder) == folder / "a.png"
    (tmp_path / "secret.png").write_bytes(b"b")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ValueError, match="no photo that was dropped"):
        photo_path({"path": str(folder / "link.png")}, folder)
    with pytest.raises(ValueError, match="no longer kept; drop it again"):
        photo_path({"path": str(folder / "gone.png")}, folder)
