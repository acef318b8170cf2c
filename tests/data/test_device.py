"""Batches made on the device against windows cut one by one out of images that numpy padded."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms.functional import to_tensor

from normalkit.data import device
from normalkit.data.device import DeviceLoader, device_evaluation_loader, device_training_loader
from normalkit.data.labeled import LabeledImages


def numbered(count, height=8, width=8, seed=0):
    """Random images, each of a class of its own, so that its label tells which one it is."""
    images = np.random.default_rng(seed).integers(0, 256, (count, 3, height, width), dtype=np.uint8)
    return LabeledImages(torch.from_numpy(images), torch.arange(count), tuple(map(str, range(count))))


def recover(data, batches, padding):
    """The (sample, top, left, mirrored) of each output, found among all windows of its padded image."""
    batches = list(batches)
    assert {batch["image"].dtype for batch in batches} == {torch.float32}
    images = torch.cat([batch["image"] for batch in batches]).mul(255).round().byte().numpy()
    samples = torch.cat([batch["label"] for batch in batches]).numpy()
    height, width = images.shape[2:]
    padded = np.pad(data.images.numpy()[samples], [(0, 0), (0, 0), *[(padding, padding)] * 2], mode="reflect")
    shifts = range(2 * padding + 1)
    matches = np.zeros((len(images), len(shifts), len(shifts), 2), bool)
    for mirrored, turned in enumerate((images, images[..., ::-1])):
        for top, left in itertools.product(shifts, shifts):
            window = padded[:, :, top : top + height, left : left + width]
            matches[:, top, left, mirrored] = (window == turned).all((1, 2, 3))
    counts = matches.sum((1, 2, 3))
    # With more padding a window may hold the same pixels as another one mirrored.
    assert (counts == 1).all() if 2 * padding < min(height, width) - 1 else counts.all()
    return np.column_stack([samples, *np.unravel_index(matches.reshape(len(images), -1).argmax(1), matches.shape[1:])])


def draws(data, epoch=0, *, seed=0, batch_size=10, padding=2, flip="random"):
    """(sample, top, left, mirrored) of an epoch, in its order."""
    batches = device_training_loader(data, batch_size=batch_size, epoch=epoch, seed=seed, padding=padding, flip=flip)
    return recover(data, batches, padding)


def by_sample(found):
    return found[found[:, 0].argsort()]


# What a batch is


@pytest.mark.parametrize(("height", "width", "padding"), [(8, 8, 2), (10, 13, 4), (7, 4, 1), (32, 32, 4), (5, 9, 4)])
@pytest.mark.parametrize("flip", ["alternating", "random", "none"])
def test_windows_of_padded_images(height, width, padding, flip):
    data = numbered(40, height, width)
    found = draws(data, padding=padding, flip=flip)
    assert sorted(found[:, 0]) == list(range(40))
    if 2 * padding < min(height, width) - 1:
        assert set(found[:, 3]) == ({0} if flip == "none" else {0, 1})


def test_draws_given_by_hand():
    """Each against the loop that the docstring describes."""
    data = numbered(6, 5, 7)
    moves = torch.tensor([[0, 0, 0], [4, -6, 1], [-4, 6, 0], [1, 2, 1], [-1, 0, 1], [0, -3, 0]])
    order = torch.tensor([5, 0, 3, 3, 1, 4])
    (batch,) = DeviceLoader(data, order, batch_size=6, moves=moves)
    for image, sample, (down, right, mirrored) in zip(batch["image"], order, moves.tolist(), strict=True):
        padded = np.pad(data.images[sample].numpy(), [(0, 0), (4, 4), (6, 6)], mode="reflect")
        window = padded[:, 4 + down : 9 + down, 6 + right : 13 + right]
        window = window[:, :, ::-1] if mirrored else window
        np.testing.assert_array_equal(image.numpy(), window.astype(np.float32) / np.float32(255))


def test_values_are_those_of_torchvision():
    data = LabeledImages(torch.arange(256, dtype=torch.uint8).expand(1, 3, 2, 256), torch.tensor([0]), ("a",))
    (batch,) = device_evaluation_loader(data)
    expected = to_tensor(data.images[0].permute(1, 2, 0).numpy())
    assert torch.equal(batch["image"][0], expected)


def test_no_shift_and_no_flip_leave_images_as_they_are():
    data = numbered(12)
    for batch in device_training_loader(data, batch_size=5, epoch=3, seed=1, padding=0, flip="none"):
        assert torch.equal(batch["image"], data.images[batch["label"]] / 255)


def test_no_shift_with_flips():
    found = draws(numbered(30), padding=0)
    assert not found[:, 1:3].any()
    assert set(found[:, 3]) == {0, 1}


def test_data_stay_as_they_were():
    data = numbered(12)
    images, labels = data.images.clone(), data.labels.clone()
    for batch in [*device_training_loader(data, batch_size=5, epoch=0, seed=0), *device_evaluation_loader(data)]:
        batch["image"].zero_()
        batch["label"].zero_()
    assert torch.equal(data.images, images)
    assert torch.equal(data.labels, labels)


def test_cutout_is_a_square_of_the_mean_colour_around_any_pixel():
    data = numbered(1500, 7, 9)
    epoch = {"batch_size": 500, "epoch": 2, "seed": 4, "padding": 2}
    whole = list(device_training_loader(data, **epoch))
    centres = []
    for batch, before in zip(device_training_loader(data, **epoch, cutout=3), whole, strict=True):
        assert torch.equal(batch["label"], before["label"])
        for image, old in zip(batch["image"].numpy(), before["image"].numpy(), strict=True):
            rows, columns = np.nonzero((image != old).any(0))
            top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
            expected = old.copy()
            expected[:, top:bottom, left:right] = old.reshape(3, -1).mean(1)[:, None, None]
            np.testing.assert_allclose(image, expected, atol=1e-6)
            # At the border a part of it is outside.
            assert bottom - top == 3 or (bottom - top == 2 and (top == 0 or bottom == 7))
            assert right - left == 3 or (right - left == 2 and (left == 0 or right == 9))
            centres.append((bottom - 2 if top == 0 else top + 1, right - 2 if left == 0 else left + 1))
    counts = np.zeros((7, 9))
    np.add.at(counts, tuple(np.transpose(centres)), 1)
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_cutout_of_even_side_and_of_the_whole_image():
    data = numbered(40, 6, 6)
    for batch in device_training_loader(data, batch_size=40, epoch=0, seed=0, padding=0, flip="none", cutout=4):
        changed = (batch["image"] != data.images[batch["label"]] / 255).any(1)
        assert set(changed.any(2).sum(1).tolist()) == {2, 3, 4}
    large = device_training_loader(data, batch_size=40, epoch=0, seed=0, padding=0, flip="none", cutout=6)
    assert all((batch["image"] != data.images[batch["label"]] / 255).any() for batch in large)


@pytest.mark.parametrize("epoch", [0, 3])
@pytest.mark.parametrize("views", [2, 3])
def test_views_are_those_of_as_many_epochs(epoch, views):
    """An epoch shows side by side what epochs of one view show one after another."""
    data = numbered(20)
    options = {"seed": 5, "padding": 2, "cutout": 3}
    together = list(device_training_loader(data, batch_size=4 * views, epoch=epoch, views=views, **options))
    assert len(together) == 5
    shown = []
    for batch in together:
        samples = batch["label"].view(4, views)
        assert (samples == samples[:, :1]).all()
        shown += list(zip(samples[:, 0].tolist(), batch["image"].unflatten(0, (4, views)), strict=True))
    assert sorted(sample for sample, _ in shown) == list(range(20))
    for view in range(views):
        apart = device_training_loader(data, batch_size=20, epoch=epoch * views + view, **options)
        (batch,) = apart
        images = dict(zip(batch["label"].tolist(), batch["image"], strict=True))
        assert all(torch.equal(images[sample], image[view]) for sample, image in shown)


def test_two_views_of_alternating_flips_are_both_mirror_images():
    data = numbered(30)
    loader = device_training_loader(data, batch_size=10, epoch=1, seed=0, padding=2, views=2)
    assert (recover(data, loader, 2)[:, 3].reshape(-1, 2).sum(1) == 1).all()


# The order of an epoch


def test_last_smaller_batch_is_left_out():
    loader = device_training_loader(numbered(23), batch_size=5, epoch=0, seed=0)
    batches = list(loader)
    assert len(loader) == len(batches) == 4
    assert [len(batch["label"]) for batch in batches] == [5] * 4
    assert len(torch.cat([batch["label"] for batch in batches]).unique()) == 20


def test_epoch_is_the_same_whenever_it_is_asked_for():
    data = numbered(20)
    torch.manual_seed(0)
    loader = device_training_loader(data, batch_size=5, epoch=7, seed=3)
    first = list(loader)
    before = torch.get_rng_state()
    torch.manual_seed(1)
    again = list(device_training_loader(data, batch_size=5, epoch=7, seed=3))
    for batches in (list(loader), again):
        for one, other in zip(first, batches, strict=True):
            assert torch.equal(one["image"], other["image"])
            assert torch.equal(one["label"], other["label"])
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), before)


def test_epochs_and_seeds_differ():
    data = numbered(60)
    epochs = [draws(data, epoch, seed=seed) for epoch, seed in [(0, 0), (1, 0), (0, 1), (1, 1)]]
    for i, one in enumerate(epochs):
        for other in epochs[:i]:
            assert (one[:, 0] == other[:, 0]).mean() < 0.2
            assert (by_sample(one)[:, 1:3] == by_sample(other)[:, 1:3]).all(1).mean() < 0.3


def test_draws_do_not_depend_on_the_batch_size():
    data = numbered(24)
    assert np.array_equal(draws(data, 2, batch_size=3), draws(data, 2, batch_size=12))


# The distribution of the draws


def test_windows_and_flips_are_uniform():
    data = numbered(1500)
    found = draws(data, padding=2, batch_size=500)
    counts = np.zeros((5, 5, 2))
    np.add.at(counts, tuple(found[:, 1:].T), 1)
    assert stats.chisquare(counts.ravel()).pvalue > 0.01


def test_draws_of_neighbours_are_independent():
    found = draws(numbered(1500), padding=2, batch_size=500)
    for order in (found, by_sample(found)):
        for column in (1, 2, 3):
            table = np.zeros((5, 5))
            np.add.at(table, (order[:-1, column], order[1:, column]), 1)
            table = table[table.any(1)][:, table.any(0)]
            assert stats.chi2_contingency(table).pvalue > 0.01


def test_random_flips_of_epochs_are_independent():
    data = numbered(600, 4, 4)
    flips = np.stack([by_sample(draws(data, epoch, padding=0, batch_size=600))[:, 3] for epoch in range(3)])
    counts = np.bincount(flips.T @ [1, 2, 4], minlength=8)
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("seed", [0, 1])
def test_alternating_flips(seed):
    data = numbered(400)
    flips = [by_sample(draws(data, epoch, seed=seed, flip="alternating"))[:, 3] for epoch in range(4)]
    assert stats.binomtest(int(flips[0].sum()), 400).pvalue > 0.01
    assert np.array_equal(flips[1], 1 - flips[0])
    assert np.array_equal(flips[2], flips[0])
    assert np.array_equal(flips[3], flips[1])


def test_alternating_flips_are_drawn_by_the_seed():
    first = [by_sample(draws(numbered(400), seed=seed, flip="alternating"))[:, 3] for seed in (0, 1)]
    assert stats.binomtest(int((first[0] == first[1]).sum()), 400).pvalue > 0.01


# Evaluation


@pytest.mark.parametrize(("batch_size", "sizes"), [(5, [5, 5, 1]), (11, [11]), (1000, [11])])
def test_evaluation_gives_all_in_order(batch_size, sizes):
    data = numbered(11)
    loader = device_evaluation_loader(data, batch_size=batch_size)
    batches = list(loader)
    assert [len(batch["label"]) for batch in batches] == sizes
    assert len(loader) == len(sizes)
    assert torch.equal(torch.cat([batch["image"] for batch in batches]), data.images / 255)
    assert torch.cat([batch["label"] for batch in batches]).tolist() == list(range(11))


# Several processes, and devices that are not there


def in_process(monkeypatch, rank, world):
    monkeypatch.setattr(device, "process_rank", lambda: (rank, world))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_an_epoch(monkeypatch, world):
    data = numbered(47)
    alone = [batch["label"].tolist() for batch in device_training_loader(data, batch_size=4, epoch=1, seed=0)]
    shares = []
    for rank in range(world):
        in_process(monkeypatch, rank, world)
        shares.append(draws(data, 1, batch_size=4))
    assert [len(share) for share in shares] == [11 // world * 4] * world
    for rank, share in enumerate(shares):
        assert share[:, 0].reshape(-1, 4).tolist() == alone[rank : 11 // world * world : world]
    in_process(monkeypatch, 0, 1)
    assert {tuple(row) for share in shares for row in share} <= set(map(tuple, draws(data, 1, batch_size=4)))


@pytest.mark.parametrize(("count", "world"), [(11, 2), (12, 3), (4, 4)])
def test_processes_share_an_evaluation(monkeypatch, count, world):
    data = numbered(count)
    labels = []
    for rank in range(world):
        in_process(monkeypatch, rank, world)
        loader = device_evaluation_loader(data, batch_size=2)
        batches = list(loader)
        assert len(batches) == len(loader)
        labels += [label for batch in batches for label in batch["label"].tolist()]
    assert sorted(labels) == list(range(count))


def test_every_process_refuses_images_too_few_for_all(monkeypatch):
    """One that had none would leave the others waiting for its scores."""
    for rank in range(4):
        in_process(monkeypatch, rank, 4)
        with pytest.raises(ValueError, match="data: 3 images for 4 processes; start at most as many"):
            device_evaluation_loader(numbered(3), batch_size=2)


def share(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    data = numbered(23)
    loaders = device_training_loader(data, batch_size=4, epoch=0, seed=0), device_evaluation_loader(data, batch_size=4)
    torch.save([[batch["label"] for batch in loader] for loader in loaders], folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_processes_of_torch_distributed(tmp_path):
    torch.multiprocessing.start_processes(share, (tmp_path,), nprocs=2, start_method="fork")
    trained, evaluated = zip(*(torch.load(tmp_path / f"{rank}.pt") for rank in range(2)), strict=True)
    assert [len(batches) for batches in trained] == [2, 2]
    assert len(torch.cat([*trained[0], *trained[1]]).unique()) == 16
    assert torch.cat([*evaluated[0], *evaluated[1]]).sort().values.tolist() == list(range(23))


def test_batches_stay_on_their_device():
    """On a simulated GPU, which refuses operands on the CPU and any look at values, for which a real one would wait."""
    data = object.__new__(LabeledImages)
    with FakeTensorMode():
        try:
            torch.zeros(1).to("cuda")
        except RuntimeError:
            pytest.skip("this version of torch simulates a GPU only beside a driver of one")
        images = torch.empty(9, 3, 8, 8, dtype=torch.uint8, device="cuda")
        labels = torch.empty(9, dtype=torch.int64, device="cuda")
        data.__dict__.update(images=images, labels=labels, classes=("a", "b"))
        loaders = device_training_loader(data, batch_size=4, epoch=1, seed=0), device_evaluation_loader(data)
        batches = [batch for loader in loaders for batch in loader]
    assert {value.device.type for batch in batches for value in batch.values()} == {"cuda"}
    assert [tuple(batch["image"].shape) for batch in batches] == [(4, 3, 8, 8)] * 2 + [(9, 3, 8, 8)]


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, r"batch_size=0: wanted between 1 and 12, of 12 samples"),
        ({"batch_size": 13}, r"batch_size=13: wanted between 1 and 12, of 12 samples"),
        ({"padding": -1}, r"padding=-1: wanted 0 to 5; a reflection is smaller than the image's 6"),
        ({"padding": 6}, r"padding=6: wanted 0 to 5"),
        ({"cutout": 7}, r"cutout=7: wanted 0 to the image's 6"),
        ({"cutout": -1}, r"cutout=-1: wanted 0 to"),
        ({"flip": "sometimes"}, r"flip='sometimes': wanted alternating, random or none"),
        ({"views": 0}, r"views=0: wanted at least 1, and a divisor of batch_size=4"),
        ({"views": 3}, r"views=3: wanted at least 1, and a divisor of batch_size=4"),
        ({"views": 2, "batch_size": 26}, r"batch_size=26: wanted between 1 and 24"),
        ({"epoch": -1}, r"epoch=-1: wanted at least 0"),
        ({"seed": -1}, r"seed=-1: wanted at least 0"),
    ],
)
def test_wrong_arguments_of_training(arguments, message):
    with pytest.raises(ValueError, match=message):
        device_training_loader(numbered(12, 6, 9), **({"batch_size": 4, "epoch": 0, "seed": 0} | arguments))


def test_batch_larger_than_a_processes_share(monkeypatch):
    in_process(monkeypatch, 0, 2)
    with pytest.raises(ValueError, match=r"batch_size=7 in 2 processes: wanted between 1 and 6, of 12 samples"):
        device_training_loader(numbered(12), batch_size=7, epoch=0, seed=0)


def test_wrong_batch_size_of_evaluation():
    with pytest.raises(ValueError, match=r"batch_size=0: wanted at least 1"):
        device_evaluation_loader(numbered(3), batch_size=0)
