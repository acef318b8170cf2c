r"""The report's studies of the surface-normal networks: loss weights, skips, ways of up-sampling; over seeds.

python examples/surface_normals/ablate.py --data ../shared/data/red_kitchen --study skips --pretrained offline \
    --seeds 0 1 2 --settings.precision no

Each finished run is a row of the study's CSV table, which may be committed: started again, the study skips those,
and goes on with the run that was stopped. A Markdown table and a figure stand beside it. The figures are those of
the last epoch on `val`; of a run longer than `--settings.validate-every` epochs, those of the one that was best on the
held-out training frames. What it has on these, by which a configuration may be chosen, is in the CSV table too.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from train import LACKING, describe, read_frames, score, train
from train import Config as Training

from normalkit.cli import run_script
from normalkit.models.checkpoint import read_config
from normalkit.study import StudyRow, Variant, is_finished, read_study, run_study, write_report
from normalkit.training import TrainingSettings, is_main_process

FIGURES = ("mean", "median", "11.25", "22.5", "30")
"""In the report's order."""

U_NET = {"upsample": "transpose", "alpha": 5.0, "beta": 5.0}
# Its steps are as long as the loss is large, which AdamW's are not.
SGD = {"settings": {"optimizer": "sgd", "lr": 1e-3, "momentum": 0.9}}

# Options, and what the report has for the figures.
STUDIES: dict[str, dict[str, tuple[dict[str, Any], tuple[float, ...]]]] = {
    "loss-weights": {
        "(1, 1)": ({**U_NET, "alpha": 1.0, "beta": 1.0}, (42.5, 38.6, 15.1, 31.3, 40.5)),
        "(0.5, 1.5)": ({**U_NET, "alpha": 0.5, "beta": 1.5}, (43.5, 39.8, 13.7, 30.1, 39.3)),
        "(1.5, 0.5)": ({**U_NET, "alpha": 1.5, "beta": 0.5}, (41.7, 38.1, 14.9, 31.1, 40.6)),
        "(2, 2)": ({**U_NET, "alpha": 2.0, "beta": 2.0}, (40.0, 36.1, 14.8, 32.1, 42.3)),
        "(5, 5)": (U_NET, (38.0, 34.4, 17.4, 34.9, 44.8)),
    },
    "loss-scale": {
        "SGD, (1, 1)": ({**U_NET, **SGD, "alpha": 1.0, "beta": 1.0}, (42.5, 38.6, 15.1, 31.3, 40.5)),
        "SGD, (2, 2)": ({**U_NET, **SGD, "alpha": 2.0, "beta": 2.0}, (40.0, 36.1, 14.8, 32.1, 42.3)),
        "SGD, (5, 5)": ({**U_NET, **SGD}, (38.0, 34.4, 17.4, 34.9, 44.8)),
        "SGD, (1, 1), bilinear head": ({"net": "bilinear", **SGD, "alpha": 1.0, "beta": 1.0}, ()),
    },
    "skips": {
        "all four": (U_NET, (38.0, 34.4, 17.4, 34.9, 44.8)),
        "without skip 1": ({**U_NET, "skips": (2, 3, 4)}, (37.4, 32.9, 19.4, 36.9, 46.6)),
        "without skip 4": ({**U_NET, "skips": (1, 2, 3)}, (38.1, 34.1, 18.6, 35.3, 44.9)),
        "skips 2 and 3": ({**U_NET, "skips": (2, 3)}, (35.9, 32.2, 15.9, 35.3, 46.9)),
        "none": ({**U_NET, "skips": ()}, ()),
    },
    "upsampling": {
        "bilinear head": ({"net": "bilinear"}, (32.8, 26.8, 26.8, 44.2, 54.1)),
        "U-Net, transposed convolution": ({"upsample": "transpose"}, (38.0, 34.4, 17.4, 34.9, 44.8)),
        "U-Net, bilinear": ({"upsample": "bilinear"}, ()),
        "U-Net, nearest": ({"upsample": "nearest"}, ()),
        "U-Net, output stride 16": ({"upsample": "transpose", "output_stride": 16}, ()),
        "U-Net, output stride 8": ({"upsample": "transpose", "output_stride": 8}, ()),
        "DeepLabV3+": ({"net": "smp", "arch": "DeepLabV3Plus"}, ()),
    },
}


@dataclass(frozen=True)
class Config:
    """Run one of the report's studies of surface normals."""

    data: Path
    """A folder with `train` and `val` folders of frames in it."""
    study: Literal["loss-weights", "loss-scale", "skips", "upsampling"]
    """Which one; loss-scale is part of loss-weights again, under an optimizer that the scale of the loss matters to."""
    encoder: str = "tf_efficientnet_lite0"
    """Any timm encoder."""
    pretrained: bool | str = True
    """The encoder's weights: True (downloaded), False, offline (from an installed package), or a file."""
    results: Path = Path("docs/results/surface-normals")
    """Folder of the tables. The report beside one is of one set of options: give another folder for another."""
    runs: Path = Path("runs/surface_normals-ablation")
    """Folder of the runs' checkpoints and logs."""
    seeds: tuple[int, ...] = (0,)
    """One run of each variant for each."""
    variants: tuple[str, ...] | None = None
    """Which ones to run, all by default; the report has those and what else is in the table."""
    decoder_channels: tuple[int, ...] = (128, 64, 32, 16, 16)
    """Widths of the U-Net's decoder, deepest first."""
    resolution: int = 160
    """Pixels of the longer side that the network sees."""
    batch_size: int = 4
    """Pictures a batch."""
    holdout: int = 50
    """Frames at the end of the training data that are scored beside `val`."""
    settings: TrainingSettings = field(default_factory=lambda: TrainingSettings(epochs=10, validate_every=10, clip=0))
    """How to train. Without clipping AdamW's steps do not depend on the scale of the loss."""
    workers: int | None = None
    """Loader processes; by default two, but none on two cores without a GPU."""
    cache: Path | None = None
    """Folder for the normals computed from depth; by default under the user's cache folder."""


def main(cfg: Config) -> int:
    """Do the runs that are not finished, and write the report."""
    members = STUDIES[cfg.study]
    unknown = sorted(set(cfg.variants or ()) - set(members))
    if unknown:
        raise ValueError(f"--variants: no {', '.join(unknown)}; wanted some of {'; '.join(members)}")
    shared = (
        *("data", "encoder", "pretrained", "decoder_channels", "resolution"),
        *("batch_size", "holdout", "settings", "workers", "cache"),
    )
    base = Training(**{name: getattr(cfg, name) for name in shared}, resume=True)
    configs = {name: changed(base, options) for name, (options, _) in members.items()}
    variants = [
        Variant(name, describe(configs[name]), dict(zip(FIGURES, reported, strict=False)))
        for name, (_, reported) in members.items()
    ]
    chosen = [variant for variant in variants if cfg.variants is None or variant.name in cfg.variants]
    table = cfg.results / f"{cfg.study}-{cfg.encoder}.csv"
    elsewhere = [path for path in cfg.results.glob(f"*-{cfg.encoder}.csv") if path != table]
    for path in elsewhere:
        read_study(path)  # One of another version fails here, not in each run.
    frames = None if is_finished(chosen, seeds=cfg.seeds, table=table) else read_frames(base)
    if frames is not None and frames.val is None:
        raise FileNotFoundError(f"{cfg.data / 'val'}: missing; the variants are scored on its frames")

    def run(variant: Variant, seed: int) -> dict[str, float]:
        known = find_run(variant, seed, elsewhere)
        if known is not None:
            return known
        settings = dataclasses.replace(configs[variant.name].settings, seed=seed)
        out = cfg.runs / f"{cfg.study}-{variant.folder(seed)}"
        config = dataclasses.replace(configs[variant.name], settings=settings, out=out)
        seconds = train(config, frames)
        held_out = read_config(out / "best")["metrics"] if cfg.holdout else {}
        figures = score(config, frames.val)
        wanted = ("loss", *FIGURES)
        return {
            **{name: figures[name] for name in wanted},
            **{f"held_out_{name}": held_out[name] for name in wanted if held_out},
            **(costs(out / "best", cfg.batch_size) if cfg.study == "upsampling" else {}),
            "seconds": seconds,
        }

    def report(rows: list[StudyRow]) -> None:
        headings = {name: name if name in ("mean", "median") else f"< {name}" for name in FIGURES}
        if cfg.study == "upsampling":
            headings |= {"parameters": "parameters (M)", "milliseconds": "ms an image", "megabytes": "MB a step"}
        lower = [name for name in headings if not name[0].isdigit()]
        title = f"{cfg.study}, {cfg.encoder}"
        if is_main_process():
            write_report(table, rows, variants, figures=headings, lower=lower, digits=1, title=title)

    rows, failures = run_study(chosen, run, seeds=cfg.seeds, table=table, report=report)
    if rows and is_main_process():
        print(table.with_suffix(".md").read_text())
    return 1 if failures else 0


def changed(base: Training, options: dict[str, Any]) -> Training:
    """A variant's configuration; of `settings` it has those alone that it changes, and no options its network lacks."""
    lacking = {name: getattr(Training, name) for name in LACKING[options.get("net", Training.net)]}
    settings = dataclasses.replace(base.settings, **options.get("settings", {}))
    return dataclasses.replace(base, **{**lacking, **options, "settings": settings})


def find_run(variant: Variant, seed: int, tables: list[Path]) -> dict[str, float] | None:
    """The figures of the same run in another study's table: two of the studies share a network."""
    for row in (row for table in tables for row in read_study(table)):
        if row.seed == seed and row.has_settings(variant.settings):
            return {**row.figures, "seconds": row.seconds}
    return None


def costs(checkpoint: Path, batch_size: int) -> dict[str, float]:
    """Parameters, time and memory, measured by a process that has done nothing else."""
    script = Path(__file__).with_name("cost.py")
    words = ["--checkpoint", str(checkpoint), "--batch-size", str(batch_size)]
    done = subprocess.run([sys.executable, script, *words], check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


if __name__ == "__main__":
    run_script(main, Config)
