"""The one place where samples are put together."""

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.tv_tensors import Image, Mask

from normalkit.data.sample import make_sample, transform_sample
from normalkit.transforms import Intrinsics, SurfaceNormals

CAMERA = torch.tensor([[9.0, 0, 3], [0, 9, 2], [0, 0, 1]])


def parts():
    generator = torch.Generator().manual_seed(0)
    normals = torch.randn(3, 4, 6, generator=generator) + 2
    normals[:, 0, 0] = 0
    normals[0, 0, 1] = math.nan
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[3] = False
    return {
        "image": torch.randint(0, 256, (3, 4, 6), dtype=torch.uint8, generator=generator),
        "normals": normals,
        "mask": mask,
        "intrinsics": CAMERA.double(),
        "name": "a/b",
    }


def test_contract():
    given = parts()
    sample = make_sample(**given)
    assert list(sample) == ["image", "normals", "mask", "intrinsics", "name"]
    assert {k: (tuple(v.shape), v.dtype) for k, v in sample.items() if k != "name"} == {
        "image": ((3, 4, 6), torch.float32),
        "normals": ((3, 4, 6), torch.float32),
        "mask": ((4, 6), torch.bool),
        "intrinsics": ((3, 3), torch.float32),
    }
    np.testing.assert_allclose(sample["image"], given["image"] / 255)
    expected = given["mask"].clone()
    expected[0, :2] = False
    assert torch.equal(sample["mask"], expected)
    lengths = sample["normals"].norm(dim=0)
    np.testing.assert_allclose(lengths, expected.float(), atol=1e-6)
    assert torch.equal(sample["intrinsics"], CAMERA)
    assert sample["name"] == "a/b"


def test_a_float_image_keeps_its_values():
    given = parts()
    given["image"] = torch.rand(3, 4, 6)
    assert torch.equal(make_sample(**given)["image"], given["image"])


def test_unknown_intrinsics_are_nan():
    assert make_sample(**(parts() | {"intrinsics": None}))["intrinsics"].isnan().all()


def test_depth_moves_with_the_picture():
    depth = torch.arange(24.0).view(1, 4, 6).double()
    sample = make_sample(**parts(), depth=depth, transform=v2.RandomHorizontalFlip(1.0))
    assert sample["depth"].dtype == torch.float32
    assert torch.equal(sample["depth"], depth.flip(-1).float())
    assert list(sample)[-1] == "depth"


def test_transform_gets_tv_tensors():
    seen = {}

    def look(sample):
        seen.update({key: type(value) for key, value in sample.items()})
        return sample

    make_sample(**parts(), depth=torch.ones(1, 4, 6), transform=look)
    assert seen == {
        "image": Image,
        "normals": SurfaceNormals,
        "mask": Mask,
        "intrinsics": Intrinsics,
        "name": str,
        "depth": Mask,
    }


def test_the_mask_after_a_transform():
    plain = make_sample(**parts())
    flipped = make_sample(
        **parts(), transform=v2.Compose([v2.RandomHorizontalFlip(1.0), v2.Pad(1, padding_mode="edge")])
    )
    assert not flipped["mask"][0].any()
    assert torch.equal(flipped["mask"][1:-1, 1:-1], plain["mask"].flip(-1))


@pytest.mark.parametrize("size", [(2, 3), (7, 5), (11, 13)])
def test_no_masked_label_comes_back_with_a_resize(size):
    # torchvision picks other pixels of a mask than nearest-exact does of normals.
    given = parts()
    given["normals"] = torch.where(given["mask"], torch.tensor([0.0, 0, -1]).view(3, 1, 1), 1.0)
    sample = make_sample(**given, transform=v2.Resize(size))
    assert sample["mask"].any()
    assert not sample["normals"][0].any()


def test_samples_are_plain_tensors():
    # tv_tensors of two types cannot be mixed in one operation.
    for transform in (None, v2.RandomHorizontalFlip(1.0)):
        sample = make_sample(**parts(), depth=torch.ones(1, 4, 6), transform=transform)
        assert {type(value) for value in sample.values()} == {torch.Tensor, str}


def test_plain_samples_are_wrapped_first():
    given = parts()
    given["image"] = given["image"] / 255
    given["depth"] = torch.ones(1, 4, 6)
    given["normals"] = given["normals"] * given["mask"]
    moved = transform_sample(given, v2.RandomHorizontalFlip(1.0))
    wrapped = make_sample(**parts(), depth=given["depth"], transform=v2.RandomHorizontalFlip(1.0))
    for key in ("image", "normals", "mask", "intrinsics", "depth"):
        np.testing.assert_allclose(moved[key], wrapped[key], atol=1e-6)
    assert type(given["normals"]) is torch.Tensor


@pytest.mark.parametrize(
    ("part", "shape"), [("image", (3, 4, 7)), ("normals", (3, 5, 6)), ("mask", (4, 5)), ("depth", (1, 2, 2))]
)
def test_sizes_that_differ(part, shape):
    other = torch.zeros(shape, dtype=torch.bool if part == "mask" else torch.float32)
    with pytest.raises(ValueError, match=rf"a/b: sizes differ: .*{part} \({shape[-2]}, {shape[-1]}\)"):
        make_sample(**(parts() | {part: other}))


def test_a_transform_that_returns_something_else():
    with pytest.raises(TypeError, match="transform returned a tuple; wanted the sample's dict"):
        make_sample(**parts(), transform=lambda sample: tuple(sample.values()))


def test_a_mask_that_is_not_boolean():
    with pytest.raises(TypeError, match="use `mask > 0`"):
        make_sample(**(parts() | {"mask": torch.ones(4, 6)}))
