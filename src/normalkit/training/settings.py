"""How to train: the settings of a run."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

__all__ = ["TrainingSettings"]


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
        sam: Radius of sharpness-aware minimisation (Foret et al., ICLR 2021): the gradient of a step is the one at the
            weights, within that distance, where the batch's loss is largest to first order. Twice the time a step;
            0 for none.
        ema: Decay of the moving average of the weights, which is what is validated and saved; 0 for none.
        precision: "no" is float32; "auto" is bfloat16 where the hardware has it and this network gains from it, which
            on a processor the first step of a run finds out (`faster_in_bfloat16`), else float32.
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
    sam: float = 0.0
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
            ("sam", 0 <= self.sam < math.inf, "at least 0"),
            ("ema", 0 <= self.ema < 1, "a decay in [0, 1)"),
            ("precision", self.precision in {"auto", "no", "bf16", "fp16"}, "auto, no, bf16 or fp16"),
            ("validate_every", self.validate_every >= 1, "at least 1"),
            ("seed", self.seed >= 0, "at least 0"),
        ]:
            if not good:
                raise ValueError(f"{field}={getattr(self, field)!r}: wanted {wanted}")

    def facts(self) -> dict[str, Any]:
        """What makes runs of the same network and data the same but for their seed.

        `sam`, which came later than tables of finished runs, is there only where it is used.
        """
        later = {"sam"} if not self.sam else set()
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in later | {"seed"}}
