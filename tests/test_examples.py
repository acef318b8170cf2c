"""The example scripts, run as their users run them, on next to nothing."""

import csv
import json
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from recordings import write_recording
from scripts import loaded_example, run_example

from normalkit import UNetNormals
from normalkit.codec import read_normals, write_normals
from normalkit.data import NormalFolder, RGBDNormals, evaluation_loader
from normalkit.inference import predict
from normalkit.models.checkpoint import load_model, read_config
from normalkit.training import evaluate
from normalkit.uncertainty import estimate

EXAMPLES = Path(__file__).parents[1] / "examples" / "surface_normals"
TINY = ["--encoder", "test_resnet", "--pretrained", "False", "--workers", "0"]
TRAIN = [
    *TINY,
    *["--decoder-channels", "8", "8", "8", "8", "8", "--batch-size", "2", "--holdout", "2"],
    *["--settings.epochs", "2", "--settings.validate-every", "1", "--settings.precision", "no"],
]

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")]


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "kitchen"
    write_recording(folder / "train", 8)
    write_recording(folder / "val", 3, seed=1)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _cache(cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


def run(name, *words):
    return run_example(EXAMPLES / f"{name}.py", *words)


@pytest.fixture(scope="module")
def trained(recording, cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert run("train", "--data", recording, "--out", folder, "--cache", cache, *TRAIN) == 0
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_train_leaves_the_run_with_its_curves_and_scores(trained):
    assert names(trained) == [
        *["best", "config.json", "curves.png", "last", "metrics.csv", "tensorboard", "val.json", "val.png"]
    ]
    with open(trained / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["train_loss"]) > 0
    best = read_config(trained / "best")
    lowest = min(float(row["mean"]) for row in rows)
    assert best["metrics"]["mean"] == lowest
    assert best["data"] == "kitchen"
    assert (best["train"]["holdout"], best["config"]["decoder_channels"]) == (2, [8] * 5)
    for name in ("curves.png", "val.png"):
        assert Image.open(trained / name).size > (100, 100)


def test_train_scores_every_frame_of_val(trained, recording):
    """Against the angles of a plain loop over them."""
    figures = json.loads((trained / "val.json").read_text())
    model, data = load_model(trained / "best"), RGBDNormals(recording / "val")
    errors = []
    for sample in (data[i] for i in range(3)):
        cosine = (predict(model, sample["image"]) * sample["normals"]).sum(0).double().numpy()
        errors.append(np.degrees(np.arccos(np.clip(cosine, -1, 1)))[sample["mask"].numpy()])
    assert figures["mean"] == pytest.approx(np.concatenate(errors).mean(), abs=0.3)


def test_train_on_all_frames_takes_the_last_epoch(recording, cache, tmp_path):
    folder = tmp_path / "run"
    words = ["--data", recording, "--out", folder, "--cache", cache, *TRAIN, "--holdout", "0", "--batch-size", "8"]
    assert run("train", *words) == 0
    best = read_config(folder / "best")
    assert (best["epoch"], best["metrics"], best["train"]["holdout"]) == (2, {}, 0)
    assert (folder / "best" / "model.safetensors").read_bytes() == (folder / "last" / "model.safetensors").read_bytes()
    assert json.loads((folder / "val.json").read_text())["mean"] > 0
    assert (folder / "curves.png").exists()


def test_train_tells_no_one_where_it_ran(trained, recording, cache):
    for path in [*trained.rglob("*.json"), *trained.rglob("*.safetensors"), *trained.rglob("*.pt")]:
        content = path.read_bytes()
        for place in (recording, cache, trained):
            assert str(place.parent).encode() not in content


def test_train_goes_on_where_it_stopped_and_ends_the_same(trained, recording, cache, tmp_path, monkeypatch):
    words = ("--data", recording, "--out", tmp_path / "run", "--cache", cache, *TRAIN)
    calls = []
    step = torch.optim.AdamW.step

    def stopped(self, *args):
        calls.append(1)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGTERM)
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", stopped)
    assert run("train", *words) == 143
    assert run("train", *words, "--resume") == 0
    for file in ("best/model.safetensors", "last/model.safetensors", "val.json"):
        assert (tmp_path / "run" / file).read_bytes() == (trained / file).read_bytes()
    assert run("train", *words) == 1


def test_train_starts_from_a_checkpoint(recording, cache, tmp_path):
    """At a rate too small to move a weight, what comes out went in."""
    torch.manual_seed(0)
    first = UNetNormals("test_resnet", pretrained=False, decoder_channels=(8,) * 5, resolution=64, concentration=2.0)
    first.save_pretrained(tmp_path / "first")
    words = ["--data", recording, "--out", tmp_path / "run", "--cache", cache, "--start-from", tmp_path / "first"]
    words += ["--workers", 0, "--holdout", 2, "--settings.epochs", 1, "--settings.lr", 1e-12, "--resolution", 48]
    assert run("train", *words) == 0
    best = load_model(tmp_path / "run/best")
    for (name, weight), before in zip(best.named_parameters(), first.parameters(), strict=True):
        torch.testing.assert_close(weight, before, msg=name)
    facts = read_config(tmp_path / "run/best")["train"]
    assert (facts["start_from"], "encoder" in facts) == ("first", False)
    # Of the rooms' way of telling how sure it is, nothing was kept up.
    assert (best.resolution, best.concentration) == (48, None)


def test_train_starts_from_the_network_in_the_package():
    with loaded_example(EXAMPLES / "train.py") as train:
        model = train.make_model(train.Config(Path(), start_from="rooms"))
    for weight, bundled in zip(model.parameters(), load_model().parameters(), strict=True):
        assert torch.equal(weight, bundled)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--holdout", "8"], "holdout=8: wanted 0 to 7, as {data}/train has 8 frames"),
        (["--holdout", "-1"], "holdout=-1: wanted 0 to 7"),
        (["--data", "{tmp}/nowhere"], "{tmp}/nowhere: no such folder"),
        (["--data", "{tmp}/broken"], "{tmp}/broken/val"),
        (["--batch-size", "7"], "batch_size=7: wanted between 1 and 6"),
        (["--encoder", "no_such"], "no_such"),
        (["--start-from", "rooms"], "is made already; leave away --encoder, --pretrained, --decoder-channels"),
        (["--arch", "FPN"], "net='unet' has no arch; leave away --arch"),
        (
            ["--net", "bilinear", "--skips", "2", "3"],
            "net='bilinear' has no skips, decoder_channels; leave away --skips, --decoder-channels",
        ),
        (
            ["--net", "smp", "--output-stride", "8", "--upsample", "nearest"],
            "net='smp' has no upsample, decoder_channels, output_stride; leave away --upsample, --deco",
        ),
        (["--out", "{run}"], "{run} holds a run; resume it (--resume) or choose another folder"),
        (["--out", "{run}", "--resume", "--alpha", "7"], "has metadata.train.alpha=1.0, this one 7.0"),
        (["--out", "{tmp}/file/run"], "cannot write {tmp}/file/run"),
        (["--settings.lr", "0"], "lr=0.0: wanted a positive rate"),
    ],
)
def test_train_refuses_in_one_line_before_it_begins(capsys, trained, recording, tmp_path, words, message):
    (tmp_path / "file").touch()
    write_recording(tmp_path / "broken" / "train", 3)
    (tmp_path / "broken" / "val").mkdir()
    capsys.readouterr()
    places = {"tmp": tmp_path, "run": trained, "data": recording}
    filled = [word.format(**places) for word in words]
    # Of an option that is given twice, the last counts.
    assert run("train", "--data", recording, "--out", tmp_path / "out", *TRAIN, *filled) in (1, 2)
    errors = capsys.readouterr().err
    assert message.format(**places) in " ".join(errors.split())
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()


def test_evaluate_gives_the_figures_of_training(capsys, trained, recording, tmp_path):
    out = tmp_path / "new" / "figures.json"
    words = ("--checkpoint", trained / "best", "--data", recording / "val", "--out", out, "--workers", "0")
    assert run("evaluate", *words, "--batch-size", "2") == 0
    assert json.loads(out.read_text()) == pytest.approx(json.loads((trained / "val.json").read_text()), abs=1e-4)
    assert capsys.readouterr().out.startswith("loss ")
    assert run("evaluate", *words, "--flip") == 0
    assert json.loads(out.read_text())["mean"] != json.loads((trained / "val.json").read_text())["mean"]


def line_of(output):
    """The five figures of evaluate.py, from its last line."""
    names, figures = output.splitlines()[-1].split(": ")
    assert names == "mean, median, 11.25, 22.5, 30"
    assert all(len(word.partition(".")[2]) == 4 for word in figures.split(", "))
    return [float(word) for word in figures.split(", ")]


def figures_of(folder, truths, suffix):
    """The five figures of prediction files, by numpy: from the angles of all pixels."""
    errors = []
    for name, (normals, mask) in truths.items():
        predicted, _ = read_normals(folder / f"{name}.normals{suffix}")
        cosine = (predicted * normals).sum(0).double().numpy()[mask.numpy()]
        errors.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    errors = np.concatenate(errors)
    return [errors.mean(), np.median(errors), *(100 * (errors < limit).mean() for limit in (11.25, 22.5, 30))]


@pytest.mark.parametrize("form", ["png", "png16", "npy"])
def test_evaluate_keeps_the_predictions_that_it_scores(trained, recording, tmp_path, capsys, form):
    words = ("--checkpoint", trained / "best", "--data", recording / "val", "--workers", "0", "--batch-size", "2")
    out = tmp_path / "sent" / "in"
    assert run("evaluate", *words, "--predictions", out, "--format", form) == 0
    printed = line_of(capsys.readouterr().out)
    suffix = ".npy" if form == "npy" else ".png"
    assert names(out) == [f"frame-{number:06}.normals{suffix}" for number in range(3)]
    # A PNG has its bits a channel there.
    assert form == "npy" or (out / "frame-000000.normals.png").read_bytes()[24] == (16 if form == "png16" else 8)
    data = RGBDNormals(recording / "val")
    truths = {sample["name"]: (sample["normals"], sample["mask"]) for sample in (data[i] for i in range(3))}
    # 8 bits turn a normal by up to 0.39 degrees, which may carry a pixel over a limit.
    figures = figures_of(out, truths, suffix)
    assert printed[:2] == pytest.approx(figures[:2], abs=0.3 if form == "png" else 0.03)
    assert printed[2:] == pytest.approx(figures[2:], abs=5 if form == "png" else 0.1)


def test_evaluate_writes_predictions_as_it_says(trained, recording, tmp_path):
    """Read as a grader does who has no normalkit: OPENCV axes, (n + 1) / 2 as RGB or float32 (H, W, 3)."""
    words = ("--checkpoint", trained / "best", "--data", recording / "val", "--workers", "0", "--predictions")
    for form in ("png", "npy"):
        assert run("evaluate", *words, tmp_path / form, "--format", form) == 0
    model = load_model(trained / "best")
    for color in (recording / "val").glob("*.color.jpg"):
        name = color.name.removesuffix(".color.jpg")
        wanted = predict(model, color).permute(1, 2, 0).numpy()
        array = np.load(tmp_path / "npy" / f"{name}.normals.npy")
        assert (array.shape, array.dtype) == ((48, 64, 3), np.float32)
        assert np.abs(array - wanted).max() < 1e-3
        colours = np.asarray(Image.open(tmp_path / "png" / f"{name}.normals.png")) / 255
        assert np.abs(2 * colours - 1 - wanted).max() < 1.001 / 255 + 1e-3


def test_evaluate_scores_normals_in_files_and_frames_in_folders_of_their_own(trained, recording, tmp_path, capsys):
    truths = {}
    for part, folder in enumerate(("seq-01", "seq-02")):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for color in sorted((recording / "val").glob("*.color.jpg"))[:2]:
            name = color.name.removesuffix(".color.jpg")
            shutil.copy(color, tmp_path / "data" / folder)
            normals = torch.zeros(3, 48, 64)
            normals[part], normals[2] = 0.6, -0.8
            write_normals(tmp_path / "data" / folder / f"{name}.normal.png", normals)
            truths[f"{folder}/{name}"] = normals, torch.ones(48, 64, dtype=torch.bool)
    words = ("--checkpoint", trained / "best", "--data", tmp_path / "data", "--workers", "0")
    out = tmp_path / "out"
    assert run("evaluate", *words, "--predictions", out, "--format", "png16") == 0
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.png")} == {f"{n}.normals.png" for n in truths}
    # The truth of 8 bits.
    assert line_of(capsys.readouterr().out)[:2] == pytest.approx(figures_of(out, truths, ".png")[:2], abs=0.3)


def test_evaluate_predicts_pictures_that_have_no_truth(trained, recording, tmp_path, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    frame = Image.open(next((recording / "val").glob("*.color.jpg")))
    frame.save(photos / "frame-000007.color.jpg")
    frame.rotate(90, expand=True).save(photos / "mine.png")
    (photos / "text.jpg").write_text("not a picture")
    words = ("--checkpoint", trained / "best", "--data", photos, "--workers", "0")
    assert run("evaluate", *words) == 1
    assert f"{photos}: pictures without depth or normals, so there is nothing to score" in capsys.readouterr().err
    assert run("evaluate", *words, "--predictions", out, "--out", tmp_path / "figures.json") == 1
    assert not out.exists()
    assert run("evaluate", *words, "--predictions", out) == 1
    said = capsys.readouterr()
    assert f"{photos}: 3 pictures without depth or normals; not scored" in said.out
    assert f"evaluate.py: {photos / 'text.jpg'}: not a JPEG" in said.err
    assert "evaluate.py: 1 of 3 files failed" in said.err
    assert names(out) == ["frame-000007.normals.png", "mine.normals.png"]
    model = load_model(trained / "best")
    for name, photo in (("frame-000007", "frame-000007.color.jpg"), ("mine", "mine.png")):
        normals, _ = read_normals(out / f"{name}.normals.png")
        assert (normals * predict(model, photos / photo)).sum(0).min() > 0.999


def test_evaluate_takes_normals_beside_pictures_for_no_photos(recording, tmp_path, capsys):
    """Pairs of files are no frames: it says which command scores them, and predicts no picture of normals."""
    data = tmp_path / "pairs of mine"
    data.mkdir()
    for color in (recording / "val").glob("*.color.jpg"):
        shutil.copy(color, data / f"{color.name[:12]}_img.jpg")
        write_normals(
            data / f"{color.name[:12]}_normal.png", torch.tensor([0.0, 0, -1]).view(3, 1, 1).expand(3, 48, 64)
        )
    words = ("--checkpoint", tmp_path / "nowhere", "--data", data, "--workers", "0")
    for more in ((), ("--predictions", tmp_path / "out")):
        assert run("evaluate", *words, *more) == 1
        said = capsys.readouterr().err
        command = f"normalkit evaluate --data '{data}' --images '*_img.jpg' --normals '*_normal.png'"
        assert command in " ".join(said.split())
    assert not (tmp_path / "out").exists()


def test_evaluate_refuses_before_it_reads_the_network(trained, recording, tmp_path, capsys):
    """The checkpoint is missing: what is said first was found first."""
    words = ("--checkpoint", tmp_path / "nowhere", "--workers", "0", "--data")
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for more, message in (
        ([tmp_path / "empty"], f"{tmp_path / 'empty'}: no pictures in this folder"),
        ([tmp_path / "none"], f"{tmp_path / 'none'}: no such folder"),
        ([recording / "val", "--predictions", tmp_path / "file" / "out"], f"cannot write {tmp_path / 'file' / 'out'}"),
        ([recording / "val", "--out", tmp_path / "file" / "f.json"], f"cannot write {tmp_path / 'file'}"),
        ([recording / "val", "--out", tmp_path / "empty"], f"--out {tmp_path / 'empty'} is a folder"),
    ):
        assert run("evaluate", *words, *more) == 1
        assert message in " ".join(capsys.readouterr().err.split())


def test_evaluate_names_the_frame_that_does_not_decode(trained, recording, tmp_path, capsys):
    data = shutil.copytree(recording / "val", tmp_path / "data")
    broken = data / "frame-000002.color.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    words = ("--checkpoint", trained / "best", "--data", data, "--workers", "0", "--out", tmp_path / "f.json")
    assert run("evaluate", *words) == 1
    assert f"{broken}: the file is truncated or broken" in capsys.readouterr().err
    assert not (tmp_path / "f.json").exists()


def test_evaluate_refuses_names_that_collide_or_leave_the_folder(trained, recording, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    frame = Image.open(next((recording / "val").glob("*.color.jpg")))
    frame.save(photos / "a.color.jpg")
    frame.save(photos / "a.png")
    words = ("--checkpoint", trained / "best", "--data", photos, "--workers", "0", "--predictions")
    assert run("evaluate", *words, tmp_path / "out") == 1
    assert "frames a and a would both be written to" in capsys.readouterr().err
    (photos / "a.png").unlink()
    # A folder of frames that links elsewhere in the folder of predictions.
    (tmp_path / "data" / "seq").mkdir(parents=True)
    for path in (recording / "val").glob("frame-000000.*"):
        shutil.copy(path, tmp_path / "data" / "seq")
    shutil.copy(recording / "val" / "camera-intrinsics.txt", tmp_path / "data")
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / "seq").symlink_to(tmp_path / "photos")
    words = ("--checkpoint", trained / "best", "--data", tmp_path / "data", "--workers", "0", "--predictions")
    assert run("evaluate", *words, tmp_path / "out") == 1
    assert "frame seq/frame-000000: its prediction would leave" in capsys.readouterr().err
    assert names(photos) == ["a.color.jpg"]


def test_predict_draws_and_writes(trained, recording, tmp_path, capsys):
    photos = sorted((recording / "val").glob("*.color.jpg"))[:2]
    words = ("--checkpoint", trained / "best", "--out", tmp_path / "out")
    assert run("predict", *words, "--photos", *photos) == 0
    stems = [photo.stem for photo in photos]
    assert names(tmp_path / "out") == sorted(f"{s}.{kind}.png" for s in stems for kind in ("normals", "figure"))
    normals, _ = read_normals(tmp_path / "out" / f"{stems[0]}.normals.png")
    assert (normals * predict(load_model(trained / "best"), photos[0])).sum(0).min() > 0.999
    assert run("predict", *words, "--photos", photos[0], recording / "train" / photos[0].name) == 1
    assert run("predict", *words, "--photos", tmp_path / "nowhere.jpg") == 1
    assert "nowhere.jpg: no such file" in capsys.readouterr().err
    (tmp_path / "0.jpg").write_text("not a picture")
    assert run("predict", *words[:3], tmp_path / "more", "--photos", tmp_path / "0.jpg", photos[1]) == 1
    errors = capsys.readouterr().err
    assert f"predict.py: {tmp_path / '0.jpg'}: not a JPEG" in errors
    assert "predict.py: 1 of 2 files failed" in errors
    assert names(tmp_path / "more") == [f"{stems[1]}.figure.png", f"{stems[1]}.normals.png"]


def test_demo_draws_trains_scores_and_keeps_what_is_there(tmp_path, capsys):
    out = tmp_path / "demo"
    out.mkdir()
    (out / "mine.txt").write_text("keep me")
    words = ("--out", out, "--rooms", "8", "--size", "32", "--epochs", "1", *TINY)
    assert run("demo", *words) == 0
    lines = capsys.readouterr().out
    for name in ("best constant normal", "per-pixel mean normal", "U-Net"):
        assert f"  {name} " in lines
    assert {"best", "last", "metrics.csv", "figure.png", "curves.png", "mine.txt"} <= set(names(out))
    before = (out / "best" / "model.safetensors").stat().st_mtime_ns
    assert run("demo", *words) == 0
    assert (out / "best" / "model.safetensors").stat().st_mtime_ns == before
    assert run("demo", *words, "--epochs", "2") == 1
    assert "has epochs=1, this one 2; use the same, or another folder" in capsys.readouterr().err


def test_pretrain_draws_rooms_once_and_says_how_sure_it_is(tmp_path, capsys):
    words = ["--rooms", tmp_path / "rooms", "--out", tmp_path / "run", "--count", 4, "--held-out", 2]
    words += ["--height", 24, "--width", 32, "--resolution", 32, "--batch-size", 2, "--settings.epochs", 1, *TINY]
    words += ["--decoder-channels", *[8] * 5]
    assert run("pretrain", *words) == 0
    said = json.loads((tmp_path / "run/rooms.json").read_text())
    model = load_model(tmp_path / "run/model")
    assert model.concentration == pytest.approx(said["concentration"])
    held_out = NormalFolder(tmp_path / "rooms/held-out", convention=None)
    scored = evaluate(model, evaluation_loader(held_out, workers=0), progress=False)
    assert said["mean"] == pytest.approx(scored["mean"], abs=0.2)
    normals, degrees = estimate(model, torch.rand(1, 3, 30, 40))
    assert (normals.shape, degrees.shape) == ((1, 3, 30, 40), (1, 30, 40))
    assert f"concentration {said['concentration']:.3f}" in capsys.readouterr().out
    drawn = {path: path.stat().st_mtime_ns for path in (tmp_path / "rooms").rglob("*.*")}
    assert run("pretrain", *words, "--resume") == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "rooms").rglob("*.*")} == drawn


def test_visualize_draws_photos_and_reports_on_frames(trained, recording, tmp_path, capsys):
    photos, out = tmp_path / "photos", tmp_path / "pictures"
    photos.mkdir()
    for number, frame in enumerate(sorted((recording / "val").glob("*.color.jpg"))[:2]):
        Image.open(frame).rotate(90 * number, expand=True).save(photos / f"{number}.jpg")
    (photos / "text.jpg").write_text("not a picture")
    words = ("--checkpoint", trained / "best", "--out", out, "--workers", "0", "--count", "2")
    assert run("visualize", *words, "--photos", photos, "--data", recording / "val") == 1
    assert f"left out: {photos / 'text.jpg'}: not a JPEG" in capsys.readouterr().err
    figures = [f"{name}.{kind}" for name in ("best", "curves", "frames", "photos", "worst") for kind in ("pdf", "png")]
    assert names(out) == sorted([*figures, "errors.csv", "report.md"])
    rows = rows_of(out / "errors.csv")
    assert [row["name"] for row in rows] == [RGBDNormals(recording / "val")[i]["name"] for i in range(3)]
    # Pooled over frames of as many valid pixels, or nearly.
    mean = json.loads((trained / "val.json").read_text())["mean"]
    assert np.mean([float(row["mean"]) for row in rows]) == pytest.approx(mean, rel=0.1)
    text = (out / "report.md").read_text()
    assert f"| all | {mean:.2f} |" in text
    assert "| config.encoder | `test_resnet` |" in text
    assert all((out / name).is_file() for name in re.findall(r"\]\((\S+)\)", text))


def test_visualize_spreads_many_photos_over_pages(trained, recording, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    frame = Image.open(next((recording / "val").glob("*.color.jpg")))
    for number in range(9):
        frame.save(photos / f"{number}.jpg")
    assert run("visualize", "--checkpoint", trained / "best", "--out", out, "--photos", photos) == 0
    assert names(out) == ["photos-1.pdf", "photos-1.png", "photos-2.pdf", "photos-2.png", "photos.md"]
    first, second = (Image.open(out / f"photos-{number}.png").height for number in (1, 2))
    assert first > 3 * second


def test_visualize_finishes_with_a_page_of_all_photos(trained, recording, tmp_path, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    (frame, *_) = (recording / "val").glob("*.color.jpg")
    for number in range(9):
        shutil.copy(frame, photos / f"{number}.jpg")
    words = ("--checkpoint", trained / "best", "--out", out, "--photos", photos)
    assert run("visualize", *words) == 0
    page = (out / "photos.md").read_text()
    assert re.findall(r"\]\((\S+)\)", page) == ["photos-1.png", "photos-2.png"]
    # Fewer photos: nothing is left of the others.
    for number in range(2, 9):
        (photos / f"{number}.jpg").unlink()
    assert run("visualize", *words) == 0
    assert names(out) == ["photos.md", "photos.pdf", "photos.png"]
    # One that cannot be drawn is said each time, and a page that lacks it would say that all is well.
    (photos / "1.jpg").write_text("not a picture")
    assert run("visualize", *words) == 1
    assert names(out) == ["photos.pdf", "photos.png"]


def test_visualize_keeps_photos_that_lie_among_its_own(trained, recording, tmp_path):
    (frame, *_) = (recording / "val").glob("*.color.jpg")
    photo = tmp_path / "photos-1.png"
    Image.open(frame).save(photo)
    before = photo.read_bytes()
    assert run("visualize", "--checkpoint", trained / "best", "--out", tmp_path, "--photos", photo) == 0
    assert photo.read_bytes() == before


def test_visualize_draws_a_page_before_it_reads_the_next(tmp_path, monkeypatch):
    """However many photos there are, no more than a page's are held."""
    events = []
    photos = [Path(f"{number}.jpg") for number in range(19)]
    with loaded_example(EXAMPLES / "visualize.py") as visualize:
        monkeypatch.setattr(visualize, "read_image", lambda photo: torch.zeros(3, 4, 4, dtype=torch.uint8))
        monkeypatch.setattr(visualize, "predict", lambda *_, **__: events.append("photo") or torch.ones(3, 4, 4))
        monkeypatch.setattr(visualize, "save", lambda cfg, name, figure: events.append(name))
        assert visualize.draw_photos(visualize.Config(tmp_path, tmp_path), torch.nn.Identity(), photos) == []
    assert events == [*["photo"] * 8, "photos-1", *["photo"] * 8, "photos-2", *["photo"] * 3, "photos-3"]


def test_visualize_spreads_its_frames_over_all(trained, recording, tmp_path, monkeypatch):
    drawn = {}
    with loaded_example(EXAMPLES / "visualize.py") as visualize:
        monkeypatch.setattr(visualize, "comparison_grid", lambda *_, names: names)
        monkeypatch.setattr(visualize, "save", lambda cfg, name, figure: drawn.setdefault(name, figure))
        # Only with the device that networks are trained on.
        monkeypatch.setattr(visualize, "load_model", lambda path, *, device: load_model(path, device=device))
        words = {"data": recording / "train", "workers": 0}
        assert visualize.main(visualize.Config(trained / "best", tmp_path / "out", **words)) == 0
    # Five of eight: each the middle of a fifth of them.
    assert [int(name[-6:]) for name in drawn["frames"]] == [0, 2, 4, 5, 7]
    means = {row["name"]: float(row["mean"]) for row in rows_of(tmp_path / "out" / "errors.csv")}
    ranked = sorted(means, key=means.get)
    assert drawn["best"] == ranked[:5]
    assert drawn["worst"] == ranked[:-6:-1]


def test_visualize_of_photos_none_of_which_decodes_draws_none(trained, tmp_path, capsys):
    (tmp_path / "text.jpg").write_text("not a picture")
    words = ("--checkpoint", trained / "best", "--out", tmp_path / "out", "--photos", tmp_path)
    assert run("visualize", *words) == 1
    assert f"left out: {tmp_path / 'text.jpg'}: not a JPEG" in capsys.readouterr().err
    assert names(tmp_path / "out") == []


def test_visualize_says_what_it_wants(trained, recording, tmp_path, capsys):
    words = ("--checkpoint", trained / "best", "--out", tmp_path / "out")
    assert run("visualize", *words) == 1
    assert "nothing to draw: give --photos, --data or both" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run("visualize", *words, "--photos", tmp_path / "empty") == 1
    assert f"{tmp_path / 'empty'}: no pictures in this folder" in capsys.readouterr().err
    assert run("visualize", *words, "--data", recording / "val", "--count", "0") == 1
    assert "--count 0: wanted at least 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def study(recording, cache, tmp_path):
    """Runs a study on next to nothing, its tables under `results`."""
    words = ["--data", recording, "--cache", cache, "--results", tmp_path / "results", "--runs", tmp_path / "runs"]
    words += [*TINY, *TRAIN[len(TINY) :]]
    words[words.index("--settings.epochs") + 1] = "1"
    return lambda name, *more: run("ablate", "--study", name, *words, *more)


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_study_has_rows_of_val_and_of_the_held_out_frames(study, recording, tmp_path, capsys):
    assert study("skips", "--variants", "without skip 4", "none") == 0
    rows = rows_of(tmp_path / "results" / "skips-test_resnet.csv")
    assert [row["variant"] for row in rows] == ["without skip 4", "none"]
    for row, skips in zip(rows, ([1, 2, 3], []), strict=True):
        best = next(path for path in tmp_path.rglob("best") if read_config(path)["config"]["skips"] == skips)
        facts = read_config(best)
        assert (facts["train"]["alpha"], facts["train"]["beta"], facts["settings"]["clip"]) == (5, 5, 0)
        assert float(row["held_out_mean"]) == facts["metrics"]["mean"]
        assert run("evaluate", "--checkpoint", best, "--data", recording / "val", "--out", tmp_path / "f.json") == 0
        assert float(row["mean"]) == pytest.approx(json.loads((tmp_path / "f.json").read_text())["mean"], abs=1e-4)
    capsys.readouterr()
    assert study("skips", "--variants", "none") == 0
    assert capsys.readouterr().out.count("finished earlier") == 1
    lines = (tmp_path / "results" / "skips-test_resnet.md").read_text().splitlines()
    assert len(lines) == 2 + 5
    assert [line.split("|")[3].strip() for line in lines[2:]] == ["38.0", "37.4", "38.1", "35.9", "-"]
    assert (tmp_path / "results" / "skips-test_resnet.png").stat().st_size > 1000


def test_studies_share_the_network_that_both_have(study, tmp_path):
    assert study("skips", "--variants", "all four", "--seeds", "1") == 0
    assert study("loss-weights", "--variants", "(5, 5)", "(0.5, 1.5)", "--seeds", "1") == 0
    other, shared = rows_of(tmp_path / "results" / "loss-weights-test_resnet.csv")
    (first,) = rows_of(tmp_path / "results" / "skips-test_resnet.csv")
    assert {**first, "variant": "(5, 5)"} == shared
    assert other["mean"] != shared["mean"]
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_a_study_of_another_optimizer_keeps_the_other_settings(study, tmp_path):
    assert study("loss-scale", "--variants", "SGD, (2, 2)", "--settings.momentum", "0.5") == 0
    (row,) = rows_of(tmp_path / "results" / "loss-scale-test_resnet.csv")
    (best,) = tmp_path.rglob("best")
    facts = read_config(best)
    assert row["variant"] == "SGD, (2, 2)"
    assert (facts["train"]["alpha"], facts["train"]["beta"]) == (2, 2)
    wanted = {"optimizer": "sgd", "lr": 1e-3, "momentum": 0.9, "clip": 0, "epochs": 1}
    assert {name: facts["settings"][name] for name in wanted} == wanted


def test_a_decoders_widths_are_no_options_of_networks_without_one(study, trained, tmp_path):
    """A run of theirs is the same whatever the others' decoder is like."""
    with loaded_example(EXAMPLES / "train.py") as train:
        for net in ("bilinear", "smp"):
            config = train.Config(Path(), net=net, encoder="test_resnet", pretrained=False, decoder_channels=(8,) * 5)
            with pytest.raises(ValueError, match=f"net='{net}' has no decoder_channels; leave away --decoder-channels"):
                train.make_model(config)
    members = ("--variants", "bilinear head", "U-Net, bilinear")
    for width in ("8", "4"):
        assert study("upsampling", *members, "--decoder-channels", *[width] * 5) == 0
    rows = rows_of(tmp_path / "results" / "upsampling-test_resnet.csv")
    assert [row["variant"] for row in rows] == ["bilinear head", "U-Net, bilinear", "U-Net, bilinear"]


def test_a_study_of_costs(study, tmp_path):
    assert study("upsampling", "--variants", "bilinear head", "U-Net, output stride 8", "DeepLabV3+") == 0
    rows = rows_of(tmp_path / "results" / "upsampling-test_resnet.csv")
    for row in rows:
        (best,) = (path / "best" for path in (tmp_path / "runs").iterdir() if slug(row["variant"]) in path.name)
        count = sum(parameter.numel() for parameter in load_model(best).parameters())
        assert float(row["parameters"]) == pytest.approx(count / 1e6)
        assert 0 < float(row["milliseconds"]) < 60_000
        # A step keeps at least its images and its answer.
        assert float(row["megabytes"]) > 0.1


def test_costs_without_a_count_of_memory_are_those_that_are_known(trained, monkeypatch, capsys):
    def uncounted(run, *, device):
        raise FileNotFoundError("/proc/self/clear_refs")

    monkeypatch.setattr("normalkit.profiling.peak_memory", uncounted)
    assert run("cost", "--checkpoint", trained / "best", "--repeats", "1", "--height", "48", "--width", "64") == 0
    said = capsys.readouterr()
    assert set(json.loads(said.out)) == {"parameters", "milliseconds"}
    assert "the memory of a step is not known" in said.err


def slug(name):
    return re.sub(r"\W+", "-", f"{name} ")


def test_a_study_with_an_impossible_member_keeps_the_others(study, tmp_path, capsys):
    # This encoder has no level 1.
    words = ("--encoder", "test_convnext", "--variants", "without skip 4", "none")
    assert study("skips", *words) == 1
    errors = capsys.readouterr().err
    assert "without skip 4, seed 0: failed: ValueError: skips=(1, 2, 3): level 1 does not exist" in errors
    assert "1 of 2 runs failed; the others are kept" in errors
    table = tmp_path / "results" / "skips-test_convnext.csv"
    assert [row["variant"] for row in rows_of(table)] == ["none"]
    assert "| none " in table.with_suffix(".md").read_text()
    before = table.read_bytes()
    assert study("skips", *words) == 1
    assert "none, seed 0: finished earlier" in capsys.readouterr().out
    assert table.read_bytes() == before


def test_a_network_that_does_not_exist_is_no_member_of_a_grid():
    """It is not another one under its name."""
    with loaded_example(EXAMPLES / "train.py") as train:
        for options in ({"net": "transformer"}, {"net": "smp", "arch": "FPN", "output_stride": 8}):
            with pytest.raises(ValueError, match=f"net='{options['net']}'"):
                train.make_model(train.Config(Path(), encoder="test_resnet", pretrained=False, **options))


@pytest.mark.parametrize("name", ["skips", "upsampling"])
def test_a_study_leaves_a_table_of_another_version_alone(study, tmp_path, capsys, name):
    """Its own, and that of a study whose runs it would take over."""
    table = tmp_path / "results" / f"{name}-test_resnet.csv"
    table.parent.mkdir()
    table.write_text("variant,seed,mean\nnone,0,30.5\n")
    assert study("skips", "--variants", "none") == 1
    message = f"{table}, line 1: the columns are variant, seed, mean; wanted variant, seed, settings"
    errors = capsys.readouterr().err
    assert message in errors
    assert "move it away" in errors
    # Said once, and not of each run.
    assert "runs failed" not in errors
    assert table.read_text() == "variant,seed,mean\nnone,0,30.5\n"
    assert not (tmp_path / "runs").exists()


def test_a_finished_study_needs_its_rows_alone(study, tmp_path, capsys):
    assert study("skips", "--variants", "none") == 0
    table = tmp_path / "results" / "skips-test_resnet.csv"
    table.with_suffix(".md").unlink()
    shutil.rmtree(tmp_path / "runs")
    # The rows say the name of the data, not its place.
    assert study("skips", "--variants", "none", "--data", tmp_path / "elsewhere" / "kitchen") == 0
    assert "| none " in table.with_suffix(".md").read_text()
    assert study("skips", "--variants", "none", "--data", tmp_path / "elsewhere" / "kitchen", "--seeds", "0", "1") == 1
    assert "no such folder" in capsys.readouterr().err


def test_a_study_refuses_what_it_has_not(study, recording, tmp_path, capsys):
    assert study("skips", "--variants", "all") == 1
    assert "--variants: no all; wanted some of all four; without skip 1" in capsys.readouterr().err
    assert study("skips", "--data", recording / "train") == 1
    assert f"{recording / 'train' / 'val'}: missing" in capsys.readouterr().err
    assert study("skips", "--encoder", "no_such", "--variants", "none") == 1
    assert "1 of 1 runs failed" in capsys.readouterr().err
