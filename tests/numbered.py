"""A data set whose samples can be told apart by any of their parts, and its shards."""

import torch
from torch.utils.data import Dataset

from normalkit.data.sample import make_sample

HEIGHT, WIDTH = 4, 5


class Numbered(Dataset):
    """Sample i has the grey value i, and a wall turned a little more than that of i - 1."""

    def __init__(self, length=23, *, fails_at=None):
        self.length, self.fails_at, self.asked = length, fails_at, []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        index = int(index)
        if index == self.fails_at:
            raise OSError(f"picture {index} cannot be read")
        self.asked.append(index)
        image = torch.full((3, HEIGHT, WIDTH), index, dtype=torch.uint8)
        image[0, 0, 0] = 255 - index
        angle = torch.tensor(0.02 * index)
        normals = torch.stack([angle.sin(), torch.zeros(()), -angle.cos()]).view(3, 1, 1).repeat(1, HEIGHT, WIDTH)
        mask = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
        mask[0, index % WIDTH] = False
        intrinsics = torch.tensor([[50.0 + index, 0, 2], [0, 50, 1.5], [0, 0, 1]]) if index % 2 else None
        return make_sample(image, normals, mask, intrinsics, f"scene.{index}/é")


def numbers_of(batches):
    """The numbers of the samples of batches, batch by batch."""
    return [[int(name.split(".")[1].split("/")[0]) for name in batch["name"]] for batch in batches]
