import copy
import csv
import dataclasses
import errno
import itertools
import json
import math
import multiprocessing
import os
import pty
import random
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from normalkit.data import ShardedNormals, shard_evaluation_loader, shard_training_loader, write_shards
from normalkit.data.loader import evaluation_loader, training_loader
from normalkit.data.sample import make_sample
from normalkit.losses import AngularLoss
from normalkit.metrics import SurfaceNormalMetrics
from normalkit.models import BaseNet, checkpoint
from normalkit.models.base import NormalEstimator
from normalkit.models.checkpoint import load_model, read_config
from normalkit.signals import STOP_SIGNALS
from normalkit.training import (
    Interrupted,
    TrainingSettings,
    evaluate,
    fit,
    format_figures,
    normals_loss,
    read_rows,
)
from normalkit.training.devices import to_device
from normalkit.training.precision import faster_in_bfloat16

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning"),
]

SETTINGS = TrainingSettings(epochs=2, lr=0.02, ema=0.5, warmup=0.2, precision="no", seed=3)
STEPS = 3
"""Batches in an epoch of `Scenes`."""


class DropoutNormals(NormalEstimator):
    """Small, but with all that a run must carry over: batch norm and randomness of its own."""

    def __init__(
        self,
        width=4,
        pretrained=False,
        normalize=True,
        resolution=None,
        image_mean=(0.5,) * 3,
        image_std=(0.2,) * 3,
    ):
        super().__init__(
            config={"width": width},
            stride=2,
            image_mean=image_mean,
            image_std=image_std,
            normalize=normalize,
            resolution=resolution,
        )
        self.net = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Dropout2d(0.3),
            nn.Conv2d(width, 3, 1),
        )

    def raw_map(self, images):
        return self.net(images)


class Scenes(Dataset):
    """Twelve samples, changed at random by each of the three generators that transforms use."""

    def __init__(self, length=4 * STEPS, *, changed=True, size=8, mask=True):
        draw = torch.Generator().manual_seed(0)
        self.images = torch.rand(length, 3, size, size, generator=draw)
        # Walls, more or less: something that can be learnt.
        noise = torch.randn(length, 3, size, size, generator=draw)
        self.normals = nn.functional.normalize(0.4 * noise - torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1), dim=1)
        self.masks = torch.rand(length, size, size, generator=draw) > 0.2
        self.changed, self.mask = changed, mask

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        if self.changed:
            image = (image + 0.1 * torch.rand(3, 1, 1) + 0.1 * random.random() + 0.1 * float(np.random.rand())) / 1.3
        sample = {"image": image, "normals": self.normals[index], "name": str(index)}
        return sample | ({"mask": self.masks[index]} if self.mask else {})


@pytest.fixture(autouse=True)
def _known_model(monkeypatch):
    monkeypatch.setitem(checkpoint.MODELS, "DropoutNormals", DropoutNormals)


@pytest.fixture(autouse=True)
def _signals():
    """A shell lets jobs in the background ignore Ctrl-C, and nohup SIGHUP, and these tests may be such a job."""
    wanted = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {signum: signal.signal(signum, handler) for signum, handler in wanted.items()}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def new_model():
    torch.manual_seed(5)
    return DropoutNormals()


def plain_loss(model, batch):
    return normals_loss(AngularLoss())(model, batch)


def plain_validation(model):
    return evaluate(model, evaluation_loader(Scenes(6, changed=False), workers=0), progress=False)


def run(folder, *, loss=plain_loss, validate=plain_validation, settings=SETTINGS, workers=0, **kwargs):
    data = Scenes()
    kwargs.setdefault("model", new_model())
    kwargs.setdefault(
        "batches", lambda epoch: training_loader(data, batch_size=4, epoch=epoch, seed=settings.seed, workers=workers)
    )
    return fit(loss=loss, validate=validate, folder=folder, settings=settings, **kwargs)


def when(number, act, then):
    """`then`, but the given call of it acts first."""
    calls = iter(range(1, 10**6))

    def called(*args, **kwargs):
        if next(calls) == number:
            act()
        return then(*args, **kwargs)

    return called


def send(signum):
    return lambda: signal.raise_signal(signum)


def state_of(folder):
    return torch.load(folder / "last" / "training.pt", weights_only=True)


def contents(folder):
    """All that a run leaves, but for the times: bits of every tensor, files, rows."""
    state = state_of(folder)
    flat = {}

    def flatten(value, name):
        if isinstance(value, dict):
            for key, entry in value.items():
                flatten(entry, f"{name}.{key}")
        elif isinstance(value, list):
            flatten(dict(enumerate(value)), name)
        elif not name.endswith("seconds"):
            flat[name] = value.numpy().tobytes() if isinstance(value, torch.Tensor) else value

    flatten(state, "state")
    for file in ("best/model.safetensors", "best/config.json", "last/model.safetensors", "config.json"):
        flat[file] = (folder / file).read_bytes()
    with open(folder / "metrics.csv", newline="") as file:
        flat["rows"] = [{name: cell for name, cell in row.items() if name != "seconds"} for row in csv.DictReader(file)]
    return flat


def differing(folder, other):
    """Names of what two runs left that is not the same."""
    one, two = contents(folder), contents(other)
    return sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))


def leftovers(folder):
    return [path for path in folder.rglob("*") if ".normalkit-" in path.name or path.name.endswith(".old")]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """Folders of uninterrupted runs, by the number of loader workers."""
    folders = {}

    def get(workers=0):
        if workers not in folders:
            folders[workers] = tmp_path_factory.mktemp("whole") / "run"
            run(folders[workers], workers=workers)
        return folders[workers]

    return get


# The run and its folder


def test_a_run_learns_and_leaves_what_it_says(tmp_path):
    data = Scenes(8, changed=False)
    data.normals[:] = torch.tensor([0.0, 0.0, -1.0]).view(3, 1, 1)
    rows = fit(
        new_model(),
        lambda epoch: training_loader(data, batch_size=4, epoch=epoch, seed=0, workers=0),
        loss=plain_loss,
        validate=lambda model: evaluate(model, evaluation_loader(data, workers=0), progress=False),
        folder=tmp_path / "a" / "run",
        settings=TrainingSettings(epochs=12, lr=0.05, ema=0.5, precision="no", validate_every=5),
        metadata={"data": "walls", "list": (1, 2)},
    )
    folder = tmp_path / "a" / "run"
    assert rows[-1]["mean"] < 5 < rows[0]["train_mean"]
    assert [row["epoch"] for row in rows if "mean" in row] == [5, 10, 12]
    assert read_rows(folder / "metrics.csv") == rows
    best = read_config(folder / "best")
    assert (best["data"], best["list"], best["settings"]["epochs"]) == ("walls", [1, 2], 12)
    lowest = min((row for row in rows if "mean" in row), key=lambda row: row["mean"])
    assert (best["epoch"], best["metrics"]["mean"]) == (lowest["epoch"], lowest["mean"])
    again = evaluate(load_model(folder / "best"), evaluation_loader(data, workers=0), progress=False)
    assert again["mean"] == pytest.approx(lowest["mean"], abs=1e-4)
    assert json.loads((folder / "config.json").read_text())["data"] == "walls"
    assert leftovers(folder) == []


def test_tensorboard_has_each_figure_once_an_epoch(whole_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(whole_run() / "tensorboard"))
    log.Reload()
    rows = read_rows(whole_run() / "metrics.csv")
    for tag, name in [("train/loss", "train_loss"), ("val/loss", "val_loss"), ("mean", "mean")]:
        assert [event.step for event in log.Scalars(tag)] == [1, 2]
        assert [event.value for event in log.Scalars(tag)] == pytest.approx([row[name] for row in rows])
    assert len(list((whole_run() / "tensorboard").iterdir())) == 1


def test_figures_of_a_checkpoint_are_those_of_its_weights(tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path, loss=when(STEPS + 1, send(signal.SIGINT), plain_loss))
    assert "mean" in read_config(tmp_path / "best")["metrics"]
    assert read_config(tmp_path / "last")["metrics"] == {}


def test_the_average_is_of_weights_and_statistics(tmp_path):
    """Against a loop over the weights after each step."""
    model, seen = new_model(), []

    def noted(net, batch):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return plain_loss(net, batch)

    run(tmp_path, loss=noted, model=model)
    seen = [*seen[1:], model.state_dict()]
    for name in ("net.0.weight", "net.1.running_var"):
        average = seen[0][name].double()
        for number, weights in enumerate(seen[1:], 1):
            average += (1 - min(0.5, (1 + number) / (10 + number))) * (weights[name].double() - average)
        torch.testing.assert_close(
            load_file(tmp_path / "last/model.safetensors")[name].double(), average, rtol=1e-4, atol=1e-6
        )


def test_the_learning_rate_climbs_and_falls_along_a_cosine(tmp_path, monkeypatch):
    rates = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self, *a: [rates.append(self.param_groups[0]["lr"]), step(self, *a)]
    )
    run(tmp_path, settings=dataclasses.replace(SETTINGS, epochs=4, lr=0.01, warmup=0.25))
    assert rates[:3] == pytest.approx([0.01 / 3, 0.02 / 3, 0.01])
    assert rates[3:] == pytest.approx([0.005 * (1 + math.cos(math.pi * i / 9)) for i in range(9)])


@pytest.mark.parametrize(
    ("schedule", "after_warmup"),
    [("linear", [0.01 * (1 - i / 9) for i in range(9)]), ("constant", [0.01] * 9)],
)
def test_other_schedules_of_the_learning_rate_of_sgd(tmp_path, monkeypatch, schedule, after_warmup):
    rates = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD, "step", lambda self, *a: [rates.append(self.param_groups[0]["lr"]), step(self, *a)]
    )
    settings = dataclasses.replace(SETTINGS, epochs=4, lr=0.01, warmup=0.25, optimizer="sgd", schedule=schedule)
    run(tmp_path, settings=settings)
    assert rates[3:] == pytest.approx(after_warmup)


def test_sgd_takes_nesterovs_steps(tmp_path):
    settings = TrainingSettings(
        epochs=1, optimizer="sgd", lr=0.1, momentum=0.5, schedule="constant", weight_decay=0.25, warmup=0, clip=0, ema=0
    )
    model = new_model()
    weight = model.net[0].weight
    expected, velocity = weight.detach().clone(), torch.zeros_like(weight)
    for _ in range(STEPS):
        # The loss is the sum of the weights: its gradient is 1, and that of the decay 0.25 w.
        gradient = 1 + 0.25 * expected
        velocity = 0.5 * velocity + gradient
        expected = expected - 0.1 * (gradient + 0.5 * velocity)
    run(
        tmp_path,
        model=model,
        loss=lambda net, batch: {"loss": weight.sum() + 0 * net(batch["image"]).sum()},
        settings=settings,
    )
    torch.testing.assert_close(weight, expected)


def test_weights_decay_and_biases_do_not(tmp_path):
    model = new_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def no_gradient(net, batch):
        return {"loss": 0 * net(batch["image"]).sum()}

    run(tmp_path, model=model, loss=no_gradient, settings=dataclasses.replace(SETTINGS, weight_decay=0.5, lr=0.1))
    after = model.state_dict()
    assert after["net.0.weight"].norm() < 0.95 * before["net.0.weight"].norm()
    assert torch.equal(after["net.0.bias"], before["net.0.bias"])
    assert torch.equal(after["net.1.weight"], before["net.1.weight"])


def test_sharpness_aware_minimisation_takes_the_gradient_nearby(tmp_path):
    """Of the loss sum(w^2) / 2, whose gradient at w is w and, a distance r further up, w + r w / |w|."""
    radius = 0.75
    settings = TrainingSettings(
        epochs=1, optimizer="sgd", lr=0.1, momentum=0, schedule="constant", weight_decay=0, warmup=0, clip=0, ema=0
    )
    model, plain = new_model(), new_model()
    expected, losses = model.net[4].weight.detach().clone(), []
    for _ in range(STEPS):
        losses.append(float(expected.square().sum() / 2))
        expected = expected - 0.1 * (expected + radius * expected / expected.norm())

    def loss_of(weight):
        return lambda net, batch: {"loss": weight.square().sum() / 2 + 0 * net(batch["image"]).sum()}

    rows = run(
        tmp_path / "sharp",
        model=model,
        loss=loss_of(model.net[4].weight),
        settings=dataclasses.replace(settings, sam=radius),
    )
    torch.testing.assert_close(model.net[4].weight.detach(), expected)
    # What is logged is the loss at the weights themselves; batch norm counts each batch once.
    assert rows[0]["train_loss"] == pytest.approx(np.mean(losses))
    run(tmp_path / "plain", model=plain, loss=loss_of(plain.net[4].weight), settings=settings)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(model.net[1], name), getattr(plain.net[1], name))


def test_a_run_of_a_version_without_a_setting_goes_on(tmp_path, whole_run):
    with pytest.raises(Interrupted):
        run(tmp_path, loss=when(2, send(signal.SIGINT), plain_loss))
    path = tmp_path / "last/training.pt"
    state = state_of(tmp_path)
    del state["run"]["sam"]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"the run to resume has sam=0\.0, this one 0\.1"):
        run(tmp_path, settings=dataclasses.replace(SETTINGS, sam=0.1), resume=True)
    run(tmp_path, resume=True)
    assert differing(tmp_path, whole_run()) == []


def test_facts_leave_out_the_seed_and_what_is_not_used():
    facts = TrainingSettings(lr=0.5, seed=4).facts()
    assert facts["lr"] == 0.5
    assert not facts.keys() & {"seed", "sam"}
    assert TrainingSettings(sam=0.1).facts()["sam"] == 0.1


@pytest.mark.parametrize(("clip", "largest"), [(0.5, 0.5), (0, math.inf)])
def test_the_gradient_is_clipped(tmp_path, monkeypatch, clip, largest):
    norms = []
    step = torch.optim.AdamW.step

    def noted(self, *args):
        norms.append(math.sqrt(sum(float(p.grad.square().sum()) for g in self.param_groups for p in g["params"])))
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    run(
        tmp_path,
        loss=lambda model, batch: {"loss": 100 * plain_loss(model, batch)["loss"]},
        settings=dataclasses.replace(SETTINGS, clip=clip),
    )
    assert max(norms) == pytest.approx(largest) if clip else max(norms) > 5


def test_the_model_is_left_without_traces_of_the_trainer(tmp_path):
    model = new_model()
    run(tmp_path, model=model, settings=dataclasses.replace(SETTINGS, epochs=1, precision="bf16"))
    plain = DropoutNormals().eval()
    plain.load_state_dict(model.state_dict())
    images = torch.rand(1, 3, 8, 8)
    # Under a trainer's bfloat16 they would differ in the third digit.
    torch.testing.assert_close(model.eval()(images), plain(images), rtol=0, atol=1e-6)


def test_a_second_run_of_the_process_may_have_another_precision(tmp_path):
    for precision, dtype in [("bf16", torch.bfloat16), ("no", torch.float32)]:
        seen = []

        def noted(model, batch, seen=seen):
            values = plain_loss(model, batch)
            seen.append(torch.nn.functional.conv2d(batch["image"], torch.ones(1, 3, 1, 1)).dtype)
            return values

        run(tmp_path / precision, loss=noted, settings=dataclasses.replace(SETTINGS, epochs=1, precision=precision))
        assert set(seen) == {dtype}


@pytest.mark.parametrize("faster", [False, True])
def test_the_first_step_finds_the_precision_and_a_resumed_run_keeps_it(tmp_path, monkeypatch, faster):
    seen = []

    def measured(model, batch, loss):
        assert model.training
        assert torch.isfinite(loss(model, batch)["loss"])
        return faster

    def noted(model, batch):
        seen.append(torch.is_autocast_enabled("cpu"))
        return plain_loss(model, batch)

    settings = dataclasses.replace(SETTINGS, precision="auto")
    monkeypatch.setattr("normalkit.training.loop.faster_in_bfloat16", measured)
    with pytest.raises(Interrupted):
        run(tmp_path, settings=settings, loss=when(2, send(signal.SIGINT), noted))
    monkeypatch.setattr("normalkit.training.loop.faster_in_bfloat16", None)
    run(tmp_path, settings=settings, loss=noted, resume=True)
    # The first call is the measurement's.
    assert len(seen) > 4
    assert set(seen[1:]) == {faster}


@pytest.mark.parametrize("half_is_slow", [False, True])
def test_precision_is_chosen_by_the_time_of_a_step(monkeypatch, half_is_slow):
    monkeypatch.setattr("normalkit.training.precision.has_bfloat16", lambda: True)
    model, batch = new_model().train(), next(iter(training_loader(Scenes(4), batch_size=4, epoch=0, seed=0, workers=0)))
    before = copy.deepcopy(model.state_dict())

    def slow(model, batch):
        if torch.is_autocast_enabled("cpu") == half_is_slow:
            time.sleep(0.2)
        return plain_loss(model, batch)

    torch.manual_seed(0)
    assert faster_in_bfloat16(model, batch, slow) is not half_is_slow
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(0)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_the_hardware_lacks_is_not_tried(monkeypatch):
    monkeypatch.setattr("normalkit.training.precision.has_bfloat16", lambda: False)
    assert not faster_in_bfloat16(nn.Linear(1, 1), {}, pytest.fail)


def test_validation_without_an_average_is_in_full_precision(tmp_path):
    images, seen = torch.rand(2, 3, 8, 8), []

    def validate(model):
        seen.append(model(images).detach())
        return plain_validation(model)

    run(tmp_path, validate=validate, settings=dataclasses.replace(SETTINGS, epochs=1, ema=0, precision="bf16"))
    torch.testing.assert_close(seen[0], load_model(tmp_path / "last")(images).detach(), rtol=0, atol=1e-6)


# Interrupted and resumed


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_stopped_at_every_step_ends_as_one_that_was_not(tmp_path, whole_run, workers):
    """Mid-epoch, at an epoch's end, before the first one ended: by each signal in turn."""
    stops, codes = 0, []
    for _ in range(20):
        signum = STOP_SIGNALS[stops % 3]
        try:
            run(tmp_path, workers=workers, resume=True, loss=when(1, send(signum), plain_loss))
            break
        except Interrupted as stop:
            stops += 1
            codes.append(stop.exit_code)
            assert load_model(tmp_path / "last")
            assert (tmp_path / "best").exists() == (stops > STEPS)
            assert json.loads((tmp_path / "config.json").read_text())["settings"]["seed"] == SETTINGS.seed
    assert codes == list(itertools.islice(itertools.cycle([130, 143, 129]), SETTINGS.epochs * STEPS))
    assert differing(tmp_path, whole_run(workers)) == []


def test_a_run_does_not_depend_on_the_number_of_workers(whole_run):
    assert differing(whole_run(2), whole_run(0)) == []


def test_an_interrupted_validation_is_left_at_once_and_done_again(tmp_path, whole_run):
    finished = []

    def validate(model):
        figures = plain_validation(model)
        finished.append(1)
        return figures

    slow = when(2, lambda: [send(signal.SIGTERM)(), time.sleep(60)], validate)
    begun = time.monotonic()
    with pytest.raises(Interrupted) as stop:
        run(tmp_path, validate=slow)
    assert time.monotonic() - begun < 30
    assert stop.value.exit_code == 143
    assert len(finished) == 1
    trained = []
    run(tmp_path, resume=True, loss=when(1, lambda: trained.append(1), plain_loss))
    assert trained == []
    assert differing(tmp_path, whole_run()) == []


def test_an_interrupt_while_saving_stops_after_it(tmp_path, whole_run, monkeypatch):
    saved = when(3, send(signal.SIGINT), checkpoint.write_model)  # after the trial at the start, and `best`
    monkeypatch.setattr("normalkit.training.loop.write_model", saved)
    with pytest.raises(Interrupted):
        run(tmp_path)
    assert state_of(tmp_path)["epoch"] == 1
    assert state_of(tmp_path)["step"] == 0
    run(tmp_path, resume=True)
    assert differing(tmp_path, whole_run()) == []


def test_a_second_interrupt_stops_at_once_and_signals_are_given_back(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    twice = when(2, lambda: [send(signal.SIGINT)(), send(signal.SIGINT)()], plain_loss)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, loss=twice)
    assert not (tmp_path / "last").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_an_ignored_signal_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        rows = run(tmp_path, loss=when(2, send(signal.SIGINT), plain_loss))
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(rows) == SETTINGS.epochs


def test_signals_to_a_worker_of_any_loader_are_not_the_run_s(tmp_path):
    class Signalling(Scenes):
        def __getitem__(self, index):
            signal.raise_signal(signal.SIGINT)
            return super().__getitem__(index)

    assert len(run(tmp_path, batches=lambda epoch: DataLoader(Signalling(), batch_size=4, num_workers=1))) == 2


def test_a_run_in_another_thread_leaves_signals_alone(tmp_path):
    rows = []
    thread = threading.Thread(target=lambda: rows.extend(run(tmp_path)))
    thread.start()
    thread.join()
    assert len(rows) == SETTINGS.epochs


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("workers", [0, 2])
def test_signals_to_the_whole_group_stop_the_run_alone(tmp_path, workers, signum):
    """As a terminal or a scheduler sends them: loader workers must not die of them and take the run down."""

    def signal_the_group():
        group = os.getpgrp()
        if os.fork() == 0:
            os.setpgrp()
            os.killpg(group, signum)
            os._exit(0)
        os.wait()
        time.sleep(0.2)

    def child():
        os.setpgrp()
        with pytest.raises(Interrupted):
            run(tmp_path, workers=workers, loss=when(2, signal_the_group, plain_loss))

    assert exit_status(child) == 0
    assert state_of(tmp_path)["step"] == 2


def test_a_run_whose_terminal_is_closed_is_saved(tmp_path):
    """The terminal's end is told by a signal, and by errors of all that is printed to it."""

    def child():
        ours, theirs = pty.openpty()
        os.login_tty(theirs)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")

        def close():
            os.close(ours)
            with pytest.raises(OSError, match="Input/output error"):
                os.write(1, b".")

        with pytest.raises(Interrupted) as stop:
            run(tmp_path, loss=when(2, close, plain_loss))
        assert stop.value.exit_code == 129

    assert exit_status(child) == 0
    assert state_of(tmp_path)["step"] == 2


def test_a_worker_ends_when_its_parent_says_and_for_no_one_else():
    batches = iter(evaluation_loader(range(9), batch_size=1, workers=1))
    next(batches)
    (worker,) = multiprocessing.active_children()
    assert exit_status(lambda: [os.kill(worker.pid, signum) for signum in STOP_SIGNALS]) == 0
    assert [int(next(batches)) for _ in range(3)] == [1, 2, 3]
    worker.terminate()
    worker.join(20)
    assert worker.exitcode == 0


def exit_status(work):
    """Of a forked child that does the work; a negative signal number, or 1 for an error."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        try:
            work()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(number, folder, **kwargs):
    """Run in a child that kills itself just before the given rename; whether it came to that."""

    def child():
        calls = iter(range(1, 10**6))

        def counted(function):
            def called(*args, **kwargs):
                if next(calls) == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return called

        os.rename, os.replace = counted(os.rename), counted(os.replace)
        run(folder, resume=True, **kwargs)

    status = exit_status(child)
    assert status in (0, -signal.SIGKILL)
    return status != 0


def check_whole(folder):
    """Whatever there is must be readable: checkpoints, the state of the run, its config and its rows."""
    for name in ("best", "last"):
        if (folder / name).exists() or (folder / f"{name}.old").exists():
            assert load_model(folder / name)
    for path, read in [
        (folder / "last" / "training.pt", lambda path: torch.load(path, weights_only=True)),
        (folder / "config.json", lambda path: json.loads(path.read_text())),
        (folder / "metrics.csv", read_rows),
    ]:
        if path.exists():
            assert read(path)


def test_no_file_of_a_run_is_written_under_its_own_name(tmp_path):
    """So that none is ever half written, whenever a run is killed; TensorBoard's log is appended to."""

    def child():
        opened = []

        def note(event, args):
            if event == "open" and isinstance(args[0], str) and args[2] & (os.O_WRONLY | os.O_RDWR):
                opened.append(Path(args[0]))

        sys.addaudithook(note)  # There for good, in a process of its own.
        run(tmp_path / "run")
        inside = [path.relative_to(tmp_path / "run") for path in opened if path.is_relative_to(tmp_path / "run")]
        written = {path for path in inside if path.parts[0] != "tensorboard"}
        assert {path.name for path in written} >= {"model.safetensors", "training.pt", "README.md"}
        assert [path for path in written if not path.parts[0].startswith(".")] == []

    assert exit_status(child) == 0


def test_a_run_killed_between_any_two_renames_ends_as_one_that_was_not(tmp_path, whole_run):
    number = 1
    while killed_at(number, tmp_path / str(number)):
        folder = tmp_path / str(number)
        check_whole(folder)
        run(folder, resume=True)
        assert differing(folder, whole_run()) == []
        number += 1
    # The config, then rows, `best` and `last` of two epochs; a folder that is there already takes three renames.
    assert number - 1 == 1 + (1 + 1 + 1) + (1 + 3 + 3)


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_one_that_was_not(tmp_path):
    settings = dataclasses.replace(SETTINGS, epochs=400)
    draw, kills, reached, patience = random.Random(0), 0, 0, 0.3
    while kills < 20:
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)
            tqdm.set_lock(threading.RLock())  # Not the shared one, which it may be killed with.
            run(tmp_path / "run", settings=settings, resume=True)
            os._exit(0)
        time.sleep(draw.uniform(0.02, patience))
        os.kill(child, signal.SIGKILL)
        kills += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        check_whole(tmp_path / "run")
        before, reached = reached, state_of(tmp_path / "run")["epoch"] if (tmp_path / "run" / "last").exists() else 0
        assert reached < settings.epochs  # Else a fast machine needs more of them.
        patience *= 1.0 if reached > before else 1.3  # A slow machine needs longer for an epoch.
    assert reached > 0
    print(f"{kills} kills, the last one after epoch {reached} of {settings.epochs}")
    run(tmp_path / "run", settings=settings, resume=True)
    run(tmp_path / "whole", settings=settings)
    assert differing(tmp_path / "run", tmp_path / "whole") == []


def test_a_finished_run_gives_its_rows_at_once(whole_run):
    before = {path: path.stat().st_mtime_ns for path in whole_run().rglob("*")}
    rows = run(whole_run(), resume=True, loss=None, validate=None)
    assert rows == read_rows(whole_run() / "metrics.csv")
    assert {path: path.stat().st_mtime_ns for path in whole_run().rglob("*")} == before


def test_a_run_that_lies_in_last_old_is_found(tmp_path):
    """Where a crash between two renames left it."""
    rows = run(tmp_path)
    (tmp_path / "last").rename(tmp_path / "last.old")
    with pytest.raises(FileExistsError):
        run(tmp_path)
    (tmp_path / "last").rename(tmp_path / "last.old")
    assert run(tmp_path, resume=True, loss=None, validate=None) == rows


def test_a_resumed_run_knows_its_best(tmp_path):
    means = iter([10.0, 20.0])
    with pytest.raises(Interrupted):
        run(
            tmp_path,
            validate=lambda model: {"mean": next(means)},
            loss=when(STEPS + 1, send(signal.SIGINT), plain_loss),
        )
    run(tmp_path, validate=lambda model: {"mean": next(means)}, resume=True)
    assert (read_config(tmp_path / "best")["epoch"], read_config(tmp_path / "last")["epoch"]) == (1, 2)


@pytest.mark.parametrize(("mode", "best"), [("min", 2), ("max", 3)])
def test_the_best_is_the_lowest_or_the_highest(tmp_path, mode, best):
    figures = iter([20.0, 10.0, 30.0])
    run(
        tmp_path,
        validate=lambda model: {"accuracy": next(figures)},
        monitor="accuracy",
        mode=mode,
        settings=dataclasses.replace(SETTINGS, epochs=3),
    )
    assert read_config(tmp_path / "best")["epoch"] == best


def test_without_validation_the_best_is_the_last_epoch_s(tmp_path):
    rows = run(tmp_path / "a", validate=None)
    assert not any("mean" in row for row in rows)
    assert read_config(tmp_path / "a" / "best")["epoch"] == SETTINGS.epochs
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / "best" / file).read_bytes() == (tmp_path / "a" / "last" / file).read_bytes()
    with pytest.raises(Interrupted):
        run(tmp_path / "b", validate=None, loss=when(STEPS + 1, send(signal.SIGINT), plain_loss))
    assert not (tmp_path / "b" / "best").exists()
    run(tmp_path / "b", validate=None, resume=True)
    assert differing(tmp_path / "a", tmp_path / "b") == []


def test_resume_without_a_run_begins_one(tmp_path, whole_run):
    run(tmp_path / "run", resume=True)
    assert differing(tmp_path / "run", whole_run()) == []


# Refused


def test_a_folder_with_a_run_is_not_overwritten(whole_run):
    with pytest.raises(FileExistsError, match=r"holds a run; resume it \(--resume\) or choose another folder"):
        run(whole_run())


@pytest.mark.parametrize("name", ["config.json", "metrics.csv", "best", "last"])
@pytest.mark.parametrize("resume", [False, True])
def test_files_of_others_are_not_overwritten(tmp_path, name, resume):
    if "." in name:
        (tmp_path / name).write_text("mine")
    else:
        (tmp_path / name).mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError, match=r"(choose|start it in) another folder"):
        run(tmp_path, resume=resume)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": dataclasses.replace(SETTINGS, lr=0.5)}, r"has lr=0.02, this one 0.5; use the same"),
        ({"settings": dataclasses.replace(SETTINGS, epochs=3)}, "has epochs=2, this one 3"),
        (
            {"batches": lambda epoch: training_loader(Scenes(), batch_size=2, epoch=epoch, seed=0)},
            "has steps=3, this one 6",
        ),
        ({"model": DropoutNormals(8)}, "has model.width=4, this one 8"),
        ({"metadata": {"train": {"alpha": 5.0}}}, "has metadata.train.alpha=None, this one 5.0"),
    ],
)
def test_another_run_cannot_be_resumed(whole_run, changes, message):
    with pytest.raises(ValueError, match=message):
        run(whole_run(), resume=True, **changes)


def test_another_network_is_named_before_its_settings(whole_run):
    """Each network has settings of its own; to make those alike would not help."""
    settings = dataclasses.replace(SETTINGS, weight_decay=0.5)
    with pytest.raises(ValueError, match=r"has model.class='DropoutNormals', this one 'BaseNet'; use the same"):
        run(whole_run(), resume=True, model=BaseNet(), settings=settings)


@pytest.mark.parametrize("damage", ["truncated", "empty", "other", "missing", "flipped"])
def test_a_damaged_state_is_named(tmp_path, damage):
    run(tmp_path, settings=dataclasses.replace(SETTINGS, epochs=1))
    state = tmp_path / "last" / "training.pt"
    if damage == "missing":
        state.unlink()
    elif damage == "other":
        torch.save({"epoch": 1}, state)
    elif damage == "flipped":
        data = bytearray(state.read_bytes())
        # A bit of a weight: it would be as good a number as the right one.
        data[data.index(state_of(tmp_path)["model"]["net.0.bias"].numpy().tobytes())] ^= 1
        state.write_bytes(data)
    else:
        state.write_bytes(state.read_bytes()[: 1000 if damage == "truncated" else 0])
    with pytest.raises((ValueError, FileNotFoundError), match=r"training.pt is (damaged|missing).* another folder"):
        run(tmp_path, settings=dataclasses.replace(SETTINGS, epochs=1), resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("bfloat16"), "was written by another version of normalkit, without bfloat16; go on"),
        (lambda state: state.update(model={}), "is damaged or of another version; start the run in another folder"),
        (lambda state: state.update(optimizer=3), "is damaged or of another version"),
        (lambda state: state.update(epoch="1"), "is damaged or of another version"),
        (lambda state: state["optimizer"].update(param_groups=[]), "is damaged or of another version"),
    ],
)
def test_a_state_of_another_version_is_named(tmp_path, change, message):
    settings = dataclasses.replace(SETTINGS, epochs=1)
    run(tmp_path, settings=settings)
    state = state_of(tmp_path)
    change(state)
    torch.save(state, tmp_path / "last" / "training.pt")
    with pytest.raises(ValueError, match=rf"training\.pt {message}"):
        run(tmp_path, settings=settings, resume=True)


def test_state_that_would_run_code_is_refused(tmp_path):
    run(tmp_path, settings=dataclasses.replace(SETTINGS, epochs=1))

    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "hacked"),)

    torch.save({"run": Hostile()}, tmp_path / "last" / "training.pt")
    with pytest.raises(ValueError, match="damaged"):
        run(tmp_path, settings=dataclasses.replace(SETTINGS, epochs=1), resume=True)
    assert not (tmp_path / "hacked").exists()


class Endless:
    def __iter__(self):
        yield from iter(DataLoader(Scenes(), batch_size=4))


class Lying(Endless):
    def __len__(self):
        return 5


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"batches": lambda epoch: Endless()}, TypeError, r"no length; give an iterable with len\(\)"),
        ({"batches": lambda epoch: Lying()}, ValueError, "epoch 1 ended after 3 batches; its length said 5"),
        ({"batches": lambda epoch: []}, ValueError, "an epoch has no batches"),
        ({"model": nn.Conv2d(3, 3, 1)}, TypeError, "model is a Conv2d"),
        ({"metadata": {"epoch": 3}}, ValueError, "metadata: fit itself writes epoch"),
        ({"metadata": {"config": 3}}, ValueError, "metadata: the format has taken config"),
        ({"metadata": {"data": Path()}}, TypeError, "metadata: .*Path.* wanted strings"),
        ({"mode": "maximum"}, ValueError, "mode='maximum': wanted 'min' or 'max'"),
        ({"monitor": "accuracy"}, ValueError, "monitor='accuracy': validate gave loss, mean, median"),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        run(tmp_path, **changes)
    assert not (tmp_path / "best").exists()


def test_epochs_of_several_lengths_are_refused(tmp_path):
    with pytest.raises(ValueError, match="epoch 2 has 2 batches and the first one 3; wanted as many in each"):
        run(tmp_path, batches=lambda epoch: DataLoader(Scenes(12 - 4 * epoch), batch_size=4))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("lr", 0.0),
        ("lr", math.nan),
        ("warmup", 1.0),
        ("clip", -1.0),
        ("sam", -0.1),
        ("sam", math.inf),
        ("ema", 1.0),
        ("precision", "bf8"),
        ("seed", -1),
        ("optimizer", "adam"),
        ("momentum", 1.0),
        ("schedule", "step"),
    ],
)
def test_settings_out_of_range_are_named(field, value):
    with pytest.raises(ValueError, match=f"{field}={value!r}: wanted"):
        TrainingSettings(**{field: value})


@pytest.mark.parametrize("poison", ["loss", "gradient"])
@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path, poison, clip):
    """In the last step of the second epoch, after which weights without a check would be saved."""
    settings = dataclasses.replace(SETTINGS, epochs=3, validate_every=3, clip=clip)
    calls = iter(range(1, 100))

    def loss(model, batch):
        values = dict(plain_loss(model, batch))
        if next(calls) == 2 * STEPS:
            if poison == "loss":
                values["loss"] = values["loss"] * math.nan
            else:  # finite itself, with an infinite slope
                values["loss"] = values["loss"] + (0 * model(batch["image"]).sum()).abs().sqrt()
        return values

    with pytest.raises(FloatingPointError, match=f"the {poison} became nan in epoch 2, by step 3 of 3; lower lr"):
        run(tmp_path, loss=loss, settings=settings)
    state = state_of(tmp_path)
    assert (state["epoch"], state["step"]) == (1, 0)
    assert all(value.isfinite().all() for value in state["model"].values())


# Disks


def test_a_full_disk_ends_the_run_with_the_last_checkpoint_whole(tmp_path, monkeypatch):
    """The size limit of a process stands in for the disk: it is met while writing, like a full one."""
    settings = dataclasses.replace(SETTINGS, epochs=3)

    def child():
        def limited():
            size = (tmp_path / "last" / "training.pt").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

        with pytest.raises(OSError, match=r"cannot write .*(last|best).*choose another folder"):
            run(tmp_path, settings=settings, loss=when(STEPS + 2, limited, plain_loss))

    assert exit_status(child) == 0
    assert state_of(tmp_path)["epoch"] == 1
    assert load_model(tmp_path / "best")
    assert load_model(tmp_path / "last")
    assert leftovers(tmp_path) == []
    assert len(run(tmp_path, settings=settings, resume=True)) == 3


def test_a_folder_that_becomes_read_only_ends_the_run_with_the_last_checkpoint_whole(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def remount():
        monkeypatch.setattr(Path, "mkdir", refuse)
        monkeypatch.setattr(Path, "touch", refuse)

    settings = dataclasses.replace(SETTINGS, epochs=3)
    with pytest.raises(
        OSError, match=r"cannot write .*metrics.csv: the file system is read-only: choose another folder"
    ):
        run(tmp_path, settings=settings, loss=when(STEPS + 2, remount, plain_loss))
    monkeypatch.undo()
    monkeypatch.setitem(checkpoint.MODELS, "DropoutNormals", DropoutNormals)
    assert state_of(tmp_path)["epoch"] == 1
    check_whole(tmp_path)
    assert len(run(tmp_path, settings=settings, resume=True)) == 3


def test_a_disk_that_is_full_already_is_named_before_any_step(tmp_path):
    def child():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        with pytest.raises(OSError, match=rf"cannot write {tmp_path}/run: File too large; choose another folder"):
            run(tmp_path / "run", loss=None)

    assert exit_status(child) == 0
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_cannot_be_written_is_named_before_any_step(tmp_path, resume):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write .*file.*: a file stands"):
        run(tmp_path / "file" / "run", loss=None, resume=resume)


def test_checkpoints_may_be_read_by_whom_the_umask_allows(whole_run, tmp_path):
    (tmp_path / "plain").touch()
    expected = stat.filemode((tmp_path / "plain").stat().st_mode)
    files = [path for path in whole_run().rglob("*") if path.is_file()]
    assert {path.name: stat.filemode(path.stat().st_mode) for path in files} == {path.name: expected for path in files}


# Evaluation


class Turned(nn.Module):
    """Answers with the image, so that the test has every prediction in hand."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return (2 * images - 1) * self.scale


def numpy_errors(data, predictions):
    """Angles in degrees of the valid pixels of each picture, by the arc cosine in float64."""
    errors = []
    for index, prediction in enumerate(predictions):
        normals = data.normals[index].double().numpy()
        prediction = prediction.double().numpy()
        cosine = (normals * prediction).sum(0) / np.linalg.norm(prediction, axis=0) / np.linalg.norm(normals, axis=0)
        error = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        errors.append(error[data.masks[index].numpy()] if data.mask else error.ravel())
    return errors


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("flip", [False, True])
def test_evaluate_equals_numpy(mask, flip):
    data = Scenes(7, changed=False, mask=mask)
    kept = []
    figures = evaluate(
        Turned(),
        evaluation_loader(data, batch_size=3, workers=0),
        flip=flip,
        progress=False,
        each=lambda batch, normals: kept.extend(zip(batch["image"], normals, strict=True)),
    )
    predictions = [2 * image - 1 for image in data.images]
    if flip:
        # The picture is its own prediction, so its mirror image gives the same with x the other way round.
        unit = [p / p.norm(dim=0) for p in predictions]
        other = [p * torch.tensor([-1.0, 1, 1]).view(3, 1, 1) for p in unit]
        predictions = [(a + b) / (a + b).norm(dim=0) for a, b in zip(unit, other, strict=True)]
    for image, prediction, (image_kept, prediction_kept) in zip(data.images, predictions, kept, strict=True):
        assert torch.equal(image, image_kept)
        torch.testing.assert_close(prediction, prediction_kept)
    errors = np.concatenate(numpy_errors(data, predictions))
    assert figures["mean"] == pytest.approx(errors.mean(), abs=1e-3)
    assert figures["median"] == pytest.approx(np.median(errors), abs=3e-3)
    assert figures["rmse"] == pytest.approx(np.sqrt((errors**2).mean()), abs=1e-3)
    for threshold in (11.25, 22.5, 30):
        assert figures[f"{threshold:g}"] == pytest.approx(100 * (errors < threshold).mean(), abs=1e-9)
    differences = [
        np.abs((p - n).numpy())[:, m.numpy() if mask else ...]
        for p, n, m in zip(predictions, data.normals, data.masks, strict=True)
    ]
    assert figures["loss"] == pytest.approx(np.concatenate([d.ravel() for d in differences]).mean(), abs=1e-6)


def test_evaluate_per_image_equals_numpy():
    data = Scenes(5, changed=False)
    figures = evaluate(
        Turned(), evaluation_loader(data, batch_size=2, workers=0), reduction="per_image", progress=False
    )
    errors = numpy_errors(data, [2 * image - 1 for image in data.images])
    assert figures["mean"] == pytest.approx(np.mean([e.mean() for e in errors]), abs=1e-3)
    assert figures["median"] == pytest.approx(np.mean([np.median(e) for e in errors]), abs=1e-3)


def test_predictions_without_a_direction_are_counted_and_left_out():
    data = Scenes(2, changed=False, mask=False)

    class Broken(Turned):
        def forward(self, images):
            prediction = super().forward(images).clone()
            prediction[:, :, 0, 0] = math.nan
            prediction[:, :, 0, 1] = 0
            return prediction

    with pytest.warns(UserWarning, match="4 valid pixels"):
        figures = evaluate(Broken(), evaluation_loader(data, workers=0), progress=False)
    kept = np.ones((8, 8), bool)
    kept[0, :2] = False
    differences = (2 * data.images - 1 - data.normals).abs().numpy()[:, :, kept]
    assert figures["loss"] == pytest.approx(differences.mean(), abs=1e-6)
    assert figures["invalid"] == 4
    assert format_figures(figures).endswith("invalid predictions: 4")


def test_the_loss_is_exact_over_many_pixels():
    """Sums in float32 would round."""
    one = {"image": torch.zeros(1, 3, 200, 200), "normals": torch.zeros(1, 3, 200, 200)}
    one["normals"][:, 2] = -1

    class Constant(nn.Module):
        def forward(self, images):
            return torch.tensor([0.0, 0.0, -0.7]).view(1, 3, 1, 1).expand_as(images)

    few = {name: value[..., :1, :1] for name, value in one.items()}
    figures = evaluate(Constant(), [one] * 20, progress=False)
    assert figures["loss"] == pytest.approx(evaluate(Constant(), [few], progress=False)["loss"], rel=1e-12)


def test_evaluate_leaves_every_part_in_its_mode():
    model = new_model().train()
    model.net[1].eval()
    before = [module.training for module in model.modules()]
    evaluate(model, evaluation_loader(Scenes(2), workers=0), progress=False)
    assert [module.training for module in model.modules()] == before
    with pytest.raises(ValueError, match="no valid pixel"):
        evaluate(model, [], progress=False)
    assert [module.training for module in model.modules()] == before


def test_evaluate_refuses_what_gives_no_normals():
    with pytest.raises(ValueError, match=r"model: for images \(2, 3, 8, 8\) it returned \(2, 1, 8, 8\); wanted"):
        evaluate(nn.Conv2d(3, 1, 1), evaluation_loader(Scenes(2), workers=0), progress=False)


def test_figures_are_formatted_as_the_report_has_them():
    report = {"loss": 0.25321, "mean": 32.8, "median": 26.8, "rmse": 40.0, "11.25": 26.8, "22.5": 44.2, "30": 54.1}
    line = "loss 0.2532  mean 32.80  median 26.80  11.25: 26.80  22.5: 44.20  30: 54.10"
    assert format_figures({**report, "5": 1.0, "invalid": 0.0}) == line
    assert format_figures({"loss": 1.5, "accuracy": 72.6}) == "loss 1.5000  accuracy 72.60"


# Loaders


@pytest.mark.parametrize("text", ["epoch,mean\n1,abc\n", "epoch\n1,2,3\n", "\0"])
def test_rows_that_are_no_numbers_are_refused(tmp_path, text):
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    if text == "\0":
        assert read_rows(path) == []
    else:
        with pytest.raises(ValueError, match=r"metrics.csv: not the metrics.csv of a run"):
            read_rows(path)


# Shards


def shards_of(folder, *, changed=True):
    """The thirteen scenes in shards of five, in a folder that is written once."""
    if not (folder / "shards").exists():
        scenes = [make_sample(intrinsics=None, **scene) for scene in Scenes(13, changed=False)]
        write_shards(scenes, folder / "shards", samples_per_shard=5, normals="npy", progress=False)
    return ShardedNormals(folder / "shards", transform=jitter if changed else None)


def jitter(sample):
    return {**sample, "image": (sample["image"] + 0.1 * torch.rand(3, 1, 1) + 0.1 * random.random()) / 1.2}


def shard_batches(folder):
    shards = shards_of(folder)
    return lambda epoch: shard_training_loader(shards, batch_size=2, epoch=epoch, seed=0, window=4, workers=0)


def test_a_run_on_shards_goes_on_within_an_epoch(tmp_path, monkeypatch):
    run(tmp_path / "whole", batches=shard_batches(tmp_path))
    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", batches=shard_batches(tmp_path), loss=when(2, send(signal.SIGTERM), plain_loss))
    assert state_of(tmp_path / "stopped")["step"] == 2
    read = []
    decode = ShardedNormals.decode
    monkeypatch.setattr(ShardedNormals, "decode", lambda self, i, record: read.append(i) or decode(self, i, record))
    run(tmp_path / "stopped", batches=shard_batches(tmp_path), resume=True)
    # Of six batches in the first epoch two were done; none of them is read again.
    assert len(read) == 2 * (4 + 6)
    whole, stopped = (state_of(tmp_path / name) for name in ("whole", "stopped"))
    assert all(torch.equal(value, stopped["model"][name]) for name, value in whole["model"].items())


# Several processes


def join(rank, world, folder):
    """Make this forked process one of several, as `accelerate launch --cpu` does."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "localhost", "OMP_NUM_THREADS": "1"}
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)


def in_processes(work, folder, world=2):
    torch.multiprocessing.start_processes(work, (world, folder), nprocs=world, start_method="fork")


def score_share(rank, world, folder):
    join(rank, world, folder)
    data = Scenes(3, changed=False)
    figures = evaluate(Turned(), evaluation_loader(data, batch_size=2, workers=0), progress=False)
    (folder / f"{rank}.json").write_text(json.dumps(figures))


@pytest.mark.parametrize("world", [2, 4])
def test_processes_score_each_sample_once(tmp_path, world):
    """Three samples in two processes, and in four, of which one then has none."""
    in_processes(score_share, tmp_path, world)
    alone = evaluate(Turned(), evaluation_loader(Scenes(3, changed=False), batch_size=2, workers=0), progress=False)
    for rank in range(world):
        together = json.loads((tmp_path / f"{rank}.json").read_text())
        exact = [name for name in alone if name not in ("loss", "mean", "rmse")]
        assert {name: together[name] for name in exact} == {name: alone[name] for name in exact}
        assert together == pytest.approx(alone, rel=1e-7)


def train_share(rank, world, folder):
    join(rank, world, folder)
    torch.manual_seed(rank)
    model = DropoutNormals()
    rows = run(folder / "run", model=model, batches=loader_of_all)
    torch.save({"model": model.state_dict(), "rows": rows}, folder / f"{rank}.pt")


def loader_of_all(epoch):
    return training_loader(Scenes(13), batch_size=2, epoch=epoch, seed=0, workers=0)


def stop_one_then_resume(rank, world, folder):
    join(rank, world, folder)
    loss = when(2, send(signal.SIGTERM), plain_loss) if rank == 1 else plain_loss
    with pytest.raises(Interrupted):
        run(folder / "run", batches=loader_of_all, loss=loss)
    run(folder / "run", batches=loader_of_all, resume=True)


def test_processes_train_one_model(tmp_path):
    in_processes(train_share, tmp_path)
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert {name for name in one["model"] if not torch.equal(one["model"][name], two["model"][name])} == set()
    saved = state_of(tmp_path / "run")["model"]
    assert {name for name in saved if not torch.equal(one["model"][name], saved[name])} == set()
    assert [row["mean"] for row in one["rows"]] == [row["mean"] for row in two["rows"]]
    assert len(read_rows(tmp_path / "run" / "metrics.csv")) == SETTINGS.epochs


def test_one_process_that_is_stopped_stops_all_and_they_resume(tmp_path):
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    in_processes(train_share_alike, tmp_path / "whole")
    in_processes(stop_one_then_resume, tmp_path / "stopped")
    whole, stopped = (state_of(tmp_path / name / "run") for name in ("whole", "stopped"))
    for name, value in whole["model"].items():
        torch.testing.assert_close(stopped["model"][name], value)


def train_share_alike(rank, world, folder):
    join(rank, world, folder)
    run(folder / "run", batches=loader_of_all)


def score_uneven_share(rank, world, folder):
    join(rank, world, folder)
    data = Scenes(11, changed=False)
    metric = SurfaceNormalMetrics(thresholds=(11.3, 30))
    seen = []
    for batch in evaluation_loader(data, batch_size=3, workers=0):
        metric.update(2 * batch["image"] - 1, batch["normals"], batch["mask"])
        seen += batch["name"]
    metric.compute()
    # The states that `compute` summed over the processes.
    with metric.sync_context():
        state = {name: value.clone() for name, value in metric.metric_state.items()}
    figures = evaluate(new_model(), evaluation_loader(data, batch_size=3, workers=0), progress=False)
    torch.save({"state": state, "seen": seen, "figures": figures}, folder / f"{rank}.pt")


@pytest.mark.parametrize("world", [1, 2])
def test_processes_count_to_the_last_bit_with_uneven_last_batches(tmp_path, world):
    """Eleven samples in batches of three: four, four and three in one process, and three, three and two in each of two.

    Fixed predictions against those of one process without a loader; and a model, to its rounding.
    """
    in_processes(score_uneven_share, tmp_path, world)
    shares = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    assert sorted(itertools.chain(*(share["seen"] for share in shares)), key=int) == [str(i) for i in range(11)]
    data = Scenes(11, changed=False)
    alone = SurfaceNormalMetrics(thresholds=(11.3, 30))
    alone.update(2 * data.images - 1, data.normals, data.masks)
    figures = evaluate(new_model(), evaluation_loader(data, batch_size=11, workers=0), progress=False)
    for share in shares:
        for name, value in alone.metric_state.items():
            if value.dtype == torch.int64:
                assert torch.equal(share["state"][name], value), name
            else:
                torch.testing.assert_close(share["state"][name], value, rtol=1e-12, atol=0)
        assert share["figures"] == pytest.approx(figures, rel=1e-5, abs=1e-2)


def die_in(what):
    def work(rank, world, folder):
        join(rank, world, folder)
        dying = rank == 1

        def act():
            if dying:
                os.kill(os.getpid(), signal.SIGKILL)

        calls = {"loss": plain_loss, "validate": plain_validation}
        calls[what] = when(2, act, calls[what])
        try:
            run(folder / "run", batches=loader_of_all, **calls)
        except RuntimeError as error:
            (folder / "error").write_text(f"{type(error).__name__}: {error}")
            raise

    return work


@pytest.mark.parametrize("what", ["loss", "validate"])
def test_a_process_that_dies_ends_the_run_with_an_error(tmp_path, what):
    """The other one notices at its next exchange, and does not wait for ever; its checkpoints are whole."""
    work = die_in(what)
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            try:
                work(rank, 2, tmp_path)
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [1, -signal.SIGKILL]
    assert (tmp_path / "error").read_text()
    check_whole(tmp_path / "run")


def test_a_loader_worker_that_dies_ends_the_run_with_an_error(tmp_path):
    class Deadly(Scenes):
        def __getitem__(self, index):
            if index == 7:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__getitem__(index)

    def batches(epoch):
        return training_loader(Deadly(), batch_size=4, epoch=epoch, seed=0, workers=1)

    with pytest.raises(RuntimeError, match=r"DataLoader worker .*(killed by signal|exited unexpectedly)"):
        run(tmp_path, batches=batches)


# Long runs


def held():
    """Bytes of memory in use, open files and threads of this process."""
    status = Path("/proc/self/status").read_text()
    memory, threads = (int(status.split(f"{name}:")[1].split()[0]) for name in ("VmRSS", "Threads"))
    return 1024 * memory, len(os.listdir("/proc/self/fd")), threads


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_two_hundred_epochs_hold_no_more_than_twenty(tmp_path):
    settings = dataclasses.replace(SETTINGS, epochs=200)
    seen = []

    def validate(model):
        seen.append(held())
        return plain_validation(model)

    run(tmp_path, settings=settings, validate=validate)
    memory, files, threads = (np.array(column) for column in zip(*seen, strict=True))
    print(f"memory {memory[20] / 1e6:.1f} to {memory[-1] / 1e6:.1f} MB, files {set(files[20:])}, {set(threads[20:])}")
    assert len(seen) == 200
    assert memory[20:].max() <= 1.05 * memory[20]
    assert len(set(files[20:])) == len(set(threads[20:])) == 1
    assert leftovers(tmp_path) == []


def train_share_of_shards(rank, world, folder):
    join(rank, world, folder)
    plain = shards_of(folder, changed=False)
    names = [name for batch in shard_evaluation_loader(plain, batch_size=2, workers=0) for name in batch["name"]]
    drawn = [name for batch in shard_batches(folder)(0) for name in batch["name"]]
    score = evaluate(Turned(), shard_evaluation_loader(plain, batch_size=2, workers=0), progress=False)
    rows = run(folder / "run", batches=shard_batches(folder))
    facts = {"names": names, "drawn": drawn, "score": score, "mean": rows[-1]["mean"]}
    (folder / f"{rank}.json").write_text(json.dumps(facts))


def test_processes_share_the_shards(tmp_path):
    data = shards_of(tmp_path, changed=False)  # Thirteen samples, in three shards, for two.
    in_processes(train_share_of_shards, tmp_path)
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert sorted(one["names"] + two["names"], key=int) == [str(i) for i in range(13)]
    assert len(one["drawn"]) == len(two["drawn"]) == 6
    assert len({*one["drawn"], *two["drawn"]}) == 12
    alone = evaluate(Turned(), shard_evaluation_loader(data, batch_size=2, workers=0), progress=False)
    assert one["score"] == two["score"] == pytest.approx(alone, rel=1e-7)
    assert one["mean"] == two["mean"]


@pytest.mark.slow
def test_a_launcher_s_processes_train_and_score(tmp_path):
    """torchrun, which `accelerate launch` starts for graphics processors; on CPUs that wants MPI."""
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "import test_training as t\n"
        "t.checkpoint.MODELS['DropoutNormals'] = t.DropoutNormals\n"
        "folder = Path(sys.argv[0]).parent\n"
        "rows = t.run(folder / 'run', batches=t.loader_of_all)\n"
        "figures = t.plain_validation(t.load_model(folder / 'run' / 'last'))\n"
        "(folder / os.environ['RANK']).write_text(json.dumps([figures['mean'], rows[-1]['mean']]))\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    cpu = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, str(script)], env=cpu, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    # Not from stdout, where gloo writes too, in the middle of lines.
    figures = [json.loads((tmp_path / rank).read_text()) for rank in "01"]
    assert figures[0] == figures[1]
    assert figures[0][0] == pytest.approx(figures[0][1], rel=1e-6)
    assert "destroy_process_group" not in done.stderr


def test_images_alone_are_laid_out_with_channels_last():
    batch = {"image": torch.rand(2, 3, 4, 5), "normals": torch.rand(2, 3, 4, 5), "label": torch.arange(2), "name": "a"}
    moved = to_device(batch, torch.device("cpu"), torch.channels_last)
    assert moved["image"].is_contiguous(memory_format=torch.channels_last)
    assert moved["normals"].is_contiguous()
    assert moved["name"] == "a"
    assert all(torch.equal(moved[name], batch[name]) for name in ("image", "normals", "label"))
