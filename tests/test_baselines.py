"""The baselines against numpy and a search that looks everywhere."""

import numpy as np
import pytest
import torch

from normalkit.baselines import FixedNormals, best_constant, per_pixel_mean


def batches_of(count=3, size=(6, 8), seed=0):
    """Labels scattered about a direction, with holes, a mask and lengths other than 1."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        normals = torch.tensor([0.3, -0.5, -0.8]).view(1, 3, 1, 1) + torch.randn(2, 3, *size, generator=generator) / 2
        normals[:, :, 0, 0] = 0
        normals[:, :, 0, 1] = torch.nan
        normals[:, 2].clamp_(max=-0.1)
        normals[:, 2, 0, 0] = 0
        batches.append({"normals": 2 * normals, "mask": torch.rand(2, *size, generator=generator) > 0.2})
    return batches


def labels_of(batches):
    """Valid unit labels as numpy (N, 3), and the picture and pixel of each."""
    normals = torch.cat([b["normals"] for b in batches]).double().numpy()
    length = np.linalg.norm(normals, axis=1)
    valid = torch.cat([b["mask"] for b in batches]).numpy() & (np.nan_to_num(length) > 0.5)
    return np.moveaxis(normals, 1, -1)[valid] / length[valid][:, None], np.nonzero(valid)


def mean_error(labels, direction):
    return np.degrees(np.arccos(np.clip(labels @ direction, -1, 1))).mean()


def test_per_pixel_mean():
    batches = batches_of()
    labels, (_, row, column) = labels_of(batches)
    sums = np.zeros((6, 8, 3))
    np.add.at(sums, (row, column), labels)
    sums[np.abs(sums).sum(-1) == 0] = labels.sum(0)
    expected = sums / np.linalg.norm(sums, axis=-1, keepdims=True)
    model = per_pixel_mean(iter(batches))
    prediction = model(torch.rand(2, 3, 6, 8))
    np.testing.assert_allclose(prediction[1].permute(1, 2, 0), expected, atol=1e-6)
    # The pixels without any label.
    np.testing.assert_allclose(expected[0, 0], labels.sum(0) / np.linalg.norm(labels.sum(0)))


def test_best_constant():
    batches = batches_of(size=(20, 30))
    labels, _ = labels_of(batches)
    found = best_constant(batches, every=1).normals.flatten().double().numpy()
    assert np.linalg.norm(found) == pytest.approx(1)
    generator = np.random.default_rng(0)
    best = found
    for step in np.geomspace(0.2, 1e-3, 200):
        tried = best + step * generator.normal(size=3)
        best = min(best, tried / np.linalg.norm(tried), key=lambda d: mean_error(labels, d))
    # Neighbouring directions are 2 degrees apart, and the error is flat about its minimum.
    assert mean_error(labels, found) < mean_error(labels, best) + 0.1
    assert mean_error(labels, found) < mean_error(labels, np.array([0, 0, -1])) - 5


def test_a_share_of_the_labels_is_enough():
    batches = batches_of(size=(60, 80))
    labels, _ = labels_of(batches)
    few, all_of_them = (best_constant(batches, every=every).normals.flatten().double().numpy() for every in (97, 1))
    assert mean_error(labels, few) < mean_error(labels, all_of_them) + 0.5


@pytest.mark.parametrize("size", [(1, 1), (4, 5), (9, 31)])
def test_fixed_normals_fit_any_picture(size):
    model = FixedNormals(torch.tensor([[-1.0, 1.0], [0.0, 0.0], [-1.0, -1.0]]).view(3, 1, 2))
    prediction = model(torch.rand(3, 3, *size))
    assert prediction.shape == (3, 3, *size)
    np.testing.assert_allclose(prediction.norm(dim=1), 1, atol=1e-6)
    assert torch.equal(prediction[0], prediction[2])
    # From left to right, in between at the middle.
    assert (prediction[0, 0, 0].diff() >= 0).all()
    np.testing.assert_allclose(prediction.mean((0, 2, 3))[:2], 0, atol=1e-6)


@pytest.mark.parametrize("baseline", [per_pixel_mean, best_constant])
def test_no_labels(baseline):
    empty = {"normals": torch.ones(1, 3, 2, 2), "mask": torch.zeros(1, 2, 2, dtype=torch.bool)}
    for batches in ([], [empty]):
        with pytest.raises(ValueError, match="no valid label"):
            baseline(batches)


def test_other_sizes_and_shapes():
    with pytest.raises(ValueError, match=r"pictures are \(6, 8\) and \(5, 8\).*resize or crop"):
        per_pixel_mean(batches_of() + batches_of(size=(5, 8)))
    with pytest.raises(ValueError, match=r"normals has shape \(1, 3, 1, 1\); wanted \(3, H, W\)"):
        FixedNormals(torch.zeros(1, 3, 1, 1))


def test_masks_are_optional():
    normals = torch.tensor([0.0, -0.6, -0.8]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    np.testing.assert_allclose(per_pixel_mean([{"normals": normals}]).normals, normals[0], atol=1e-6)
    assert float(best_constant([{"normals": normals}]).normals[:, 0, 0] @ normals[0, :, 0, 0]) > np.cos(np.radians(2))
