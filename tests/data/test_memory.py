"""The data set in memory against the one it was read from."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from normalkit.data.memory import InMemory
from normalkit.data.sample import make_sample


class Numbered(Dataset):
    """Samples that know their number, and a count of how often they were read."""

    def __init__(self):
        self.reads = 0

    def __len__(self):
        return 5

    def __getitem__(self, index):
        self.reads += 1
        image = torch.full((3, 4, 6), index / 5)
        normals = torch.tensor([0.6, 0.0, -0.8]).view(3, 1, 1).expand(3, 4, 6)
        return make_sample(image, normals, torch.ones(4, 6, dtype=torch.bool), torch.eye(3), f"n{index}")


@pytest.mark.parametrize("workers", [0, 2])
def test_same_samples_in_order(workers):
    memory = InMemory(Numbered(), workers=workers, progress=False)
    assert len(memory) == 5
    for i in range(5):
        expected = Numbered()[i]
        assert memory[i]["name"] == expected["name"]
        assert all(torch.equal(memory[i][k], expected[k]) for k in expected if k != "name")


def test_each_is_read_once():
    source = Numbered()
    memory = InMemory(source, progress=False)
    assert [memory[1]["name"] for _ in range(3)] == ["n1"] * 3
    assert source.reads == 5


@pytest.mark.parametrize("transform", [None, lambda sample: sample])
def test_changes_in_place_change_nothing_kept(transform):
    memory = InMemory(Numbered(), transform=transform, progress=False)
    sample = memory[2]
    for key in ("image", "normals", "intrinsics"):
        sample[key].zero_()
    sample["name"] = "other"
    assert memory[2]["name"] == "n2"
    assert memory[2]["normals"].any()
    assert memory[2]["image"].any()


def test_transform_turns_the_vectors_anew_each_time():
    memory = InMemory(Numbered(), transform=v2.RandomHorizontalFlip(0.5), progress=False)
    torch.manual_seed(0)
    signs = [float(memory[0]["normals"][0, 0, 0]) for _ in range(20)]
    assert {round(sign, 4) for sign in signs} == {0.6, -0.6}


def test_mask_after_the_transform():
    memory = InMemory(Numbered(), transform=v2.Pad(1, padding_mode="edge"), progress=False)
    mask = memory[0]["mask"]
    assert mask[1:-1, 1:-1].all()
    assert int(mask.sum()) == 24


def test_batches_from_workers():
    memory = InMemory(Numbered(), transform=v2.RandomHorizontalFlip(1.0), progress=False)
    batches = list(DataLoader(memory, batch_size=2, num_workers=2))
    assert [batch["name"] for batch in batches] == [["n0", "n1"], ["n2", "n3"], ["n4"]]
    torch.testing.assert_close(batches[2]["normals"][0, :, 0, 0], torch.tensor([-0.6, 0.0, -0.8]))
