"""Scores of a classifier against numpy, and the loss against its formula."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from normalkit.classification import ClassScores, classification_loss, evaluate_classifier, format_accuracies


class Pixels(nn.Module):
    """Logits are the first pixels of the image."""

    def __init__(self, classes):
        super().__init__()
        self.classes = classes
        self.drop = nn.Dropout(0.5)

    def forward(self, images):
        return self.drop(images[:, 0, 0, : self.classes])


def batches_of(logits, labels, size):
    images = torch.zeros(len(logits), 3, 2, 2 * logits.shape[1])
    images[:, 0, 0, : logits.shape[1]] = logits
    # What a mirror shows first.
    images[:, 0, 0, logits.shape[1] :] = 2 * logits.roll(1, 1)
    return [{"image": images[i : i + size], "label": labels[i : i + size]} for i in range(0, len(images), size)]


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("flip", [False, True])
def test_scores_equal_numpy(flip):
    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(50, 4, generator=draw), torch.randint(4, (50,), generator=draw)
    scores = evaluate_classifier(Pixels(4).train(), batches_of(logits, labels, 8), flip=flip)
    chances = softmax(logits.double().numpy())
    if flip:
        chances = (chances + softmax(2 * logits.roll(1, 1).flip(1).double().numpy())) / 2
    counts = np.zeros((4, 4), int)
    np.add.at(counts, (labels.numpy(), chances.argmax(1)), 1)
    np.testing.assert_array_equal(scores.confusion, counts)
    assert scores.loss == pytest.approx(-np.log(chances[np.arange(50), labels.numpy()]).mean(), rel=1e-5)
    assert scores.accuracy == pytest.approx(100 * (chances.argmax(1) == labels.numpy()).mean())
    assert scores.class_accuracies == pytest.approx(list(100 * np.diag(counts) / counts.sum(1)))
    assert scores.figures == {"loss": scores.loss, "accuracy": scores.accuracy}


def test_a_model_keeps_its_mode():
    model = Pixels(2).train()
    evaluate_classifier(model, batches_of(torch.rand(3, 2), torch.zeros(3, dtype=torch.int64), 3))
    assert model.training
    assert model.drop.training


def test_accuracies_are_exact_shares():
    """In float32, 0.7 is less than it is."""
    scores = ClassScores(loss=0.0, confusion=torch.tensor([[7, 3], [6, 14]]))
    assert scores.accuracy == scores.figures["accuracy"] == 70
    assert scores.class_accuracies == [70, 70]


def test_a_class_without_images_has_no_accuracy():
    scores = ClassScores(loss=0.0, confusion=torch.tensor([[2, 0], [0, 0]]))
    assert scores.class_accuracies[0] == 100
    assert math.isnan(scores.class_accuracies[1])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_smoothed_cross_entropy(smoothing):
    logits, labels = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.3, -2.0]]), torch.tensor([0, 2])
    values = classification_loss(label_smoothing=smoothing)(
        lambda images: images, {"image": logits.requires_grad_(), "label": labels}
    )
    logs = np.log(softmax(logits.detach().double().numpy()))
    shares = np.full((2, 3), smoothing / 3)
    shares[[0, 1], [0, 2]] += 1 - smoothing
    assert float(values["loss"].detach()) == pytest.approx(-(shares * logs).sum(1).mean(), rel=1e-6)
    assert float(values["accuracy"]) == 50
    assert values["loss"].requires_grad
    assert not values["accuracy"].requires_grad


@pytest.mark.parametrize("labels", [[0, 3], [-1, 2], [-100, 0]])
def test_the_loss_of_labels_outside_the_classes_is_refused(labels):
    """Of which torch leaves -100 out in silence."""
    batch = {"image": torch.zeros(2, 3), "label": torch.tensor(labels)}
    with pytest.raises(ValueError, match=rf"label: {min(labels)} to {max(labels)}, but the model has the 3 classes 0"):
        classification_loss()(nn.Identity(), batch)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_out_of_range_is_named(smoothing):
    with pytest.raises(ValueError, match=f"label_smoothing={smoothing}: wanted a share"):
        classification_loss(label_smoothing=smoothing)


@pytest.mark.parametrize(
    ("model", "batches", "message"),
    [
        (Pixels(2), [], "loader: it has no batches"),
        (Pixels(2), batches_of(torch.rand(2, 2), torch.tensor([0, 2]), 2), "label: 0 to 2, but the model has the 2"),
        (Pixels(2), batches_of(torch.rand(2, 2), torch.tensor([-1, 1]), 2), "label: -1 to 1"),
        (
            Pixels(2),
            batches_of(torch.full((2, 2), math.nan), torch.tensor([0, 1]), 2),
            "its logits of 2 images are not",
        ),
        (nn.Identity(), batches_of(torch.rand(2, 2), torch.tensor([0, 1]), 2), r"model: for images .* wanted logits"),
    ],
)
def test_what_cannot_be_scored_is_refused(model, batches, message):
    with pytest.raises(ValueError, match=message):
        evaluate_classifier(model, batches)


def test_lines_are_the_reports():
    scores = ClassScores(loss=1.0, confusion=torch.tensor([[729, 271], [123, 877]]))
    assert format_accuracies(scores, ("airplane", "car"), split="test").splitlines() == [
        "Accuracy of the final network on the test images: 80.3 %",
        "Accuracy of airplane : 72.9 %",
        "Accuracy of car      : 87.7 %",
    ]
    with pytest.raises(ValueError, match="classes has 1 names; wanted 2"):
        format_accuracies(scores, ["cat"])
