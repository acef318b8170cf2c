"""Labelled images against the arrays that their files were written from, and against all that is wrong with files."""

import hashlib
import io
import itertools
import lzma
import pickle
import tarfile
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pngs import png_claiming
from torchvision.datasets import CIFAR10

from normalkit.data import labeled
from normalkit.data.labeled import LabeledImages, read_labeled_images

NAMES = {"cat": ["10.png", "2.png", "1.png"], "dog": ["b1.png", "a.png"], "bird": ["07.png", "7.png", "8.PNG"]}
IN_ORDER = [("bird", name) for name in ("07.png", "7.png", "8.PNG")]
IN_ORDER += [("cat", name) for name in ("1.png", "2.png", "10.png")] + [("dog", "a.png"), ("dog", "b1.png")]
COMPRESSIONS = ["", "gz", "bz2", "xz"]


def labelled(sizes, seed=0):
    """Random images, `sizes` of each class, the classes mixed."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    images = rng.integers(0, 256, (len(labels), 3, 4, 5), dtype=np.uint8)
    return LabeledImages(
        torch.from_numpy(images), torch.from_numpy(labels), tuple(f"class {i}" for i in range(len(sizes)))
    )


def pixels(label, name, split="train", size=(6, 5)):
    """(H, W, 3) that only this file has."""
    seed = int.from_bytes(hashlib.sha256(f"{split}/{label}/{name}".encode()).digest()[:4], "big")
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def png(array, **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG", **options)
    return file.getvalue()


def files(split="train"):
    """Path to bytes of a small data set, in an order of no meaning."""
    return {
        f"{split}/{label}/{name}": png(pixels(label, name, split)) for label, names in NAMES.items() for name in names
    }


def write_tree(root, contents):
    for path, data in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def write_archive(path, contents, compression="", prefix=""):
    """A tar of files; a member that is a TarInfo is written as it is."""
    with tarfile.open(path, f"w:{compression}") as archive:
        for name, data in contents.items():
            if isinstance(data, tarfile.TarInfo):
                archive.addfile(data)
                continue
            member = tarfile.TarInfo(prefix + name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(params=["tree", "archive"])
def write(request, tmp_path):
    """A function that writes contents in one of the two forms, and gives the root to read."""
    if request.param == "tree":
        return lambda contents: write_tree(tmp_path / "data", contents)
    return lambda contents: write_archive(tmp_path / "data.tar", contents)


def read(root, **options):
    return read_labeled_images(root, progress=False, **options)


def check_whole(data, split="train"):
    assert data.classes == ("bird", "cat", "dog")
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    expected = np.stack([pixels(label, name, split) for label, name in IN_ORDER]).transpose(0, 3, 1, 2)
    assert data.images.dtype == torch.uint8
    assert data.images.is_contiguous()
    np.testing.assert_array_equal(data.images.numpy(), expected)


# LabeledImages


GOOD = {"images": torch.zeros(2, 3, 4, 5, dtype=torch.uint8), "labels": torch.tensor([0, 1]), "classes": ("a", "b")}


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("images", torch.zeros(2, 3, 4, 5), TypeError, r"images is torch.float32; wanted a tensor of torch.uint8"),
        ("images", np.zeros((2, 3, 4, 5), np.uint8), TypeError, r"images is ndarray"),
        ("images", GOOD["images"][:, :1], ValueError, r"images has shape \(2, 1, 4, 5\); wanted \(N, 3, H, W\)"),
        ("images", GOOD["images"][0], ValueError, r"images has shape \(3, 4, 5\)"),
        ("images", GOOD["images"][:0], ValueError, r"images has shape .0, 3, 4, 5.; wanted .* at least one image"),
        ("images", GOOD["images"][..., :0], ValueError, r"images has shape \(2, 3, 4, 0\)"),
        ("labels", torch.tensor([0, 1], dtype=torch.int32), TypeError, r"labels is torch.int32"),
        ("labels", torch.tensor([0, 1, 1]), ValueError, r"labels has shape \(3,\); wanted \(2,\), one for each"),
        ("labels", torch.tensor([[0], [1]]), ValueError, r"labels has shape \(2, 1\)"),
        ("labels", torch.tensor([0, 2]), ValueError, r"labels has values from 0 to 2; wanted 0 to 1"),
        ("labels", torch.tensor([-1, 1]), ValueError, r"labels has values from -1 to 1; wanted 0 to 1"),
        ("labels", torch.zeros(2, dtype=torch.int64, device="meta"), ValueError, r"labels is on meta, images on cpu"),
        ("classes", ["a", "b"], TypeError, r"classes=\['a', 'b'\]: wanted a tuple of names"),
        ("classes", ("a", 1), TypeError, r"wanted a tuple of names"),
        ("classes", ("a", "b", "a"), ValueError, r"classes names a more than once"),
    ],
)
def test_fields_that_do_not_fit(field, value, error, message):
    with pytest.raises(error, match=message):
        LabeledImages(**(GOOD | {field: value}))


def test_subset_and_length():
    data = labelled([3, 4, 5])
    assert len(data) == 12
    chosen = [7, 0, 7, 11]
    some = data.subset(chosen)
    np.testing.assert_array_equal(some.images.numpy(), data.images.numpy()[chosen])
    np.testing.assert_array_equal(some.labels.numpy(), data.labels.numpy()[chosen])
    assert some.classes == data.classes
    assert torch.equal(data.subset(torch.tensor(chosen, dtype=torch.int32)).images, some.images)


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        ([0, 12], IndexError, r"indices has values from 0 to 12; wanted 0 to 11"),
        ([-1], IndexError, r"indices has values from -1 to -1"),
        ([], ValueError, r"indices has shape \(0,\); wanted \(M,\), at least one"),
        ([[1]], ValueError, r"indices has shape \(1, 1\)"),
        ([True] * 12, TypeError, r"indices is torch.bool; wanted integers: mask.nonzero"),
        ([0.5], TypeError, r"indices is torch.float32"),
    ],
)
def test_subset_of_wrong_indices(indices, error, message):
    with pytest.raises(error, match=message):
        labelled([3, 4, 5]).subset(indices)


def test_to_moves_both_fields():
    data = labelled([3, 3])
    same = data.to("cpu")
    assert torch.equal(same.images, data.images)
    moved = data.to(torch.device("cpu"))
    assert moved.labels.device == moved.images.device


# split


def shares_by_fractions(sizes, count):
    """Largest remainders, in exact arithmetic."""
    quotas = [Fraction(count * size, sum(sizes)) for size in sizes]
    shares = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (shares[i] - quotas[i], i))
    for i in by_remainder[: count - sum(shares)]:
        shares[i] += 1
    return shares


@pytest.mark.parametrize(
    ("sizes", "count"),
    [([10, 10], 4), ([50, 30, 20], 7), ([7, 7, 7, 7], 6), ([100, 3, 1], 10), ([2, 90, 8], 50), ([5, 0, 5], 3)],
)
def test_split_holds_out_each_class_in_its_share(sizes, count):
    data = labelled(sizes)
    rest, held_out = data.split(count, seed=3)
    assert np.bincount(held_out.labels.numpy(), minlength=len(sizes)).tolist() == shares_by_fractions(sizes, count)
    assert len(held_out) == count
    assert rest.classes == held_out.classes == data.classes


def test_split_parts_every_image_and_keeps_the_order():
    data = labelled([30, 20, 10])
    places = {image.numpy().tobytes(): place for place, image in enumerate(data.images)}
    parts = [[places[image.numpy().tobytes()] for image in part.images] for part in data.split(21, seed=0)]
    assert all(part == sorted(part) for part in parts)
    assert sorted(parts[0] + parts[1]) == list(range(60))
    for part, chosen in zip(data.split(21, seed=0), parts, strict=True):
        np.testing.assert_array_equal(part.labels.numpy(), data.labels.numpy()[chosen])


def test_split_is_drawn_by_its_seed_alone():
    data = labelled([40, 40])
    draws = []
    for seed, noise in [(0, 1), (0, 2), (1, 1)]:
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        draws.append(data.split(20, seed=seed)[1].images)
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_split_draws_every_image_alike():
    data = labelled([12, 6])
    places = {image.numpy().tobytes(): place for place, image in enumerate(data.images)}
    drawn = np.zeros(18)
    for seed in range(150):
        for image in data.split(6, seed=seed)[1].images:
            drawn[places[image.numpy().tobytes()]] += 1
    # 50 expected of each, with a deviation of 5.8.
    assert np.abs(drawn - 50).max() < 4 * 5.8


@pytest.mark.parametrize("count", [0, -1, 12, 13])
def test_split_of_a_wrong_count(count):
    with pytest.raises(ValueError, match=rf"count={count}: wanted 1 to 11, of 12 images"):
        labelled([6, 6]).split(count, seed=0)


def test_split_that_would_leave_a_class_without_images():
    with pytest.raises(ValueError, match=r"count=9: all of the 1 image\(s\) of class 'class 1' would be held out"):
        labelled([9, 1]).split(9, seed=0)


# Reading trees and archives


def test_every_file_in_its_place(write):
    check_whole(read(write(files())))


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("prefix", ["", "./"])
def test_archives_of_every_compression(tmp_path, compression, prefix):
    check_whole(read(write_archive(tmp_path / "no suffix", files(), compression, prefix)))


def test_archive_made_of_a_folder(tmp_path):
    """With members for the folders, as `tar` makes it."""
    write_tree(tmp_path / "data", files())
    with tarfile.open(tmp_path / "data.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "data" / "train", "train")
    check_whole(read(tmp_path / "data.tar.xz"))


def test_splits_and_hidden_files_apart(write):
    others = files("test")
    hidden = {
        f"{folder}{name}": b"x" for folder in ("", "train/", "train/cat/") for name in (".DS_Store", "._1.png", ".g/a")
    }
    root = write({"README.md": b"read me", "notes/a/b/c.txt": b"x"} | others | hidden | files())
    check_whole(read(root))
    check_whole(read(root, split="test"), "test")


def test_nothing_is_written(tmp_path, monkeypatch):
    root = write_archive(tmp_path / "data.tar", files())
    monkeypatch.chdir(tmp_path)
    read(root)
    assert [path.name for path in tmp_path.rglob("*")] == ["data.tar"]


def test_classes_in_the_order_that_is_given(write):
    data = read(write(files()), classes=["dog", "bird", "cat"])
    assert data.classes == ("dog", "bird", "cat")
    assert data.labels.tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
    order = [6, 7, 0, 1, 2, 3, 4, 5]
    expected = np.stack([pixels(*IN_ORDER[i]) for i in order]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(data.images.numpy(), expected)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["cat", "dog"], r"train has bird; wanted exactly the classes cat, dog: rename"),
        (["cat", "dog", "bird", "frog"], r"train has no frog; wanted exactly the classes cat, dog, bird, frog"),
        (["cat", "dog", "frog"], r"train (has no frog and )?has bird; wanted"),
        (["cat"], r"classes=\['cat'\]: wanted at least two names"),
        ("cat", r"classes='cat': wanted at least two names"),
        (["cat", "dog", "cat"], r"classes names cat more than once"),
    ],
)
def test_other_classes_than_given(write, classes, message):
    with pytest.raises(ValueError, match=message):
        read(write(files()), classes=classes)


def test_classes_are_compared_before_pictures_are_read(tmp_path):
    root = write_tree(tmp_path, files() | {"train/bird/7.png": b"broken"})
    with pytest.raises(ValueError, match=r"has bird; wanted exactly"):
        read(root, classes=["cat", "dog"])


def test_names_with_numbers_longer_than_python_reads(tmp_path):
    """In an archive names may be of any length."""
    long = {f"train/{label}/{digits}.png": png(pixels(label, digits[:1])) for label in "ab" for digits in "12"}
    long |= {
        f"train/a/{'9' * 5000}.png": png(pixels("a", "long")),
        f"train/a/{'0' * 5000}1a.png": png(pixels("a", "0")),
    }
    data = read(write_archive(tmp_path / "data.tar", long))
    expected = [pixels("a", "1"), pixels("a", "0"), pixels("a", "2"), pixels("a", "long")]
    np.testing.assert_array_equal(data.images[:4].numpy(), np.stack(expected).transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("add", "message"),
    [
        ({"train/labels.csv": b"x"}, r"train/labels.csv: "),
        ({"train/cat/notes.txt": b"x"}, r"train/cat/notes.txt: not a picture \(.bmp, .*move it out of the split"),
        ({"train/cat/more/1.png": b"x"}, r"train/cat/more"),
        ({"train/cat/3.png": b""}, r"train/cat/3.png: not a JPEG, .* file"),
        ({"train/cat/3.png": b"just text"}, r"train/cat/3.png: not a JPEG, .* file, whatever its name says"),
        ({"train/cat/3.png": png(pixels("a", "b"))[:-30]}, r"train/cat/3.png: the file is truncated or broken"),
        (
            {"train/cat/3.png": png(pixels("a", "b", size=(5, 6)))},
            r"cat/3.png is 6 x 5, but .*png is 5 x 6; wanted one",
        ),
        ({"train/cat/3.png": png(pixels("a", "b")[..., 0])}, r"cat/3.png: its mode is L; wanted 8-bit RGB: convert it"),
        ({"train/cat/3.png": png(np.zeros((6, 5, 4), np.uint8))}, r"cat/3.png: its mode is RGBA; wanted 8-bit RGB"),
        ({"train/cat/3.png": png(np.zeros((6, 5), np.uint16))}, r"cat/3.png: its mode is I;16"),
        (
            {"train/cat/3.png": cv2.imencode(".png", np.zeros((6, 5, 3), np.uint16))[1].tobytes()},
            r"cat/3.png: its mode is RGB of 16 bits; wanted 8-bit RGB",
        ),
    ],
)
def test_files_that_do_not_belong(write, add, message):
    with pytest.raises(ValueError, match=message):
        read(write(files() | add))


def test_palette_is_not_converted(write):
    file = io.BytesIO()
    Image.fromarray(pixels("a", "b")).convert("P").save(file, "GIF")
    with pytest.raises(ValueError, match=r"cat/3.gif: its mode is P; wanted 8-bit RGB"):
        read(write(files() | {"train/cat/3.gif": file.getvalue()}))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_upright(write, orientation):
    stored = pixels("a", "b", size=(8, 8))
    turns = [
        lambda a: a,
        lambda a: a[:, ::-1],
        lambda a: a[::-1, ::-1],
        lambda a: a[::-1],
        lambda a: a.transpose(1, 0, 2),
        lambda a: np.rot90(a, -1),
        lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        np.rot90,
    ]
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(stored).save(file, "WEBP", lossless=True, exif=exif)
    contents = {f"train/{label}/1.webp": file.getvalue() for label in "ab"}
    expected = turns[orientation - 1](stored).transpose(2, 0, 1)
    np.testing.assert_array_equal(read(write(contents)).images[0].numpy(), expected)


def test_too_large_to_be_kept(write):
    with pytest.raises(ValueError, match=r"bird/0.png: is 1025 x 8; wanted at most 1024 x 1024, since all are kept"):
        read(write({"train/bird/0.png": png_claiming(1025, 8, colour=2)} | files()))
    with pytest.raises(ValueError, match=r"bird/0.png: is 16384 x 8192; wanted at most"):
        read(write({"train/bird/0.png": png_claiming(16384, 8192, colour=2)} | files()))


def test_file_of_too_many_bytes(write, monkeypatch):
    monkeypatch.setattr(labeled, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"cat/3.png: has 1,001 bytes; wanted at most 1,000"):
        read(write(files() | {"train/cat/3.png": bytes(1001)}))


def test_member_that_claims_to_be_huge(tmp_path):
    member = tarfile.TarInfo("train/cat/3.png")
    member.size = 1 << 40
    with pytest.raises(ValueError, match=r"cat/3.png: has 1,099,511,627,776 bytes"):
        read(write_archive(tmp_path / "data.tar", files() | {"x": member}))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_members_that_are_no_files(tmp_path, kind):
    member = tarfile.TarInfo("train/cat/3.png")
    member.type, member.linkname = kind, "/etc/hostname"
    with pytest.raises(ValueError, match=r"data.tar: train/cat/3.png: wanted files train/<class>/<name>.jpg alone"):
        read(write_archive(tmp_path / "data.tar", files() | {"x": member}))


@pytest.mark.parametrize("name", ["train/../../3.png", "../3.png", "/train/cat/3.png", "/notes.txt"])
def test_members_that_lead_out(tmp_path, name):
    """A picture under an absolute path would be left out, and nobody would know."""
    with pytest.raises(ValueError, match=rf"data.tar: {name}: leads out of the archive; make it anew"):
        read(write_archive(tmp_path / "data.tar", files() | {name: png(pixels("a", "b"))}))


def test_member_twice(tmp_path):
    again = tarfile.TarInfo("./train/cat/1.png")
    with pytest.raises(ValueError, match=r"train/cat/1.png: is in the archive twice"):
        read(write_archive(tmp_path / "data.tar", files() | {"x": again}))


def test_class_without_pictures(tmp_path):
    (write_tree(tmp_path / "data", files()) / "train" / "frog").mkdir()
    with pytest.raises(ValueError, match=r"data/train: no pictures of frog; put some in, or remove the folder"):
        read(tmp_path / "data")
    with tarfile.open(tmp_path / "data.tar", "w") as archive:
        archive.add(tmp_path / "data" / "train", "train")
    with pytest.raises(ValueError, match=r"data.tar: train: no pictures of frog"):
        read(tmp_path / "data.tar")


def test_no_class(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match=r"train: no class; wanted a folder for each of at least two classes"):
        read(tmp_path)


def test_one_class(write):
    with pytest.raises(ValueError, match=r"only the class cat; wanted a folder for each of at least two"):
        read(write({path: data for path, data in files().items() if "/cat/" in path}))


def test_no_such_split(write):
    root = write(files() | files("test") | {"README.md": b"x"})
    with pytest.raises(FileNotFoundError, match=r"has no split='val'; it has test, train\. Wanted val/<class>/<name>"):
        read(root, split="val")


def test_no_such_split_as_root_is_the_split(tmp_path):
    write_tree(tmp_path, files())
    with pytest.raises(FileNotFoundError, match=r"it has bird, cat, dog.*or give what holds train/"):
        read(tmp_path / "train")


@pytest.mark.parametrize("split", ["", ".", "..", "train/cat", ".git"])
def test_split_that_is_no_name(tmp_path, split):
    with pytest.raises(ValueError, match=r"split='.*': wanted the name of a folder, such as 'train'"):
        read(write_tree(tmp_path, files()), split=split)


def test_missing_and_empty_roots(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist; .*download=True"):
        read(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"has no split='train'; it has no folder"):
        read(tmp_path)
    (tmp_path / "empty.tar").touch()
    with pytest.raises(ValueError, match=r"empty.tar: the file is empty"):
        read(tmp_path / "empty.tar")
    write_archive(tmp_path / "hollow.tar", {})
    with pytest.raises(FileNotFoundError, match=r"hollow.tar: has no split='train'; it has no folder"):
        read(tmp_path / "hollow.tar")


# Archives that are not whole


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04" + bytes(600), b"text" * 400, lzma.compress(b"text" * 400), b"\xfd7zXZ"]
)
def test_not_an_archive(tmp_path, content):
    (tmp_path / "data.tar.xz").write_bytes(content)
    with pytest.raises(ValueError, match=r"data.tar.xz: not a tar archive, or cut short, or broken \(.*fetch or make"):
        read(tmp_path / "data.tar.xz")


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_archive_that_is_cut_is_refused_or_whole(tmp_path, compression):
    """Wherever it ends: nothing that is read is ever a part of the data."""
    whole = write_archive(tmp_path / "whole", files(), compression).read_bytes()
    cut = tmp_path / "cut"
    refused = []
    for end in range(512 if not compression else 13, len(whole), 512 if not compression else 67):
        cut.write_bytes(whole[:end])
        try:
            data = read(cut)
        except ValueError as error:
            refused.append(str(error))
        else:
            check_whole(data)
    assert all("cut short" in message for message in refused)
    assert len(refused) > 15


def test_archive_with_a_broken_header_in_its_middle(tmp_path):
    path = write_archive(tmp_path / "data.tar", files())
    content = bytearray(path.read_bytes())
    place = content.index(b"train/dog/b1.png")
    content[place : place + 512] = b"\xff" * 512
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"data.tar: not a tar archive, or cut short, or broken"):
        read(path)


def test_two_archives_in_one_file(tmp_path):
    """Of which tarfile would read the first alone."""
    path = write_archive(tmp_path / "data.tar", files())
    path.write_bytes(2 * path.read_bytes())
    with pytest.raises(ValueError, match=r"broken \(something else stands where its end should be\)"):
        read(path)


# CIFAR-10 as torchvision keeps it


CIFAR_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A folder with batches of 4 images in the format of the real ones, and their images and labels by split."""
    rng = np.random.default_rng(0)
    root, parts = tmp_path / "cifar", {"train": ([], []), "test": ([], [])}
    batches = root / "cifar-10-batches-py"
    batches.mkdir(parents=True)

    def write(name, content):
        data = pickle.dumps(content, protocol=2)
        (batches / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    checksums = {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        data, labels = rng.integers(0, 256, (4, 3072), dtype=np.uint8), rng.integers(0, 10, 4).tolist()
        split = "test" if name == "test_batch" else "train"
        parts[split][0].append(data.reshape(4, 3, 32, 32))
        parts[split][1].extend(labels)
        checksums[name] = write(name, {"batch_label": name, "labels": labels, "data": data, "filenames": ["x"] * 4})
    meta = write("batches.meta", {"label_names": CIFAR_CLASSES, "num_cases_per_batch": 4, "num_vis": 3072})
    monkeypatch.setattr(CIFAR10, "train_list", [[n, c] for n, c in checksums.items() if n != "test_batch"])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", checksums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": meta})
    # Nothing listens there, so that a download fails at once and no test reaches the network.
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    return root, {split: (np.concatenate(images), labels) for split, (images, labels) in parts.items()}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("download", [False, True])
def test_cifar10_of_torchvision(cifar, split, download):
    root, parts = cifar
    data = read(root, split=split, download=download)
    np.testing.assert_array_equal(data.images.numpy(), parts[split][0])
    assert data.labels.tolist() == parts[split][1]
    assert data.classes == tuple(CIFAR_CLASSES)
    assert data.images.is_contiguous()


def test_cifar10_with_classes(cifar):
    root, parts = cifar
    data = read(root, classes=CIFAR_CLASSES[::-1])
    assert data.labels.tolist() == [9 - label for label in parts["train"][1]]
    with pytest.raises(ValueError, match=r"CIFAR-10 has no lorry and has truck; wanted exactly"):
        read(root, classes=[*CIFAR_CLASSES[:-1], "lorry"])


def test_cifar10_of_a_size(cifar):
    root, _ = cifar
    assert read(root, size=(32, 32)).images.shape[2:] == (32, 32)
    with pytest.raises(ValueError, match=r"CIFAR-10 of torchvision, whose pictures are 32 x 32; wanted 64 x 48"):
        read(root, size=(48, 64))


def test_cifar10_has_two_splits(cifar):
    with pytest.raises(FileNotFoundError, match=r"no split='val'; CIFAR-10 has train and test"):
        read(cifar[0], split="val")


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("missing", [True, False])
def test_cifar10_with_a_broken_file(cifar, name, missing):
    path = cifar[0] / "cifar-10-batches-py" / name
    path.unlink() if missing else path.write_bytes(b"cut")
    with pytest.raises(ValueError, match=rf"cifar-10-batches-py: {name} is missing or broken; remove .*download=True"):
        read(cifar[0])


def test_cifar10_given_by_its_inner_folder(cifar):
    with pytest.raises(FileNotFoundError, match=r"batches-py: CIFAR-10 of torchvision; give the folder it lies in"):
        read(cifar[0] / "cifar-10-batches-py")


def test_folder_of_the_split_goes_before_cifar10(cifar):
    write_tree(cifar[0], files())
    check_whole(read(cifar[0], download=True))


@pytest.mark.parametrize("there", [True, False])
def test_download_that_fails(tmp_path, cifar, there):
    root = tmp_path / "new"
    if there:
        root.mkdir()
    with pytest.raises(OSError, match=r"download of CIFAR-10 failed .*fetch cifar-10-python.tar.gz by hand .*png"):
        read(root, download=True)


def test_download_that_is_already_there_is_unpacked(tmp_path, cifar, monkeypatch):
    source, parts = cifar
    root = tmp_path / "new"
    root.mkdir()
    with tarfile.open(root / CIFAR10.filename, "w:gz") as archive:
        archive.add(source / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5((root / CIFAR10.filename).read_bytes()).hexdigest())
    with pytest.raises(ValueError, match=r"CIFAR-10's own archive, .* give the folder it lies in, with download=True"):
        read(root / CIFAR10.filename)
    np.testing.assert_array_equal(read(root, split="test", download=True).images.numpy(), parts["test"][0])


def test_download_into_a_file(tmp_path):
    with pytest.raises(ValueError, match=r"data.tar is a file; with download=True wanted the folder"):
        read(write_archive(tmp_path / "data.tar", files()), download=True)


# Progress and real data


def test_progress_bar(write, capfd):
    root = write(files())
    read(root)
    assert capfd.readouterr().err == ""
    read_labeled_images(root)
    assert "reading images" in capfd.readouterr().err


@pytest.mark.slow
def test_real_cifar10(real_data):
    path = real_data / "cifar10_train_jpeg.tar.xz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    data = read(path)
    assert data.images.shape == (50000, 3, 32, 32)
    assert data.classes == tuple(CIFAR_CLASSES)
    assert np.bincount(data.labels.numpy()).tolist() == [5000] * 10
    # The published mean of the training set's red, green and blue; JPEG hardly moves it.
    np.testing.assert_allclose(data.images.double().mean((0, 2, 3)) / 255, [0.4914, 0.4822, 0.4465], atol=5e-4)
    with tarfile.open(path, "r|*") as archive:
        # Numbered from 0000, and the first class comes first.
        for number, member in enumerate(itertools.islice(filter(tarfile.TarInfo.isreg, archive), 20)):
            assert member.name == f"train/airplane/{number:04}.jpg"
            with Image.open(archive.extractfile(member)) as picture:
                np.testing.assert_array_equal(data.images[number].numpy(), np.array(picture).transpose(2, 0, 1))
