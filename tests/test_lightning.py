"""Loss and metrics inside Lightning and a MetricCollection, against numpy on the same predictions."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection

from normalkit import AngularLoss, AngularMetrics, SyntheticRooms, UNetNormals

pl = pytest.importorskip("pytorch_lightning")

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),
    pytest.mark.filterwarnings("ignore::pytorch_lightning.utilities.warnings.PossibleUserWarning"),
]


class Module(pl.LightningModule):
    def __init__(self, model):
        super().__init__()
        self.model = model
        self.criterion = AngularLoss(alpha=1.0, beta=1.0)
        self.figures = MetricCollection([AngularMetrics()], prefix="val/")
        self.seen = []

    def training_step(self, batch, index):
        loss = self.criterion(self.model(batch["image"]), batch["normals"], batch["mask"])
        self.log("train/loss", loss, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch, index):
        predicted = self.model(batch["image"])
        self.seen.append((predicted, batch["normals"], batch["mask"]))
        self.figures.update(predicted, batch["normals"], batch["mask"])

    def on_validation_epoch_end(self):
        self.log_dict(self.figures.compute())
        self.figures.reset()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def rooms():
    return SyntheticRooms(5, size=(32, 48), seed=0)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return UNetNormals("test_resnet", pretrained=False, skips=(2, 3), decoder_channels=(8, 8, 8, 8, 8))


def errors_in_degrees(predicted, normals, mask):
    a, b = (x.double().numpy() for x in (predicted, normals))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.maximum(np.linalg.norm(b, axis=1), 1e-12)
    return [np.degrees(np.arccos(np.clip(c, -1, 1)))[m.numpy()] for c, m in zip(cosine, mask, strict=True)]


def test_a_lightning_module_trains_and_validates(rooms, model):
    before = [p.clone() for p in model.parameters()]
    module = Module(model)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=1, num_sanity_val_steps=0, enable_model_summary=False, **options)
    loaders = DataLoader(rooms, batch_size=2), DataLoader(rooms, batch_size=2)
    trainer.fit(module, *loaders)
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert float(trainer.callback_metrics["train/loss"]) > 0
    # Batches of 2, 2 and 1: pooled pixels, not the mean of three means.
    errors = np.concatenate([e for batch in module.seen for e in errors_in_degrees(*batch)])
    assert len(module.seen) == 3
    assert float(trainer.callback_metrics["val/mean"]) == pytest.approx(errors.mean(), abs=1e-3)
    assert float(trainer.callback_metrics["val/median"]) == pytest.approx(np.median(errors), abs=0.1)
    assert float(trainer.callback_metrics["val/30"]) == pytest.approx(100 * (errors < 30).mean(), abs=0.1)
    module.seen.clear()
    trainer.validate(module, loaders[1], verbose=False)
    again = np.concatenate([e for batch in module.seen for e in errors_in_degrees(*batch)])
    # Nothing is left of the first validation.
    assert float(trainer.callback_metrics["val/mean"]) == pytest.approx(again.mean(), abs=1e-3)


def test_two_kinds_of_figures_in_one_collection(rooms, model):
    pair = {"pooled": AngularMetrics(), "per_image": AngularMetrics(reduction="per_image")}
    collection = MetricCollection(pair, prefix="val/")
    errors = []
    with torch.inference_mode():
        for batch in DataLoader(rooms, batch_size=2):
            # Every image has another share of valid pixels.
            mask = batch["mask"] & (torch.rand_like(batch["normals"][:, 0]) < torch.rand(len(batch["mask"]), 1, 1))
            predicted = model.eval()(batch["image"])
            collection.update(predicted, batch["normals"], mask)
            errors += errors_in_degrees(predicted, batch["normals"], mask)
    figures = collection.compute()
    assert float(figures["val/pooled_mean"]) == pytest.approx(np.concatenate(errors).mean(), abs=1e-3)
    assert float(figures["val/per_image_mean"]) == pytest.approx(np.mean([e.mean() for e in errors]), abs=1e-3)
    clone = collection.clone(prefix="test/")
    assert {name.replace("test/", "val/") for name in clone.compute()} == figures.keys()
