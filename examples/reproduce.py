r"""Rerun both assignments from nothing but the data: training, ablations, figures and tables, on a GPU if there is one.

python examples/reproduce.py --cifar10 ../shared/data/cifar10_train_jpeg.tar.xz --frames ../shared/data/red_kitchen

Started again, it goes on: the scripts know from their tables and checkpoints which runs are finished, and a picture or
a score is made anew when its checkpoint or its data is newer. A step that fails is reported and leaves the others
alone. `README.md` in the folder of the results has them all on one page. `--quick` runs everything once on as good as
nothing, to see that it works; give it a few images.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from normalkit.cli import run_script
from normalkit.files import atomic_file, check_writable
from normalkit.signals import STOP_SIGNALS, on_stop_signals
from normalkit.study import Variant, read_study, study_markdown

EXAMPLES = Path(__file__).resolve().parent

STOPPED = tuple(128 + signum for signum in STOP_SIGNALS)
"""Exit codes of a script that was asked to stop."""


@dataclass(frozen=True)
class Config:
    """Rerun both assignments."""

    cifar10: Path | None = None
    """CIFAR-10: a tar file or folder of train/CLASS/IMAGE, or the folder of torchvision's."""
    frames: Path | None = None
    """RGB-D frames: a folder with `train` and `val` folders in it."""
    out: Path | None = None
    """Folder of the results; by default runs/reproduction, of a quick run runs/reproduction-quick."""
    cifar10_test: Path | None = None
    """Held-back images, test/CLASS/IMAGE, to be scored too."""
    frames_test: Path | None = None
    """Held-back frames, to be scored too."""
    photos: tuple[Path, ...] = ()
    """Photos of one's own, or folders of them, to be drawn with their normals."""
    encoder: str = "tf_efficientnet_lite0"
    """Of the normals networks; their studies are also run on the report's ResNet-18, from scratch, with one seed."""
    pretrained: bool | str = "offline"
    """The encoder's weights: True (downloaded), False, offline (from an installed package), or a file."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One run each, of CIFAR-10's networks and of all variants of the ablations."""
    epochs: int | None = None
    """Of each run of the ablations, instead of their scripts' own."""
    workers: int | None = None
    """Loader processes of the normals networks; by default two, but none on two cores without a GPU."""
    only: tuple[str, ...] | None = None
    """The steps to take; all by default."""
    quick: bool = False
    """One short run of everything, with tiny networks."""


@dataclass(frozen=True)
class Step:
    """One script and what it leaves behind.

    Attributes:
        name: What it is called here.
        script: Its path under the folder of the examples.
        words: Its command line.
        results: The files to show, as patterns.
        sources: What they are made of; empty for a script that knows itself what is finished.
    """

    name: str
    script: str
    words: tuple[object, ...]
    results: tuple[Path, ...]
    sources: tuple[Path, ...] = ()

    @property
    def command(self) -> list[str]:
        """For the shell, by the interpreter that runs this."""
        return [sys.executable, str(EXAMPLES / self.script), *map(str, self.words)]

    def found(self) -> list[Path]:
        """The results that are there."""
        return [path for pattern in self.results for path in sorted(pattern.parent.glob(pattern.name))]

    def finished(self) -> bool:
        """Whether all results are newer than what they are made of."""
        found = self.found()
        if not self.sources or any(not any(path.match(result.name) for path in found) for result in self.results):
            return False
        newest = max(changed for path in self.sources for changed in times(path))
        return all(path.stat().st_mtime_ns >= newest for path in found)


def times(path: Path) -> Iterator[int]:
    """When a file, or anything in a folder, was changed."""
    yield path.stat().st_mtime_ns
    if path.is_dir():
        # A link to nothing has a time of its own.
        yield from (one.stat(follow_symlinks=one.exists()).st_mtime_ns for one in path.rglob("*"))


def main(cfg: Config) -> int:
    """Take the steps, and write the page of their results."""
    if cfg.out is None:
        # The scripts go on with no run of other settings: a quick one would be in the way.
        cfg = dataclasses.replace(cfg, out=Path("runs/reproduction-quick" if cfg.quick else "runs/reproduction"))
    steps = plan(cfg)
    check_writable(cfg.out)
    states: dict[str, str] = {}
    code = 0
    for number, step in enumerate(steps, 1):
        label = f"[{number}/{len(steps)}] {step.name}"
        missing = [path for path in step.sources if not path.exists()]
        if missing:
            states[step.name] = f"left out: {missing[0]} is missing"
        elif step.finished():
            states[step.name] = "finished earlier"
        else:
            print(f"{label}: {shlex.join(step.command)}", flush=True)
            start = time.monotonic()
            code = run(step.command)
            seconds = time.monotonic() - start
            states[step.name] = f"done, {seconds:.0f} s" if code == 0 else f"failed with exit code {code}"
        print(f"{label}: {states[step.name]}", flush=True)
        if code in STOPPED:
            break
    write_page(cfg, plan(dataclasses.replace(cfg, only=None)), states)
    print(f"{cfg.out / 'README.md'} has the results")
    bad = [f"{name}: {state}" for name, state in states.items() if state.startswith(("failed", "left out"))]
    if bad:
        head = f"{len(bad)} of {len(steps)} steps are not done; the others are kept, and skipped next time:"
        print(head, *bad, sep="\n  ", file=sys.stderr)
    return code if code in STOPPED else int(bool(bad))


def plan(cfg: Config) -> list[Step]:
    """The steps, in their order.

    Raises:
        FileNotFoundError: A folder or file that was named is not there.
        ValueError: Nothing was named, or a step that does not exist, or what belongs to data that were not named.
    """
    given = [path for path in (cfg.cifar10, cfg.frames, cfg.cifar10_test, cfg.frames_test, *cfg.photos) if path]
    for path in given:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder")
    for name, needed in (("cifar10_test", "cifar10"), ("frames_test", "frames"), ("photos", "frames")):
        if getattr(cfg, name) and not getattr(cfg, needed):
            option = name.replace("_", "-")
            raise ValueError(f"--{option} without --{needed}: there would be no network to show it to; give both")
    if not cfg.seeds:
        raise ValueError("--seeds is empty: give at least one number, or leave it away")
    steps = [*cifar10_steps(cfg), *normals_steps(cfg)]
    if not steps:
        raise ValueError("nothing to do: give --cifar10, --frames or both")
    unknown = sorted(set(cfg.only or ()) - {step.name for step in steps})
    if unknown:
        raise ValueError(f"--only: no {', '.join(unknown)}; wanted some of {', '.join(step.name for step in steps)}")
    return [step for step in steps if cfg.only is None or step.name in cfg.only]


def cifar10_steps(cfg: Config) -> list[Step]:
    """The first assignment."""
    if cfg.cifar10 is None:
        return []
    folder = cfg.out / "cifar10"
    seeds = cfg.seeds[:1] if cfg.quick else cfg.seeds
    shared = ("--data", cfg.cifar10, "--seeds", *seeds)
    if cfg.quick:
        shared += ("--epochs", 1, "--holdout", 12, "--batch-size", 8)

    def training(name: str, *options: str) -> Step:
        out = folder / name
        first = out / f"seed{seeds[0]}"
        return Step(
            f"cifar10-{name}",
            "cifar10/train.py",
            (*shared, *options, "--out", out, "--resume"),
            (out / "results.csv", first / "curves.png", first / "confusion.png"),
        )

    table = folder / "ablation.csv"
    length = ("--epochs", cfg.epochs) if cfg.epochs is not None and not cfg.quick else ()
    steps = [
        training("base", "--net", "base"),
        training("base-plain", "--net", "base", "--recipe", "report"),
        training("improved", "--net", "improved", "--fc-layers", "2", "--dropout", "0"),
        Step(
            "cifar10-ablation",
            "cifar10/ablate.py",
            (*shared, *length, "--table", table, "--runs", folder / "ablation"),
            (table.with_suffix(".md"), table.with_suffix(".png")),
        ),
    ]
    if cfg.cifar10_test is not None:
        checkpoint = folder / "improved" / f"seed{seeds[0]}" / "last"
        results = (folder / "test.json", folder / "test.png")
        words = ("--checkpoint", checkpoint, "--data", cfg.cifar10_test, "--out", results[0], "--figure", results[1])
        sources = (checkpoint / "model.safetensors", cfg.cifar10_test)
        steps.append(Step("cifar10-test", "cifar10/evaluate.py", words, results, sources))
    return steps


def normals_steps(cfg: Config) -> list[Step]:
    """The second assignment."""
    if cfg.frames is None:
        return []
    folder = cfg.out / "surface_normals"
    words = ("--data", cfg.frames, *loader_words(cfg))
    if cfg.quick:
        words += ("--decoder-channels", *[8] * 5, "--batch-size", 2, "--holdout", 2, "--resolution", 32)
        words += ("--settings.epochs", 1, "--settings.validate-every", 1)
    encoder = ("test_resnet", False) if cfg.quick else (cfg.encoder, cfg.pretrained)
    net = ("--encoder", encoder[0], "--pretrained", encoder[1])
    run = folder / "unet"
    training = Step(
        "normals-train",
        "surface_normals/train.py",
        (*words, *net, "--out", run, "--resume"),
        (run / "val.json", run / "val.png", run / "curves.png"),
    )
    return [training, *picture_steps(cfg, folder, run / "best"), *study_steps(cfg, folder, words, encoder)]


def loader_words(cfg: Config) -> tuple[object, ...]:
    """What the scripts are told about their loaders."""
    return () if cfg.workers is None else ("--workers", cfg.workers)


def picture_steps(cfg: Config, folder: Path, checkpoint: Path) -> list[Step]:
    """What the trained network sees, and how well."""
    model = checkpoint / "model.safetensors"

    def step(name: str, script: str, data: Iterable[Path], results: tuple[Path, ...], *words: object) -> Step:
        words = ("--checkpoint", checkpoint, *words)
        return Step(f"normals-{name}", f"surface_normals/{script}.py", words, results, (model, *data))

    val, out = cfg.frames / "val", folder / "report"
    words = ("--data", val, "--out", out, *loader_words(cfg))
    steps = [step("report", "visualize", [val], (out / "report.md", out / "frames.png"), *words)]
    if cfg.photos:
        out = folder / "photos"
        words = ("--photos", *cfg.photos, "--out", out)
        steps.append(step("photos", "visualize", cfg.photos, (out / "photos*.png", out / "photos.md"), *words))
    if cfg.frames_test is not None:
        out = folder / "test.json"
        words = ("--data", cfg.frames_test, "--out", out, "--predictions", folder / "test")
        words += loader_words(cfg)
        steps.append(step("test", "evaluate", [cfg.frames_test], (out,), *words))
    return steps


def study_steps(cfg: Config, folder: Path, words: tuple[object, ...], encoder: tuple[str, bool | str]) -> list[Step]:
    """The ablations: of the pretrained encoder, and of the report's from scratch, for which one seed must do."""
    length = ("--settings.epochs", cfg.epochs) if cfg.epochs is not None and not cfg.quick else ()
    few = {
        "loss-weights": ["(1, 1)", "(5, 5)"],
        "loss-scale": ["SGD, (1, 1)"],
        "skips": ["skips 2 and 3", "none"],
        "upsampling": ["U-Net, bilinear"],
    }
    encoders = [(*encoder, cfg.seeds)] if not cfg.quick else [(*encoder, cfg.seeds[:1])]
    if not cfg.quick and encoder[0] != "resnet18":
        encoders.append(("resnet18", False, cfg.seeds[:1]))
    steps = []
    for name, pretrained, seeds in encoders:
        for study, variants in few.items():
            table = folder / "tables" / f"{study}-{name}"
            options = ("--study", study, "--encoder", name, "--pretrained", pretrained, "--seeds", *seeds, *length)
            options += ("--variants", *variants) if cfg.quick else ()
            places = ("--results", table.parent, "--runs", folder / "ablation")
            results = (Path(f"{table}.md"), Path(f"{table}.png"))
            steps.append(
                Step(f"normals-{study}-{name}", "surface_normals/ablate.py", (*words, *options, *places), results)
            )
    return steps


def run(command: list[str]) -> int:
    """Run a script to its end; its exit code.

    It has a process group of its own, so that Ctrl-C reaches it from here and once: it then saves its run, while a
    second one would break that off.
    """
    process: subprocess.Popen[bytes] | None = None

    def pass_on(signum: int, frame: FrameType | None) -> None:
        if process is None:
            raise KeyboardInterrupt
        process.send_signal(signum)

    with on_stop_signals(pass_on):
        process = subprocess.Popen(command, process_group=0 if os.name == "posix" else None)
        code = process.wait()
    # One that a signal ended has its number below zero; shells count such from 128.
    return code if code >= 0 else 128 - code


def write_page(cfg: Config, steps: Iterable[Step], states: Mapping[str, str]) -> None:
    """All results on one page."""
    parts = ["# Both assignments, run anew"]
    for step in steps:
        parts += [f"## {step.name}", f"{states.get(step.name, 'not run this time')}."]
        parts.append(f"```\npython examples/{step.script} {shlex.join(map(str, step.words))}\n```")
        for path in step.found():
            try:
                parts.append(show(path, cfg.out))
            except ValueError as error:  # A table of another version, say: its step has failed by it.
                parts.append(f"{path.name} is not shown: {error}")
    with atomic_file(cfg.out / "README.md") as path:
        path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def show(path: Path, root: Path) -> str:
    """A result in Markdown: a table, figures, a picture, or else a link."""
    place = path.relative_to(root).as_posix()
    if path.suffix == ".png":
        return f"![{path.stem}]({place})"
    if path.suffix == ".json":
        figures = json.loads(path.read_text(encoding="utf-8"))
        numbers = [f"{name} {value:.4f}" for name, value in figures.items() if isinstance(value, float)]
        return f"[{path.name}]({place}): {', '.join(numbers)}"
    if path.suffix == ".csv":
        rows = read_study(path)
        variants = {row.variant: Variant(row.variant, row.settings) for row in rows}
        headings = {"accuracy": "validation (%)", "accuracy_flip": "with mirroring (%)"}
        return study_markdown(rows, list(variants.values()), figures=headings).strip()
    text = path.read_text(encoding="utf-8")
    # A report has pictures of its own, which are found from its folder.
    return text.strip() if text.startswith("|") else f"[{path.name}]({place})"


if __name__ == "__main__":
    run_script(main, Config)
