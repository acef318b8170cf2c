"""Each data set in its own layout, written here, against the normals that were written."""

import importlib.util
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from released import (
    HEIGHT,
    MATRIX,
    NAMES,
    SIGNS,
    WIDTH,
    colours,
    make_normals,
    save_png,
    write_frame,
    write_framenet_list,
    write_hypersim_list,
    write_release,
    write_table,
)
from torch.utils.data import DataLoader

from normalkit import SyntheticRooms
from normalkit.data.layouts import LAYOUTS, Camera, detect_layout, find_layouts
from normalkit.data.published import PublishedNormals
from normalkit.geometry import Convention

# Three pictures are not the field's 654.
pytestmark = pytest.mark.filterwarnings("ignore:.*figures will not compare:UserWarning")

PACKAGES = {"ibims": "OpenEXR", "hypersim": "h5py"}


def needs(name):
    package = PACKAGES.get(name)
    absent = package is not None and importlib.util.find_spec(package) is None
    return pytest.param(name, marks=pytest.mark.skipif(absent, reason=f"needs {package}"))


EVERY = [needs(name) for name in SIGNS]


def open_release(name, root, **options):
    return PublishedNormals(root, name, **{"split": "all", **options})


@pytest.mark.parametrize("name", EVERY)
class TestEveryLayout:
    def test_samples_are_what_was_written(self, tmp_path, name):
        valid = [np.ones((HEIGHT, WIDTH), bool) for _ in range(3)]
        valid[1][:2, 1:4] = False
        written, _ = write_release(name, tmp_path, valid=valid)
        data = open_release(name, tmp_path)
        assert len(data) == 3
        # 8 bits, and half floats.
        for i in range(3):
            sample = data[i]
            expected = np.where(valid[i][..., None], written[i], 0)
            np.testing.assert_allclose(sample["normals"].permute(1, 2, 0), expected, atol=8e-3)
            np.testing.assert_array_equal(sample["mask"], valid[i])
            shade = round(1000 * written[i][0, 0, 0]) % 256
            assert float(sample["image"][0, 0, 0]) == pytest.approx(shade / 255, abs=0.02)
            assert sample["image"].shape == (3, HEIGHT, WIDTH)

    def test_its_folder_is_recognised(self, tmp_path, name):
        write_release(name, tmp_path)
        assert detect_layout(tmp_path) is LAYOUTS[name]
        assert {key: len(found) for key, found in find_layouts(tmp_path).items()} == {name: 3}

    def test_the_folder_above_and_a_relative_one_do_too(self, tmp_path, name, monkeypatch):
        write_release(name, tmp_path / "data" / "set")
        assert len(open_release(name, tmp_path)) == 3
        monkeypatch.chdir(tmp_path / "data")
        data = open_release(name, "set")
        assert len(data) == 3
        assert not any(pair.name.startswith("..") for pair in data.pairs)

    def test_a_missing_label_is_named(self, tmp_path, name):
        write_release(name, tmp_path)
        label = open_release(name, tmp_path).pairs[1].normals
        label.unlink()
        with pytest.raises(FileNotFoundError, match=f"1 of 3 pictures of {name} lack their normals.*{label.name}"):
            open_release(name, tmp_path)

    def test_another_convention_may_be_given(self, tmp_path, name):
        written, _ = write_release(name, tmp_path, signs=(1, 1, 1))
        data = open_release(name, tmp_path, convention=Convention.OPENCV)
        np.testing.assert_allclose(data[0]["normals"].permute(1, 2, 0), written[0], atol=8e-3)

    def test_pickles_into_loader_workers(self, tmp_path, name):
        write_release(name, tmp_path)
        data = pickle.loads(pickle.dumps(open_release(name, tmp_path)))
        batch = next(iter(DataLoader(data, batch_size=3, num_workers=1)))
        assert torch.equal(batch["normals"][2], data[2]["normals"])

    def test_the_split_that_is_scored_is_the_default(self, tmp_path, name):
        write_release(name, tmp_path)
        if name == "framenet":
            # Only the first one of 200 is listed.
            assert [pair.name for pair in PublishedNormals(tmp_path, name).pairs] == [
                "scannet-frames/scene0000_00/frame-000000-color"
            ]
        else:
            assert len(PublishedNormals(tmp_path, name)) == 3


class TestIntrinsics:
    @pytest.mark.parametrize("name", ["nyuv2", "scannet", needs("ibims")])
    def test_from_files(self, tmp_path, name):
        write_release(name, tmp_path)
        np.testing.assert_array_equal(open_release(name, tmp_path)[0]["intrinsics"], MATRIX)

    def test_of_a_data_set_scaled_to_its_pictures(self, tmp_path):
        write_release("diode", tmp_path)
        found = open_release("diode", tmp_path)[0]["intrinsics"].double()
        # A point's pixel in the released picture, and where that pixel is in the small one: edge to edge.
        point = np.array([0.2, -0.1, 1.0])
        u, v = 886.81 * point[0] + 512, 927.06 * point[1] + 384
        expected = [(u + 0.5) * WIDTH / 1024 - 0.5, (v + 0.5) * HEIGHT / 768 - 0.5]
        np.testing.assert_allclose((found.numpy() @ point)[:2], expected, atol=1e-4)

    def test_cropped_pictures_and_varying_cameras_have_none(self, tmp_path):
        assert Camera(600, 600, 320, 240, 640, 480).matrix(640, 400) is None
        pytest.importorskip("h5py")
        write_release("hypersim", tmp_path)
        assert open_release("hypersim", tmp_path)[0]["intrinsics"].isnan().all()


class TestValidity:
    def test_diode_needs_depth_and_a_normal(self, tmp_path):
        normals = make_normals(0)
        normals[0, :3] = 0
        valid = np.ones((HEIGHT, WIDTH), bool)
        valid[2] = False
        write_frame("diode", tmp_path, NAMES["diode"][0], normals, valid)
        expected = valid.copy()
        expected[0, :3] = False
        np.testing.assert_array_equal(open_release("diode", tmp_path)[0]["mask"], expected)

    def test_hypersim_lengths_nan_zero_and_inside_out(self, tmp_path):
        pytest.importorskip("h5py")
        truth = make_normals(0)
        stored = truth.copy()
        stored[0] *= 1.75
        stored[1] *= -0.8
        stored[2] = 0
        valid = np.ones((HEIGHT, WIDTH), bool)
        valid[3, 4] = False
        write_frame("hypersim", tmp_path, NAMES["hypersim"][0], stored, valid)
        sample = open_release("hypersim", tmp_path)[0]
        valid[2] = False
        np.testing.assert_array_equal(sample["mask"], valid)
        np.testing.assert_allclose(sample["normals"].permute(1, 2, 0)[valid], truth[valid], atol=1e-3)

    def test_hypersim_turns_by_the_ray_and_not_by_z(self, tmp_path):
        """A floor seen from above: at the lower border its z may point either way, and it still faces the camera."""
        pytest.importorskip("h5py")
        floor = np.tile(np.array([0.0, -0.995, 0.0998]), (HEIGHT, WIDTH, 1))
        write_frame("hypersim", tmp_path, NAMES["hypersim"][0], floor, np.ones((HEIGHT, WIDTH), bool))
        found = open_release("hypersim", tmp_path)[0]["normals"]
        # The ray of the row v: 60 degrees across WIDTH pixels.
        focal = WIDTH / 2 / np.tan(np.radians(30))
        for v in range(HEIGHT):
            towards = floor[0, 0] @ [0, (v - (HEIGHT - 1) / 2) / focal, 1] < 0
            np.testing.assert_allclose(found[1, v], (1 if towards else -1) * -0.995, atol=1e-3)

    def test_taskonomy_masks(self, tmp_path):
        write_release("taskonomy", tmp_path)
        mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
        mask[:, :2] = 0
        folder = tmp_path / "mask_valid" / "taskonomy"
        for frame in NAMES["taskonomy"][:2]:
            save_png(folder / f"{frame}_domain_mask_valid.png", mask)
        with pytest.raises(FileNotFoundError, match=r"1 of 3 pictures of taskonomy lack their mask.*point_12_view_3"):
            open_release("taskonomy", tmp_path)
        save_png(folder / f"{NAMES['taskonomy'][2]}_domain_mask_valid.png", mask)
        np.testing.assert_array_equal(open_release("taskonomy", tmp_path)[0]["mask"], mask > 0)

    def test_taskonomy_without_the_data_set_s_folder_and_of_one_building(self, tmp_path):
        for inside in ("", "hanson/"):
            root = tmp_path / f"x{len(inside)}"
            Image.new("RGB", (WIDTH, HEIGHT)).save(_made(root / f"rgb/{inside}point_1_view_2_domain_rgb.png"))
            labels = colours(make_normals(0) * (1, 1, -1), np.ones((HEIGHT, WIDTH), bool))
            save_png(root / f"normal/{inside}point_1_view_2_domain_normal.png", labels)
            assert open_release("taskonomy", root)[0]["mask"].all()

    def test_framenet_pictures_are_resized_to_their_labels(self, tmp_path):
        write_release("framenet", tmp_path)
        color = tmp_path / "scannet-frames" / f"{NAMES['framenet'][0]}-color.png"
        Image.new("RGB", (2 * WIDTH, 2 * HEIGHT), (30, 60, 90)).save(color)
        image = open_release("framenet", tmp_path)[0]["image"]
        assert image.shape == (3, HEIGHT, WIDTH)
        np.testing.assert_allclose(image[:, 2, 2], np.array([30, 60, 90]) / 255, atol=1e-3)


def _made(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


class TestSplits:
    def test_nyuv2_is_split_by_folders(self, tmp_path):
        write_release("nyuv2", tmp_path)
        write_frame("nyuv2", tmp_path, "train/000002", make_normals(3), np.ones((HEIGHT, WIDTH), bool))
        names = {
            split: [pair.name for pair in PublishedNormals(tmp_path, "nyuv2", split=split).pairs]
            for split in ("test", "train")
        }
        assert names == {
            "test": ["test/000000_img", "test/000001_img", "test/000008_img"],
            "train": ["train/000002_img"],
        }
        assert len(open_release("nyuv2", tmp_path)) == 4
        # A part of the data set, opened by itself.
        assert len(PublishedNormals(tmp_path / "train", "nyuv2", split="train")) == 1

    def test_a_split_that_is_not_there(self, tmp_path):
        write_release("nyuv2", tmp_path)
        with pytest.raises(FileNotFoundError, match="no picture of split='train' of nyuv2; the folder has test"):
            PublishedNormals(tmp_path, "nyuv2", split="train")
        with pytest.raises(ValueError, match="split='val': nyuv2 has test, train; all takes every picture"):
            PublishedNormals(tmp_path, "nyuv2", split="val")

    def test_dsine_s_list_is_used_where_it_is(self, tmp_path):
        write_release("scannet", tmp_path)
        (tmp_path / "test.txt").write_text("scene0532_00/000450_img.png\nscene0999_00/000000_img.png\n")
        found = PublishedNormals(tmp_path, "scannet").pairs
        assert [pair.name for pair in found] == ["scene0532_00/000450_img"]

    def test_hypersim_by_its_table(self, tmp_path):
        pytest.importorskip("h5py")
        write_release("hypersim", tmp_path)
        scenes = [frame.split("/") for frame in NAMES["hypersim"]]
        parts = [(True, "test"), (False, "test"), (True, "train")]
        write_hypersim_list(tmp_path, [(*scene, *part) for scene, part in zip(scenes, parts, strict=True)])
        assert len(PublishedNormals(tmp_path, "hypersim")) == 1
        assert "ai_010_002" in PublishedNormals(tmp_path, "hypersim", split="train").pairs[0].name
        # A scene alone finds the table beside it.
        assert len(PublishedNormals(tmp_path / "ai_010_002", "hypersim", split="train")) == 1
        with pytest.raises(FileNotFoundError, match="no picture of split='val'"):
            PublishedNormals(tmp_path, "hypersim", split="val")

    def test_taskonomy_by_buildings(self, tmp_path):
        write_release("taskonomy", tmp_path)
        rows = [["id", "train", "val", "test"], ["hanson", 0, 0, 1], ["merom", 1, 0, 0]]
        write_table(tmp_path / "train_val_test_tiny.csv", rows)
        assert len(PublishedNormals(tmp_path, "taskonomy")) == 2
        assert "merom" in PublishedNormals(tmp_path, "taskonomy", split="train").pairs[0].name

    def test_framenet_scores_every_200th(self, tmp_path):
        write_release("framenet", tmp_path)
        absent = [f"scene0707_00/frame-{i:06}" for i in range(199)]
        first, second, third = NAMES["framenet"]
        write_framenet_list(tmp_path, {"test": [first, *absent, second, third], "train": [third]})
        found = [pair.name for pair in PublishedNormals(tmp_path, "framenet").pairs]
        assert found == [f"scannet-frames/{first}-color", f"scannet-frames/{second}-color"]
        assert len(PublishedNormals(tmp_path, "framenet", split="train")) == 1

    @pytest.mark.parametrize(
        ("name", "file"),
        [
            pytest.param("hypersim", "metadata_images_split_scene_v1.csv", marks=needs("hypersim").marks),
            ("taskonomy", "train_val_test_*.csv"),
            ("framenet", "train_test_split.pkl"),
        ],
    )
    def test_a_missing_list_is_named(self, tmp_path, name, file):
        write_release(name, tmp_path)
        next(tmp_path.glob(file)).unlink()
        with pytest.raises(FileNotFoundError) as caught:
            PublishedNormals(tmp_path, name)
        assert file in str(caught.value)
        assert "Get it from" in str(caught.value)
        assert "split='all'" in str(caught.value)

    def test_broken_lists_are_refused_by_name(self, tmp_path):
        write_release("framenet", tmp_path)
        path = tmp_path / "train_test_split.pkl"
        for content in (
            b"",
            b"no pickle",
            pickle.dumps({"test": []}),
            pickle.dumps([1]),
            pickle.dumps({"train": [[]]}),
        ):
            path.write_bytes(content)
            with pytest.raises(ValueError, match=r"train_test_split\.pkl: no list of FrameNet's split='test'"):
                PublishedNormals(tmp_path, "framenet")
        write_release("taskonomy", tmp_path / "t")
        (tmp_path / "t" / "train_val_test_tiny.csv").write_text("building,train\nhanson,1\n")
        with pytest.raises(ValueError, match=r"train_val_test_tiny\.csv: wanted a table with the columns id, train"):
            PublishedNormals(tmp_path / "t", "taskonomy")

    def test_a_list_that_runs_code_is_refused_and_does_not(self, tmp_path):
        write_release("framenet", tmp_path)

        class Trap:
            def __reduce__(self):
                return (exec, (f"open({str(tmp_path / 'sprung')!r}, 'w')",))

        (tmp_path / "train_test_split.pkl").write_bytes(pickle.dumps({"test": [[Trap()]]}))
        with pytest.raises(ValueError, match=r"refers to builtins\.exec, and only lists of paths are read"):
            PublishedNormals(tmp_path, "framenet")
        assert not (tmp_path / "sprung").exists()


class TestErrors:
    def test_a_folder_without_the_data_set(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder"):
            open_release("nyuv2", tmp_path / "nowhere")
        with pytest.raises(FileNotFoundError, match=r"no picture in the layout of nyuv2; .* test/000000_img\.png"):
            open_release("nyuv2", tmp_path)

    def test_names_that_are_not_known(self, tmp_path):
        with pytest.raises(ValueError, match="dataset='nyu' is not known; choose one of nyuv2, scannet"):
            open_release("nyu", tmp_path)
        with pytest.raises(ValueError, match="layout='tum' has no normal files"):
            open_release("tum", tmp_path)

    def test_no_layout_and_two_layouts(self, tmp_path):
        (tmp_path / "a.png").write_bytes(b"")
        with pytest.raises(ValueError, match=r"in no known layout; known are nyuv2 .test/000000_img.png., scannet"):
            detect_layout(tmp_path)
        write_release("nyuv2", tmp_path / "nyuv2")
        write_release("diode", tmp_path / "diode")
        with pytest.raises(ValueError, match=r"several layouts at once, .*diode \(3 pictures.* nyuv2 \(3 pictures"):
            detect_layout(tmp_path)
        # Said which, it is clear.
        assert len(open_release("nyuv2", tmp_path)) == 3

    def test_another_number_of_pictures_than_the_field_s(self, tmp_path):
        write_release("nyuv2", tmp_path)
        with pytest.warns(UserWarning, match="split='test' of nyuv2 has 3 pictures here, and 654 in the field"):
            PublishedNormals(tmp_path, "nyuv2")

    def test_sizes_that_differ(self, tmp_path):
        write_release("nyuv2", tmp_path)
        Image.new("RGB", (5, 5)).save(tmp_path / "test" / "000000_img.png")
        with pytest.raises(ValueError, match=r"000000_img\.png is 5 x 5 but .*000000_normal\.png is 8 x 6"):
            open_release("nyuv2", tmp_path)


@pytest.fixture(scope="module")
def rooms():
    rooms = SyntheticRooms(6, size=(48, 64), seed=21)
    samples = [rooms[i] for i in range(6)]
    return [(s["normals"].permute(1, 2, 0).numpy(), s["mask"].numpy(), s["intrinsics"].numpy()) for s in samples]


class TestContradiction:
    def write(self, root, rooms, signs):
        for i, (normals, mask, matrix) in enumerate(rooms):
            write_frame("nyuv2", root, f"test/{i:06}", normals, mask, signs=signs, matrix=matrix)

    @pytest.mark.parametrize("convention", Convention)
    def test_normals_that_point_another_way_are_refused_with_the_evidence(self, tmp_path, rooms, convention):
        self.write(tmp_path, rooms, convention.signs)
        if convention is Convention.DSINE:
            assert len(PublishedNormals(tmp_path, "nyuv2")) == 6
            return
        with pytest.raises(ValueError, match="its normals are said to be DSINE, but they look like") as caught:
            PublishedNormals(tmp_path, "nyuv2")
        message = str(caught.value)
        assert f"look like {convention.name}" in message
        assert f"Pass convention={convention.name}" in message
        assert "of the surfaces face the camera" in message
        assert len(PublishedNormals(tmp_path, "nyuv2", convention=convention)) == 6
        assert len(PublishedNormals(tmp_path, "nyuv2", check=False)) == 6

    def test_hypersim_s_turning_does_not_hide_it(self, tmp_path, rooms):
        """Turned to the camera, a file whose z points the other way would look right."""
        pytest.importorskip("h5py")
        for i, (normals, mask, _) in enumerate(rooms):
            write_frame("hypersim", tmp_path, f"ai_001_001/cam_00/{i:04}", normals, mask, signs=(1, 1, 1))
        with pytest.raises(ValueError, match="said to be OPENGL, but they look like OPENCV"):
            open_release("hypersim", tmp_path)
