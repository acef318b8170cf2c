"""The model card: what a checkpoint is, as a page that people and the Hugging Face Hub read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

__all__ = ["PLACEHOLDER", "model_card"]

PLACEHOLDER = "OWNER/NAME"
"""Stands in a card for the repository; `push_to_hub` puts in the true one."""

UNITS = {
    "mean": ("mean angular error", "degrees"),
    "median": ("median angular error", "degrees"),
    "rmse": ("root mean square angular error", "degrees"),
    **{limit: (f"pixels within {limit} degrees", "%") for limit in ("5", "7.5", "11.25", "22.5", "30")},
    "invalid": ("pixels without a prediction", "%"),
    "accuracy": ("accuracy", "%"),
}
"""Of the figures that `normalkit.training` writes: what each is, and its unit."""

NORMALS = """\
Surface normals of a photo of any size.

```python
from normalkit import load_model, predict

model = load_model("{source}")
normals = predict(model, "photo.jpg")  # (3, H, W), unit vectors
```

## Axes

`{convention}`: x right, y down, z forward, seen from the camera; normals face it. A wall seen head-on is (0, 0, -1), a
floor is near (0, -1, 0). `normalkit.convert_normals` gives other conventions.
"""

CLASSES = """\
Class scores of images of 32 x 32 pixels.

```python
from normalkit import {model}

model = {model}.from_pretrained("{source}")
scores = model(images)  # images (B, 3, 32, 32) in [0, 1]; scores (B, {num_classes})
```
"""


def model_card(header: Mapping[str, Any], *, parameters: int, source: str = PLACEHOLDER) -> str:
    """The text of `README.md` in a checkpoint's folder.

    Args:
        header: What `config.json` holds. Of the metadata, `metrics` are shown as a table, `data` is named, and other
            entries are left to `config.json`.
        parameters: How many the model has.
        source: The model's name on the Hub, or its folder, for the snippet.

    Returns:
        Markdown, with the front matter that the Hub reads.

    Examples:
        >>> header = {"model": "BaseNet", "normalkit": "0.1.0", "config": {"num_classes": 10}}
        >>> print(model_card({**header, "metrics": {"accuracy": 72.6}}, parameters=86_362).partition("## Figures")[2])
        <BLANKLINE>
        <BLANKLINE>
        | figure | value |
        |---|---|
        | accuracy (%) | 72.6 |
        ...
    """
    convention = header.get("convention")
    tags = ["surface-normals", "normal-estimation"] if convention else []
    data = ModelCardData(
        library_name="normalkit",
        pipeline_tag=None if convention else "image-classification",
        tags=["normalkit", "computer-vision", *tags],
    )
    about = NORMALS if convention else CLASSES
    names = {"source": source, "model": header["model"], "convention": convention}
    parts = [
        f"---\n{data.to_yaml()}\n---\n",
        f"# {header['model']}\n",
        about.format(**names, num_classes=header["config"].get("num_classes")),
        *_figures(header),
        f"## Network\n\n{_table('setting', _settings(header, parameters))}",
        f"Written by normalkit {header['normalkit']}; `config.json` has all that is known of the training.\n",
    ]
    return "\n".join(parts)


def _figures(header: Mapping[str, Any]) -> list[str]:
    metrics, data = header.get("metrics"), header.get("data")
    rows = {}
    for name, value in metrics.items() if isinstance(metrics, Mapping) else ():
        label, unit = UNITS.get(name, (name, ""))
        rows[f"{label} ({unit})" if unit else label] = value
    about = [] if not isinstance(data, str) else [f"Data: {_cell(data)}.\n"]
    if not rows:
        return ["## Figures\n", *about, "None were given when the model was saved.\n"]
    return ["## Figures\n", *about, _table("figure", rows)]


def _settings(header: Mapping[str, Any], parameters: int) -> dict[str, object]:
    return {"parameters": f"{parameters / 1e6:.2f} million", **header["config"]}


def _table(heading: str, rows: Mapping[str, object]) -> str:
    lines = [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join([f"| {heading} | value |", "|---|---|", *lines, ""])


def _cell(value: object) -> str:
    """A value in one cell of a table, whatever it holds; a figure that was not finite, and so is null, as a dash."""
    if value is None:
        return "-"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
