"""Recordings in the layouts of 7-Scenes and TUM, written here, and one that a camera took."""

import multiprocessing
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from recordings import write_recording
from torch.utils.data import DataLoader

from normalkit.codec import write_normals
from normalkit.data import open_dataset
from normalkit.data.folder import NormalFolder
from normalkit.data.rgbd import RGBDNormals, default_cache
from normalkit.geometry import Convention, angular_error, depth_to_normals

HEIGHT, WIDTH = 20, 24
CAMERA = (30.0, 30.0, 11.5, 9.5)
MATRIX = torch.tensor([[30.0, 0, 11.5], [0, 30, 9.5], [0, 0, 1]])
FLOOR = np.array([0.0, -0.28, -0.96])


def plane_depth(distance):
    """Depth in metres of a plane whose normal is FLOOR, (H, W)."""
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    rays = np.stack([(u - 11.5) / 30, (v - 9.5) / 30, np.ones((HEIGHT, WIDTH))], -1)
    return -distance / (rays @ FLOOR)


def write_color(path, value=100, size=(WIDTH, HEIGHT)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 50, 200)).save(path)


def write_depth(path, metres, scale=1000):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(metres * scale).astype(np.uint16)).save(path)


def write_camera(folder):
    np.savetxt(folder / "camera-intrinsics.txt", MATRIX.numpy())


def seven_scenes(root, names=("frame-000000", "frame-000001", "frame-000002"), suffix="png"):
    for i, name in enumerate(names):
        write_color(root / f"{name}.color.{suffix}", 40 * i)
        write_depth(root / f"{name}.depth.png", plane_depth(0.8 + 0.1 * i))
    write_camera(root)
    return root


def tum(root, times=((1.0, 1.01), (2.0, 2.5), (3.0, 2.99))):
    for i, (color, depth) in enumerate(times):
        write_color(root / "rgb" / f"{color:.6f}.png", 40 * i)
        write_depth(root / "depth" / f"{depth:.6f}.png", plane_depth(0.8 + 0.1 * i), scale=5000)
    for kind, which in (("rgb", 0), ("depth", 1)):
        lines = [f"{pair[which]:.6f} {kind}/{pair[which]:.6f}.png" for pair in times]
        (root / f"{kind}.txt").write_text("\n".join(["# timestamp filename", *lines, ""]))
    return root


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "deep"


@pytest.fixture
def scene(tmp_path):
    return seven_scenes(tmp_path / "scene")


def listing(folder):
    return sorted((str(p), p.stat().st_mtime_ns) for p in folder.rglob("*"))


def check_floor(sample):
    """Millimetres round, so the normals do too."""
    expected = torch.from_numpy(FLOOR).view(3, 1, 1).expand(3, HEIGHT, WIDTH)
    assert sample["mask"].float().mean() > 0.9
    assert float(angular_error(sample["normals"].double(), expected, dim=0)[sample["mask"]].mean()) < 0.5


class TestLayouts:
    @pytest.mark.parametrize("suffix", ["png", "jpg"])
    def test_seven_scenes(self, tmp_path, cache, suffix):
        data = RGBDNormals(seven_scenes(tmp_path / "scene", suffix=suffix), cache=cache)
        assert [data[i]["name"] for i in range(len(data))] == ["frame-000000", "frame-000001", "frame-000002"]
        for i in range(3):
            check_floor(data[i])
            assert float(data[i]["image"][0, 5, 5]) == pytest.approx(40 * i / 255, abs=0.02)
            assert torch.equal(data[i]["intrinsics"], MATRIX)

    def test_sub_sequences(self, tmp_path, cache):
        root = tmp_path / "scene"
        for sequence in ("day/seq-02", "day/seq-01", "night"):
            seven_scenes(root / sequence, names=("frame-000000",))
        for folder, factor in ((root, 2), (root / "day", 3)):
            np.savetxt(folder / "camera-intrinsics.txt", MATRIX.numpy() * [[factor], [factor], [1]])
        for sequence in ("day/seq-01", "night"):
            (root / sequence / "camera-intrinsics.txt").unlink()
        data = RGBDNormals(root, cache=cache)
        names = [data[i]["name"] for i in range(len(data))]
        assert names == ["day/seq-01/frame-000000", "day/seq-02/frame-000000", "night/frame-000000"]
        # The nearest one above a frame counts.
        assert [float(data[i]["intrinsics"][0, 0]) for i in range(3)] == [90, 30, 60]

    def test_tum(self, tmp_path, cache):
        # In the range only if the unit is 1/5000 m.
        data = RGBDNormals(tum(tmp_path / "tum"), intrinsics=CAMERA, depth_range=(0.5, 2), cache=cache)
        # The second picture has no depth within 0.02 s.
        assert [data[i]["name"] for i in range(len(data))] == ["1.000000", "3.000000"]
        for i in range(2):
            check_floor(data[i])
        assert torch.equal(data[0]["intrinsics"], MATRIX)

    def test_relative_root(self, scene, cache, monkeypatch):
        monkeypatch.chdir(scene)
        check_floor(RGBDNormals(".", cache=cache)[0])

    @pytest.mark.parametrize(
        ("frames", "names"), [(slice(None, -1), ["0", "1"]), (slice(-1, None), ["2"]), (slice(0, None, 2), ["0", "2"])]
    )
    def test_frames(self, scene, cache, frames, names):
        data = RGBDNormals(scene, frames=frames, cache=cache)
        assert [data[i]["name"][-1] for i in range(len(data))] == names

    def test_normals_are_those_of_depth_to_normals(self, scene, cache):
        depth = plane_depth(0.8)
        depth[5:8, 5:8] = 0
        depth[12:, 10:] = 9.0
        write_depth(scene / "frame-000000.depth.png", depth)
        sample = RGBDNormals(scene, cache=cache)[0]
        kept = torch.from_numpy(np.rint(np.where(depth > 8, 0, depth) * 1000) / 1000).float()
        normals, mask = depth_to_normals(kept[None, None], MATRIX)
        assert torch.equal(sample["mask"], mask[0])
        assert not mask[0, 12:, 10:].any()
        # 16 bits a component.
        assert float(angular_error(sample["normals"], normals[0], dim=0)[mask[0]].max()) < 0.003

    def test_depth_range(self, scene, cache):
        assert not RGBDNormals(scene, depth_range=(5, 8), cache=cache)[0]["mask"].any()


class TestCache:
    def test_used_and_not_among_the_users_files(self, scene, cache, monkeypatch):
        before = listing(scene)
        first = RGBDNormals(scene, cache=cache)
        samples = [first[i] for i in range(3)]
        assert listing(scene) == before
        assert len(list(cache.iterdir())) == 3

        def never(*args, **kwargs):
            raise AssertionError("computed again")

        monkeypatch.setattr("normalkit.data.rgbd.depth_to_normals", never)
        again = RGBDNormals(scene, cache=cache)
        for i in range(3):
            assert all(torch.equal(again[i][k], samples[i][k]) for k in ("image", "normals", "mask"))

    def test_default_place(self, scene, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        RGBDNormals(scene)
        assert len(list((tmp_path / "xdg" / "normalkit" / "normals").iterdir())) == 1
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", lambda: tmp_path)
        assert default_cache() == tmp_path / ".cache" / "normalkit" / "normals"

    def test_depth_that_changed(self, scene, cache):
        before = RGBDNormals(scene, cache=cache)[0]
        write_depth(scene / "frame-000000.depth.png", np.full((HEIGHT, WIDTH), 2.0))
        os.utime(scene / "frame-000000.depth.png", ns=(1, 1))
        after = RGBDNormals(scene, cache=cache)[0]
        assert not torch.equal(before["normals"], after["normals"])
        np.testing.assert_allclose(after["normals"][:, 10, 10], [0, 0, -1], atol=1e-4)

    @pytest.mark.parametrize("options", [{"intrinsics": (40, 40, 11.5, 9.5)}, {"depth_range": (0.1, 0.85)}])
    def test_parameters_that_changed(self, scene, cache, options):
        before = RGBDNormals(scene, cache=cache)[0]
        changed = RGBDNormals(scene, cache=cache, **options)[0]
        fresh = RGBDNormals(scene, cache=cache / "other", **options)[0]
        assert not torch.equal(before["normals"], changed["normals"])
        assert torch.equal(fresh["normals"], changed["normals"])

    @pytest.mark.parametrize(
        "spoil",
        [lambda data: data[:100], lambda data: data[:-1], lambda data: b"", lambda data: b"no numpy file at all"],
        ids=["header", "last byte", "empty", "other"],
    )
    def test_a_broken_file_is_made_anew(self, scene, cache, spoil):
        good = RGBDNormals(scene, cache=cache)[0]
        (file,) = cache.iterdir()
        data = file.read_bytes()
        file.write_bytes(spoil(data))
        assert torch.equal(RGBDNormals(scene, cache=cache)[0]["normals"], good["normals"])
        assert file.read_bytes() == data

    def test_a_file_of_another_kind_is_made_anew(self, scene, cache):
        good = RGBDNormals(scene, cache=cache)[0]
        (file,) = cache.iterdir()
        np.save(file, np.zeros((3, HEIGHT, WIDTH), np.float32))
        assert torch.equal(RGBDNormals(scene, cache=cache)[0]["normals"], good["normals"])

    def test_two_processes_at_once(self, tmp_path, cache):
        scene = seven_scenes(tmp_path / "scene", names=[f"frame-{i:06d}" for i in range(12)])
        context = multiprocessing.get_context("fork")
        workers = [context.Process(target=read_all, args=(scene, cache)) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0, 0]
        assert len(list(cache.iterdir())) == 12
        assert {np.load(file).shape for file in cache.iterdir()} == {(3, HEIGHT, WIDTH)}

    def test_unwritable(self, scene, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match="file/cache: a file stands where a folder is needed"):
            RGBDNormals(scene, cache=tmp_path / "file" / "cache")


def read_all(scene, cache):
    torch.set_num_threads(1)
    data = RGBDNormals(scene, cache=cache)
    for i in range(len(data)):
        assert data[i]["mask"].any()


class TestGivenNormals:
    def label(self, scene, number, **options):
        wall = torch.tensor([0.0, 0.6, -0.8]).view(3, 1, 1).repeat(1, HEIGHT, WIDTH)
        wall[:, :4] = 0
        write_normals(scene / f"frame-00000{number}.normal.png", wall, **options)

    @pytest.mark.parametrize("convention", [Convention.OPENCV, Convention.OPENGL])
    def test_used_instead_of_the_depth(self, scene, tmp_path, convention):
        for number in range(3):
            self.label(scene, number, convention=convention)
            if number:
                (scene / f"frame-00000{number}.depth.png").unlink()
        # Nothing is computed, so nothing is written.
        data = RGBDNormals(scene, convention=convention, cache=tmp_path / "never")
        for i in range(3):
            sample = data[i]
            np.testing.assert_allclose(sample["normals"][:, 10, 10], [0, 0.6, -0.8], atol=0.01)
            assert not sample["mask"][:4].any()
            assert sample["mask"][4:].all()
        assert not (tmp_path / "never").exists()

    def test_intrinsics_are_not_needed(self, scene, cache):
        for number in range(3):
            self.label(scene, number)
        (scene / "camera-intrinsics.txt").unlink()
        assert RGBDNormals(scene, cache=cache)[0]["intrinsics"].isnan().all()

    def test_sources_do_not_mix(self, scene, cache):
        self.label(scene, 1)
        with pytest.raises(
            ValueError, match=r"1 of 3 frames have a \*\.normal\.png, .*frame-000000.color.png has none"
        ):
            RGBDNormals(scene, cache=cache)
        assert len(RGBDNormals(scene, frames=slice(1, 2), cache=cache)) == 1
        assert len(RGBDNormals(scene, frames=slice(0, None, 2), cache=cache)) == 2

    def test_other_convention(self, scene, cache):
        for number in range(3):
            self.label(scene, number, convention=Convention.DSINE)
        with pytest.raises(ValueError, match=r"frame-000000.normal.png: the file says that its convention is DSINE"):
            RGBDNormals(scene, cache=cache)


class TestBadRecordings:
    @pytest.mark.parametrize(
        ("spoil", "error", "message"),
        [
            (lambda s: shutil.rmtree(s), FileNotFoundError, "scene: no such folder"),
            (lambda s: [p.unlink() for p in s.iterdir()], FileNotFoundError, r"no frames found; wanted \*\.color\.png"),
            (
                lambda s: (s / "frame-000001.depth.png").unlink(),
                FileNotFoundError,
                "frame-000001.color.png has no depth",
            ),
            (
                lambda s: (s / "camera-intrinsics.txt").unlink(),
                FileNotFoundError,
                "depth.png: no intrinsics .* or give",
            ),
            (lambda s: (s / "camera-intrinsics.txt").write_text("1 2"), ValueError, "camera-intrinsics.txt: holds"),
            (
                lambda s: (s / "frame-000000.color.png").write_bytes(b"\xff\xd8 no"),
                ValueError,
                "frame-000000.color.png",
            ),
            (lambda s: (s / "frame-000000.depth.png").write_bytes(b""), ValueError, "frame-000000.depth.png: .*empty"),
            (
                lambda s: Image.new("L", (WIDTH, HEIGHT)).save(s / "frame-000000.depth.png"),
                ValueError,
                "frame-000000.depth.png: has 8 bits .* wanted 16-bit grey",
            ),
            (
                lambda s: write_color(s / "frame-000000.color.png", size=(48, 40)),
                ValueError,
                "frame-000000.color.png is 48 x 40 but .*frame-000000.depth.png is 24 x 20",
            ),
            (lambda s: write_color(s / "frame-000002.color.jpg"), ValueError, "are the same frame; remove one"),
        ],
    )
    def test_seven_scenes(self, scene, cache, spoil, error, message):
        spoil(scene)
        with pytest.raises(error, match=message):
            RGBDNormals(scene, cache=cache)

    def test_a_truncated_photo_is_named_when_it_is_read(self, tmp_path, cache):
        scene = seven_scenes(tmp_path / "scene", suffix="jpg")
        photo = scene / "frame-000002.color.jpg"
        photo.write_bytes(photo.read_bytes()[:-200])
        data = RGBDNormals(scene, cache=cache)
        with pytest.raises(ValueError, match=r"frame-000002\.color\.jpg: the file is truncated or broken"):
            data[2]

    @pytest.mark.parametrize(
        ("file", "text", "error", "message"),
        [
            ("depth.txt", "9.0 depth/1.010000.png", FileNotFoundError, "no colour frame has depth within 0.02 s"),
            ("rgb.txt", "# nothing", ValueError, "rgb.txt: lists no files"),
            ("rgb.txt", "#\n1.0", ValueError, "rgb.txt:2: wanted a time and a file name, got '1.0'"),
            ("rgb.txt", "now rgb/1.000000.png", ValueError, "rgb.txt:1: wanted a time"),
            ("rgb.txt", "nan rgb/1.000000.png", ValueError, "rgb.txt:1: wanted a time"),
            (
                "depth.txt",
                "1.0 depth/7.png",
                FileNotFoundError,
                "depth.txt:1: lists .*depth/7.png, which does not exist",
            ),
        ],
    )
    def test_tum(self, tmp_path, cache, file, text, error, message):
        root = tum(tmp_path / "tum")
        (root / file).write_text(text)
        with pytest.raises(error, match=message):
            RGBDNormals(root, intrinsics=CAMERA, cache=cache)

    def test_tum_without_intrinsics(self, tmp_path, cache):
        with pytest.raises(FileNotFoundError, match=r"no intrinsics for this depth; put .*tum/camera-intrinsics.txt"):
            RGBDNormals(tum(tmp_path / "tum"), cache=cache)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"frames": slice(9, None)}, ValueError, "selects none of its 3 frames"),
            ({"frames": 1}, TypeError, r"frames=1: wanted a slice"),
            ({"depth_range": (3, 1)}, ValueError, "depth_range="),
            ({"intrinsics": (1, 2, 3)}, ValueError, r"wanted \(fx, fy, cx, cy\)"),
            ({"intrinsics": (0, 30, 11, 9)}, ValueError, "fx and fy > 0"),
            ({"intrinsics": (30, 30, float("nan"), 9)}, ValueError, "fx and fy > 0"),
            ({"convention": "blender"}, ValueError, "convention='blender' is not known"),
        ],
    )
    def test_bad_options(self, scene, cache, options, error, message):
        with pytest.raises(error, match=message):
            RGBDNormals(scene, cache=cache, **options)


def test_pickles_and_loads_in_workers(scene, cache):
    data = pickle.loads(pickle.dumps(RGBDNormals(scene, cache=cache)))
    (batch,) = DataLoader(data, batch_size=3, num_workers=2)
    assert torch.equal(batch["normals"][1], data[1]["normals"])
    assert batch["name"] == ["frame-000000", "frame-000001", "frame-000002"]


def test_open_dataset(scene, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert type(open_dataset(scene)) is RGBDNormals
    write_normals(scene / "n-frame-000000.png", torch.ones(3, HEIGHT, WIDTH))
    (scene / "frame-000001.color.png").unlink()
    (scene / "frame-000002.color.png").unlink()
    pairs = open_dataset(scene, images="*.color.png", normals="n-*.png")
    assert type(pairs) is NormalFolder
    for options in ({"images": "*.png"}, {"normals": "*.png"}, {"masks": "*.png"}):
        with pytest.raises(ValueError, match="needs both images and normals"):
            open_dataset(scene, **options)


def test_real_recording(real_data, tmp_path):
    val = RGBDNormals(real_data / "red_kitchen" / "val", cache=tmp_path / "cache")
    train = RGBDNormals(real_data / "red_kitchen" / "train", frames=slice(-2, None), cache=tmp_path / "cache")
    assert (len(val), len(train)) == (55, 2)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    for sample in (val[0], train[1]):
        assert sample["image"].shape == (3, 240, 320)
        assert sample["mask"].float().mean() > 0.5
        np.testing.assert_allclose(sample["normals"].norm(dim=0)[sample["mask"]], 1, atol=1e-5)
        v, u = torch.meshgrid(torch.arange(240.0), torch.arange(320.0), indexing="ij")
        rays = torch.linalg.inv(sample["intrinsics"]) @ torch.stack([u, v, torch.ones_like(u)]).flatten(1)
        # Facing the camera, but for the rounding of labels of 8 bits.
        assert ((sample["normals"].flatten(1) * rays).sum(0) <= 0.01).all()


def test_intrinsics_that_a_link_leads_out_to_are_refused(tmp_path):
    """And followed where the link stays inside."""
    root = tmp_path / "recording"
    write_recording(root, frames=1)
    (root / "camera-intrinsics.txt").rename(root / "K.txt")
    (root / "camera-intrinsics.txt").symlink_to("K.txt")
    assert RGBDNormals(root, cache=tmp_path / "cache")[0]["mask"].any()
    (root / "K.txt").rename(tmp_path / "K.txt")
    (root / "camera-intrinsics.txt").unlink()
    (root / "camera-intrinsics.txt").symlink_to(tmp_path / "K.txt")
    with pytest.raises(ValueError, match=r"camera-intrinsics\.txt: a link that leads out of"):
        RGBDNormals(root, cache=tmp_path / "cache")[0]
