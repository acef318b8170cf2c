"""Pairs of files, written here."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from normalkit import SyntheticRooms
from normalkit.codec import write_normals
from normalkit.data.folder import NormalFolder, guess_patterns
from normalkit.geometry import Convention

HEIGHT, WIDTH = 6, 8


def normals_of(number):
    normals = torch.tensor([0.1 * number, -0.6, -0.8]).view(3, 1, 1).repeat(1, HEIGHT, WIDTH)
    normals[:, 0, :2] = 0
    return normals / normals.norm(dim=0).clamp_min(1e-9)


def write_pairs(root, images="{}_img.png", normals="{}_normal.png", names=("a", "b", "c"), **options):
    for number, name in enumerate(names):
        for path in (root / images.format(name), root / normals.format(name)):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (10 * number, 0, 0)).save(root / images.format(name))
        write_normals(root / normals.format(name), normals_of(number), **options)
    return root


@pytest.mark.parametrize(
    ("images", "normals", "options"),
    [
        ("{}_img.png", "{}_normal.png", {}),
        ("rgb/{}.jpg", "gt/n_{}.npy", {}),
        ("./rgb//{}.png", "gt/{}/n.png", {"bits": 16}),
        ("{}/rgb.png", "{}/normal.png", {"convention": Convention.OPENGL}),
        # Characters that mean something to a shell.
        ("cam[0]/{}?.png", "cam[1]/{}.png", {"convention": Convention.TASKONOMY}),
    ],
)
def test_patterns(tmp_path, images, normals, options):
    write_pairs(tmp_path, images, normals, **options)
    (tmp_path / "notes.txt").write_text("no picture")
    data = NormalFolder(tmp_path, images=images.format("*"), normals=normals.format("*"), convention=None)
    assert len(data) == 3
    for number in range(3):
        sample = data[number]
        assert sample["name"] == "abc"[number]
        assert float(sample["image"][0, 0, 0]) == pytest.approx(10 * number / 255, abs=0.01)
        np.testing.assert_allclose(sample["normals"], normals_of(number), atol=0.012)
        assert torch.equal(sample["mask"], normals_of(number).any(0))
        assert sample["intrinsics"].isnan().all()


@pytest.mark.parametrize("convention", Convention)
def test_files_that_do_not_say(tmp_path, convention):
    # Any other program's array.
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a_img.png")
    np.save(tmp_path / "a_normal.npy", (normals_of(1).permute(1, 2, 0) * torch.tensor(convention.signs)).numpy())
    data = NormalFolder(tmp_path, normals="*_normal.npy", convention=convention)
    np.testing.assert_allclose(data[0]["normals"], normals_of(1), atol=1e-6)
    with pytest.raises(ValueError, match=r"a_normal\.npy: the file does not say which way its normals point"):
        NormalFolder(tmp_path, normals="*_normal.npy", convention=None)


def test_normals_that_point_another_way_are_refused_with_the_evidence(tmp_path):
    rooms = SyntheticRooms(4, size=(48, 64), seed=5)
    for i in range(4):
        Image.new("RGB", (64, 48)).save(tmp_path / f"{i}_img.png")
        # OPENGL, by hand.
        stored = rooms[i]["normals"].permute(1, 2, 0).numpy() * [1, -1, -1]
        np.save(tmp_path / f"{i}_normal.npy", stored)
    assert len(NormalFolder(tmp_path, normals="*_normal.npy", convention=Convention.OPENGL)) == 4
    with pytest.raises(
        ValueError, match=r"its normals are said to be OPENCV, but they look like OPENGL .*% of the surf"
    ):
        NormalFolder(tmp_path, normals="*_normal.npy", convention=Convention.OPENCV)
    unchecked = NormalFolder(tmp_path, normals="*_normal.npy", convention=Convention.OPENCV, check=False)
    assert unchecked[0]["normals"][2, unchecked[0]["mask"]].mean() > 0


def test_mixed_conventions(tmp_path):
    write_pairs(tmp_path, convention=Convention.DSINE)
    with pytest.raises(ValueError, match=r"a_normal\.png: the file says that its convention is DSINE"):
        NormalFolder(tmp_path, convention=Convention.OPENCV)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_masks(tmp_path, mode):
    write_pairs(tmp_path)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    # Some of it where the label itself is invalid.
    mask[:4, 1:] = True
    for name in "abc":
        if mode == "1":
            picture = Image.fromarray(mask)
        elif mode == "P":
            picture = Image.fromarray(mask.astype(np.uint8))
            picture.putpalette([0, 0, 0, 0, 0, 0])
        elif mode == "I;16":
            picture = Image.fromarray(mask.astype(np.uint16))
        elif mode == "L":
            picture = Image.fromarray(mask.astype(np.uint8))
        else:
            channels = np.zeros((HEIGHT, WIDTH, len(mode)), np.uint8)
            channels[..., 2] = mask
            channels[..., 3:] = 255
            picture = Image.fromarray(channels)
        assert picture.mode == mode
        picture.save(tmp_path / f"{name}_mask.png")
    data = NormalFolder(tmp_path, masks="*_mask.png", convention=None)
    np.testing.assert_array_equal(data[1]["mask"], mask & normals_of(1).any(0).numpy())
    assert not data[1]["normals"][:, ~mask].any()


@pytest.mark.parametrize("pattern", ["*_K.txt", "camera.txt"])
def test_intrinsics(tmp_path, pattern):
    write_pairs(tmp_path)
    matrix = np.array([[50.0, 0, 4], [0, 51, 3], [0, 0, 1]])
    for name in "abc":
        np.savetxt(tmp_path / pattern.replace("*", name), matrix)
    data = NormalFolder(tmp_path, intrinsics=pattern, convention=None)
    np.testing.assert_array_equal(data[2]["intrinsics"], matrix)


def test_transform(tmp_path):
    write_pairs(tmp_path)
    flipped = NormalFolder(tmp_path, convention=None, transform=v2.RandomHorizontalFlip(1.0))[2]
    plain = NormalFolder(tmp_path, convention=None)[2]
    expected = plain["normals"].flip(-1) * torch.tensor([-1.0, 1, 1]).view(3, 1, 1)
    np.testing.assert_allclose(flipped["normals"], expected, atol=1e-6)


def test_opening_draws_no_random_numbers_and_runs_no_transform(tmp_path):
    write_pairs(tmp_path)
    calls = []
    NormalFolder(tmp_path, convention=None, transform=calls.append)
    assert calls == []


def test_pickles_and_loads_in_workers(tmp_path):
    data = pickle.loads(pickle.dumps(NormalFolder(write_pairs(tmp_path), convention=None)))
    batches = list(DataLoader(data, batch_size=2, num_workers=2))
    assert [batch["name"] for batch in batches] == [["a", "b"], ["c"]]
    assert torch.equal(batches[1]["normals"][0], data[2]["normals"])


def save_mask(root, size):
    for name in "abc":
        Image.new("L", size, 255).save(root / f"{name}_mask.png")


@pytest.mark.parametrize(
    ("spoil", "options", "error", "message"),
    [
        (lambda r: None, {"images": "*.jpg"}, FileNotFoundError, r"no file matches images='\*\.jpg'"),
        (lambda r: (r / "b_normal.png").unlink(), {}, FileNotFoundError, "1 of 3 images .* normals=.*b_normal.png"),
        (lambda r: None, {"masks": "*_mask.png"}, FileNotFoundError, "3 of 3 images have no file for masks="),
        (lambda r: None, {"intrinsics": "camera.txt"}, FileNotFoundError, "no file for intrinsics='camera.txt'"),
        (lambda r: None, {"images": "a_img.png"}, ValueError, "images='a_img.png': wanted .* exactly one"),
        (lambda r: None, {"normals": "**/*.png"}, ValueError, "exactly one"),
        (lambda r: None, {"images": "/tmp/*.png"}, ValueError, "wanted a relative pattern"),
        (lambda r: None, {"images": "*_normal.png"}, ValueError, "images and normals are both"),
        (lambda r: None, {"masks": "*_mask.jpg"}, ValueError, "lossy"),
        (lambda r: None, {"convention": "up"}, ValueError, "convention='up' is not known"),
        (lambda r: save_mask(r, (9, 9)), {"masks": "*_mask.png"}, ValueError, "a_mask.png is 9 x 9 but .* 8 x 6"),
        (
            lambda r: Image.new("RGB", (5, 6)).save(r / "a_img.png"),
            {},
            ValueError,
            "a_img.png is 5 x 6 but .*a_normal.png is 8 x 6",
        ),
        (lambda r: (r / "a_img.png").write_bytes(b"GIF"), {}, ValueError, "a_img.png: "),
        (lambda r: (r / "a_normal.png").write_bytes(b""), {}, ValueError, "a_normal.png: the file is empty"),
    ],
)
def test_bad_folders(tmp_path, spoil, options, error, message):
    spoil(write_pairs(tmp_path))
    with pytest.raises(error, match=message):
        NormalFolder(tmp_path, **{"convention": None, **options})


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder; the patterns are relative to it"):
        NormalFolder(tmp_path / "nowhere", convention=None)


@pytest.mark.parametrize(
    ("files", "patterns"),
    [
        (["{}_rgb.jpg", "{}_normal.png"], ("*_rgb.jpg", "*_normal.png")),
        (["rgb/{}.png", "normals/{}.npy"], ("rgb/*.png", "normals/*.npy")),
        (["a b/{}.JPG", "a b/Normals_{}.exr"], ("a b/*.JPG", "a b/Normals_*.exr")),
        (["depth/{}.png", "mask/{}.png", "rgb/{}.png", "gt/normal/{}.png"], ("rgb/*.png", "gt/normal/*.png")),
        (["rgb/{}.png", "normal/{}.txt"], None),
        (["rgb/{}.png", "depth/{}.png"], None),
        (["rgb/{}.png", "normal/other-{}.png"], None),
        ([], None),
    ],
)
def test_patterns_are_guessed_by_names(tmp_path, files, patterns):
    for name in ("scene-1.0001", "scene-1.0002", "7"):
        for file in files:
            path = tmp_path / file.format(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    assert guess_patterns(tmp_path) == patterns


def test_the_guess_is_of_the_largest_set_whose_normals_all_have_images(tmp_path):
    for folder, images, normals in (("few", 2, 2), ("most", 4, 3), ("lack", 4, 5)):
        for count, name in ((images, "rgb"), (normals, "normal")):
            (tmp_path / folder).mkdir(exist_ok=True)
            for i in range(count):
                (tmp_path / folder / f"{i}_{name}.png").touch()
    assert guess_patterns(tmp_path) == ("most/*_rgb.png", "most/*_normal.png")
