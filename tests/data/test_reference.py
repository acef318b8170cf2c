"""The rooms that figures of all versions are compared on."""

import hashlib

import pytest
import torch

from normalkit.data import NormalFolder, open_dataset, reference_rooms
from normalkit.data.reference import FOLDER


def test_they_never_change():
    """A change of this digest would break every comparison with a figure on them: make another set instead."""
    digest = hashlib.sha256()
    for path in sorted(FOLDER.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    assert digest.hexdigest() == "ca864e3a4c3607f69eb5ae6c36d599f527d0105ccc393da53c9b9584494cb037"


def test_they_are_rooms_with_their_normals():
    rooms, towards = reference_rooms(), []
    assert len(rooms) == 100
    for room in (rooms[i] for i in range(0, 100, 9)):
        assert room["image"].shape == room["normals"].shape == (3, 120, 160)
        normals, mask = (room[name].as_subclass(torch.Tensor) for name in ("normals", "mask"))
        assert mask.float().mean() > 0.5
        torch.testing.assert_close(normals.norm(dim=0)[mask], torch.ones(int(mask.sum())), atol=1e-5, rtol=0)
        towards.append((normals[2][mask] < 0).float().mean())
    # What a camera sees faces it, and so looks back along z but at the edge of a wide view.
    assert torch.stack(towards).mean() > 0.9


def test_they_are_what_is_opened_without_a_folder():
    data = open_dataset()
    assert type(data) is NormalFolder
    assert data.root == FOLDER
    with pytest.raises(ValueError, match=r"dataset='nyuv2'.*: of which folder\?"):
        open_dataset(dataset="nyuv2")
    with pytest.raises(ValueError, match=r"of which folder\?"):
        open_dataset(images="*.png", normals="*.npy")
