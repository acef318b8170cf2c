"""Folders of every kind, opened by one function."""

import numpy as np
import pytest
import torch
from PIL import Image
from recordings import INTRINSICS, write_recording
from released import SIGNS, make_normals, write_release

from normalkit.data import NormalFolder, PublishedNormals, RGBDNormals, open_dataset
from normalkit.geometry import Convention

pytestmark = pytest.mark.filterwarnings("ignore:.*figures will not compare:UserWarning")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("given", [None, "nyuv2"])
def test_a_data_set_by_its_name_or_its_files(tmp_path, given):
    write_release("nyuv2", tmp_path / "data")
    data = open_dataset(tmp_path / "data", dataset=given)
    assert type(data) is PublishedNormals
    assert (data.layout.name, data.split, len(data)) == ("nyuv2", "test", 3)


def test_its_split_and_convention(tmp_path):
    write_release("framenet", tmp_path, signs=SIGNS["taskonomy"])
    data = open_dataset(tmp_path, dataset="framenet", split="train", convention=Convention.TASKONOMY)
    assert len(data) == 2
    np.testing.assert_allclose(data[0]["normals"].permute(1, 2, 0), make_normals(1), atol=8e-3)


def test_patterns_still_open_any_pairs(tmp_path):
    write_release("nyuv2", tmp_path)
    patterns = {"images": "test/*_img.png", "normals": "test/*_normal.png", "convention": Convention.DSINE}
    assert type(open_dataset(tmp_path, **patterns)) is NormalFolder
    with pytest.raises(ValueError, match=r"dataset='nyuv2', split=None and images=.*: give a data set or patterns"):
        open_dataset(tmp_path, dataset="nyuv2", **patterns)
    with pytest.raises(ValueError, match="give a data set or patterns, not both"):
        open_dataset(tmp_path, split="test", **patterns)


def test_no_layout(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="in no known layout"):
        open_dataset(tmp_path)


class TestRecordings:
    def scene(self, root):
        for sequence in ("seq-01", "seq-02", "seq-13"):
            write_recording(root / sequence, 2, seed=int(sequence[-1]))
        return root

    def test_7scenes_and_its_splits(self, tmp_path):
        root = self.scene(tmp_path / "scene")
        (root / "TestSplit.txt").write_text("sequence13\nsequence2\n")
        whole, test = open_dataset(root), open_dataset(root, dataset="7scenes", split="test")
        assert type(whole) is RGBDNormals
        assert (len(whole), len(test)) == (6, 4)
        names = [f"{sequence}/frame-{i:06}" for sequence in ("seq-02", "seq-13") for i in range(2)]
        assert [test[i]["name"] for i in range(4)] == names
        with pytest.raises(FileNotFoundError, match=r"TrainSplit\.txt: missing; it says which pictures of 7scenes"):
            open_dataset(root, split="train")
        (root / "TrainSplit.txt").write_text("seq 1\n")
        with pytest.raises(ValueError, match=r"TrainSplit\.txt: has the line 'seq 1'; wanted lines such as sequence3"):
            open_dataset(root, split="train")

    def test_the_documented_camera_is_taken_where_there_is_no_file(self, tmp_path):
        root = tmp_path / "scene"
        root.mkdir()
        Image.new("RGB", (640, 480)).save(root / "frame-000000.color.png")
        Image.fromarray(np.full((480, 640), 2000, np.uint16)).save(root / "frame-000000.depth.png")
        expected = [[585, 0, 320], [0, 585, 240], [0, 0, 1]]
        assert open_dataset(root)[0]["intrinsics"].tolist() == expected
        np.savetxt(root / "camera-intrinsics.txt", INTRINSICS)
        assert torch.equal(open_dataset(root)[0]["intrinsics"], torch.tensor(INTRINSICS).float())

    def test_and_not_for_pictures_of_another_size(self, tmp_path):
        root = tmp_path / "scene"
        write_recording(root, 1)
        (root / "camera-intrinsics.txt").unlink()
        with pytest.raises(FileNotFoundError, match="no intrinsics for this depth"):
            open_dataset(root)

    def test_tum(self, tmp_path):
        root = tmp_path / "data" / "rgbd_dataset_freiburg1_desk"
        for kind in ("rgb", "depth"):
            (root / kind).mkdir(parents=True)
            (root / f"{kind}.txt").write_text(f"# a comment\n1.5 {kind}/1.500000.png\n")
        Image.new("RGB", (640, 480)).save(root / "rgb" / "1.500000.png")
        Image.fromarray(np.full((480, 640), 10000, np.uint16)).save(root / "depth" / "1.500000.png")
        # From the folder above as well.
        for opened in (root, tmp_path / "data"):
            data = open_dataset(opened)
            assert type(data) is RGBDNormals
            assert data[0]["intrinsics"].tolist() == [[525, 0, 319.5], [0, 525, 239.5], [0, 0, 1]]
        other = tmp_path / "data" / "other"
        other.mkdir()
        for kind in ("rgb", "depth"):
            (other / f"{kind}.txt").write_text("")
        with pytest.raises(ValueError, match=r"2 recordings, .*other, .*freiburg1_desk; open one"):
            open_dataset(tmp_path / "data")
