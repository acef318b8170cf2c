"""Which samples of shards each process and worker reads, in which order, and going on within an epoch."""

import itertools
import random

import numpy as np
import pytest
import torch
from numbered import Numbered, numbers_of

from normalkit.data import ShardedNormals, shard_evaluation_loader, shard_training_loader, write_shards

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
    # The machine of the tests may have fewer cores than a test has workers.
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


def flat(lists):
    return list(itertools.chain.from_iterable(lists))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """23 samples in five shards, the last of which is smaller."""
    folder = tmp_path_factory.mktemp("shards")
    write_shards(Numbered(), folder, samples_per_shard=5, progress=False)
    return folder


@pytest.fixture
def shards(folder):
    return ShardedNormals(folder)


class Layout:
    """Shards of which only the sizes matter."""

    transform = None

    def __init__(self, *sizes):
        self.shards = sizes
        self.starts = np.cumsum([0, *sizes])

    def __len__(self):
        return int(self.starts[-1])


def planned(loader):
    """The samples of each batch, as the workers are asked in turn."""
    shares = [share.wanted.tolist() for share in loader.shares]
    size = loader.batch_size
    batches = [[share[i : i + size] for i in range(0, len(share), size)] for share in shares]
    turns = itertools.zip_longest(*batches)
    return [batch for turn in turns for batch in turn if batch is not None]


def in_rank(monkeypatch, rank, world):
    monkeypatch.setattr("normalkit.data.streaming.process_rank", lambda: (rank, world))


SIZES = [(5, 5, 5, 5, 3), (23,), (1,) * 23, (2, 19, 2), (7, 7)]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 3), (2, 2), (3, 0), (3, 5)])
def test_training_reads_no_sample_twice_and_as_many_in_each_process(monkeypatch, sizes, world, workers):
    data, per_batch = Layout(*sizes), 2
    for epoch in range(3):
        shares = []
        for rank in range(world):
            in_rank(monkeypatch, rank, world)
            loader = shard_training_loader(data, batch_size=per_batch, epoch=epoch, seed=1, window=4, workers=workers)
            shares.append(planned(loader))
            assert len(loader) == len(shares[-1]) == len(data) // (per_batch * world)
        seen = flat(flat(shares))
        assert all(len(batch) == per_batch for batch in flat(shares))
        assert len(seen) == len(set(seen)) == len(data) // (per_batch * world) * per_batch * world
        assert set(seen) <= set(range(len(data)))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 3), (2, 2), (3, 0), (4, 5), (30, 1)])
def test_evaluation_reads_every_sample_once(monkeypatch, sizes, world, workers):
    data, seen = Layout(*sizes), []
    for rank in range(world):
        in_rank(monkeypatch, rank, world)
        loader = shard_evaluation_loader(data, batch_size=2, workers=workers)
        assert len(loader) == len(planned(loader))
        seen += flat(planned(loader))
    # In order even, process behind process.
    assert seen == list(range(len(data)))


def test_every_sample_is_drawn_in_some_epoch():
    data = Layout(5, 5, 5, 5, 3)
    epochs = [flat(planned(shard_training_loader(data, batch_size=10, epoch=e, seed=0, workers=0))) for e in range(12)]
    assert all(len(epoch) == 20 for epoch in epochs)
    assert set(flat(epochs)) == set(range(23))


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(**options):
        given = {"batch_size": 4, "epoch": 0, "seed": 0, "workers": 2, **options}
        return planned(shard_training_loader(Layout(*SIZES[0]), **given))

    torch.manual_seed(1)
    np.random.seed(1)
    first = order()
    torch.manual_seed(2)
    np.random.seed(2)
    assert order() == first
    assert order(epoch=1) != first
    assert order(seed=1) != first


def test_samples_move_no_further_than_the_window():
    data, window = Layout(*[50] * 20), 30
    loader = shard_training_loader(data, batch_size=1, epoch=0, seed=0, window=window, workers=0)
    share = loader.shares[0]
    moved = share.places - share.places.min() - np.arange(1000)
    assert np.abs(moved).max() <= window
    assert np.abs(moved).mean() > window / 5
    # Shards in another order, each one's samples side by side; one is cut where the order begins.
    lying = share.as_they_lie()
    assert sorted(lying.tolist()) == list(range(1000))
    assert int((np.diff(lying) != 1).sum()) <= 20
    assert len({tuple(np.unique(lying[:200] // 50))}) == 1
    plain = shard_training_loader(data, batch_size=1, epoch=0, seed=0, window=1, workers=0)
    np.testing.assert_array_equal(plain.shares[0].wanted, plain.shares[0].as_they_lie())


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_what_was_planned(shards, workers):
    loader = shard_training_loader(shards, batch_size=3, epoch=2, seed=0, window=6, workers=workers)
    batches = list(loader)
    assert numbers_of(batches) == planned(loader)
    for batch in batches:
        for i, number in enumerate(flat(numbers_of([batch]))):
            assert torch.equal(batch["image"][i], Numbered()[number]["image"])
    loader = shard_evaluation_loader(shards, batch_size=4, workers=workers)
    assert numbers_of(loader) == [[*range(i, min(i + 4, 23))] for i in range(0, 23, 4)]


@pytest.mark.parametrize("workers", [0, 2])
def test_going_on_gives_the_rest(shards, workers):
    loader = shard_training_loader(shards, batch_size=3, epoch=2, seed=0, window=6, workers=workers)
    whole = planned(loader)
    for done in (0, 1, 2, 3, 6, 7):
        assert numbers_of(loader.after(done)) == whole[done:]
    assert len(loader.after(3)) == len(loader)
    every = planned(shard_evaluation_loader(shards, batch_size=4, workers=workers))
    assert numbers_of(shard_evaluation_loader(shards, batch_size=4, workers=workers).after(4)) == every[4:]
    with pytest.raises(ValueError, match="batches=8: wanted 0 to 7"):
        loader.after(8)


def test_what_was_passed_over_is_not_read(shards, monkeypatch):
    asked = []
    request = ShardedNormals._request

    def counted(self, number, index, begin, end):
        asked.append((number, begin, end))
        return request(self, number, index, begin, end)

    monkeypatch.setattr(ShardedNormals, "_request", counted)
    loader = shard_training_loader(shards, batch_size=2, epoch=0, seed=0, window=1, workers=0)
    list(loader)
    # Each shard once, and the one that the order begins in twice, if it is not begun at its first sample.
    assert 5 <= len(asked) <= 6
    asked.clear()
    list(loader.after(8))
    assert sum(end - begin for _, begin, end in asked) == 6


def test_no_more_is_held_than_the_window(shards, monkeypatch):
    held, most = 0, 0
    records, decode = ShardedNormals.records, ShardedNormals.decode

    def counted(self, indices):
        nonlocal held, most
        for record in records(self, indices):
            held += 1
            most = max(most, held)
            yield record

    def released(self, index, record):
        nonlocal held
        held -= 1
        return decode(self, index, record)

    monkeypatch.setattr(ShardedNormals, "records", counted)
    monkeypatch.setattr(ShardedNormals, "decode", released)
    list(shard_training_loader(shards, batch_size=2, epoch=0, seed=0, window=6, workers=0))
    assert 2 <= most <= 6


def jitter(sample):
    """Draws from each of the generators that transforms use."""
    noise = float(torch.rand(())) + random.random() + float(np.random.rand())
    return {**sample, "image": sample["image"].float() / 255 * 0.5 + noise / 8}


def test_random_transforms_draw_the_same_wherever_a_sample_is_read(folder):
    shards = ShardedNormals(folder, transform=jitter)

    def drawn(loader):
        return {n: x for batch in loader for n, x in zip(batch["name"], batch["image"], strict=True)}

    def loader(epoch, workers):
        return shard_training_loader(shards, batch_size=3, epoch=epoch, seed=0, window=6, workers=workers)

    torch.manual_seed(5)
    state = torch.get_rng_state()
    alone = drawn(loader(0, 0))
    assert torch.equal(torch.get_rng_state(), state)
    for other in (drawn(loader(0, 2)), drawn(loader(0, 0).after(4))):
        both = alone.keys() & other.keys()
        assert len(both) >= 9
        assert all(torch.equal(alone[name], other[name]) for name in both)
    later = drawn(loader(1, 0))
    assert all(not torch.equal(alone[name], later[name]) for name in alone.keys() & later.keys())
    assert len({float(image[1, 1, 1] - int(name[6:-2]) / 510) for name, image in alone.items()}) > 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: wanted between 1 and 23"),
        ({"batch_size": 24}, "batch_size=24: wanted between 1 and 23"),
        ({"window": 0}, "window=0: wanted at least 1"),
    ],
)
def test_wrong_arguments(shards, options, message):
    with pytest.raises(ValueError, match=message):
        shard_training_loader(shards, **{"batch_size": 2, "epoch": 0, "seed": 0, **options})
    with pytest.raises(ValueError, match="batch_size=0: wanted at least 1"):
        shard_evaluation_loader(shards, batch_size=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_shard_is_named(tmp_path, workers):
    write_shards(Numbered(), tmp_path, samples_per_shard=5, progress=False)
    path = tmp_path / "shard-000003.tar"
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(ValueError, match=r"shard-000003\.tar: ends within a sample"):
        list(shard_evaluation_loader(ShardedNormals(tmp_path), batch_size=2, workers=workers))
