"""The one training loop: any model, any batches, any loss; Accelerate for devices, processes and precision.

A run lives in one folder: `config.json`, `metrics.csv`, `tensorboard/`, and the checkpoints `best/` and
`last/`, each a model that `load_model` reads. `last/` also holds what `resume` needs to go on as if nothing
had happened.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import math
import os
import pickle
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchmetrics import MeanMetric

from normalkit.data.loader import mix_seeds, process_rank
from normalkit.files import atomic_file, atomic_folder, check_writable, recover_folder
from normalkit.geometry import angular_error, valid_normals
from normalkit.inference import device_of, evaluation_mode, predict_batch
from normalkit.losses import AngularLoss, angular_loss_terms
from normalkit.metrics import Reduction, SurfaceNormalMetrics
from normalkit.models.checkpoint import write_model

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.utils.tensorboard import SummaryWriter

__all__ = [
    "Interrupted",
    "TrainingSettings",
    "evaluate",
    "fit",
    "format_figures",
    "has_bfloat16",
    "is_main_process",
    "normals_loss",
    "read_rows",
    "training_device",
]

Batch = Mapping[str, Any]
Batches = Callable[[int], Iterable[Batch]]
LossFunction = Callable[[nn.Module, Batch], Mapping[str, Tensor]]
Figures = dict[str, float]
Validation = Callable[[nn.Module], Mapping[str, float]]
Tensors = tuple[Tensor, ...] | list[Tensor]

CONFIG_FILE = "config.json"
ROWS_FILE = "metrics.csv"
STATE_FILE = "training.pt"
PROGRESS_EVERY = 10
"""Steps between readings of the loss, each of which waits for the device."""
OWN_FACTS = ("settings", "epoch", "metrics")
"""What `fit` adds to a checkpoint's metadata."""


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """How to train; saved with the run, and compared when it is resumed.

    Attributes:
        epochs: Passes over the training data.
        lr: Peak learning rate, after a linear warm-up.
        optimizer: "adamw"; or "sgd", with Nesterov momentum and a weight decay that is part of the gradient.
        momentum: SGD's; AdamW's first one is 0.9.
        schedule: Of the learning rate after the warm-up: "cosine" or "linear" down to 0, or "constant".
        weight_decay: On weights only, not on biases and norms.
        warmup: Share of all steps in the warm-up.
        clip: Largest norm of the gradient; 0 for no clipping.
        ema: Decay of the moving average of the weights, which is what is validated and saved; 0 for none.
        precision: "no" is float32; "auto" is bfloat16 where the hardware has it, else float32.
        channels_last: Whether to lay images out with channels last, which convolutions prefer.
        validate_every: Epochs between validations; the last epoch is always validated.
        seed: Of weights drawn here, data order and augmentation.
    """

    epochs: int = 30
    lr: float = 1e-3
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.9
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = 0.05
    warmup: float = 0.1
    clip: float = 1.0
    ema: float = 0.998
    precision: str = "auto"
    channels_last: bool = True
    validate_every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            ValueError: A field is out of range; the message names it.
        """
        for field, good, wanted in [
            ("epochs", self.epochs >= 1, "at least 1"),
            ("lr", 0 < self.lr < math.inf, "a positive rate"),
            ("optimizer", self.optimizer in {"adamw", "sgd"}, "adamw or sgd"),
            ("momentum", 0 <= self.momentum < 1, "a share in [0, 1)"),
            ("schedule", self.schedule in {"cosine", "linear", "constant"}, "cosine, linear or constant"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0"),
            ("warmup", 0 <= self.warmup < 1, "a share in [0, 1)"),
            ("clip", 0 <= self.clip < math.inf, "at least 0"),
            ("ema", 0 <= self.ema < 1, "a decay in [0, 1)"),
            ("precision", self.precision in {"auto", "no", "bf16", "fp16"}, "auto, no, bf16 or fp16"),
            ("validate_every", self.validate_every >= 1, "at least 1"),
            ("seed", self.seed >= 0, "at least 0"),
        ]:
            if not good:
                raise ValueError(f"{field}={getattr(self, field)!r}: wanted {wanted}")


class Interrupted(RuntimeError):
    """The run was asked to stop, and has saved its state. No error, so its name does not end in one.

    Attributes:
        exit_code: What a program should exit with: 128 plus the signal's number.
    """

    def __init__(self, signum: int, folder: Path) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}; go on with --resume ({folder / 'last'} is saved)")
        self.exit_code = 128 + signum


def fit(
    model: nn.Module,
    batches: Batches,
    *,
    loss: LossFunction,
    validate: Validation | None,
    folder: str | os.PathLike[str],
    settings: TrainingSettings,
    monitor: str = "mean",
    mode: Literal["min", "max"] = "min",
    metadata: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> list[Figures]:
    """Train a model, and keep its best and its last state.

    Under `accelerate launch` every process calls this with its own share of the batches (`training_loader` does
    that); gradients are averaged, and only the first process reads and writes the folder.

    `last/` is saved after each epoch, and when Ctrl-C or SIGTERM comes, which end a step, or break a validation
    off; a second one stops at once. The global random generators of torch, numpy and Python are seeded anew for
    each batch, from the seed and the batch's place, so that a resumed run draws what an uninterrupted one would:
    on a CPU both end with the same bits, given as many threads and loader workers.

    Args:
        model: A model with a `config`, as all in `normalkit.models` are. It is trained in place, so that it ends
            with the last step's weights; those of the moving average are in `last/` and `best/`.
        batches: Gives the batches of an epoch, counted from 0, the same ones whenever it is asked for that epoch
            with the generators seeded alike; an iterable with a length, the same for each epoch. Their tensors
            are moved to the device here.
        loss: Of the model and a batch: a dict with `loss`, a scalar to minimise, and any other scalars to
            show and log.
        validate: Of the model to save, in eval mode: figures to log. Called in every process. None where no data
            are left for it: `best/` is then the last epoch's.
        folder: Of the run; made if missing.
        settings: How to train.
        monitor: The figure of `validate` by which the best model is chosen.
        mode: "min" where the lowest is best, "max" where the highest is.
        metadata: JSON-able facts for the checkpoints, such as the training data; compared on resuming.
        resume: Go on from `last/` if it is there; a run that is finished gives its rows at once.

    Returns:
        One row an epoch, as in `metrics.csv`.

    Raises:
        Interrupted: Ctrl-C or SIGTERM came; `last/` is saved.
        FileExistsError: The folder holds a run and `resume` is False.
        ValueError: The settings, the model or the metadata differ from the resumed run's, an epoch has no batches
            or not as many as the first, `validate` gave no `monitor`, or `mode` is neither.
        TypeError: The batches have no length, the metadata are not JSON-able, or checkpoints of such a model are
            not known.
        FloatingPointError: The loss or its gradient is not finite; `last/` is from before.
        OSError: The folder cannot be read or written; the checkpoints in it are whole.
        ImportError: A package of the extra `train` is missing.
    """
    if mode not in ("min", "max"):
        raise ValueError(f"mode={mode!r}: wanted 'min' or 'max'")
    run = _Run(model, Path(folder), settings, (monitor, 1 if mode == "min" else -1), dict(metadata or {}))
    run.start(steps=_length(batches(0)), resume=resume)
    with closing(run), _Signals() as signals:
        for _ in range(run.epoch, settings.epochs):
            run.train_epoch(batches, loss, signals)
            run.finish_epoch(validate, signals)
    return run.rows


class _Forward(nn.Module):
    """What Accelerate wraps and patches, so that the model itself stays as it was."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)


class _Run:
    """The state of a run: what `last/` holds, and the objects that it is loaded into."""

    def __init__(
        self,
        model: nn.Module,
        folder: Path,
        settings: TrainingSettings,
        monitor: tuple[str, int],
        metadata: dict[str, Any],
    ) -> None:
        self.accelerator = _accelerator(settings)
        self.folder, self.settings = folder, settings
        self.monitor, self.sign = monitor
        self.metadata = _check_metadata(metadata)
        self.layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.model = model.to(self.accelerator.device).to(memory_format=self.layout)
        self.optimizer = _optimizer(self.model, settings)
        self.average = _moving_average(self.model, settings.ema) if settings.ema else None
        self.epoch, self.step, self.sums = 0, 0, dict[str, float]()
        self.rows: list[Figures] = []
        self.figures: Figures = {}
        self.best = math.inf
        self.seconds = 0.0
        self.log: SummaryWriter | None = None

    def start(self, *, steps: int, resume: bool) -> None:
        """Lay out the folder, or take up what is in it."""
        if steps < 1:
            raise ValueError("an epoch has no batches; the batch size must not exceed the number of training samples")
        self.steps = steps
        self.wrapped, self.stepper = self.accelerator.prepare(_Forward(self.model), self.optimizer)
        # A folder of this machine's own need not be on the others'.
        state = [self._open_folder(resume) if self.accelerator.is_main_process else None]
        if self.accelerator.num_processes > 1:
            torch.distributed.broadcast_object_list(state, 0, device=self.accelerator.device)
        if state[0] is not None:
            self._restore(state[0])
        if self.accelerator.is_main_process and self.epoch < self.settings.epochs:
            self.log = _open_log(self.folder / "tensorboard", first=self.epoch + 1)

    def close(self) -> None:
        """Close the log."""
        if self.log is not None:
            self.log.close()

    def train_epoch(self, batches: Batches, loss: LossFunction, signals: _Signals) -> None:
        """What is left of an epoch's pass over the data."""
        if self.step == self.steps:  # It was stopped in its validation.
            return
        self.figures = {}
        self.wrapped.train()
        start = time.monotonic()
        pending: list[tuple[Mapping[str, Tensor], Tensor]] = []
        with self._progress() as bar:
            for batch in self._draw(batches):
                pending.append(self._train_step(batch, loss))
                self.step += 1
                bar.update()
                stop = self._must_stop(signals)
                if stop or self.step % PROGRESS_EVERY == 0 or self.step == self.steps:
                    self._read(pending, bar)
                if stop:
                    self.seconds += time.monotonic() - start
                    self._stop(signals)
        self.seconds += time.monotonic() - start

    def _draw(self, batches: Batches) -> Iterator[Batch]:
        """The epoch's batches from `self.step` on; those before are drawn again and passed over.

        Each is drawn, and trained on, with a random state of its own: nothing depends on how the run came there.
        """
        begun = self.step
        self._seed(0)
        source = batches(self.epoch)
        if _length(source) != self.steps:
            raise ValueError(
                f"epoch {self.epoch + 1} has {_length(source)} batches and the first one {self.steps}; "
                "wanted as many in each, since the learning rate follows their number"
            )
        iterator = iter(source)
        for number in range(self.steps):
            self._seed(1 + number)
            try:
                batch = next(iterator)
            except StopIteration:
                raise ValueError(
                    f"epoch {self.epoch + 1} ended after {number} batches; its length said {self.steps}"
                ) from None
            if number >= begun:
                yield batch

    def _seed(self, moment: int) -> None:
        """Seed the global generators for a moment of this epoch."""
        seed = mix_seeds(self.settings.seed, self.epoch, 1 + self.accelerator.process_index, 1 + moment)
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)

    def _train_step(self, batch: Batch, loss: LossFunction) -> tuple[dict[str, Tensor], Tensor]:
        """The loss's values, and the norm of its gradient."""
        batch = _to_device(batch, self.accelerator.device, self.layout)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(self.step)
        with self.accelerator.autocast():
            values = loss(self.wrapped, batch)
        self.accelerator.backward(values["loss"])
        norm = self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.settings.clip or math.inf)
        self.stepper.step()
        self.stepper.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return {name: value.detach() for name, value in values.items()}, norm

    def _learning_rate(self, step: int) -> float:
        """Of a step of this epoch, counted from 0."""
        total = self.steps * self.settings.epochs
        warm = max(round(total * self.settings.warmup), 1)
        done = self.epoch * self.steps + step
        if done < warm:
            return self.settings.lr * (done + 1) / warm
        left = 1 - (done - warm) / (total - warm)
        shapes = {"cosine": 0.5 - 0.5 * math.cos(math.pi * left), "linear": left, "constant": 1.0}
        return self.settings.lr * shapes[self.settings.schedule]

    def _read(self, pending: list[tuple[Mapping[str, Tensor], Tensor]], bar: Any) -> None:
        """Add the waiting values to the epoch's sums, and show the means."""
        norms = 0.0
        for values, norm in pending:
            norms += float(norm)
            for name, value in values.items():
                self.sums[name] = self.sums.get(name, 0.0) + float(value)
        pending.clear()
        # With float16 a gradient may overflow; its scaler then leaves the step out.
        norms = norms if self.accelerator.scaler is None else 0.0
        for what, total in [("loss", self.sums.get("loss", 0.0)), ("gradient", norms)]:
            if not math.isfinite(total):
                raise FloatingPointError(
                    f"the {what} became {total} in epoch {self.epoch + 1}, by step {self.step} of {self.steps}; "
                    "lower lr, or look for labels or images that are not finite"
                )
        bar.set_postfix({name: f"{value / max(self.step, 1):.3f}" for name, value in self.sums.items()}, refresh=False)

    def _must_stop(self, signals: _Signals) -> bool:
        """Whether any process was asked to stop; all find out at the same step."""
        if self.accelerator.num_processes == 1:
            return signals.caught is not None
        if self.step % PROGRESS_EVERY and self.step != self.steps:
            return False
        if signals.caught is not None:
            self.accelerator.set_trigger()
        return bool(self.accelerator.check_trigger())

    def _stop(self, signals: _Signals) -> NoReturn:
        self._save_last()
        raise Interrupted(signals.caught or signal.SIGTERM, self.folder)

    def finish_epoch(self, validate: Validation | None, signals: _Signals) -> None:
        """Validate if it is time, log, and save."""
        self._share_buffers()
        row: Figures = {"epoch": self.epoch + 1, "lr": self._learning_rate(self.steps - 1)}
        row["seconds"] = round(self.seconds, 1)
        row |= {f"train_{name}": value / self.steps for name, value in self._mean_over_processes().items()}
        last = self.epoch + 1 == self.settings.epochs
        improved = last and validate is None
        if validate is not None and (last or (self.epoch + 1) % self.settings.validate_every == 0):
            self.figures = self._validate(validate, signals)
            score = self.sign * self.figures[self.monitor]
            improved = score < self.best
            self.best = min(self.best, score)
            # `val_loss` stands beside `train_loss`; the other figures go by their own names.
            row |= {"val_loss" if name == "loss" else name: value for name, value in self.figures.items()}
            self.accelerator.print(f"epoch {self.epoch + 1}: {format_figures(self.figures)}")
        self.rows.append(row)
        self.epoch, self.step, self.sums = self.epoch + 1, 0, {}
        if self.accelerator.is_main_process:
            self._write_epoch(row, improved=improved)
        self._save_last()
        if self._must_stop(signals):
            raise Interrupted(signals.caught or signal.SIGTERM, self.folder)

    def _validate(self, validate: Validation, signals: _Signals) -> Figures:
        self._seed(1 + self.steps)
        try:
            # In several processes one that left alone would keep the others waiting.
            with signals.at_once(self.accelerator.num_processes == 1):
                figures = {name: float(value) for name, value in validate(self._model_to_save().eval()).items()}
        except KeyboardInterrupt:
            if signals.caught is None:
                raise
            self._stop(signals)
        if self.monitor not in figures:
            raise ValueError(f"monitor={self.monitor!r}: validate gave {', '.join(figures)}; choose one of these")
        return figures

    def _write_epoch(self, row: Figures, *, improved: bool) -> None:
        """Log and keep the best, before `last/`: a run killed in between does this epoch again, and writes the same."""
        self._write_config()
        _write_rows(self.folder / ROWS_FILE, self.rows)
        if self.log is not None:
            for name, value in row.items():
                if name != "epoch":
                    self.log.add_scalar(name.replace("_", "/", 1), value, self.epoch)
            self.log.flush()
        if improved:
            with atomic_folder(self.folder / "best") as folder:
                write_model(folder, self._model_to_save(), metadata=self._facts())  # type: ignore[arg-type]

    def _share_buffers(self) -> None:
        """Give all the first process's batch-norm statistics, each having its own: they validate one model."""
        if self.accelerator.num_processes > 1:
            for model in [self.model] if self.average is None else [self.model, self.average.module]:
                for buffer in model.buffers():
                    torch.distributed.broadcast(buffer, 0)

    def _mean_over_processes(self) -> dict[str, float]:
        if self.accelerator.num_processes == 1:
            return dict(self.sums)
        device = self.accelerator.device
        sums = torch.tensor(list(self.sums.values()), device=device, dtype=_sum_dtype(device))
        return dict(zip(self.sums, self.accelerator.reduce(sums, "mean").tolist(), strict=True))

    def _model_to_save(self) -> nn.Module:
        return self.model if self.average is None else self.average.module

    def _facts(self) -> dict[str, Any]:
        """Metadata of a checkpoint; the figures are those of its very weights, so there may be none."""
        return {**self.metadata, **dict(zip(OWN_FACTS, (self._settings(), self.epoch, self.figures), strict=True))}

    def _settings(self) -> dict[str, Any]:
        return dataclasses.asdict(self.settings)

    def _identity(self) -> dict[str, Any]:
        """What must be the same on resuming."""
        model = {"class": type(self.model).__name__, **getattr(self.model, "config", {})}
        return {**self._settings(), "steps": self.steps, "model": _as_json(model), "metadata": self.metadata}

    def _save_last(self) -> None:
        sums = self._mean_over_processes()
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            state = {
                "run": self._identity(),
                "epoch": self.epoch,
                "step": self.step,
                "sums": sums,
                "rows": self.rows,
                "best": self.best,
                "seconds": self.seconds,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
            }
            # By way of memory: torch hides the system's reason for a failed write.
            buffer = io.BytesIO()
            torch.save(state, buffer)
            self._write_config()
            with atomic_folder(self.folder / "last") as folder:
                write_model(folder, self._model_to_save(), metadata=self._facts())  # type: ignore[arg-type]
                (folder / STATE_FILE).write_bytes(buffer.getbuffer())
        # A launcher stops all processes once one has ended.
        self.accelerator.wait_for_everyone()

    def _open_folder(self, resume: bool) -> dict[str, Any] | None:
        """Read the state of the run in the folder, if there is one; and find out now whether it can be saved."""
        last, best = (recover_folder(self.folder / name) for name in ("last", "best"))
        config = self.folder / CONFIG_FILE
        found = [path for path in (last, best, config, self.folder / ROWS_FILE) if path.exists()]
        if found and not resume:
            raise FileExistsError(f"{self.folder} holds a run; resume it (--resume) or choose another folder")
        state = self._read_state(last / STATE_FILE) if last.exists() else None
        if found and state is None and not (config.is_file() and config.read_bytes() == self._config()):
            raise FileExistsError(f"{found[0]} is not of the run to resume; choose another folder")
        if state is None or state["epoch"] < self.settings.epochs:
            self._try_to_save()
        return state

    def _try_to_save(self) -> None:
        """Find out before the first epoch, not after it."""
        check_writable(self.folder)
        try:
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=".") as folder:
                write_model(folder, self._model_to_save(), metadata=self._facts())  # type: ignore[arg-type]
        except OSError as error:
            raise OSError(
                error.errno, f"cannot write {self.folder}: {error.strerror}; choose another folder"
            ) from error

    def _config(self) -> bytes:
        """The run's `config.json`, the first file to be written: by it what comes later is known as this run's."""
        return (json.dumps({"settings": self._settings(), **self.metadata}, indent=2) + "\n").encode()

    def _write_config(self) -> None:
        path = self.folder / CONFIG_FILE
        if not path.exists():
            with atomic_file(path) as temporary:
                temporary.write_bytes(self._config())

    def _read_state(self, path: Path) -> dict[str, Any]:
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            theirs = dict(dotted(state["run"]))
        except FileNotFoundError:
            raise FileNotFoundError(f"{path} is missing, so the run cannot go on; start it in another folder") from None
        except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged or of another version; start the run in another folder") from error
        ours = dict(dotted(self._identity()))
        for name in [*ours, *theirs]:
            if ours.get(name) != theirs.get(name):
                raise ValueError(
                    f"{path}: the run to resume has {name}={theirs.get(name)!r}, this one {ours.get(name)!r}; "
                    "use the same, or another folder"
                )
        return state

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step, self.sums, self.rows = state["epoch"], state["step"], state["sums"], state["rows"]
        self.best, self.seconds = state["best"], state["seconds"]

    def _progress(self) -> Any:
        from tqdm import tqdm

        return tqdm(
            total=self.steps,
            desc=f"epoch {self.epoch + 1}/{self.settings.epochs}",
            initial=self.step,
            disable=not self.accelerator.is_main_process,
            leave=False,
            dynamic_ncols=True,
        )


class _Signals:
    """Notes the first Ctrl-C or SIGTERM, for the run to stop where its state is whole; a second stops at once.

    Attributes:
        caught: The first signal's number, or None.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        self._now = False
        self._process = os.getpid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Take the signals over."""
        # Signals are the main thread's; in another, as in some notebooks, they stay as they are.
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                # One that is ignored, as in a job put in the background, is ignored on purpose.
                if signal.getsignal(signum) not in (signal.SIG_IGN, None):
                    self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # A loader's worker, which the run itself ends.
            return
        if self.caught is not None:
            raise KeyboardInterrupt
        self.caught = signum
        if self._now:
            raise KeyboardInterrupt
        # Not `print`, which must not be entered twice.
        os.write(2, b"\nstopping after this step; again to stop at once\n")

    @contextmanager
    def at_once(self, now: bool) -> Iterator[None]:
        """Whether the first signal, too, raises KeyboardInterrupt within the block."""
        self._now = now
        try:
            if now and self.caught is not None:
                raise KeyboardInterrupt
            yield
        finally:
            self._now = False


def normals_loss(criterion: AngularLoss) -> LossFunction:
    """The loss of a normals network on a sample batch, with the mean angular error to show.

    Args:
        criterion: Of prediction, normals and mask.

    Returns:
        A function for `fit`; its dict has `loss` and `mean`, degrees.
    """

    def loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        prediction = model(batch["image"])
        value = criterion(prediction, batch["normals"], batch.get("mask"))
        return {"loss": value, "mean": _mean_error(prediction.detach(), batch["normals"], batch.get("mask"))}

    return loss


def _mean_error(prediction: Tensor, normals: Tensor, mask: Tensor | None) -> Tensor:
    errors = angular_error(prediction, normals)
    counted = valid_normals(normals, mask) & errors.isfinite()
    return torch.where(counted, errors, 0).sum() / counted.sum().clamp_min(1)


def evaluate(
    model: nn.Module,
    loader: Iterable[Batch],
    *,
    flip: bool = False,
    reduction: Reduction = "pooled",
    progress: bool = True,
) -> Figures:
    """Score a model on a data set: the assignment's `simple_predict`.

    In several processes each one gives its own share of the batches and all of them return the whole's figures.

    Args:
        model: Returns normals (B, 3, H, W) for images (B, 3, H, W); evaluated where its parameters are, in eval
            mode, and left in the mode that it was in.
        loader: Batches of samples: `image`, `normals` and, if there is one, `mask`.
        flip: Average the prediction with that of the mirrored image.
        reduction: "pooled" counts every pixel alike, "per_image" every image; see `SurfaceNormalMetrics`.
        progress: Whether to show a progress bar.

    Returns:
        `loss`, the L1 over the scored pixels and their channels, pooled in either case; and the figures of
        `SurfaceNormalMetrics`, which leave out, and count, predictions that are zero or not finite.

    Raises:
        ValueError: There is no valid pixel in the whole set, or the model returns no normals.
    """
    device = device_of(model)
    metrics = SurfaceNormalMetrics(reduction=reduction).to(device)
    l1 = MeanMetric(nan_strategy="error").to(device).set_dtype(_sum_dtype(device))
    with evaluation_mode(model):
        for batch in _bar(loader, progress and is_main_process(), "evaluating"):
            batch = _to_device(batch, device, torch.contiguous_format)
            normals, mask = batch["normals"], batch.get("mask")
            prediction = predict_batch(model, batch["image"], flip=flip)
            metrics.update(prediction, normals, mask)
            usable = prediction.isfinite().all(1) & prediction.any(1)
            scored = valid_normals(normals, mask) & usable
            l1.update(angular_loss_terms(prediction, normals, scored)[0], scored.sum())
    figures = metrics.compute()
    return {"loss": float(l1.compute())} | {name: float(value) for name, value in figures.items()}


def format_figures(figures: Mapping[str, float]) -> str:
    """The report's line: loss (L1), then mean, median, and the shares within 11.25, 22.5 and 30 degrees.

    Args:
        figures: As `evaluate` returns them; those of other tasks, which have no median, are listed by name.

    Examples:
        >>> format_figures({"loss": 0.2532, "mean": 32.8, "median": 26.8, "11.25": 26.8, "22.5": 44.2, "30": 54.1})
        'loss 0.2532  mean 32.80  median 26.80  11.25: 26.80  22.5: 44.20  30: 54.10'
    """
    line = ("loss", "mean", "median", "11.25", "22.5", "30") if "median" in figures else tuple(figures)
    parts = []
    for name in line:
        if name in figures and name != "invalid":
            colon = ":" if name[0].isdigit() else ""
            parts.append(f"{name}{colon} {figures[name]:.{4 if name == 'loss' else 2}f}")
    if figures.get("invalid"):
        parts.append(f"invalid predictions: {figures['invalid']:.0f}")
    return "  ".join(parts)


def read_rows(path: str | os.PathLike[str]) -> list[Figures]:
    """The rows of a run's `metrics.csv`; cells that were left empty are left out.

    Args:
        path: The file.

    Raises:
        OSError: The file is missing or cannot be read.
        ValueError: It is no table of numbers.
    """
    with open(path, newline="", encoding="utf-8") as file:
        try:
            return [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: not the metrics.csv of a run ({error})") from error


def dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The entries of nested mappings, by names such as `settings.lr`."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _write_rows(path: Path, rows: list[Figures]) -> None:
    names = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    with atomic_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def _check_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata as JSON gives them back."""
    taken = sorted(metadata.keys() & set(OWN_FACTS))
    if taken:
        raise ValueError(f"metadata: fit itself writes {', '.join(taken)}; choose other names")
    try:
        return _as_json(metadata)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"metadata: {error}; wanted strings, finite numbers, booleans, None, lists and dicts"
        ) from error


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
    return parsed


def _accelerator(settings: TrainingSettings) -> Accelerator:
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ImportError as error:
        raise ImportError('training needs accelerate; pip install "normalkit[train]"') from error
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if has_bfloat16() else "no"
    # Accelerate keeps the first run's precision for the process; a notebook's next run may want another.
    AcceleratorState._reset_state()
    return Accelerator(mixed_precision=precision)


def _open_log(folder: Path, *, first: int) -> SummaryWriter:
    """A TensorBoard log; what an earlier process wrote of epoch `first` and later is void."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError('training needs tensorboard; pip install "normalkit[train]"') from error
    return SummaryWriter(str(folder), purge_step=first)


def has_bfloat16() -> bool:
    """Whether bfloat16 is fast here: its emulation, on a processor without it, is slower than float32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Before torch 2.10 a processor does not say what it has; float32 is then the safe answer.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    groups = _parameter_groups(model, settings.weight_decay)
    if settings.optimizer == "sgd":
        nesterov = settings.momentum > 0  # Without momentum there is none, and torch refuses it.
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=nesterov)
    return torch.optim.AdamW(groups, lr=settings.lr)


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; biases and norms, which have one axis, do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """The average of weights and batch-norm statistics; it follows quickly while `decay` is not yet reached."""

    def follow(averages: Tensors, values: Tensors, number: Tensor | int) -> None:
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, values, 1 - min(decay, (1 + float(number)) / (10 + float(number))))
        else:
            torch._foreach_copy_(averages, values)

    return AveragedModel(model, multi_avg_fn=follow, use_buffers=True)


def training_device() -> torch.device:
    """Where this process trains: its GPU, or the processor; for what should lie there before `fit` begins.

    Raises:
        ImportError: accelerate is not installed.
    """
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise ImportError('training needs accelerate; pip install "normalkit[train]"') from error
    device: torch.device = PartialState().device
    return device


def is_main_process() -> bool:
    """Whether this is the first of the processes that `accelerate launch` started, the one to write files."""
    return process_rank()[0] == 0


def _length(batches: Iterable[Batch]) -> int:
    try:
        return len(batches)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            "the batches of an epoch have no length; give an iterable with len(), such as a DataLoader"
        ) from None


def _sum_dtype(device: torch.device) -> torch.dtype:
    """For sums over a data set; Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def _to_device(batch: Batch, device: torch.device, layout: torch.memory_format) -> dict[str, Any]:
    def move(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.ndim == 4:
            return value.to(device, non_blocking=True, memory_format=layout)
        return value.to(device, non_blocking=True)

    return {name: move(value) for name, value in batch.items()}


def _bar(loader: Iterable[Batch], show: bool, name: str) -> Iterable[Batch]:
    if not show:
        return loader
    from tqdm import tqdm

    return tqdm(loader, desc=name, leave=False, dynamic_ncols=True)  # type: ignore[no-any-return]
