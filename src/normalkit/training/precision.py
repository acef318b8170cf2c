"""Which precision a network trains fastest in, found out by timing it."""

from __future__ import annotations

import copy
import time

import torch
from torch import nn

from normalkit.training.devices import has_bfloat16
from normalkit.training.types import Batch, LossFunction

__all__ = ["faster_in_bfloat16"]

ROUNDS = 3
"""Steps that are timed in each precision, after one that is not; the shortest counts, as the least disturbed."""
GAIN = 0.9
"""Share of float32's time that bfloat16 must stay below: it is rounder, so a tie is float32's."""


def faster_in_bfloat16(model: nn.Module, batch: Batch, loss: LossFunction) -> bool:
    """Whether a training step of this network is clearly faster in bfloat16 than in float32, here.

    On a GPU that has it, always. On a processor that has it the steps are timed, since there it depends on the
    network: plain convolutions of many channels gain, depthwise ones lose. The model is left as it was, without
    gradients, and torch's random numbers go on as if nothing had been drawn.

    Args:
        model: In train mode.
        batch: On the model's device.
        loss: As for `fit`.
    """
    if not has_bfloat16():
        return False
    if torch.cuda.is_available():
        return True
    seconds: dict[bool, list[float]] = {False: [], True: []}
    state = copy.deepcopy(model.state_dict())
    with torch.random.fork_rng():
        for _ in range(1 + ROUNDS):
            for half, times in seconds.items():
                start = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    value = loss(model, batch)["loss"]
                torch.autograd.backward(value)
                model.zero_grad()
                times.append(time.perf_counter() - start)
    model.load_state_dict(state)
    return min(seconds[True][1:]) < GAIN * min(seconds[False][1:])
