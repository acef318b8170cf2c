"""The metrics against numpy on the concatenated errors, and their promises about state, dtype and processes."""

import copy
import itertools
import json
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchmetrics import MetricCollection

from normalkit import metrics as module
from normalkit.metrics import AngularMetrics, SurfaceNormalMetrics, surface_normal_metrics

THRESHOLDS = (5, 7.5, 11.25, 11.3, 22.5, 30)
MEDIAN_BOUND = 1 / 512


def make_batch(seed, batch=3, height=13, width=17, dtype=torch.float64):
    """Predictions and labels of any length, some labels invalid, and a mask."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(batch, 3, height, width, generator=generator, dtype=torch.float64)
    target /= target.norm(dim=1, keepdim=True)
    pred = target + 0.3 * torch.randn(target.shape, generator=generator, dtype=torch.float64)
    pred *= 0.1 + torch.rand(batch, 1, height, width, generator=generator, dtype=torch.float64)
    target *= 0.6 + torch.rand(batch, 1, height, width, generator=generator, dtype=torch.float64)
    target[:, :, 0, 0] = 0
    target[:, 1, 2, 3] = math.nan
    target[:, 2, 4, 5] = math.inf
    mask = torch.rand(batch, height, width, generator=generator) > 0.25
    return pred.to(dtype), target.to(dtype), mask


def numpy_errors(pred, target, mask):
    """The valid pixels' angles of one image in degrees, in float64."""
    a, b = (x.double().movedim(-3, -1).numpy() for x in (pred, target))
    length = np.sqrt((b**2).sum(-1))
    valid = mask.numpy() & np.isfinite(b).all(-1) & (length > 0.5)
    a, b = a[valid], b[valid]
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), (a * b).sum(-1)))


def numpy_figures(errors, thresholds=THRESHOLDS):
    figures = {"mean": errors.mean(), "median": np.median(errors), "rmse": np.sqrt((errors**2).mean())}
    return figures | {f"{t:g}": 100 * (errors < t).mean() for t in thresholds}


def plain(figures):
    return {name: value.item() for name, value in figures.items()}


def at_angles(*degrees, dtype=torch.float64):
    """A (1, 3, 1, W) prediction at these angles from its label."""
    radians = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    pred = torch.stack([torch.sin(radians), torch.zeros_like(radians), torch.cos(radians)])[None, :, None, :]
    target = torch.tensor([0.0, 0, 1], dtype=dtype).view(1, 3, 1, 1).expand(pred.shape)
    return pred.to(dtype), target


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-9), (torch.float32, 2e-5), (torch.float16, 2e-5), (torch.bfloat16, 2e-5)],
)
def test_pooled_equals_numpy_on_all_errors(dtype, tolerance):
    metric = SurfaceNormalMetrics(thresholds=THRESHOLDS)
    errors = []
    for seed in range(4):
        batch = make_batch(seed, batch=seed + 1, dtype=dtype)
        metric.update(*batch)
        errors.extend(map(numpy_errors, *batch))
    figures = plain(metric.compute())
    expected = numpy_figures(np.concatenate(errors))
    assert figures.pop("invalid") == 0
    assert -tolerance <= expected.pop("median") - figures.pop("median") <= MEDIAN_BOUND + tolerance
    assert figures == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
def test_per_image_is_the_mean_of_numpy_figures(dtype, tolerance):
    metric = SurfaceNormalMetrics(thresholds=THRESHOLDS, reduction="per_image")
    images, sizes = [], []
    for seed in range(3):
        pred, target, mask = make_batch(seed, batch=seed + 1, dtype=dtype)
        mask[0] &= seed > 0
        mask[-1, 5, 6:] = False
        metric.update(pred, target, mask)
        errors = [e for e in map(numpy_errors, pred, target, mask) if e.size]
        images.extend(map(numpy_figures, errors))
        sizes.extend(e.size % 2 for e in errors)
    figures = plain(metric.compute())
    # One image is skipped, and both kinds of median are met.
    assert len(images) == 5
    assert set(sizes) == {0, 1}
    assert figures.pop("invalid") == 0
    expected = {name: np.mean([image[name] for image in images]) for name in images[0]}
    assert figures == pytest.approx(expected, abs=tolerance)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 180), min_size=1, max_size=9))
def test_median_is_within_its_bound(degrees):
    median = surface_normal_metrics(*at_angles(*degrees))["median"].item()
    assert -1e-9 <= np.median(degrees) - median <= MEDIAN_BOUND + 1e-9


@pytest.mark.parametrize("reduction", ["pooled", "per_image"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_thresholds_are_strict(reduction, dtype):
    # Angles that every precision gives exactly.
    pred = torch.tensor([[0, 0, 1], [0, 1, 1], [0, 1, 0], [0, 0, -1]], dtype=dtype).T[None, :, None, :]
    target = torch.tensor([0, 0, 1], dtype=dtype).view(1, 3, 1, 1).expand(pred.shape)
    figures = surface_normal_metrics(pred, target, thresholds=(45, 45.001, 90, 180), reduction=reduction)
    assert plain(figures) == {
        "mean": 78.75,
        "median": 67.5,
        "rmse": pytest.approx(math.sqrt((45**2 + 90**2 + 180**2) / 4)),
        "45": 25,
        "45.001": 50,
        "90": 50,
        "180": 75,
        "invalid": 0,
    }


@pytest.mark.parametrize("threshold", [5, 7.5, 11.25, 11.3, 22.5, 30, 1 / 512])
def test_neighbouring_floats_fall_on_their_sides_of_a_threshold(monkeypatch, threshold):
    edge = torch.tensor(threshold, dtype=torch.float64)
    errors = torch.stack([torch.nextafter(edge, 0 * edge), edge, torch.nextafter(edge, 180 + edge)]).flatten()
    found = (errors, torch.ones_like(errors, dtype=torch.bool), torch.tensor(0))
    monkeypatch.setattr(module, "_block_errors", lambda *_: found)
    figures = surface_normal_metrics(torch.ones(1, 3, 1, 3), torch.ones(1, 3, 1, 3), thresholds=(threshold,))
    assert figures[f"{threshold:g}"].item() == pytest.approx(100 / 3)


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(6)), st.sets(st.integers(1, 5)))
def test_order_and_split_of_batches_do_not_matter(order, cuts):
    pred, target, mask = make_batch(0, batch=6, dtype=torch.float32)
    whole = SurfaceNormalMetrics(thresholds=THRESHOLDS)
    whole.update(pred, target, mask)
    parts = SurfaceNormalMetrics(thresholds=THRESHOLDS)
    bounds = [0, *sorted(cuts), 6]
    for start, end in itertools.pairwise(bounds):
        chosen = list(order[start:end])
        parts.update(pred[chosen], target[chosen], mask[chosen])
    assert torch.equal(parts.histogram, whole.histogram)
    assert torch.equal(parts.below_11_3, whole.below_11_3)
    assert plain(parts.compute()) == pytest.approx(plain(whole.compute()), rel=1e-12)


@pytest.mark.parametrize("reduction", ["pooled", "per_image"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize("pixels", [1, 64, 300])
def test_blocks_and_memory_layout_do_not_matter(monkeypatch, reduction, layout, pixels):
    pred, target, mask = make_batch(3, dtype=torch.float32)
    expected = plain(surface_normal_metrics(pred, target, mask, reduction=reduction))
    monkeypatch.setitem(module.BLOCK_PIXELS, "cpu", pixels)
    if layout == "channels_last":
        pred, target = (x.to(memory_format=torch.channels_last) for x in (pred, target))
    elif layout == "sliced":
        pred = torch.stack([pred, pred], -1)[..., 0]
        mask = torch.stack([mask, mask], 1)[:, 0]
    figures = plain(surface_normal_metrics(pred, target, mask, reduction=reduction))
    assert figures == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_pixel_scores_the_same_wherever_it_lies(threads):
    generator = torch.Generator().manual_seed(0)
    pred, target = torch.randn(2, 3, 200_003, generator=generator)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = module._block_errors(pred, target, None)[0]
        torch.set_num_threads(threads)
        # One in forty of what remains after whole vectors would differ, so there must be many remainders.
        small = [(start, 3) for start in range(0, 3000, 3)]
        large = [(start, 66_000 + 2 * start) for start in range(50)]
        for start, size in [(1, 32_768), (3, 131_000), (100, 77), (199_999, 4), *small, *large]:
            cut = slice(start, start + size)
            assert torch.equal(module._block_errors(pred[:, cut], target[:, cut], None)[0], expected[cut])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("length", [1e-38, 1e-20, 1e-6, 1e6, 1e20, 1e38])
def test_the_length_of_a_prediction_does_not_matter(length):
    pred, target, mask = make_batch(0, dtype=torch.float32)
    pred /= pred.norm(dim=1, keepdim=True)
    expected = plain(surface_normal_metrics(pred, target, mask))
    assert plain(surface_normal_metrics(pred * length, target, mask)) == pytest.approx(expected, rel=1e-4)


def test_a_long_label_is_valid():
    pred, target = at_angles(30, dtype=torch.float32)
    assert surface_normal_metrics(pred, target * 1e20)["mean"].item() == pytest.approx(30)


def test_angles_near_the_ends_are_exact_in_float32():
    degrees = np.array([1e-4, 0.01, 179.99])
    figures = surface_normal_metrics(*at_angles(*degrees, dtype=torch.float32))
    # The arc cosine of a float32 cosine is off by up to 0.02 degrees here.
    assert figures["rmse"].item() ** 2 * 3 == pytest.approx((degrees**2).sum(), rel=1e-7)
    near = surface_normal_metrics(*at_angles(1e-4, dtype=torch.float32))
    assert near["mean"].item() == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize("reduction", ["pooled", "per_image"])
@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_dead_predictions_are_counted_and_never_scored(reduction, bad):
    pred, target = at_angles(0, 10, 20, 40)
    expected = plain(surface_normal_metrics(pred, target, reduction=reduction))
    pred, target = torch.cat([pred, pred, pred], -1), torch.cat([target, target, target], -1)
    pred[..., 4:] = bad
    mask = torch.arange(12).view(1, 1, 12) < 8
    with pytest.warns(UserWarning, match="4 valid pixels have a prediction that is zero or not finite"):
        figures = plain(surface_normal_metrics(pred, target, mask, reduction=reduction))
    assert figures == pytest.approx(expected | {"invalid": 4})


@pytest.mark.parametrize("reduction", ["pooled", "per_image"])
def test_nothing_to_score_is_an_error(reduction):
    pred, target, mask = make_batch(0)
    metric = SurfaceNormalMetrics(reduction=reduction)
    metric.update(pred, target, torch.zeros_like(mask))
    metric.update(pred[:0], target[:0], mask[:0])
    with pytest.raises(ValueError, match=r"no valid pixel has been seen.*check the mask"):
        metric.compute()
    metric.update(torch.zeros_like(pred), target, mask)
    with pytest.raises(ValueError, match=r"every prediction on the \d+ valid pixels is zero or not finite"):
        metric.compute()


@pytest.mark.parametrize("reduction", ["pooled", "per_image"])
def test_turning_prediction_and_label_together_changes_nothing(reduction):
    pred, target, mask = make_batch(5)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    turned = [torch.einsum("ij,bjhw->bihw", turn, x) for x in (pred, target)]
    expected = plain(surface_normal_metrics(pred, target, mask, reduction=reduction))
    figures = plain(surface_normal_metrics(*turned, mask, reduction=reduction))
    assert figures.pop("median") == pytest.approx(expected.pop("median"), abs=MEDIAN_BOUND + 1e-9)
    assert figures == pytest.approx(expected)


def test_the_mean_has_no_bias_in_float32():
    generator = torch.Generator().manual_seed(0)
    pred, target = torch.randn(2, 1, 3, 128, 128, generator=generator)
    errors = numpy_errors(pred[0], target[0], torch.ones(128, 128, dtype=torch.bool))
    assert surface_normal_metrics(pred, target)["mean"].item() == pytest.approx(errors.mean(), abs=1e-7)


def test_state_is_constant_in_size():
    metric = SurfaceNormalMetrics()
    size = [sum(state.nbytes for state in metric.metric_state.values())]
    for seed in range(3):
        metric.update(*make_batch(seed, batch=2 + seed))
        size.append(sum(state.nbytes for state in metric.metric_state.values()))
    assert len(set(size)) == 1
    assert size[0] < 1e6


def test_sums_stay_exact_after_many_pixels():
    metric = SurfaceNormalMetrics()
    metric.update(*at_angles(90.0, dtype=torch.float32))
    for _ in range(40):
        metric.merge_state(metric.metric_state)
    metric.update(torch.tensor([0.0, 1, 1]).view(1, 3, 1, 1), torch.tensor([0.0, 0, 1]).view(1, 3, 1, 1))
    assert metric.error_sum.item() == 90 * 2**40 + 45
    assert metric.histogram.sum().item() == 2**40 + 1


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_hundred_thousand_updates_stay_small_and_exact():
    """The mean against the exact sum of the angles that were given."""
    metric = SurfaceNormalMetrics()
    sizes = {name: state.nbytes for name, state in metric.metric_state.items()}
    angles = np.random.default_rng(0).uniform(0, 180, (10, 3))
    batches = [at_angles(*row, dtype=torch.float64) for row in angles]
    for number in range(100_000):
        metric.update(*batches[number % 10])
    expected = math.fsum(angles.ravel()) / angles.size
    assert {name: state.nbytes for name, state in metric.metric_state.items()} == sizes
    mean = metric.compute()["mean"].item()
    print(f"state {sum(sizes.values())} bytes, mean off by {abs(mean - expected):.1e} degrees")
    assert int(metric.histogram.sum()) == 300_000
    assert mean == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("reduction", ["pooled", "per_image"])
def test_forward_gives_the_batch_and_keeps_the_whole(reduction):
    metric = SurfaceNormalMetrics(reduction=reduction)
    first, second = at_angles(10, 20, 30), at_angles(50, 60, 70)
    assert metric(*first)["mean"].item() == pytest.approx(20)
    assert metric(*second)["mean"].item() == pytest.approx(60)
    with pytest.raises(ValueError, match="no valid pixel"):
        metric(first[0], torch.zeros_like(first[1]))
    with pytest.raises(ValueError, match="must be equal"):
        metric(first[0], first[1][..., 1:])
    assert metric.compute()["mean"].item() == pytest.approx(40)
    metric.reset()
    metric.update(*second)
    assert metric.compute()["mean"].item() == pytest.approx(60)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: m.clone()])
def test_copies_go_their_own_way(copier):
    metric = SurfaceNormalMetrics(thresholds=(11.3,))
    metric.update(*at_angles(10))
    twin = copier(metric)
    twin.update(*at_angles(30))
    assert (metric.compute()["mean"].item(), twin.compute()["mean"].item()) == pytest.approx((10, 20))
    assert twin.compute()["11.3"].item() == 50


def test_state_dict_resumes_a_half_done_evaluation():
    metric = SurfaceNormalMetrics()
    metric.persistent(True)
    metric.update(*at_angles(10))
    resumed = SurfaceNormalMetrics()
    resumed.load_state_dict(metric.state_dict())
    resumed.update(*at_angles(30))
    assert resumed.compute()["mean"].item() == pytest.approx(20)


def test_a_collection_never_merges_different_metrics():
    collection = MetricCollection(
        {
            "fine": SurfaceNormalMetrics(thresholds=(11.3,)),
            "coarse": SurfaceNormalMetrics(thresholds=(33.3,)),
            "edges": SurfaceNormalMetrics(thresholds=(11.25, 30)),
            "images": SurfaceNormalMetrics(thresholds=(30,), reduction="per_image"),
        }
    )
    # Alike on the first batch, which is when a collection looks for metrics to merge; not on the second.
    collection.update(*at_angles(1, 2))
    collection.update(*at_angles(20, 40))
    figures = plain(collection.compute())
    assert (figures["fine_11.3"], figures["coarse_33.3"], figures["edges_11.25"]) == (50, 75, 50)
    assert (figures["edges_30"], figures["images_30"]) == (75, 75)


@pytest.mark.parametrize(
    "convert",
    [
        lambda m: m.half(),
        lambda m: m.bfloat16(),
        lambda m: m.to(torch.float16),
        lambda m: m.set_dtype(torch.float16),
        lambda m: nn.ModuleList([m]).to("cpu", torch.float16)[0],
    ],
)
@pytest.mark.parametrize("reduction", ["pooled", "per_image"])
def test_the_states_keep_their_dtypes(convert, reduction):
    metric = SurfaceNormalMetrics(reduction=reduction)
    metric.update(*at_angles(10))
    before = metric.compute()
    metric = convert(metric)
    assert plain(metric.compute()) == plain(before)
    metric.reset()
    assert {state.dtype for state in metric.metric_state.values()} == {torch.float64, torch.int64}
    assert {value.dtype for value in before.values()} == {torch.float64, torch.int64}


def test_the_state_follows_the_device():
    metric = SurfaceNormalMetrics().to("meta")
    assert {state.device.type for state in metric.metric_state.values()} == {"meta"}
    metric.reset()
    assert metric.histogram.device.type == "meta"


def test_a_metric_warns_once_and_the_alias_is_the_class():
    metric = AngularMetrics()
    assert type(metric) is SurfaceNormalMetrics
    pred, target = at_angles(10, 20)
    pred[..., 1] = 0
    metric.update(pred, target)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        metric.compute()
        metric.compute()
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"thresholds": (5, -1)}, ValueError, "-1 is not a number of degrees"),
        ({"thresholds": (0,)}, ValueError, "0 is not a number of degrees"),
        ({"thresholds": (181,)}, ValueError, "181 is not"),
        ({"thresholds": (math.nan,)}, ValueError, "nan is not"),
        ({"thresholds": ("5",)}, ValueError, "'5' is not"),
        ({"thresholds": (5, 5.0)}, ValueError, "both be reported"),
        ({"thresholds": 11.25}, TypeError, "wanted a sequence"),
        ({"reduction": "mean"}, ValueError, "wanted one of 'pooled', 'per_image'"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        SurfaceNormalMetrics(**arguments)
    with pytest.raises(error, match=message):
        surface_normal_metrics(*at_angles(10), **arguments)


def test_bad_fields_are_refused_and_leave_the_state():
    metric = SurfaceNormalMetrics()
    pred, target = at_angles(10, 20)
    metric.update(pred, target)
    for arguments, error, message in [
        ((pred[0], target[0]), ValueError, "unsqueeze"),
        ((pred, target[..., :1]), ValueError, "must be equal"),
        ((pred, target, torch.ones(1, 1, 2)), TypeError, "mask > 0"),
        ((pred, target, torch.ones(1, 1, 1, 2) > 0), ValueError, r"squeeze\(1\)"),
        ((pred, target.int()), TypeError, "floating-point"),
    ]:
        with pytest.raises(error, match=message):
            metric.update(*arguments)
    assert metric.compute()["mean"].item() == pytest.approx(15)


def evaluate_share(rank, folder):
    """One of two processes: its images of an uneven split, then the figures of all."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    collection = two_reductions()
    for image in range(rank, 5, 2):
        collection.update(*(x[image : image + 1] for x in make_batch(7, batch=5, dtype=torch.float32)))
    (folder / f"{rank}.json").write_text(json.dumps(plain(collection.compute())))
    torch.distributed.destroy_process_group()


def two_reductions():
    return MetricCollection(
        {
            "pooled": SurfaceNormalMetrics(thresholds=THRESHOLDS),
            "images": SurfaceNormalMetrics(thresholds=THRESHOLDS, reduction="per_image"),
        }
    )


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_processes_give_the_figures_of_one(tmp_path):
    # Forked, so that two processes need not import torch again; like a loader's workers they use one thread.
    torch.multiprocessing.start_processes(evaluate_share, (tmp_path,), nprocs=2, start_method="fork")
    alone = two_reductions()
    alone.update(*make_batch(7, batch=5, dtype=torch.float32))
    expected = plain(alone.compute())
    shares = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert shares[0] == shares[1]
    assert shares[0] == pytest.approx(expected, rel=1e-12)
    counted = [f"pooled_{name}" for name in ("median", "invalid", *(f"{t:g}" for t in THRESHOLDS))]
    assert [shares[0][name] for name in counted] == [expected[name] for name in counted]
