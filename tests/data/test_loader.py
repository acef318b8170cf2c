"""Batches of samples: which ones, in which order, in which process."""

import itertools
import random

import numpy as np
import pytest
import torch

from normalkit.data.loader import evaluation_loader, loader_workers, mix_seeds, training_loader

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def flat(lists):
    return list(itertools.chain.from_iterable(lists))


def order(**kwargs):
    return [batch.tolist() for batch in training_loader(range(23), batch_size=4, workers=0, **kwargs)]


def test_training_batches_depend_on_seed_and_epoch_alone():
    torch.manual_seed(1)
    first = order(seed=0, epoch=0)
    torch.manual_seed(2)
    assert order(seed=0, epoch=0) == first
    assert order(seed=0, epoch=1) != first
    assert order(seed=1, epoch=0) != first
    assert len(set(flat(first))) == 20
    assert all(len(batch) == 4 for batch in first)
    assert set(flat(flat(order(seed=0, epoch=epoch) for epoch in range(9)))) == set(range(23))


class Drawn(torch.utils.data.Dataset):
    """What each of the three generators gives for a sample."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.tensor([index, float(torch.rand(())), random.random(), float(np.random.rand())])


def drawn(**kwargs):
    """The draws of each sample of an epoch, by its index."""
    rows = torch.cat(list(training_loader(Drawn(), seed=0, **kwargs)))
    return {int(row[0]): row[1:].tolist() for row in rows}


def test_a_sample_s_random_numbers_are_its_own(monkeypatch):
    expected = drawn(epoch=0, batch_size=4, workers=0)
    assert len(training_loader(Drawn(), seed=0, epoch=0, batch_size=5, workers=0).dataset) == 12
    assert len(expected) == len({tuple(row) for row in expected.values()}) == 12
    assert drawn(epoch=1, batch_size=4, workers=0) != expected
    torch.manual_seed(9)
    for batch_size, workers in [(1, 0), (4, 1), (4, 3)]:
        assert drawn(epoch=0, batch_size=batch_size, workers=workers) == expected
    shares = {}
    for rank in range(2):
        monkeypatch.setattr("normalkit.data.loader.process_rank", lambda rank=rank: (rank, 2))
        shares |= drawn(epoch=0, batch_size=3, workers=0)
    assert shares == expected


def test_drawing_a_batch_leaves_the_process_s_own_random_numbers():
    for source in (torch.rand, lambda _: random.random(), np.random.rand):
        torch.manual_seed(1), random.seed(1), np.random.seed(1)
        expected = source(1)
        torch.manual_seed(1), random.seed(1), np.random.seed(1)
        drawn(epoch=0, batch_size=4, workers=0)
        assert source(1) == expected


@pytest.mark.parametrize(("size", "world"), [(23, 2), (23, 3), (8, 2), (16, 3)])
def test_processes_get_different_batches_and_as_many(monkeypatch, size, world):
    shares, scored = [], []
    for rank in range(world):
        monkeypatch.setattr("normalkit.data.loader.process_rank", lambda rank=rank: (rank, world))
        shares.append([b.tolist() for b in training_loader(range(size), batch_size=4, epoch=2, seed=0, workers=0)])
        scored.append([b.tolist() for b in evaluation_loader(range(size), batch_size=4, workers=0)])
    assert len({len(share) for share in shares}) == 1
    assert len(shares[0]) == size // 4 // world
    seen = flat(flat(shares))
    assert len(seen) == len(set(seen))
    assert sorted(flat(flat(scored))) == list(range(size))


@pytest.mark.parametrize(("batch_size", "length"), [(0, 5), (6, 5), (1, 0)])
def test_a_batch_longer_than_the_data_is_refused(batch_size, length):
    with pytest.raises(ValueError, match=f"batch_size={batch_size}: wanted between 1 and {length}"):
        training_loader(range(length), batch_size=batch_size, epoch=0, seed=0)


def test_evaluation_takes_samples_in_order_with_the_rest():
    assert [b.tolist() for b in evaluation_loader(range(5), batch_size=2, workers=0)] == [[0, 1], [2, 3], [4]]
    with pytest.raises(ValueError, match="batch_size=0: wanted at least 1"):
        evaluation_loader(range(5), batch_size=0)


@pytest.mark.parametrize(("cores", "gpu", "workers"), [(1, False, 0), (2, False, 0), (3, False, 2), (2, True, 2)])
def test_workers_only_where_cores_are_left_for_them(monkeypatch, cores, gpu, workers):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: gpu)
    assert loader_workers() == workers
    assert evaluation_loader(range(3)).num_workers == workers
    assert training_loader(range(3), batch_size=1, epoch=0, seed=0).num_workers == workers
    assert evaluation_loader(range(3), workers=1).num_workers == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_of_several_sizes_in_a_batch_are_refused(workers):
    data = [{"image": torch.zeros(3, size, 8)} for size in (8, 9)]
    with pytest.raises(ValueError, match="samples of one batch differ in size; use a batch size of 1"):
        list(evaluation_loader(data, batch_size=2, workers=workers))


def test_seeds_of_neighbours_are_far_apart():
    seeds = {mix_seeds(seed, epoch, step) for seed in range(5) for epoch in range(5) for step in range(5)}
    assert len(seeds) == 125
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert mix_seeds(1, 2) == mix_seeds(1, 2) != mix_seeds(2, 1)
