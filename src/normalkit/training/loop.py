"""The loop itself, and the folder of a run."""

from __future__ import annotations

import copy
import csv
import dataclasses
import io
import itertools
import json
import math
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from normalkit.data.loader import mix_seeds
from normalkit.files import atomic_file, atomic_folder, check_writable, recover_folder
from normalkit.models.checkpoint import write_model
from normalkit.nn.weights import read_torch_file
from normalkit.signals import on_stop_signals
from normalkit.training.devices import leave_processes_at_exit, sum_dtype, to_device
from normalkit.training.evaluation import format_figures
from normalkit.training.precision import faster_in_bfloat16
from normalkit.training.settings import TrainingSettings
from normalkit.training.signals import Interrupted, Signals
from normalkit.training.types import Batch, Batches, Figures, LossFunction, Validation

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["dotted", "fit", "read_rows"]

T = TypeVar("T")

CONFIG_FILE = "config.json"
ROWS_FILE = "metrics.csv"
STATE_FILE = "training.pt"
STATE = (
    "run",
    "epoch",
    "step",
    "sums",
    "rows",
    "best",
    "seconds",
    "bfloat16",
    "model",
    "optimizer",
    "average",
    "scaler",
)
"""What that file holds."""
WRONG_STATE = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What a state of other types or shapes raises."""
TINY = 1e-12
"""What the length of a gradient is at least taken for."""
PROGRESS_EVERY = 10
"""Steps between readings of the loss, each of which waits for the device."""
OWN_FACTS = ("settings", "epoch", "metrics")
"""What `fit` adds to a checkpoint's metadata."""


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

    `last/` is saved after each epoch, and when Ctrl-C, SIGTERM or, from a terminal that was closed, SIGHUP comes,
    which end a step, or break a validation off; a second one stops at once. The global random generators of torch,
    numpy and Python are seeded anew for each batch, from the seed and the batch's place, so that a resumed run draws
    what an uninterrupted one would: on a CPU both end with the same bits, given as many threads.

    Args:
        model: A model with a `config`, as all in `normalkit.models` are. It is trained in place, so that it ends
            with the last step's weights; those of the moving average are in `last/` and `best/`.
        batches: Gives the batches of an epoch, counted from 0, the same ones whenever it is asked for that epoch
            with the generators seeded alike; an iterable with a length, the same for each epoch. Where it has a
            method `after(n)`, as those of `normalkit.data.streaming` have, a run that is resumed within an epoch asks
            it for the batches after the n-th. Their tensors are moved to the device here.
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
        Interrupted: Ctrl-C, SIGTERM or SIGHUP came; `last/` is saved.
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
    signals = Signals()
    with closing(run), on_stop_signals(signals.hear):
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
        # For "auto" the first step finds out.
        self.bfloat16 = {"no": False, "fp16": False, "bf16": True}.get(settings.precision)
        self.layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.model = model.to(self.accelerator.device).to(memory_format=self.layout)
        self.optimizer = _optimizer(self.model, settings)
        self.average = _MovingAverage(self.model, settings.ema) if settings.ema else None
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
        state = self._from_main(lambda: self._open_folder(resume))
        if state is not None:
            self._restore(state)
        if self.accelerator.is_main_process and self.epoch < self.settings.epochs:
            self.log = _open_log(self.folder / "tensorboard", first=self.epoch + 1)

    def close(self) -> None:
        """Close the log."""
        if self.log is not None:
            self.log.close()

    def train_epoch(self, batches: Batches, loss: LossFunction, signals: Signals) -> None:
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
        """The epoch's batches from `self.step` on; those before are drawn again and passed over, where they must be.

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
        after: Callable[[int], Iterable[Batch]] | None = getattr(source, "after", None)
        iterator = iter(source if after is None else after(begun))
        for number in range(0 if after is None else begun, self.steps):
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
        if self.accelerator.device.type == "cpu":
            # `torch.manual_seed` takes a millisecond more, for the stack trace that it keeps for GPUs not in use.
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)

    def _train_step(self, batch: Batch, loss: LossFunction) -> tuple[dict[str, Tensor], Tensor]:
        """The loss's values, and the norm of its gradient."""
        batch = to_device(batch, self.accelerator.device, self.layout)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(self.step)
        if self.bfloat16 is None:
            self.bfloat16 = self._from_main(lambda: self._find_precision(batch, loss))
        values = self._differentiate(batch, loss)
        if self.settings.sam:
            self._differentiate_nearby(batch, loss)
        norm = self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.settings.clip or math.inf)
        self.stepper.step()
        self.stepper.zero_grad()
        if self.average is not None:
            self.average.update()
        return {name: value.detach() for name, value in values.items()}, norm

    def _differentiate(self, batch: Batch, loss: LossFunction) -> Mapping[str, Tensor]:
        """The loss's values; their gradient is in the parameters."""
        with self._autocast():
            values = loss(self.wrapped, batch)
        self.accelerator.backward(values["loss"])
        return values

    def _differentiate_nearby(self, batch: Batch, loss: LossFunction) -> None:
        """Replace the gradient by that at the weights nearby where the loss is largest to first order."""
        moved = {parameter: parameter.grad for parameter in self.model.parameters() if parameter.grad is not None}
        held = [*moved, *self.model.buffers()]  # This second pass is not for the batch norms to count.
        before = [tensor.detach().clone() for tensor in held]
        with torch.no_grad():
            length = nn.utils.get_total_norm(moved.values())
            for parameter, gradient in moved.items():
                parameter.add_(gradient * (self.settings.sam / length.clamp_min(TINY)))
        self.stepper.zero_grad()
        self._differentiate(batch, loss)
        with torch.no_grad():
            for tensor, kept in zip(held, before, strict=True):
                tensor.copy_(kept)

    def _find_precision(self, batch: Batch, loss: LossFunction) -> bool:
        from tqdm import tqdm

        faster = faster_in_bfloat16(self.model, batch, loss)
        tqdm.write(f"precision: {'bfloat16' if faster else 'float32'}")
        return faster

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.bfloat16:
            return torch.autocast(self.accelerator.device.type, torch.bfloat16)
        scaled: AbstractContextManager[Any] = self.accelerator.autocast()
        return scaled

    def _from_main(self, make: Callable[[], T]) -> T:
        """What the first process makes, in all of them: a folder or a clock of its own need not be the others'."""
        made: list[Any] = [make() if self.accelerator.is_main_process else None]
        if self.accelerator.num_processes > 1:
            torch.distributed.broadcast_object_list(made, 0, device=self.accelerator.device)
        value: T = made[0]
        return value

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

    def _must_stop(self, signals: Signals) -> bool:
        """Whether any process was asked to stop; all find out at the same step."""
        if self.accelerator.num_processes == 1:
            return signals.caught is not None
        if self.step % PROGRESS_EVERY and self.step != self.steps:
            return False
        if signals.caught is not None:
            self.accelerator.set_trigger()
        return bool(self.accelerator.check_trigger())

    def _stop(self, signals: Signals) -> NoReturn:
        self._save_last()
        raise Interrupted(signals.caught or signal.SIGTERM, self.folder)

    def finish_epoch(self, validate: Validation | None, signals: Signals) -> None:
        """Validate if it is time, log, and save."""
        self._share_buffers()
        row: Figures = {"epoch": self.epoch + 1, "lr": self._learning_rate(self.steps - 1)}
        row["seconds"] = round(self.seconds, 3)
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

    def _validate(self, validate: Validation, signals: Signals) -> Figures:
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
        sums = torch.tensor(list(self.sums.values()), device=device, dtype=sum_dtype(device))
        return dict(zip(self.sums, self.accelerator.reduce(sums, "mean").tolist(), strict=True))

    def _model_to_save(self) -> nn.Module:
        return self.model if self.average is None else self.average.module

    def _facts(self) -> dict[str, Any]:
        """Metadata of a checkpoint; the figures are those of its very weights, so there may be none."""
        return {**self.metadata, **dict(zip(OWN_FACTS, (self._settings(), self.epoch, self.figures), strict=True))}

    def _settings(self) -> dict[str, Any]:
        return dataclasses.asdict(self.settings)

    def _identity(self) -> dict[str, Any]:
        """What must be the same on resuming; the model first, since another one has other settings too."""
        model = {"class": type(self.model).__name__, **getattr(self.model, "config", {})}
        return {"model": _as_json(model), **self._settings(), "steps": self.steps, "metadata": self.metadata}

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
                "bfloat16": self.bfloat16,
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
            state: dict[str, Any] = read_torch_file(path)
            # Settings that an older version did not have leave all as it was.
            theirs = {**dataclasses.asdict(TrainingSettings()), **dict(dotted(state["run"]))}
            missing = [name for name in STATE if name not in state]
        except FileNotFoundError:
            raise FileNotFoundError(f"{path} is missing, so the run cannot go on; start it in another folder") from None
        except WRONG_STATE as error:
            raise _unreadable(path) from error
        if missing:
            raise ValueError(
                f"{path} was written by another version of normalkit, without {', '.join(missing)}; go on with that "
                "version, or start the run in another folder"
            )
        if type(state["epoch"]) is not int:
            raise _unreadable(path)
        ours = dict(dotted(self._identity()))
        for name in [*ours, *theirs]:
            if ours.get(name) != theirs.get(name):
                raise ValueError(
                    f"{path}: the run to resume has {name}={theirs.get(name)!r}, this one {ours.get(name)!r}; "
                    "use the same, or another folder"
                )
        return state

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(state["scaler"])
            self.epoch, self.step, self.sums, self.rows = state["epoch"], state["step"], state["sums"], state["rows"]
            self.best, self.seconds, self.bfloat16 = state["best"], state["seconds"], state["bfloat16"]
        except WRONG_STATE as error:
            raise _unreadable(self.folder / "last" / STATE_FILE) from error

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
    """The entries of nested mappings, by names such as `settings.lr`.

    Args:
        values: Mappings may hold mappings.
        prefix: Stands before each name.

    Examples:
        >>> dict(dotted({"seed": 0, "settings": {"lr": 0.1}}))
        {'seed': 0, 'settings.lr': 0.1}
    """
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
    # Accelerate keeps the first run's precision for the process; a notebook's next run may want another.
    AcceleratorState._reset_state()
    # It scales float16's gradients; for bfloat16 torch is enough.
    accelerator = Accelerator(mixed_precision="fp16" if settings.precision == "fp16" else "no")
    leave_processes_at_exit()
    return accelerator


def _open_log(folder: Path, *, first: int) -> SummaryWriter:
    """A TensorBoard log; what an earlier process wrote of epoch `first` and later is void."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError('training needs tensorboard; pip install "normalkit[train]"') from error
    return SummaryWriter(str(folder), purge_step=first)


def _unreadable(path: Path) -> ValueError:
    return ValueError(f"{path} is damaged or of another version; start the run in another folder")


def _optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    groups = _parameter_groups(model, settings.weight_decay)
    # One pass over each tensor, a third of the time of a step by single operations.
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in model.parameters())
    if settings.optimizer == "sgd":
        nesterov = settings.momentum > 0  # Without momentum there is none, and torch refuses it.
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=nesterov, fused=fused)
    return torch.optim.AdamW(groups, lr=settings.lr, fused=fused)


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; biases and norms, which have one axis, do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


class _MovingAverage:
    """The average of weights and batch-norm statistics; it follows quickly while `decay` is not yet reached.

    Attributes:
        module: A model that has them.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.decay, self.updates = decay, 0
        pairs = [(old.detach(), new.detach()) for old, new in zip(_state(self.module), _state(model), strict=True)]
        self.averaged = _columns(pair for pair in pairs if pair[0].is_floating_point())
        self.copied = _columns(pair for pair in pairs if not pair[0].is_floating_point())

    def update(self) -> None:
        """Follow the model, whose tensors have changed in place."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.updates else 0.0
        torch._foreach_lerp_(*self.averaged, 1 - decay)
        if self.copied[0]:
            torch._foreach_copy_(*self.copied)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """For `load_state_dict`."""
        return {"module": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.module.load_state_dict(state["module"])
        self.updates = state["updates"]


def _state(model: nn.Module) -> Iterator[Tensor]:
    return itertools.chain(model.parameters(), model.buffers())


def _columns(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    kept = list(pairs)
    return [old for old, _ in kept], [new for _, new in kept]


def _length(batches: Iterable[Batch]) -> int:
    try:
        return len(batches)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            "the batches of an epoch have no length; give an iterable with len(), such as a DataLoader"
        ) from None
