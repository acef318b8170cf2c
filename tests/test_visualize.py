"""Figures: their pixels against closed forms and numpy, their layout against the renderer's own boxes."""

import itertools
import math
import sys
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from normalkit.geometry import Convention
from normalkit.uncertainty import sparsification
from normalkit.visualize import (
    colour_sphere,
    comparison_grid,
    confusion_matrix_figure,
    convention_grid,
    error_map,
    save_figure,
    sparsification_figure,
    study_figure,
    training_curves,
)

pytest.importorskip("matplotlib", reason="figures need the extra `train`")

from matplotlib import colormaps
from matplotlib.figure import Figure

GREY, CYAN = (128, 128, 128), (0, 229, 255)


def unit(*shape, seed=0):
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return vectors / vectors.norm(dim=-3, keepdim=True)


def constant(x, y, z, height=6, width=8):
    return torch.tensor([x, y, z], dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, height, width).clone()


def pictures(figure):
    """The pixels of each picture, in the order drawn: row by row, then the sphere and the swatches."""
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def words(figure):
    return [text.get_text() for text in figure.texts]


def boxes(figure):
    """The figure's extent, that of each text which a rendering draws, and each picture's, in pixels."""
    renderer = figure.canvas.get_renderer()
    texts = {}

    def record(*args, mtext, **options):
        # The lines of a longer text come one by one, and do not say whose they are: only titles have several.
        text = mtext or figure._suptitle
        texts[text] = text.get_window_extent(renderer)

    # A locator makes labels beyond the axes too, which are never drawn: only the renderer knows.
    with mock.patch.object(renderer, "draw_text", record):
        figure.draw(renderer)
    return figure.bbox, texts, [axes.bbox for axes in figure.axes if axes.images]


def overlap(a, b):
    return min(a.x1, b.x1) - max(a.x0, b.x0) > 0.5 and min(a.y1, b.y1) - max(a.y0, b.y0) > 0.5


def assert_tidy(figure, *, on_pictures=()):
    """Nothing hides another or leaves the page; the texts in `on_pictures` stand on a picture by design."""
    page, texts, panels = boxes(figure)
    for text, box in texts.items():
        inside = box.x0 >= page.x0 and box.x1 <= page.x1 and box.y0 >= page.y0 and box.y1 <= page.y1
        assert inside, f"{text} leaves the page"
        if text.get_text() not in on_pictures:
            assert not any(overlap(box, panel) for panel in panels), f"{text} lies on a picture"
    for (a, box_a), (b, box_b) in itertools.combinations(texts.items(), 2):
        assert not overlap(box_a, box_b), f"{a} and {b} overlap"
    for a, b in itertools.combinations(panels, 2):
        assert not overlap(a, b)


@pytest.mark.parametrize(
    ("convention", "left", "top", "centre"),
    [
        (Convention.OPENCV, (0, 128, 128), (128, 0, 128), (128, 128, 0)),
        (Convention.OPENGL, (0, 128, 128), (128, 255, 128), (128, 128, 255)),
        (Convention.DSINE, (255, 128, 128), (128, 255, 128), (128, 128, 255)),
        (Convention.TASKONOMY, (0, 128, 128), (128, 0, 128), (128, 128, 255)),
    ],
)
def test_ends_of_the_sphere_have_the_codes_of_the_axes(convention, left, top, centre):
    sphere = colour_sphere(101, convention=convention)
    assert sphere.dtype == torch.uint8
    assert sphere.shape == (3, 101, 101)
    assert tuple(sphere[:, 50, 0].tolist()) == left
    assert tuple(sphere[:, 0, 50].tolist()) == top
    assert tuple(sphere[:, 50, 50].tolist()) == centre
    assert (sphere[:, [0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()


def test_sphere_equals_a_loop_over_its_pixels():
    size = 24
    expected = np.full((3, size, size), 255.0)
    for row, column in itertools.product(range(size), repeat=2):
        x, y = 2 * column / (size - 1) - 1, 2 * row / (size - 1) - 1
        if x * x + y * y <= 1:
            expected[:, row, column] = [(n + 1) / 2 * 255 for n in (x, y, -math.sqrt(1 - x * x - y * y))]
    assert np.abs(colour_sphere(size).numpy() - expected).max() <= 0.5 + 1e-3


def test_a_sphere_needs_three_pixels():
    with pytest.raises(ValueError, match="size=2"):
        colour_sphere(2)


def test_error_map_equals_numpy_and_is_nan_where_nothing_is_known():
    pred, target = 3 * unit(2, 3, 5, 7), unit(2, 3, 5, 7, seed=1)
    mask = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(2)) > 0.3
    mask[:, 0, :3] = True
    target[:, :, 0, 0] = 0
    pred[:, :, 0, 1] = 0
    pred[:, 1, 0, 2] = math.nan
    a, b = np.moveaxis(pred.double().numpy(), 1, -1), np.moveaxis(target.double().numpy(), 1, -1)
    expected = np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), (a * b).sum(-1)))
    expected[~mask.numpy()] = np.nan
    expected[:, 0, :3] = np.nan
    np.testing.assert_allclose(error_map(pred, target, mask).numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(error_map(pred[0], target[0], mask[0]).numpy(), expected[0], atol=1e-4)


@pytest.mark.parametrize(
    ("pred", "target", "mask", "error", "message"),
    [
        (torch.ones(3, 4), torch.ones(3, 4), None, ValueError, r"pred has shape \(3, 4\)"),
        (torch.ones(4, 4, 4), torch.ones(4, 4, 4), None, ValueError, r"pred has shape \(4, 4, 4\)"),
        (torch.ones(3, 4, 4), torch.ones(3, 4, 5), None, ValueError, r"target \(3, 4, 5\)"),
        (torch.ones(3, 4, 4), torch.ones(3, 4, 4), torch.ones(4, 5) > 0, ValueError, r"mask has shape \(4, 5\)"),
        (torch.ones(3, 4, 4), torch.ones(3, 4, 4), torch.ones(4, 4), TypeError, "torch.bool"),
    ],
)
def test_error_map_refuses(pred, target, mask, error, message):
    with pytest.raises(error, match=message):
        error_map(pred, target, mask)


def test_grid_shows_image_truth_prediction_and_error():
    image = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    truth, prediction = constant(0, 0, -0.9), constant(0, 0, -5)
    prediction[..., 2] = torch.tensor([0.0, -1, 0]).view(3, 1)  # 90 degrees: beyond the end of the scale
    prediction[..., 3] = torch.tensor([0.0, -1, -math.sqrt(3)]).view(3, 1)  # 30 degrees: its middle
    prediction[..., 4] = math.nan
    truth[..., 0] = 0
    mask = torch.ones(1, 6, 8, dtype=torch.bool)
    mask[..., 1] = False
    figure = comparison_grid(image, prediction, truth, mask, names=["desk"], max_error=60)
    photo, drawn_truth, drawn_prediction, error = pictures(figure)[:4]
    assert np.abs(photo - 255 * image[0].permute(1, 2, 0).numpy()).max() <= 0.5 + 1e-3
    wall, floor = (128, 128, 0), (128, 0, 128)
    slant = (128, 64, 17)  # (0, -1/2, -sqrt(3)/2)
    inferno = [tuple(round(255 * c) for c in colormaps["inferno"](x)[:3]) for x in (0.0, 0.5, 1.0)]
    for picture, expected in (
        (drawn_truth, [GREY, GREY, wall, wall, wall, wall]),
        (drawn_prediction, [wall, wall, floor, slant, CYAN, wall]),
        (error, [GREY, GREY, inferno[2], inferno[1], CYAN, inferno[0]]),
    ):
        np.testing.assert_allclose(picture[3, :6].astype(int), expected, atol=1)  # rounding or truncation
    # Valid: one column of 90 degrees, one of 30, three of 0; NaN is no hit, and left out.
    assert {"desk", "mean 24.0°, median 0.0°", "no truth", "no prediction", "OPENCV axes;"} <= set(words(figure))


@pytest.mark.parametrize("with_truth", [False, True])
def test_grid_shows_the_error_that_the_network_expects(with_truth):
    prediction = constant(0, 0, -1)
    prediction[..., 3] = 0
    expected = torch.tensor([0.0, 30, 60, 90, 150, 0, 0, 0]).expand(1, 6, 8)
    truth = (constant(0, 0, -1),) if with_truth else ()
    figure = comparison_grid(torch.rand(1, 3, 6, 8), prediction, *truth, expected=expected, max_error=60)
    inferno = [tuple(round(255 * c) for c in colormaps["inferno"](x)[:3]) for x in (0.0, 0.5, 1.0)]
    drawn = pictures(figure)[4 if with_truth else 2]
    np.testing.assert_allclose(drawn[2, :5].astype(int), [*inferno, CYAN, inferno[2]], atol=1)
    assert {"Expected error", "mean 41.2°", "angular error (degrees)"} <= set(words(figure))
    assert_tidy(figure, on_pictures=("\N{MINUS SIGN}z",))


def test_grid_says_what_it_lacks_only_where_it_does():
    normals = unit(1, 3, 6, 8)
    whole = words(comparison_grid(torch.rand(1, 3, 6, 8), normals, normals))
    assert "no truth" not in whole
    assert "no prediction" not in whole
    assert "mean 0.0°, median 0.0°" in whole
    nothing = words(comparison_grid(torch.rand(1, 3, 6, 8), normals, torch.zeros_like(normals)))
    assert "no valid pixel" in nothing


def test_grid_colours_normals_in_another_convention():
    normals = constant(0, -1, 0)
    figure = comparison_grid(torch.rand(1, 3, 6, 8), normals, normals, convention=Convention.OPENGL)
    assert pictures(figure)[1][0, 0].tolist() == pictures(figure)[2][0, 0].tolist() == [128, 255, 128]
    assert "OPENGL axes;" in words(figure)
    middle = next(text for text in figure.texts if text.get_text() == "+z")
    _, texts, panels = boxes(figure)
    assert overlap(texts[middle], panels[4])


@pytest.mark.parametrize("with_image", [True, False])
def test_convention_grid_marks_what_looks_away(with_image):
    """A floor in OPENGL axes, in columns of two rays: straight ahead, and well down, where z alone does not decide."""
    stored = constant(0, 0.9, 0.1)[0]
    stored[:, :, 0] = 0
    rays = constant(0, 0, 1)[0]
    rays[1, :, 4:] = 1.0
    notes = {convention: f"{i}" for i, convention in enumerate(Convention)}
    images = [torch.zeros(3, 6, 8) if with_image else None]
    figure = convention_grid(
        images, [stored], [torch.ones(6, 8, dtype=torch.bool)], [rays], notes=notes, names=["room"], title="which"
    )
    drawn = pictures(figure)[with_image:]
    # The file's own colours: (0, 0.9, 0.1) at unit length.
    np.testing.assert_allclose(drawn[0][3, 1:], np.tile([128, 254, 142], (7, 1)), atol=1)
    assert all(tuple(picture[3, 0]) == GREY for picture in drawn[:5])
    cyan = [[tuple(picture[3, u]) == CYAN for u in (1, 6)] for picture in drawn[1:5]]
    # (0, 0.9, 0.1) . (0, y, 1) for y = 0 and 1 after each convention's signs, OPENCV, OPENGL, DSINE, TASKONOMY.
    assert cyan == [[True, True], [False, False], [False, False], [False, True]]
    assert {"In the file", "OPENCV: 0", "TASKONOMY: 3", "room", "no normal", "looks away from the camera"} <= set(
        words(figure)
    )
    assert ("Image" in words(figure)) == with_image


def test_convention_grid_is_tidy():
    stored, masks = list(unit(3, 3, 24, 32)), [torch.ones(24, 32, dtype=torch.bool)] * 3
    notes = dict.fromkeys(Convention, "100.0%")
    title = "Which way do the normals point? the data cannot tell, from 3 pictures: " + "one or the other, " * 9
    figure = convention_grid([torch.rand(3, 24, 32)] * 3, stored, masks, stored, notes=notes, names="abc", title=title)
    assert_tidy(figure, on_pictures=("\N{MINUS SIGN}z",))
    with pytest.raises(ValueError, match=r"images, normals, masks, rays: \(1, 3, 3, 3\) entries"):
        convention_grid([None], stored, masks, stored, notes=notes)


def test_axis_labels_stand_at_the_ends_they_name():
    normals = unit(1, 3, 6, 8)
    figure = comparison_grid(torch.rand(1, 3, 6, 8), normals, convention=Convention.DSINE)
    _, texts, panels = boxes(figure)
    sphere = panels[2]
    at = {text.get_text(): ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2) for text, box in texts.items()}
    assert at["+x"][0] < sphere.x0 < sphere.x1 < at["\N{MINUS SIGN}x"][0]
    assert at["\N{MINUS SIGN}y"][1] < sphere.y0 < sphere.y1 < at["+y"][1]


@pytest.mark.parametrize("rows", [1, 3, 8])
@pytest.mark.parametrize("with_truth", [True, False])
def test_grid_is_tidy_for_any_number_of_rows(rows, with_truth):
    predictions, normals = unit(rows, 3, 24, 32), unit(rows, 3, 24, 32, seed=1)
    predictions[..., :3] = 0
    normals[..., -3:] = 0
    figure = comparison_grid(
        torch.rand(rows, 3, 24, 32),
        predictions,
        normals if with_truth else None,
        names=[f"a/folder/of long names/{'x' * 10 * i}/frame-{i}.jpg" for i in range(rows)],
        title=r"A $\title$ of many words, which takes more than one line above so small a figure, " + "w" * 150,
    )
    assert_tidy(figure, on_pictures=("\N{MINUS SIGN}z",))
    assert len(pictures(figure)) == (4 * rows + 3 if with_truth else 2 * rows + 2)
    assert any(word.startswith("a/fol") and word.endswith("frame-0.jpg") and "…" in word for word in words(figure))


@pytest.mark.parametrize(
    ("sizes", "max_error"),
    [([(10, 90)], 180), ([(90, 10)], 90), ([(1, 1)], 7.5), ([(1, 400)], 60), ([(30, 40), (90, 20), (10, 60)], 33)],
)
def test_grid_keeps_the_aspect_of_every_picture(sizes, max_error):
    samples = [unit(3, *size) for size in sizes]
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]
    figure = comparison_grid(images, samples, samples, max_error=max_error)
    assert_tidy(figure, on_pictures=("\N{MINUS SIGN}z",))
    _, _, panels = boxes(figure)
    for panel, (height, width) in zip(panels[::4], sizes, strict=False):
        if width < 50 * height:
            assert panel.width / panel.height == pytest.approx(width / height)
    # All rows share the one bar, from no error to the largest.
    (bar,) = (axes for axes in figure.axes if axes.get_xticklabels() and not axes.images)
    assert bar.get_xlim() == (0, max_error)


GOOD = {"images": torch.rand(2, 3, 6, 8), "predictions": unit(2, 3, 6, 8), "normals": unit(2, 3, 6, 8)}


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"images": []}, ValueError, "images is empty"),
        (
            {"images": torch.rand(3, 6, 8)},
            ValueError,
            r"predictions has 2 entries for 3|images\[0\] has shape \(6, 8\)",
        ),
        ({"images": torch.rand(2, 1, 6, 8)}, ValueError, r"images\[0\] has shape \(1, 6, 8\)"),
        ({"images": torch.rand(2, 3, 6, 8) * 255}, ValueError, r"images\[0\] has values .*divide"),
        ({"images": torch.full((2, 3, 6, 8), math.nan)}, ValueError, r"images\[0\] has values"),
        ({"images": torch.ones(2, 3, 6, 8, dtype=torch.int64)}, TypeError, r"images\[0\] has dtype torch.int64"),
        ({"images": np.ones((2, 3, 6, 8))}, TypeError, r"images\[0\] is of type ndarray"),
        ({"predictions": unit(1, 3, 6, 8)}, ValueError, "predictions has 1 entries for 2 images"),
        ({"predictions": unit(2, 3, 6, 9)}, ValueError, r"predictions\[0\] has shape \(3, 6, 9\); wanted \(3, 6, 8\)"),
        ({"normals": unit(2, 3, 8, 6)}, ValueError, r"normals\[0\] has shape \(3, 8, 6\)"),
        (
            {"normals": torch.ones(2, 3, 6, 8, dtype=torch.uint8)},
            TypeError,
            r"normals\[0\] has dtype torch.uint8.*rgb_to_normals",
        ),
        ({"masks": torch.ones(2, 8, 6) > 0}, ValueError, r"masks\[0\] has shape \(8, 6\); wanted \(6, 8\)"),
        ({"masks": torch.ones(2, 6, 8)}, TypeError, r"masks\[0\] has dtype torch.float32"),
        ({"normals": None, "masks": torch.ones(2, 6, 8) > 0}, ValueError, "masks without normals"),
        ({"names": ["one"]}, ValueError, r"names=\['one'\] for 2 images"),
        ({"names": "ab"}, ValueError, "names='ab'"),
        ({"max_error": 0}, ValueError, "max_error=0"),
        ({"max_error": math.nan}, ValueError, "max_error=nan"),
        ({"convention": "sideways"}, ValueError, "sideways"),
    ],
)
def test_grid_refuses(changed, error, message):
    with pytest.raises(error, match=message):
        comparison_grid(**{**GOOD, **changed})


def run(epochs=9):
    return [
        {
            "epoch": str(epoch),
            "train_loss": str(2 / epoch),
            "val_loss": 3 / epoch,
            "train_mean": "" if epoch % 2 else 30 / epoch,
            "mean": 20 + (epoch - 6) ** 2,
            "median": None,
            "11.25": 40.0 + epoch,
            "5": 10 + epoch,
            "30": math.nan if epoch == 2 else 70 + epoch,
            "lr": "high",
        }
        for epoch in range(1, epochs + 1)
    ]


def lines(axes):
    return {line.get_label(): np.asarray(line.get_xydata()).tolist() for line in axes.lines}


def test_curves_go_through_the_rows_in_order_of_epoch():
    rows = run()
    # A resumed run: an abandoned epoch 3 comes first in the file.
    loss, error, share = training_curves([{**rows[2], "train_loss": 99.0}, *rows]).axes
    assert lines(loss)["training"] == [[epoch, 2 / epoch] for epoch in range(1, 10)]
    assert lines(loss)["validation"] == [[epoch, 3 / epoch] for epoch in range(1, 10)]
    assert lines(error)["mean, training"] == [[epoch, 30 / epoch] for epoch in (2, 4, 6, 8)]
    assert lines(error)["mean, validation"] == [[epoch, 20 + (epoch - 6) ** 2] for epoch in range(1, 10)]
    assert "median, validation" not in lines(error)
    assert [x for x, _ in lines(error)["lowest mean: 20.0°, epoch 6"]] == [6, 6]
    assert lines(share)["< 30°"] == [[epoch, 70 + epoch] for epoch in range(1, 10) if epoch != 2]
    assert [text.get_text() for text in share.get_legend().get_texts()] == ["< 30°", "< 11.25°", "< 5°"]


@pytest.mark.parametrize(
    ("rows", "title"), [(run(1), None), (run(40), r"A $\run$"), ([{"train_loss": 0.5}, {"train_loss": 0.4}], None)]
)
def test_curves_are_tidy(rows, title):
    figure = training_curves(rows, title=title)
    assert_tidy(figure)
    bare = [axes for axes in figure.axes if not axes.lines]
    assert all(axes.texts[0].get_text() == "not recorded" for axes in bare)
    assert len(bare) == (0 if "mean" in rows[0] else 2)


def classifier_run(epochs=12):
    return [
        {
            "epoch": epoch,
            "train_loss": 2 / epoch,
            "val_loss": 3 / epoch,
            "train_accuracy": 95 - 40 / epoch,
            "accuracy": 90 - (epoch - 7) ** 2 if epoch > 1 else "",
        }
        for epoch in range(1, epochs + 1)
    ]


def test_curves_of_a_classifier_are_loss_and_accuracy():
    loss, accuracy = training_curves(classifier_run()).axes
    assert lines(loss)["training"] == [[epoch, 2 / epoch] for epoch in range(1, 13)]
    assert lines(accuracy)["training"] == [[epoch, 95 - 40 / epoch] for epoch in range(1, 13)]
    assert lines(accuracy)["validation"] == [[epoch, 90 - (epoch - 7) ** 2] for epoch in range(2, 13)]
    assert [x for x, _ in lines(accuracy)["highest: 90.0 %, epoch 7"]] == [7, 7]
    shown = [text.get_text() for text in accuracy.get_legend().get_texts()]
    assert shown == ["training", "validation", "highest: 90.0 %, epoch 7"]


def test_curves_show_both_tasks_where_the_rows_have_both():
    rows = [{**normals, "accuracy": 50.0} for normals in run(3)]
    assert [axes.get_title() for axes in training_curves(rows).axes] == [
        "Loss",
        "Angular error",
        "Validation error below a threshold",
        "Accuracy",
    ]


@pytest.mark.parametrize("rows", [classifier_run(1), classifier_run(60), [{"train_loss": 0.5, "accuracy": None}]])
def test_curves_of_a_classifier_are_tidy(rows):
    figure = training_curves(rows, title="A title of many words, which takes more than one line " + "w" * 40)
    assert_tidy(figure)
    assert len(figure.axes) == 2
    assert len(figure._suptitle.get_text().splitlines()) == 2


CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def confusions(size, seed=0):
    draws = np.random.default_rng(seed)
    return torch.from_numpy(draws.poisson(5, (size, size)) + np.diag(draws.integers(0, 900, size)))


def test_confusions_are_per_cent_of_the_truth():
    counts = confusions(10)
    counts[4, 2] = 0
    counts[6] = 0
    axes = confusion_matrix_figure(counts, CIFAR).axes[0]
    expected = 100 * counts.numpy() / np.maximum(counts.numpy().sum(1, keepdims=True), 1)
    drawn = axes.images[0].get_array()
    np.testing.assert_allclose(drawn.filled(0), expected)
    assert drawn.mask.any(1).tolist() == drawn.mask.all(1).tolist() == [i == 6 for i in range(10)]
    # A picture's first row is the upper one; a text stands at (column, row).
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    shown = {tuple(map(int, text.get_position())): text.get_text() for text in axes.texts}
    assert len(shown) == 100
    for (column, row), text in shown.items():
        if row == 6:
            assert text == ""
        else:
            assert float(text) == pytest.approx(expected[row, column], abs=0.05 + 1e-9)
    assert shown[2, 4] == "0"
    assert [label.get_text() for label in axes.get_xticklabels()] == CIFAR
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows == [*CIFAR[:6], "frog: no images", *CIFAR[7:]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("prediction", "truth")
    assert axes.get_title() == "Rows: truth; columns: prediction; per cent of each row"


def test_numbers_of_confusions_stand_out_from_their_cells():
    axes = confusion_matrix_figure(torch.tensor([[60, 40], [34, 66]]), ["a", "b"]).axes[0]
    image = axes.images[0]
    for text in axes.texts:
        column, row = map(int, text.get_position())
        cell = np.dot(image.cmap(image.norm(image.get_array()[row, column]))[:3], (0.2126, 0.7152, 0.0722))
        assert abs(cell - (text.get_color() == "white")) > 0.4


@pytest.mark.parametrize(
    ("classes", "title"),
    [
        (CIFAR, None),
        (CIFAR, "ImprovedNet on the test images"),
        (["cat", "dog"], "A title of many words, which takes more than one line above so small a figure"),
        (["only"], None),
        ([f"{'a long name of many words ' * (i % 3)}{i}" for i in range(5)], r"$\alpha$ $x$"),
        ([str(i) for i in range(20)], None),
    ],
)
def test_confusions_are_tidy(classes, title):
    counts = confusions(len(classes))
    counts[-1] = 0
    figure = confusion_matrix_figure(counts, classes, title=title)
    cells = {text.get_text() for text in figure.axes[0].texts}
    assert_tidy(figure, on_pictures=cells)
    # Each number lies within its own cell.
    _, texts, (panel,) = boxes(figure)
    width = panel.width / len(classes)
    assert all(box.width < 0.95 * width for text, box in texts.items() if text in figure.axes[0].texts)


@pytest.mark.parametrize(
    ("counts", "classes", "message"),
    [
        (torch.ones(2, 3), ["a", "b"], r"counts has shape \(2, 3\) and classes 2 names"),
        (torch.ones(2, 2), ["a", "b", "c"], r"counts has shape \(2, 2\) and classes 3 names"),
        (torch.ones(2, 2), "ab", "wanted"),
        (torch.ones(0, 0), [], "wanted"),
        (torch.tensor([[1, -1], [0, 1]]), ["a", "b"], "negative"),
        (torch.tensor([[1, math.nan], [0, 1]]), ["a", "b"], "not finite"),
    ],
)
def test_confusions_refuse(counts, classes, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix_figure(counts, classes)


VARIANTS = ["ImprovedNet", "no batch norm", "FC1, 2 layers removed", "fresh"]
SEEDS = {
    "accuracy (%) ↑": [[91.0, 90.25, 90.5], [86.0], [89.0, 88.0], []],
    "mean (°) ↓": [[30, 31, 32], [], [35, 35], []],
}


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def marks(axes, label):
    """The points drawn under a label of the legend, from the top."""
    found = [np.asarray(one.get_offsets()) for one in axes.collections if one.get_label() == label]
    found += [line.get_xydata() for bar in axes.containers if bar.get_label() == label for line in bar.lines[:1]]
    found += [line.get_xydata() for line in axes.lines if line.get_label() == label]
    return sorted(np.concatenate(found).tolist(), key=lambda point: point[1]) if found else []


def test_a_study_shows_seeds_means_deviations_and_the_reported():
    reported = {"accuracy (%) ↑": [92.5, None, 84.0, 91.5]}
    figure = study_figure(VARIANTS, SEEDS, reported=reported)
    accuracy, error = figure.axes
    assert [axes.get_title() for axes in figure.axes] == list(SEEDS)
    assert [label.get_text() for label in accuracy.get_yticklabels()] == VARIANTS
    bottom, top = accuracy.get_ylim()
    assert bottom > 3 > 0 > top
    for axes, (_, runs) in zip(figure.axes, SEEDS.items(), strict=True):
        several = [(line, seeds) for line, seeds in enumerate(runs) if len(seeds) > 1]
        assert marks(axes, "mean ± standard deviation") == [[np.mean(seeds), line] for line, seeds in several]
        assert marks(axes, "single run") == [[seeds[0], line] for line, seeds in enumerate(runs) if len(seeds) == 1]
        faint = marks(axes, "one seed")
        assert sorted(x for x, _ in faint) == sorted(x for _, seeds in several for x in seeds)
        # Below the line of their variant, and above the next.
        assert {math.floor(y) for _, y in faint} == {line for line, _ in several}
        bars = [bar.lines[2][0].get_segments()[0] for bar in axes.containers if bar.has_xerr]
        for (line, seeds), ((low, y), (high, _)) in zip(several, bars, strict=True):
            spread = np.std(seeds, ddof=1)
            assert (low, high, y) == pytest.approx((np.mean(seeds) - spread, np.mean(seeds) + spread, line))
    assert marks(accuracy, "reported") == [[92.5, 0], [84.0, 2], [91.5, 3]]
    assert marks(error, "reported") == []
    assert [text.get_text() for text in accuracy.texts] == ["90.6", "86.0", "88.5"]
    assert legend(figure) == ["one seed", "mean ± standard deviation", "single run", "reported"]


def test_the_legend_of_a_study_names_only_what_is_drawn():
    assert legend(study_figure(["a"], {"loss": [[0.25]]})) == ["single run"]
    assert legend(study_figure(["a"], {"loss": [[100.0, 100.0]]})) == ["one seed", "mean ± standard deviation"]


LONG = ["FC1, 2 layers removed", "conv layers 5, 6 removed", "a name that is far too long for the margin of a figure"]


@pytest.mark.parametrize("panels", [1, 3, 5, 7, 8])
@pytest.mark.parametrize("title", [None, "A title of many words, which takes more than one line if alone"])
def test_a_study_is_tidy(panels, title):
    draws = np.random.default_rng(panels)
    names = [*LONG, "no $batch$ norm", "no dropout", "ImprovedNet", "BaseNet"]
    values = {f"share below {11.25 * i}°": draws.normal(80 + i, 1, (7, 3)).tolist() for i in range(panels)}
    reported = {heading: [62.0, None, *[80.0] * 5] for heading in values}
    figure = study_figure(names, values, reported=reported, title=title)
    assert_tidy(figure)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:2] == LONG[:2]
    assert "…" in labels[2]
    assert labels[3] == names[3]
    # The rows of panels that a page can show: no wider than five, each with the names at its left.
    places = [axes.get_position() for axes in figure.axes]
    assert len(places) == panels
    lefts = sorted({round(place.x0, 2) for place in places})
    assert len(lefts) == {1: 1, 3: 3, 5: 5, 7: 4, 8: 4}[panels]
    for axes, place in zip(figure.axes, places, strict=True):
        assert axes.yaxis.get_tick_params()["labelleft"] == (round(place.x0, 2) == lefts[0])


@pytest.mark.parametrize("title", [None, "A title of many words, which takes more than one line if alone"])
def test_sparsification_is_drawn_and_tidy(title):
    errors = torch.rand(400, generator=torch.Generator().manual_seed(0)) * 60
    curve = sparsification(errors, errors + 20 * torch.rand(400), steps=20)
    figure = sparsification_figure(curve, title=title)
    assert_tidy(figure)
    ours, best, level = figure.axes[0].lines
    np.testing.assert_allclose(ours.get_xydata(), np.stack([100 * curve.removed, curve.error], 1), rtol=1e-6)
    np.testing.assert_allclose(best.get_ydata(), curve.best)
    np.testing.assert_allclose(level.get_ydata(), [float(errors.mean())] * 2, rtol=1e-5)
    assert f"{curve.area:.2f}°" in figure.axes[0].get_title()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"values": {}}, "values is empty"),
        ({"values": {"accuracy": [[], []]}}, "values is empty"),
        ({"values": {"accuracy": [[1.0]]}}, r"values\['accuracy'\] has 1 entries for 2 names"),
        ({"reported": {"accuracy": [1.0]}}, r"reported\['accuracy'\] has 1 entries for 2 names"),
        ({"reported": {"mean": [1.0, None]}}, "reported has mean, which values has not"),
        ({"values": {"accuracy": [[1.0, math.nan], []]}}, "not finite"),
        ({"reported": {"accuracy": [math.inf, None]}}, "not finite"),
    ],
)
def test_a_study_refuses(changed, message):
    with pytest.raises(ValueError, match=message):
        study_figure(**{"names": ["a", "b"], "values": {"accuracy": [[1.0], [2.0]]}, **changed})


@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "rows is empty"), ([{"epoch": 1}, {"epoch": 2, "mean": "abc"}], r"rows\[1\]\['mean'\]='abc'")],
)
def test_curves_refuse(rows, message):
    with pytest.raises(ValueError, match=message):
        training_curves(rows)


@pytest.mark.parametrize(("suffix", "kind"), [("png", "PNG"), ("jpg", "JPEG"), ("JPEG", "JPEG")])
def test_saved_figure_has_the_size_asked_for(tmp_path, suffix, kind):
    figure = training_curves(run(2))
    save_figure(figure, tmp_path / f"curves.{suffix}", dpi=50)
    with Image.open(tmp_path / f"curves.{suffix}") as picture:
        picture.load()
        assert picture.format == kind
        assert picture.size == (480, 150)
    assert len(list(tmp_path.iterdir())) == 1


def test_one_figure_saves_in_several_formats_and_pyplot_knows_none(tmp_path):
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    figure = comparison_grid(**GOOD)
    save_figure(figure, tmp_path / "grid.pdf")
    save_figure(figure, str(tmp_path / "grid.svg"))
    assert (tmp_path / "grid.pdf").read_bytes().startswith(b"%PDF")
    assert "<svg" in (tmp_path / "grid.svg").read_text(encoding="utf-8")
    assert pyplot.get_fignums() == before


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    def fail(_, path, **options):
        path.write_bytes(b"half")
        raise RuntimeError("out of ink")

    target = tmp_path / "grid.png"
    target.write_bytes(b"old")
    figure = comparison_grid(**GOOD)
    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(RuntimeError, match="out of ink"):
        save_figure(figure, target)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("grid.png", b"old")]


@pytest.mark.parametrize(
    ("name", "dpi", "error", "message"),
    [
        ("grid.gif", 100, ValueError, "grid.gif.*.png, .pdf"),
        ("grid", 100, ValueError, "cannot tell the format"),
        ("grid.png", 0, ValueError, "dpi=0"),
        ("missing/grid.png", 100, OSError, "missing"),
    ],
)
def test_save_refuses(tmp_path, name, dpi, error, message):
    with pytest.raises(error, match=message):
        save_figure(training_curves(run(1)), tmp_path / name, dpi=dpi)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "draw",
    [
        lambda: comparison_grid(**GOOD),
        lambda: training_curves(run(1)),
        lambda: confusion_matrix_figure(torch.ones(2, 2), ["a", "b"]),
        lambda: study_figure(["a"], {"loss": [[0.25]]}),
        lambda: sparsification_figure(sparsification(torch.arange(4.0), torch.arange(4.0), steps=2)),
    ],
)
def test_missing_matplotlib_names_the_extra(monkeypatch, draw):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure")
    with pytest.raises(ImportError, match=r'pip install "normalkit\[train\]"'):
        draw()
