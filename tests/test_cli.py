import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pngs import png_claiming
from recordings import write_recording
from released import make_normals, write_frame, write_release
from videos import lossless, make_frames

from normalkit import SyntheticRooms
from normalkit.cli import DatasetName, find_pictures, main, result_paths, run_script
from normalkit.codec import normals_to_rgb, read_normals, write_normals
from normalkit.data import NormalFolder, RGBDNormals, reference_rooms
from normalkit.data.layouts import LAYOUTS
from normalkit.geometry import Convention, depth_to_normals
from normalkit.images import read_depth, read_image, read_intrinsics
from normalkit.inference import predict, predict_with_error
from normalkit.models.checkpoint import load_model, save_model
from normalkit.models.unet import UNetNormals
from normalkit.training import Interrupted, format_figures
from normalkit.video import open_video
from normalkit.visualize.relight import relight

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "best"
    model = UNetNormals("test_resnet", pretrained=False, decoder_channels=(8, 8, 8, 8, 8), skips=(2, 3))
    save_model(folder, model, metadata={"data": "red_kitchen", "metrics": {"mean": 19.25}})
    return folder


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "recording"
    write_recording(folder, 3)
    return folder


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for name, size in [("a.jpg", (40, 33, 3)), ("b.PNG", (20, 64)), ("c.webp", (1, 1, 3))]:
        Image.fromarray(draw.integers(0, 256, size, dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("not a picture")
    return folder


def run(capsys, *words):
    """Exit code, lines of stdout, lines of stderr."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    output = capsys.readouterr()
    return stop.value.code, output.out.splitlines(), output.err.splitlines()


def refused(capsys, *words):
    """The one line with which a command ends."""
    code, out, err = run(capsys, *words)
    assert (code, out) == (1, [])
    assert len(err) == 1
    assert err[0].startswith("normalkit: ")
    return err[0]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# predict


@pytest.mark.parametrize(
    ("kind", "suffix", "degrees"),
    [("png", "png", 0.4), ("png16", "png", 0.002), ("npy", "npy", 0.001), ("exr", "exr", 0.001)],
)
@pytest.mark.parametrize("convention", ["OPENCV", "DSINE"])
def test_predict_writes_each_photo_s_normals(capsys, checkpoint, photos, tmp_path, kind, suffix, degrees, convention):
    if kind == "exr":
        pytest.importorskip("OpenEXR")
    out = tmp_path / "new" / "out"
    words = ("--checkpoint", checkpoint, "--out", out, "--format", kind, "--convention", convention)
    code, lines, errors = run(capsys, "predict", photos, *words)
    assert (code, errors) == (0, [])
    assert names(out) == [f"{stem}.normals.{suffix}" for stem in "abc"]
    assert lines[0] == f"{photos / 'a.jpg'} -> {out / f'a.normals.{suffix}'}"
    model = load_model(checkpoint)
    for photo in find_pictures([photos]):
        # The file states its convention, so none is given here.
        normals, mask = read_normals(out / f"{photo.stem}.normals.{suffix}")
        cosine = (normals * predict(model, photo)).sum(0).clamp(-1, 1)
        assert mask.all()
        assert cosine.min() > np.cos(np.radians(degrees)) - 1e-6
    if kind == "npy":
        written = torch.from_numpy(np.load(out / "a.normals.npy")).permute(2, 0, 1)
        signs = torch.tensor(Convention[convention].signs).view(3, 1, 1)
        torch.testing.assert_close(written, signs * predict(model, photos / "a.jpg"))


def test_predict_flip_is_passed_on(capsys, checkpoint, photos, tmp_path):
    words = ("--checkpoint", checkpoint, "--out", tmp_path, "--format", "npy", "--flip")
    assert run(capsys, "predict", photos / "a.jpg", *words)[0] == 0
    expected = predict(load_model(checkpoint), photos / "a.jpg", flip=True)
    torch.testing.assert_close(read_normals(tmp_path / "a.normals.npy")[0], expected)


def test_a_bad_file_is_reported_and_the_rest_done(capsys, checkpoint, photos, tmp_path):
    (photos / "a.jpg").write_bytes((photos / "a.jpg").read_bytes()[:200])
    (photos / "bad.png").write_bytes(b"")
    (tmp_path / "out" / "c.normals.png").mkdir(parents=True)
    code, lines, errors = run(
        capsys, "predict", photos, photos / "notes.txt", "--checkpoint", checkpoint, "--out", tmp_path / "out"
    )
    assert code == 1
    assert len(lines) == 1
    assert lines[0].startswith(str(photos / "b.PNG"))
    assert len(errors) == 5
    for line, file in zip(
        errors, ["photos/a.jpg", "photos/bad.png", "out/c.normals.png", "photos/notes.txt"], strict=False
    ):
        assert line.startswith("normalkit: ")
        assert file in line
    assert errors[4] == "normalkit: 4 of 5 files failed"
    assert names(tmp_path / "out") == ["b.normals.png", "c.normals.png"]


def test_an_error_that_names_no_file_is_given_its_name(capsys, checkpoint, photos, tmp_path, monkeypatch):
    def too_large(*args, **kwargs):
        raise MemoryError("a picture of 9 x 9 does not fit into memory; shrink it")

    monkeypatch.setattr("normalkit.inference.predict", too_large)
    errors = run(capsys, "predict", photos / "a.jpg", "--checkpoint", checkpoint, "--out", tmp_path)[2]
    assert errors[0] == f"normalkit: {photos / 'a.jpg'}: a picture of 9 x 9 does not fit into memory; shrink it"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{photos}/nowhere.jpg", "--checkpoint", "{checkpoint}"], "nowhere.jpg: no such file or folder"),
        (["{tmp}/empty", "--checkpoint", "{checkpoint}"], "empty: no pictures in this folder"),
        (
            ["{photos}/a.jpg", "{tmp}/other/a.png", "--checkpoint", "{checkpoint}"],
            "a.jpg and .*a.png would both be written",
        ),
        (["{photos}", "--checkpoint", "{tmp}/empty"], "config.json: missing; wanted a checkpoint folder"),
        (["{photos}", "--checkpoint", "{tmp}/nowhere"], "nowhere: there is no such folder"),
        (["{photos}", "--checkpoint", "{photos}/a.jpg"], "a.jpg: is a file"),
        (["{photos}", "--checkpoint", "{tmp}/mixed"], "tensors are not those of the UNetNormals"),
        (["{photos}", "--checkpoint", "{tmp}/foreign"], "model='Gpt' is not known"),
        (
            ["{photos}", "--checkpoint", "{checkpoint}", "--device", "gpu"],
            r"--device gpu: not on this machine, which has cpu",
        ),
        (["{photos}", "--checkpoint", "{checkpoint}", "--device", "cuda:99"], "--device cuda:99: not on this machine"),
        (["{photos}", "--checkpoint", "{checkpoint}", "--device", "meta"], "--device meta: not on this machine"),
        (["--checkpoint", "{checkpoint}"], "no files given"),
    ],
)
def test_predict_refuses_before_it_begins(capsys, checkpoint, photos, tmp_path, words, message):
    for name in ("empty", "other", "mixed", "foreign"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "other" / "a.png")
    config = json.loads((checkpoint / "config.json").read_text())
    for name, header in [
        ("mixed", {**config, "config": {**config["config"], "skips": []}}),
        ("foreign", {**config, "model": "Gpt"}),
    ]:
        (tmp_path / name / "config.json").write_text(json.dumps(header))
        (tmp_path / name / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes())
    filled = [word.format(photos=photos, tmp=tmp_path, checkpoint=checkpoint) for word in words]
    line = refused(capsys, "predict", *filled, "--out", tmp_path / "out")
    assert re.search(message, line)
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_refused(capsys, checkpoint, photos, tmp_path):
    (tmp_path / "file").touch()
    line = refused(capsys, "predict", photos, "--checkpoint", checkpoint, "--out", tmp_path / "file" / "out")
    assert f"cannot write {tmp_path / 'file' / 'out'}: a file stands" in line


def test_a_missing_exr_package_is_found_before_the_model_runs(capsys, checkpoint, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    words = ("--checkpoint", checkpoint, "--out", tmp_path / "out", "--format", "exr")
    assert "pip install" in refused(capsys, "predict", photos, *words)


def test_results_and_hidden_files_are_no_photos(photos, tmp_path):
    for name in ("a.normals.png", "._a.jpg"):
        (photos / name).write_bytes((photos / "c.webp").read_bytes())
    (photos / "folder.jpg").mkdir()
    found = find_pictures([photos / "c.webp", photos, photos / "notes.txt"])
    assert [path.name for path in found] == ["c.webp", "a.jpg", "b.PNG", "notes.txt"]


def test_a_result_never_replaces_a_source(tmp_path):
    sources = [tmp_path / "a.png", tmp_path / "a.normals.png"]
    with pytest.raises(ValueError, match=r"a\.normals\.png would be overwritten by the result of .*a\.png"):
        result_paths(sources, tmp_path)
    assert result_paths(sources[:1], tmp_path, suffix=".npy") == {sources[0]: tmp_path / "a.normals.npy"}


def test_a_preview_and_a_relit_picture_are_written_beside_the_normals(capsys, checkpoint, photos, tmp_path):
    words = ("--checkpoint", checkpoint, "--out", tmp_path / "out", "--preview", "--relight", "0", "-1", "-0.5")
    code, lines, errors = run(capsys, "predict", photos / "a.jpg", *words, "--convention", "OPENGL")
    assert (code, len(lines), errors) == (0, 1, [])
    assert names(tmp_path / "out") == ["a.normals.png", "a.preview.png", "a.relit.png"]
    image = read_image(photos / "a.jpg")
    preview = read_image(tmp_path / "out" / "a.preview.png")
    assert torch.equal(preview[..., :33], image)
    assert torch.equal(preview[..., 33:], read_image(tmp_path / "out" / "a.normals.png"))
    expected = relight(image, predict(load_model(checkpoint), image), (0, -1, -0.5))
    assert torch.equal(read_image(tmp_path / "out" / "a.relit.png"), expected)
    # None of them is taken for a photo.
    with pytest.raises(FileNotFoundError, match="no pictures"):
        find_pictures([tmp_path / "out"])


def test_the_error_that_a_network_expects_is_written_in_hundredths_of_a_degree(capsys, photos, tmp_path):
    torch.manual_seed(0)
    network = UNetNormals("test_resnet", pretrained=False, decoder_channels=(8,) * 5, concentration=1.0).eval()
    save_model(tmp_path / "sure", network)
    words = ("--checkpoint", tmp_path / "sure", "--out", tmp_path / "out", "--error")
    assert run(capsys, "predict", photos / "a.jpg", *words)[0] == 0
    assert names(tmp_path / "out") == ["a.error.png", "a.normals.png"]
    _, error = predict_with_error(network, photos / "a.jpg")
    written = np.asarray(Image.open(tmp_path / "out" / "a.error.png"))
    np.testing.assert_allclose(written / 100, error, atol=0.006)
    assert run(capsys, "predict", photos / "a.jpg", *words, "--preview")[0] == 0
    preview = read_image(tmp_path / "out" / "a.preview.png")
    image, grey = read_image(photos / "a.jpg"), preview[..., 2 * 33 :]
    assert torch.equal(preview[..., :33], image)
    assert grey.shape == image.shape
    # Black is 0 degrees, and white 60 of them or more.
    np.testing.assert_allclose(grey, np.minimum(255 / 60 * error.numpy(), 255)[None].repeat(3, 0), atol=0.51)
    with pytest.raises(FileNotFoundError, match="no pictures"):
        find_pictures([tmp_path / "out"])


def test_a_network_that_does_not_know_its_error_is_refused_before_the_work(capsys, checkpoint, photos, tmp_path):
    words = ("--checkpoint", checkpoint, "--out", tmp_path / "out", "--error")
    assert "train it with AngMFLoss" in refused(capsys, "predict", photos / "a.jpg", *words)
    assert not (tmp_path / "out").exists()


def test_points_are_written_for_a_camera_that_is_known(capsys, checkpoint, photos, tmp_path):
    """The same camera, told in two ways."""
    focal = 20 / np.tan(np.radians(30))
    (tmp_path / "k.txt").write_text(f"{focal} 0 16\n0 {focal} 19.5\n0 0 1\n")
    found = []
    for words in (("--fov", "60"), ("--intrinsics", tmp_path / "k.txt")):
        common = ("--checkpoint", checkpoint, "--out", tmp_path / "out", "--points")
        assert run(capsys, "predict", photos / "a.jpg", *common, *words)[0] == 0
        data = (tmp_path / "out" / "a.points.ply").read_bytes().split(b"end_header\n")[1]
        rows = np.frombuffer(data, np.uint8).reshape(-1, 27)
        found.append(np.ascontiguousarray(rows[:, :24]).view("<f4"))
    assert len(found[0]) > 50
    assert np.allclose(*found, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--points"], "a point cloud needs to know the camera"),
        (["--fov", "60"], "a point cloud needs to know the camera"),
        (["--points", "--fov", "60", "--intrinsics", "{tmp}/k.txt"], "a point cloud needs to know the camera"),
        (["--points", "--fov", "200"], "fov=200.0: wanted degrees between 1 and 175"),
        (["--points", "--intrinsics", "{tmp}/nowhere.txt"], "nowhere.txt does not exist"),
        (["--relight", "0", "0", "0"], "light=(0.0, 0.0, 0.0): wanted three finite numbers"),
        (["--tile", "8"], "tile=8: wanted at least 16"),
        (["--max-frames", "0"], "--max-frames 0: wanted at least 1"),
        (["--webcam", "0"], "--webcam stands instead of files"),
        (["{photos}/a.preview.png", "--preview"], "a.preview.png would be overwritten"),
        (["{photos}/clip.mp4", "--points", "--fov", "60"], "--points is for photos"),
    ],
)
def test_predict_refuses_options_that_do_not_fit(capsys, checkpoint, photos, tmp_path, words, message):
    for name in ("a.preview.png", "clip.mp4"):
        (photos / name).write_bytes((photos / "a.jpg").read_bytes())
    out = photos if "overwritten" in message else tmp_path / "out"
    filled = [word.format(photos=photos, tmp=tmp_path) for word in words]
    line = refused(capsys, "predict", photos / "a.jpg", *filled, "--checkpoint", checkpoint, "--out", out)
    assert message in line
    assert not (tmp_path / "out").exists()


def test_tiles_are_passed_on_and_large_photos_have_them_unasked(capsys, checkpoint, photos, tmp_path, monkeypatch):
    tiles = []

    def noted(model, image, *, flip, tile):
        tiles.append((flip, tile))
        return predict(model, image)

    monkeypatch.setattr("normalkit.inference.predict", noted)
    words = ("--checkpoint", checkpoint, "--out", tmp_path)
    run(capsys, "predict", photos / "a.jpg", *words)
    run(capsys, "predict", photos / "a.jpg", *words, "--tile", "64", "--flip")
    monkeypatch.setattr("normalkit.cli.LARGE_PHOTO", 40 * 33 - 1)
    run(capsys, "predict", photos / "a.jpg", photos / "b.PNG", *words)
    run(capsys, "predict", photos / "a.jpg", *words, "--tile", "64")
    assert tiles == [(False, None), (True, 64), (False, 1024), (False, None), (False, 64)]


def test_several_files_have_a_progress_bar_on_a_terminal(capsys, checkpoint, photos, tmp_path, monkeypatch):
    words = ("--checkpoint", checkpoint, "--out", tmp_path)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    _, lines, errors = run(capsys, "predict", photos, *words)
    assert len(lines) == 3
    assert "0/3" in "".join(errors)
    assert run(capsys, "predict", photos / "a.jpg", *words)[2] == []


# predict: videos, webcams and awkward files


@pytest.fixture
def clip(photos):
    frames = make_frames(5, 36, 48)
    lossless(photos / "clip.mkv", frames)
    return frames


def read_frames(path):
    with open_video(path) as video:
        return list(video)


def test_a_video_becomes_a_video_of_its_normals_colours(capsys, checkpoint, photos, clip, tmp_path):
    words = ("--checkpoint", checkpoint, "--out", tmp_path / "out", "--preview", "--relight", "0", "0", "-1")
    code, lines, errors = run(capsys, "predict", photos / "clip.mkv", *words)
    assert (code, errors) == (0, [])
    assert lines == [f"{photos / 'clip.mkv'} -> {tmp_path / 'out' / 'clip.normals.mp4'}"]
    assert names(tmp_path / "out") == ["clip.normals.mp4", "clip.preview.mp4", "clip.relit.mp4"]
    model = load_model(checkpoint)
    shown = {kind: read_frames(tmp_path / "out" / f"clip.{kind}.mp4") for kind in ("normals", "preview", "relit")}
    assert all(len(frames) == 5 for frames in shown.values())
    for i, frame in enumerate(clip):
        normals = predict(model, frame)
        colours = normals_to_rgb(normals)
        wanted = {"normals": colours, "preview": torch.cat([frame, colours], 2)}
        wanted["relit"] = relight(frame, normals, (0, 0, -1))
        for kind, picture in wanted.items():
            # The format is lossy.
            assert (shown[kind][i].float() - picture.float()).abs().mean() < 12


@pytest.mark.parametrize("kind", ["npy", "png16"])
def test_with_a_format_a_video_becomes_a_folder_of_its_frames(capsys, checkpoint, photos, clip, tmp_path, kind):
    words = ("--checkpoint", checkpoint, "--out", tmp_path, "--format", kind, "--max-frames", "3")
    assert run(capsys, "predict", photos / "clip.mkv", *words)[0] == 0
    suffix = "png" if kind == "png16" else kind
    assert names(tmp_path / "clip.normals") == [f"00000{i}.{suffix}" for i in range(3)]
    for i, frame in enumerate(clip[:3]):
        normals, _ = read_normals(tmp_path / "clip.normals" / f"00000{i}.{suffix}")
        torch.testing.assert_close(normals, predict(load_model(checkpoint), frame), rtol=0, atol=1e-4)


def test_a_video_cut_short_is_reported_and_what_there_is_kept(capsys, checkpoint, tmp_path):
    lossless(tmp_path / "a.avi", make_frames(30, 36, 48))
    data = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "a.avi").write_bytes(data[: len(data) // 2])
    code, _, errors = run(capsys, "predict", tmp_path / "a.avi", "--checkpoint", checkpoint, "--out", tmp_path / "out")
    kept = len(read_frames(tmp_path / "out" / "a.normals.mp4"))
    assert code == 1
    assert 0 < kept < 30
    assert f"the last {30 - kept} of its 30 frames cannot be decoded" in errors[0]


@pytest.fixture
def webcam(tmp_path, monkeypatch):
    """A file of five frames that stands for a camera."""
    lossless(tmp_path / "camera.mkv", make_frames(5, 36, 48))
    file = cv2.VideoCapture(str(tmp_path / "camera.mkv"))
    with monkeypatch.context() as patch:
        patch.setattr(cv2, "VideoCapture", lambda number: file)
        yield


def test_a_webcam_is_recorded_as_fast_as_it_happens(capsys, checkpoint, tmp_path, monkeypatch, webcam):
    """Each frame takes 0.25 s by a clock that each look at it moves on, and 10 frames make a second."""
    clock = itertools.count()
    monkeypatch.setattr("normalkit.outputs.monotonic", lambda: next(clock) * 0.25)
    words = ("--checkpoint", checkpoint, "--out", tmp_path / "out", "--format", "npy", "--max-frames", "4")
    code, lines, _ = run(capsys, "predict", "--webcam", "0", *words)
    assert (code, len(lines)) == (0, 1)
    # After 0.25, 0.5, 0.75 and 1 s: 3, 6, 8 and 11 frames are due.
    model, frames = load_model(checkpoint), make_frames(5, 36, 48)
    written = [np.load(path) for path in sorted((tmp_path / "out" / "webcam0.normals").iterdir())]
    expected = [predict(model, frames[i]).permute(1, 2, 0).numpy() for i in (0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3)]
    assert len(written) == 11
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(written, expected, strict=True))


def test_ctrl_c_ends_a_recording_and_keeps_it(capsys, checkpoint, tmp_path, monkeypatch, webcam):
    calls = itertools.count()

    def until_stopped(model, image, **options):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return predict(model, image)

    monkeypatch.setattr("normalkit.inference.predict", until_stopped)
    words = ("--checkpoint", checkpoint, "--out", tmp_path / "out", "--format", "npy")
    code, lines, _ = run(capsys, "predict", "--webcam", "0", *words)
    assert (code, len(lines)) == (0, 1)
    assert len(names(tmp_path / "out" / "webcam0.normals")) >= 1


def test_a_folder_of_awkward_files(capsys, checkpoint, tmp_path):
    """Each gives the right result or one line, and none stops the rest."""
    folder, draw = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    colours = draw.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    photo = Image.fromarray(colours)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.resize((1, 1)).save(folder / "pixel.png")
    photo.convert("L").save(folder / "grey.jpg")
    photo.convert("RGBA").save(folder / "alpha.png")
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    cv2.imwrite(str(folder / "deep.png"), colours[..., ::-1].astype(np.uint16) * 257)
    photo.save(folder / "moving.webp", save_all=True, append_images=[photo.rotate(180)], lossless=True)
    photo.save(folder / "turned.jpg", exif=exif)
    (folder / "text.jpg").write_text("not a photo at all\n" * 20)
    (folder / "text.mp4").write_text("not a video at all\n" * 20)
    (folder / "vast.png").write_bytes(png_claiming(60_000, 60_000, colour=2))
    (folder / "empty.webm").touch()
    (folder / "cut.jpg").write_bytes((folder / "turned.jpg").read_bytes()[:400])
    lossless(folder / "clip.mkv", make_frames(3, 20, 30))
    out = tmp_path / "out"
    code, lines, errors = run(capsys, "predict", folder, "--checkpoint", checkpoint, "--out", out, "--format", "npy")
    bad = ["cut.jpg", "empty.webm", "text.jpg", "text.mp4", "vast.png"]
    assert (code, errors[-1]) == (1, "normalkit: 5 of 13 files failed")
    assert len(errors) == len(bad) + 1
    for line, name in zip(errors, bad, strict=False):
        assert f"{folder / name}: " in line
    assert "more than 150,000,000 pixels" in errors[4]
    assert len(lines) == 8
    sizes = {"pixel": (1, 1), "turned": (30, 20)}
    for name in ("alpha", "cmyk", "deep", "grey", "moving", "pixel", "turned"):
        assert np.load(out / f"{name}.normals.npy").shape == (*sizes.get(name, (20, 30)), 3)
    assert len(names(out / "clip.normals")) == 3
    expected = predict(load_model(checkpoint), colours).permute(1, 2, 0).numpy()
    for name in ("alpha", "deep", "moving"):
        assert np.allclose(np.load(out / f"{name}.normals.npy"), expected, atol=1e-4)


# demo


def test_demo_says_what_is_wrong_before_it_serves(capsys, checkpoint, monkeypatch):
    words = ("demo", "--checkpoint", checkpoint, "--port")
    assert refused(capsys, *words, 0) == "normalkit: --port 0: wanted 1 to 65535"
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"--host 127.0.0.1 --port {port}" in refused(capsys, *words, port)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert 'pip install "normalkit[demo]"' in refused(capsys, *words, port)


# evaluate


def errors_of(model, samples):
    """Angles of the valid pixels of each sample in degrees, by the arc cosine."""
    errors = []
    for sample in samples:
        cosine = (predict(model, sample["image"]) * sample["normals"]).sum(0).double().numpy()
        errors.append(np.degrees(np.arccos(np.clip(cosine, -1, 1)))[sample["mask"].numpy()])
    return errors


@pytest.mark.parametrize("per_image", [False, True])
def test_evaluate_scores_a_recording(capsys, checkpoint, recording, tmp_path, per_image):
    words = ("--checkpoint", checkpoint, "--data", recording, "--json", tmp_path / "new" / "figures.json")
    code, lines, _ = run(capsys, "evaluate", *words, *(["--per-image"] if per_image else []))
    data = RGBDNormals(recording)
    errors = errors_of(load_model(checkpoint), [data[i] for i in range(3)])
    figures = json.loads((tmp_path / "new" / "figures.json").read_text())
    parts = errors if per_image else [np.concatenate(errors)]
    assert figures["mean"] == pytest.approx(np.mean([e.mean() for e in parts]), abs=0.3)
    assert figures["median"] == pytest.approx(np.mean([np.median(e) for e in parts]), abs=0.3)
    assert (code, lines) == (0, [format_figures(figures)])


def test_evaluate_scores_pairs_of_files(capsys, checkpoint, recording, tmp_path):
    """The recording's own normals as files, so that its figures come out again."""
    data = RGBDNormals(recording)
    for number in range(3):
        sample = data[number]
        (tmp_path / "pairs").mkdir(exist_ok=True)
        Image.open(recording / f"frame-{number:06}.color.jpg").save(tmp_path / "pairs" / f"{number}_img.png")
        normals = sample["normals"].as_subclass(torch.Tensor)
        write_normals(tmp_path / "pairs" / f"{number}_n.npy", normals, sample["mask"], convention=Convention.OPENGL)
    both = []
    for number, words in enumerate(
        [(recording,), (tmp_path / "pairs", "--images", "*_img.png", "--normals", "*_n.npy")]
    ):
        json_file = tmp_path / f"{number}.json"
        assert run(capsys, "evaluate", "--checkpoint", checkpoint, "--json", json_file, "--data", *words)[0] == 0
        both.append(json.loads(json_file.read_text()))
    assert both[0] == pytest.approx(both[1], abs=1e-2)


def test_evaluate_needs_no_data_and_no_checkpoint(capsys, monkeypatch, tmp_path):
    """The bundled network on the first three of the reference rooms, against numpy."""
    monkeypatch.setattr(NormalFolder, "__len__", lambda self: 3)
    code, lines, _ = run(capsys, "evaluate", "--json", tmp_path / "figures.json")
    rooms = reference_rooms()
    errors = np.concatenate(errors_of(load_model(), [rooms[i] for i in range(3)]))
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["mean"] == pytest.approx(errors.mean(), abs=0.3)
    assert (code, lines) == (0, ["reference rooms", format_figures(figures)])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "nyuv2"], "dataset='nyuv2'.*: of which folder?"),
        (["--data", "{tmp}/nowhere"], "nowhere: no such folder"),
        (["--data", "{recording}", "--images", "*.color.jpg"], "needs both images and normals"),
        (["--data", "{recording}", "--images", "*.color.jpg", "--normals", "*.exr"], "images have no file for normals"),
        (["--data", "{recording}", "--batch-size", "0"], "batch_size=0: wanted at least 1"),
        (["--data", "{tmp}"], "in no known layout; known are nyuv2"),
        (["--data", "{recording}", "--dataset", "nyuv2"], "no picture in the layout of nyuv2"),
        (["--data", "{recording}", "--split", "test"], r"TestSplit\.txt: missing"),
        (["--data", "{recording}", "--split", "val"], "split='val': 7scenes has all, test, train"),
        (
            ["--data", "{recording}", "--json", "{recording}/camera-intrinsics.txt/a.json"],
            "cannot write .*a file stands",
        ),
        (["--data", "{recording}", "--device", "gpu"], "--device gpu: not on this machine"),
    ],
)
def test_evaluate_refuses_before_it_begins(capsys, checkpoint, recording, tmp_path, words, message):
    filled = [word.format(recording=recording, tmp=tmp_path) for word in words]
    line = refused(capsys, "evaluate", "--checkpoint", checkpoint, *filled)
    assert re.search(message, line)


def test_shards_score_as_the_recording_does(capsys, checkpoint, recording, tmp_path):
    out = tmp_path / "shards"
    code, lines, _ = run(capsys, "shard", recording, "--out", out, "--samples-per-shard", 2, "--format", "npy")
    assert (code, lines[-1].split(",")[0]) == (0, f"{out}: 3 samples in 2 shards")
    figures = [
        run(capsys, "evaluate", "--checkpoint", checkpoint, "--data", data)[1] for data in (recording, f"{out}/")
    ]
    assert figures[0] == figures[1]
    code, lines, _ = run(capsys, "shard", recording, "--out", tmp_path / "parts", "--part", 0, 2)
    assert (code, lines[-1]) == (0, f"{tmp_path / 'parts'}: 3 samples in 1 shards, {lines[-1].split(', ')[-1]}")
    code, lines, _ = run(
        capsys, "shard", recording, "--out", tmp_path / "half", "--part", 1, 2, "--samples-per-shard", 2
    )
    assert lines[-1] == f"{tmp_path / 'half'}: part 1 of 2 is written; others are not yet"
    line = refused(capsys, "shard", recording, "--out", out)
    assert "have samples_per_shard=2, this writing 1000; use the same data and options" in line
    line = refused(capsys, "evaluate", "--checkpoint", checkpoint, "--data", tmp_path / "half")
    assert "not all written; run the same `normalkit shard` again" in line


@pytest.mark.filterwarnings("ignore:.*figures will not compare:UserWarning")
def test_evaluate_scores_a_released_data_set(capsys, checkpoint, tmp_path):
    """Pooled over the valid pixels of the test split alone, against numpy."""
    data = tmp_path / "data"
    written, _ = write_release("nyuv2", data, normals=[make_normals(i, 24, 32) for i in range(3)])
    write_frame("nyuv2", data, "train/000002", -written[0] * [1, 1, -1], np.ones((24, 32), bool))
    words = ("--checkpoint", checkpoint, "--dataset", "nyuv2", "--data", data)
    code, lines, _ = run(capsys, "evaluate", *words, "--json", tmp_path / "figures.json")
    samples = []
    for number, name in enumerate(("000000", "000001", "000008")):
        image = torch.from_numpy(np.array(Image.open(data / "test" / f"{name}_img.png"))).permute(2, 0, 1)
        samples.append({"image": image, "normals": torch.from_numpy(written[number]).permute(2, 0, 1).float()})
    errors = errors_of(load_model(checkpoint), [{**s, "mask": torch.ones(24, 32, dtype=torch.bool)} for s in samples])
    figures = json.loads((tmp_path / "figures.json").read_text())
    # 8-bit labels are right to 0.39 degrees.
    assert figures["mean"] == pytest.approx(np.mean(errors), abs=0.4)
    assert figures["median"] == pytest.approx(np.median(errors), abs=0.4)
    assert (code, lines) == (0, [format_figures(figures)])


@pytest.mark.filterwarnings("default")
def test_a_warning_of_ours_is_one_line(capsys, checkpoint, tmp_path, monkeypatch):
    def show(message, category, filename, lineno, file=None, line=None):
        print(warnings.formatwarning(message, category, filename, lineno), end="", file=sys.stderr)

    # As Python does by itself; pytest would keep them.
    monkeypatch.setattr(warnings, "showwarning", show)
    usual = warnings.formatwarning
    data = tmp_path / "data"
    write_release("nyuv2", data, normals=[make_normals(i, 24, 32) for i in range(3)])
    code, _, errors = run(capsys, "evaluate", "--checkpoint", checkpoint, "--data", data)
    assert code == 0
    ours = [line for line in errors if "will not compare" in line]
    assert ours == [
        f"normalkit: warning: {data}: split='test' of nyuv2 has 3 pictures here, and 654 in the field: figures will "
        "not compare"
    ]
    assert not any("opening.py" in line or "return PublishedNormals" in line for line in errors)
    assert warnings.formatwarning is usual


def test_warnings_of_others_say_where_they_came_up(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    shown = []

    def main(config):
        shown.append(warnings.formatwarning(UserWarning("slow"), UserWarning, "/somewhere/torch/nn.py", 7, "x = 1"))

    with pytest.raises(SystemExit):
        run_script(main, Config)
    assert shown == ["/somewhere/torch/nn.py:7: UserWarning: slow\n  x = 1\n"]


def test_the_command_knows_every_data_set():
    assert get_args(DatasetName) == tuple(LAYOUTS)


# check-data


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """Rooms in NYUv2's layout, in the axes that it has."""
    made, folder = SyntheticRooms(4, size=(48, 64), seed=33), tmp_path_factory.mktemp("rooms")
    for i in range(4):
        normals, mask = made[i]["normals"].permute(1, 2, 0).numpy(), made[i]["mask"].numpy()
        write_frame("nyuv2", folder, f"test/{i:06}", normals, mask, matrix=made[i]["intrinsics"].numpy())
    return folder


def test_check_data_says_what_a_folder_is(capsys, rooms, tmp_path):
    code, lines, errors = run(capsys, "check-data", rooms, "--pictures", 3, "--out", tmp_path / "look.png")
    assert (code, errors) == (0, [])
    assert lines[0].startswith("layout     nyuv2")
    assert "pictures   all 4, test 4, train not here" in lines
    assert any(line.startswith("found      DSINE (x left, y up, z to the viewer); sure: 100.0%") for line in lines)
    assert lines[-1] == f"{rooms} -> {tmp_path / 'look.png'}"
    assert Image.open(tmp_path / "look.png").width > 1000


def test_check_data_fails_where_the_normals_are_not_what_they_are_said_to_be(capsys, rooms):
    code, lines, errors = run(capsys, "check-data", rooms, "--convention", "OPENGL")
    assert code == 1
    assert any(line.startswith("found      DSINE") for line in lines)
    assert len(errors) == 1
    assert "its normals are said to be OPENGL, but they look like DSINE" in errors[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{tmp}/nowhere"], "nowhere: no such folder"),
        (["{tmp}"], "in no known layout"),
        (["{rooms}", "--dataset", "scannet"], "no picture in the layout of scannet"),
        (["{rooms}", "--normals", "*.exr"], r"no file matches normals='\*\.exr'"),
        (["{rooms}", "--images", "*.png"], "images go with normals, and neither with a data set"),
        (["{rooms}", "--pictures", "0"], "pictures=0: wanted at least 1"),
    ],
)
def test_check_data_refuses(capsys, rooms, tmp_path, words, message):
    assert re.search(
        message, refused(capsys, "check-data", *[word.format(tmp=tmp_path, rooms=rooms) for word in words])
    )


def test_an_error_in_a_loader_worker_is_one_line(capsys, checkpoint, tmp_path):
    write_recording(tmp_path / "data", 3)
    broken = tmp_path / "data" / "frame-000001.color.jpg"
    broken.write_bytes(b"")
    code, _, errors = run(capsys, "evaluate", "--checkpoint", checkpoint, "--data", tmp_path / "data")
    assert code == 1
    assert errors[-1] == f"normalkit: {broken}: the file is empty; copy or download it again"
    assert not any("Traceback" in line for line in errors)


# depth-to-normals


@pytest.mark.parametrize("kind", ["png", "npy"])
def test_depth_to_normals_is_the_function(capsys, recording, tmp_path, kind):
    depths = sorted(recording.glob("*.depth.png"))
    matrix = recording / "camera-intrinsics.txt"
    words = ("--intrinsics", matrix, "--out", tmp_path, "--format", kind, "--window", 5, "--convention", "TASKONOMY")
    code, lines, _ = run(capsys, "depth-to-normals", *depths, *words)
    assert (code, len(lines)) == (0, 3)
    for path in depths:
        expected, mask = depth_to_normals(read_depth(path)[None], read_intrinsics(matrix), window=5)
        normals, found = read_normals(tmp_path / f"{path.stem}.normals.{kind}")
        assert torch.equal(found, mask[0])
        torch.testing.assert_close(normals, expected[0], rtol=0, atol=1e-2 if kind == "png" else 1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--window", "4"], "window=4: wanted an odd number"),
        (["--scale", "0"], "--scale 0.0: wanted a positive number"),
        (["--min-valid", "2"], "min_valid=2.0: wanted a share"),
        (["--intrinsics", "{tmp}/nowhere.txt"], "nowhere.txt does not exist"),
    ],
)
def test_depth_to_normals_refuses_before_it_begins(capsys, recording, tmp_path, words, message):
    matrix = recording / "camera-intrinsics.txt"
    files = sorted(recording.glob("*.depth.png"))
    defaults = [] if "--intrinsics" in words else ["--intrinsics", matrix]
    filled = [word.format(tmp=tmp_path) for word in words]
    line = refused(capsys, "depth-to-normals", *files, *defaults, *filled, "--out", tmp_path / "out")
    assert message in line
    assert not (tmp_path / "out").exists()


# info and the rest


def test_info_says_what_a_checkpoint_is(capsys, checkpoint):
    code, lines, _ = run(capsys, "info", checkpoint)
    assert code == 0
    facts = dict(line.split(maxsplit=1) for line in lines[1:])
    millions = sum(p.numel() for p in load_model(checkpoint).parameters()) / 1e6
    assert lines[0] == f"UNetNormals, {millions:.2f} million parameters"
    assert (facts["config.encoder"], facts["config.skips"]) == ("test_resnet", "[2, 3]")
    assert (facts["convention"], facts["data"], facts["metrics.mean"]) == ("OPENCV", "red_kitchen", "19.25")


def test_no_words_and_unknown_words_are_usage_errors(capsys):
    for words in ([], ["paint"], ["predict", "a.jpg", "--checkpoint", "c", "--out", "o", "--format", "bmp"]):
        assert run(capsys, *words)[0] == 2
    assert run(capsys, "--help")[0] == 0


def test_help_comes_without_loading_the_library():
    words = [sys.executable, "-X", "importtime", "-m", "normalkit.cli", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    for word in ("predict", "evaluate", "check-data", "shard", "depth-to-normals", "info"):
        assert word in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "tyro" in loaded
    assert loaded.isdisjoint({"accelerate", "cv2", "matplotlib", "numpy", "tensorboard", "timm", "torch"})


def test_a_prediction_loads_nothing_that_it_does_not_need(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.png")
    words = ["predict", str(tmp_path / "photo.png"), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "normalkit.cli", *words], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "timm" in loaded
    # Together they take as long as torch.
    assert loaded.isdisjoint({"accelerate", "matplotlib", "scipy", "tensorboard", "torchmetrics"})


@dataclass(frozen=True)
class Config:
    number: int = 1


def script(work, monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["folder/script.py", *words])
    with pytest.raises(SystemExit) as stop:
        run_script(work, Config)
    return stop.value.code, capsys.readouterr().err


def raiser(error):
    def work(config):
        raise error

    return work


SAVED = "run/last is saved: go on from it with --resume, in a study by starting it again"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("too\n  long"), 1, "too long"),
        (FileNotFoundError(2, "No such file", "a.txt"), 1, "[Errno 2] No such file: 'a.txt'"),
        (FloatingPointError("the loss became nan"), 1, "the loss became nan"),
        (OSError(), 1, "OSError"),
        (KeyboardInterrupt(), 130, "stopped"),
        (Interrupted(signal.SIGINT, Path("run")), 130, f"stopped by SIGINT; {SAVED}"),
        (Interrupted(signal.SIGTERM, Path("run")), 143, f"stopped by SIGTERM; {SAVED}"),
        (Interrupted(signal.SIGHUP, Path("run")), 129, f"stopped by SIGHUP; {SAVED}"),
    ],
)
def test_scripts_end_with_a_line_and_a_code(monkeypatch, capsys, error, code, line):
    assert script(raiser(error), monkeypatch, capsys) == (code, f"script.py: {line}\n")


def test_scripts_that_end_well_return_their_code(monkeypatch, capsys):
    assert script(lambda config: None, monkeypatch, capsys) == (0, "")
    assert script(lambda config: config.number, monkeypatch, capsys, "--number", "3") == (3, "")


@pytest.mark.parametrize("error", [RuntimeError("a fault"), TypeError("a fault")])
def test_faults_of_a_program_are_not_hidden(monkeypatch, error):
    monkeypatch.setattr(sys, "argv", ["script.py"])
    with pytest.raises(type(error), match="a fault"):
        run_script(raiser(error), Config)


def test_a_reader_that_has_seen_enough_is_no_error(checkpoint):
    """As `normalkit info ... | head -1`."""
    read, write = os.pipe()
    os.close(read)
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        os.dup2(write, 1)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        try:
            main(["info", str(checkpoint)])
        except SystemExit as stop:
            os._exit(stop.code)
        except BaseException:
            os._exit(99)
    os.close(write)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
