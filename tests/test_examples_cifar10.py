"""The CIFAR-10 scripts, run as their users run them, on a few coloured squares."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scripts import loaded_example, run_example
from squares import COLOURS, write_squares

from normalkit.classification import evaluate_classifier
from normalkit.data import device_evaluation_loader, read_labeled_images
from normalkit.models import BaseNet, Classifier
from normalkit.models.checkpoint import read_config

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples" / "cifar10"
QUICK = ["--epochs", "2", "--batch-size", "8", "--holdout", "6"]


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    folder = tmp_path_factory.mktemp("squares")
    write_squares(folder)
    return folder


def run(name, *words):
    return run_example(EXAMPLES / f"{name}.py", *words)


@pytest.fixture(scope="module")
def trained(squares, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "cifar"
    assert run("train", "--data", squares, "--out", folder, "--seeds", "3", "4", *QUICK) == 0
    return folder


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_train_leaves_a_folder_for_each_seed_and_the_table(trained):
    assert sorted(path.name for path in trained.iterdir()) == ["results.csv", "seed3", "seed4"]
    files = ["best", "config.json", "confusion.png", "curves.png", "last", "metrics.csv", "tensorboard", "val.json"]
    assert sorted(path.name for path in (trained / "seed3").iterdir()) == files
    rows = rows_of(trained / "results.csv")
    assert [row["seed"] for row in rows] == ["3", "4"]
    assert rows[0]["variant"] == "base net, modern recipe"
    for row in rows:
        epochs = rows_of(trained / f"seed{row['seed']}" / "metrics.csv")
        assert len(epochs) == 2
        # The figure is that of the last epoch, whichever was best.
        assert float(row["accuracy"]) == float(epochs[-1]["accuracy"])
        figures = json.loads((trained / f"seed{row['seed']}" / "val.json").read_text())
        assert figures["accuracy"] == float(row["accuracy"])
        assert np.mean(list(figures["by_class"].values())) == pytest.approx(figures["accuracy"])
    header = read_config(trained / "seed3" / "last")
    assert header["classes"] == sorted(COLOURS)
    assert header["train"]["epochs"] == 2


def test_seeds_differ_and_finished_ones_are_not_trained_again(trained, squares, capsys):
    one, other = (BaseNet.from_pretrained(trained / f"seed{seed}" / "last").state_dict() for seed in (3, 4))
    assert not torch.equal(one["fc2.weight"], other["fc2.weight"])
    before = (trained / "results.csv").read_bytes()
    assert run("train", "--data", squares, "--out", trained, "--seeds", "3", "4", *QUICK) == 0
    assert capsys.readouterr().out.count("finished earlier") == 2
    assert (trained / "results.csv").read_bytes() == before
    # The rows alone are needed, not the images.
    elsewhere = trained / "elsewhere" / squares.name
    assert run("train", "--data", elsewhere, "--out", trained, "--seeds", "3", "4", *QUICK) == 0
    assert run("train", "--data", elsewhere, "--out", trained, "--seeds", "3", "5", *QUICK) == 1
    assert f"{elsewhere} does not exist" in capsys.readouterr().err


def test_evaluate_prints_the_reports_lines(trained, squares, tmp_path, capsys):
    words = ["--checkpoint", trained / "seed3" / "last", "--data", squares, "--split", "test"]
    assert run("evaluate", *words, "--out", tmp_path / "test.json", "--figure", tmp_path / "confusion.png") == 0
    lines = capsys.readouterr().out.splitlines()
    figures = json.loads((tmp_path / "test.json").read_text())
    assert lines[0] == f"Accuracy of the final network on the test images: {figures['accuracy']:.1f} %"
    assert [line.split()[2] for line in lines[1:]] == sorted(COLOURS)
    assert (tmp_path / "confusion.png").stat().st_size > 1000
    # The oracle: the network by hand, on the files as PIL reads them.
    net = BaseNet.from_pretrained(trained / "seed3" / "last")
    right = []
    for label, name in enumerate(sorted(COLOURS)):
        for path in (squares / "test" / name).iterdir():
            image = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None] / 255
            right.append(int(net(image).argmax()) == label)
    assert figures["accuracy"] == pytest.approx(100 * np.mean(right))
    assert figures["flip"] is False
    assert run("evaluate", *words, "--out", tmp_path / "flip.json", "--flip") == 0
    assert "mirrored" in capsys.readouterr().out
    assert json.loads((tmp_path / "flip.json").read_text())["flip"] is True


def test_the_reports_recipe_learns_colours(squares, tmp_path):
    words = ["--recipe", "report", "--epochs", "6", "--batch-size", "6", "--holdout", "6"]
    assert run("train", "--data", squares, "--out", tmp_path / "run", *words) == 0
    assert float(rows_of(tmp_path / "run" / "results.csv")[0]["accuracy"]) == 100


def test_a_class_that_nothing_is_held_out_of_has_no_accuracy(squares, tmp_path):
    words = ["--epochs", "1", "--batch-size", "8", "--holdout", "2"]
    assert run("train", "--data", squares, "--out", tmp_path / "run", *words) == 0
    text = (tmp_path / "run" / "seed0" / "val.json").read_text()
    figures = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert list(figures["by_class"].values()).count(None) == 1


def test_the_small_net_has_channels_first_in_every_recipe():
    """A processor takes twice as long with channels last: docs/results/performance.md."""
    with loaded_example(EXAMPLES / "train.py") as script:
        assert not any(recipes["base"].settings.channels_last for recipes in script.RECIPES.values())
        assert all(recipes["improved"].settings.channels_last for recipes in script.RECIPES.values())


def test_a_stopped_run_is_resumed_on_request(squares, tmp_path, capsys):
    words = ["--data", squares, "--out", tmp_path / "run", *QUICK]
    assert run("train", *words) == 0
    (tmp_path / "run" / "results.csv").unlink()
    assert run("train", *words) == 1
    assert "resume it (--resume)" in capsys.readouterr().err
    assert run("train", *words, "--resume") == 0
    assert len(rows_of(tmp_path / "run" / "results.csv")) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch-size", "100"], "batch_size=100"),
        (["--batch-size", "0"], "batch_size=0"),
        (["--padding", "-1"], "padding=-1"),
        (["--cutout", "33"], "cutout=33"),
        (["--views", "0"], "views=0: wanted at least 1, and a divisor of batch_size="),
        (["--label-smoothing", "1.5"], "label_smoothing=1.5"),
        (["--holdout", "42"], "--holdout 42: wanted 1 to 41"),
        (["--holdout", "0"], "--holdout 0: wanted 1 to 41"),
        (["--data", "nowhere"], "nowhere does not exist"),
        (["--epochs", "0"], "epochs=0: wanted at least 1"),
        (["--dropout", "0.1", "--fc-layers", "2"], "--dropout, --fc-layers: only the improved net has that; leave it"),
    ],
)
def test_bad_words_are_one_line(squares, tmp_path, capsys, words, message):
    assert run("train", "--data", squares, "--out", tmp_path / "run", *QUICK, *words) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_the_runs_of_each_network_and_recipe_have_a_folder_of_their_own():
    with loaded_example(EXAMPLES / "train.py") as script:

        def folder(**options):
            return script.folder_of(script.Config(Path("cifar10"), **options)).as_posix()

        assert folder() == "runs/cifar10/base"
        assert folder(net="improved") == "runs/cifar10/improved"
        assert folder(net="improved", recipe="report") == "runs/cifar10/improved-report"
        assert folder(out=Path("here")) == "here"


def test_data_are_known_by_the_name_of_their_folder(squares, monkeypatch):
    monkeypatch.chdir(squares)
    with loaded_example(EXAMPLES / "train.py") as script:
        here, named = (script.describe(script.Config(Path(path))) for path in (".", squares))
    assert here == named
    assert here.settings["data"] == squares.name


def test_views_are_trained_and_tell_runs_apart(squares, tmp_path):
    """Runs of one view are known by the tables that are older than the option."""
    assert run("train", "--data", squares, "--out", tmp_path / "run", *QUICK, "--views", "2") == 0
    (row,) = rows_of(tmp_path / "run" / "results.csv")
    words = {"epochs": 2, "batch_size": 8, "holdout": 6}
    with loaded_example(EXAMPLES / "train.py") as script:
        one, two = (script.describe(script.Config(squares, **words, views=views)).settings for views in (1, 2))
    assert json.loads(row["settings"]) == two == one | {"views": 2}


def test_images_of_another_size_are_named(trained, tmp_path, capsys):
    for split in ("train", "test"):
        for colour in COLOURS:
            (tmp_path / split / colour).mkdir(parents=True)
            Image.new("RGB", (48, 64)).save(tmp_path / split / colour / "1.png")
    message = " is 48 x 64; wanted 32 x 32: resize the pictures"
    words = ("evaluate", "--checkpoint", trained / "seed3" / "last", "--data", tmp_path)
    for split, command in (("test", words), ("train", ("train", "--data", tmp_path, "--out", tmp_path / "run"))):
        assert run(*command) == 1
        assert f"{tmp_path / split / min(COLOURS) / '1.png'}{message}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_other_classes_is_refused(trained, squares, tmp_path, capsys):
    (squares / "test").rename(tmp_path / "test")
    try:
        (tmp_path / "test" / "red").rename(tmp_path / "test" / "yellow")
        assert run("evaluate", "--checkpoint", trained / "seed3" / "last", "--data", tmp_path) == 1
        assert "has no red and has yellow" in capsys.readouterr().err
    finally:
        (tmp_path / "test" / "yellow").rename(tmp_path / "test" / "red")
        (tmp_path / "test").rename(squares / "test")


def test_ablate_runs_what_is_not_finished_and_reports_all(squares, tmp_path, capsys):
    words = ["--data", squares, "--table", tmp_path / "results" / "table.csv", "--runs", tmp_path / "runs"]
    words += ["--epochs", "1", "--holdout", "6", "--batch-size", "12"]
    words += ["--padding", "1", "--cutout", "4", "--label-smoothing", "0.05", "--weight-decay", "0.002", "--variants"]
    assert run("ablate", *words, "no batch norm", "pooled head") == 0
    first = rows_of(tmp_path / "results" / "table.csv")
    assert [row["variant"] for row in first] == ["no batch norm", "pooled head"]
    assert json.loads(first[0]["settings"])["batch_norm"] is False
    assert json.loads(first[1]["settings"])["head"] == "pool"
    assert json.loads(first[1]["settings"])["padding"] == 1
    assert json.loads(first[1]["settings"])["cutout"] == 4
    assert json.loads(first[1]["settings"])["label_smoothing"] == 0.05
    assert json.loads(first[1]["settings"])["weight_decay"] == 0.002
    capsys.readouterr()
    assert run("ablate", *words, "pooled head", "3 layers removed") == 0
    assert capsys.readouterr().out.count("finished earlier") == 1
    assert rows_of(tmp_path / "results" / "table.csv")[:2] == first
    lines = (tmp_path / "results" / "table.md").read_text().splitlines()
    assert run("ablate", "--data", tmp_path / squares.name, *words[2:], "pooled head", "no batch norm") == 0
    # Other settings are other runs, beside those.
    other = ["--data", squares, "--table", tmp_path / "other.csv", *words[4:-1], "--padding", "2", "--variants"]
    assert run("ablate", *other, "pooled head") == 0
    # All of Table 2 has a line, with the report's figure, whether it was run or not.
    assert len(lines) == 2 + 8
    assert [line.split("|")[3].strip() for line in lines[2:5]] == ["87.00", "86.00", "87.90"]
    assert sum(line.rstrip(" |").endswith(" 1") for line in lines) == 3
    assert (tmp_path / "results" / "table.png").stat().st_size > 1000


def test_ablate_reports_runs_that_fail(squares, tmp_path, capsys):
    words = ["--data", squares, "--table", tmp_path / "table.csv", "--runs", tmp_path / "runs"]
    assert run("ablate", *words, "--holdout", "6", "--variants", "default", "no dropout") == 1
    assert capsys.readouterr().err.count("batch_size=128: wanted between 1 and 36") >= 2
    assert run("ablate", *words, "--variants", "deeper") == 1
    assert "no deeper; wanted some of default, no batch norm" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["base", "improved"])
def test_network_in_the_repository_has_the_accuracy_of_its_row(real_data, name):
    results = ROOT / "docs" / "results" / "cifar10"
    row = next(row for row in rows_of(results / f"{name}.csv") if row["seed"] == "0")
    facts = json.loads(row["settings"])
    data = read_labeled_images(real_data / facts["data"], split="train", progress=False)
    _, validation = data.split(facts["holdout"], seed=facts["split_seed"])
    net = Classifier.from_pretrained(results / name)
    assert facts | read_config(results / name)["train"] == facts
    for flip, figure in ((False, "accuracy"), (True, "accuracy_flip")):
        scores = evaluate_classifier(net, device_evaluation_loader(validation), flip=flip)
        # Half precision, and sums in another order, may turn an image or two of the 5,000.
        assert scores.accuracy == pytest.approx(float(row[figure]), abs=0.05)
