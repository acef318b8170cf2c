"""Tiles: a partition of unity, the answer of the whole, and no seam."""

import itertools

import pytest
import torch

from normalkit.tiling import add_tiles, tile_spans

pytestmark = pytest.mark.usefixtures("one_thread")

SIDES = [(1, 16, 1), (16, 16, 1), (17, 16, 1), (33, 16, 32), (100, 40, 8), (101, 33, 1), (1000, 64, 32), (777, 128, 32)]


@pytest.mark.parametrize(("length", "tile", "stride"), SIDES)
def test_tiles_cover_the_side_with_weights_that_sum_to_one(length, tile, stride):
    total = torch.zeros(length)
    spans = list(tile_spans(length, tile, stride))
    for span, weight in spans:
        assert 0 <= span.start < span.stop <= length
        assert span.stop - span.start <= tile
        assert weight.shape == (span.stop - span.start,)
        assert weight.min() >= 0
        total[span] += weight
    torch.testing.assert_close(total, torch.ones(length), rtol=0, atol=1e-6)
    if tile >= 2 * stride:
        assert all(span.start % stride == 0 for span, _ in spans)
    for (one, _), (two, _) in itertools.pairwise(spans):
        assert one.stop - two.start >= tile // 4 - (two.stop == length) * stride


def test_a_side_that_fits_is_one_tile():
    ((span, weight),) = tile_spans(40, 40, 32)
    assert (span, weight.tolist()) == (slice(0, 40), [1.0] * 40)


@pytest.mark.parametrize(("tile", "stride"), [(64, 1), (64, 32), (160, 16)])
def test_a_tile_says_nothing_near_its_inner_ends_and_fades_smoothly(tile, stride):
    """A sixteenth of the tile is left out; nowhere does a weight jump by more than the steepest slope of a sine."""
    for span, weight in tile_spans(1000, tile, stride):
        margin = tile // 16
        if span.start:
            assert not weight[:margin].any()
        if span.stop < 1000:
            assert not weight[-margin:].any()
        assert weight.diff().abs().max() < 1.7 / (tile // 4 - 2 * margin)


@pytest.mark.parametrize("from_right", [False, True])
@pytest.mark.parametrize("shape", [(16, 16), (37, 100), (300, 5), (1, 1)])
def test_what_each_pixel_answers_alone_is_the_answer_of_the_whole(shape, from_right):
    pixels = torch.randn(3, *shape)
    result = torch.ones(3, *shape)
    add_tiles(result, lambda part: 2 * part, pixels, tile=32, from_right=from_right)
    torch.testing.assert_close(result, 1 + 2 * pixels, rtol=0, atol=1e-5)


def test_tiles_laid_from_the_right_are_those_of_the_mirrored_picture():
    pixels = torch.arange(3 * 40 * 101.0).view(3, 40, 101)
    seen = {False: [], True: []}
    for from_right, parts in seen.items():
        picture = pixels if from_right else pixels.flip(-1)

        def estimate(part, parts=parts):
            parts.append(part)
            return part

        add_tiles(torch.zeros(3, 40, 101), estimate, picture, tile=48, stride=16, from_right=from_right)
    assert len(seen[True]) == len(seen[False]) > 2
    assert all(torch.equal(a.flip(-1), b) for a, b in zip(*seen.values(), strict=True))


@pytest.mark.parametrize(("tile", "error"), [(15, ValueError), (0, ValueError), (-64, ValueError), (64.0, TypeError)])
def test_sides_of_no_tile_are_refused(tile, error):
    with pytest.raises(error, match=f"tile={tile}"):
        add_tiles(torch.zeros(3, 4, 4), lambda part: part, torch.zeros(3, 4, 4), tile=tile)
