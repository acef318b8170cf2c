"""The one training loop: any model, any batches, any loss; Accelerate for devices, processes and precision.

A run lives in one folder: `config.json`, `metrics.csv`, `tensorboard/`, and the checkpoints `best/` and
`last/`, each a model that `load_model` reads. `last/` also holds what `resume` needs to go on as if nothing
had happened.
"""

from normalkit.training.devices import has_bfloat16, is_main_process, training_device
from normalkit.training.evaluation import evaluate, format_figures, normals_loss
from normalkit.training.loop import dotted, fit, read_rows
from normalkit.training.settings import TrainingSettings
from normalkit.training.signals import Interrupted

__all__ = [
    "Interrupted",
    "TrainingSettings",
    "dotted",
    "evaluate",
    "fit",
    "format_figures",
    "has_bfloat16",
    "is_main_process",
    "normals_loss",
    "read_rows",
    "training_device",
]
