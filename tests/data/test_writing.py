"""Samples written as files and read again as a folder of anyone's."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from normalkit import NormalFolder, SyntheticRooms
from normalkit.data.writing import write_samples
from normalkit.geometry import angular_error


class Counted:
    """A data set that knows what was asked of it."""

    def __init__(self, dataset):
        self.dataset, self.asked = dataset, []

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        self.asked.append(index)
        return self.dataset[index]


def rooms(count=3):
    return SyntheticRooms(count, size=(24, 32), seed=5)


@pytest.mark.parametrize(("bits", "degrees"), [(8, 0.4), (16, 0.003)])
def test_a_folder_reads_what_was_written(tmp_path, bits, degrees):
    write_samples(rooms(), tmp_path / "a", facts={"seed": 5}, bits=bits, progress=False)
    found = NormalFolder(tmp_path / "a", convention=None, intrinsics="*_intrins.npy")
    assert len(found) == 3
    for drawn, read in zip([rooms()[i] for i in range(3)], found, strict=True):
        # Read by Pillow too, which knows nothing of this library.
        pixels = np.asarray(Image.open(tmp_path / "a" / f"{read['name']}_img.png"))
        np.testing.assert_allclose(pixels / 255, drawn["image"].permute(1, 2, 0), atol=0.51 / 255)
        torch.testing.assert_close(read["image"], drawn["image"], rtol=0, atol=0.51 / 255)
        assert torch.equal(read["mask"], drawn["mask"])
        errors = angular_error(read["normals"], drawn["normals"], dim=0)[drawn["mask"]]
        assert float(errors.max()) < degrees
        torch.testing.assert_close(read["intrinsics"], drawn["intrinsics"])


def test_what_is_there_is_not_drawn_again(tmp_path):
    write_samples(rooms(), tmp_path, facts={"seed": 5}, progress=False)
    (tmp_path / "000001_normal.png").unlink()
    counted = Counted(rooms())
    write_samples(counted, tmp_path, facts={"seed": 5}, progress=False)
    assert counted.asked == [1]
    assert len(NormalFolder(tmp_path, convention=None)) == 3


def test_more_samples_join_those_there(tmp_path):
    write_samples(rooms(2), tmp_path, facts={"seed": 5}, progress=False)
    counted = Counted(rooms(3))
    write_samples(counted, tmp_path, facts={"seed": 5}, progress=False)
    assert counted.asked == [2]


def test_workers_write_the_same(tmp_path):
    for workers in (0, 2):
        write_samples(rooms(), tmp_path / str(workers), facts={}, workers=workers, progress=False)
    names = sorted(path.name for path in (tmp_path / "0").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "2").iterdir())
    assert all((tmp_path / "0" / name).read_bytes() == (tmp_path / "2" / name).read_bytes() for name in names)


def test_samples_of_other_facts_are_not_mixed(tmp_path):
    write_samples(rooms(1), tmp_path, facts={"seed": 5}, progress=False)
    with pytest.raises(ValueError, match=r"data\.json.*choose another folder"):
        write_samples(rooms(1), tmp_path, facts={"seed": 6}, progress=False)
    with pytest.raises(ValueError, match=r"data\.json"):
        write_samples(rooms(1), tmp_path, facts={"seed": 5}, bits=16, progress=False)
    assert json.loads((tmp_path / "data.json").read_text()) == {"seed": 5, "bits": 8}


def test_an_unknown_camera_has_no_file(tmp_path):
    sample = rooms(1)[0] | {"intrinsics": torch.full((3, 3), torch.nan)}
    write_samples([sample], tmp_path, facts={}, progress=False)
    assert not list(tmp_path.glob("*_intrins.npy"))


def test_refuses_other_bits(tmp_path):
    with pytest.raises(ValueError, match="bits=12"):
        write_samples(rooms(1), tmp_path, facts={}, bits=12)
