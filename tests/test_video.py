"""Videos: frames against what was written, and files that are none."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from videos import lossless, make_frames

from normalkit import images
from normalkit.video import open_video, open_webcam, write_video

pytestmark = pytest.mark.usefixtures("one_thread")


def write(path, frames, rate=12.5):
    with write_video(path, rate=rate) as put:
        for frame in frames:
            put(frame)


def test_frames_are_those_of_the_file(tmp_path):
    frames = make_frames(5, 48, 64)
    lossless(tmp_path / "a.mkv", frames)
    with open_video(tmp_path / "a.mkv") as video:
        assert (video.rate, video.count) == (12.5, 5)
        found = list(video)
    assert all(torch.equal(a, b) for a, b in zip(found, frames, strict=True))
    assert (video.done, video.missing()) == (5, 0)


@pytest.mark.parametrize(("height", "width", "error"), [(48, 64, 8), (31, 45, 8), (2, 1, 99)])
def test_a_video_that_is_written_looks_like_its_frames(tmp_path, height, width, error):
    frames = make_frames(4, height, width)
    write(tmp_path / "a.mp4", frames)
    capture = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == 12.5
    for frame in frames:
        shown = capture.read()[1]
        assert shown.shape[:2] == (height + height % 2, width + width % 2)
        difference = shown[:height, :width, ::-1].astype(int) - frame.permute(1, 2, 0).numpy()
        assert np.abs(difference).mean() < error
    assert not capture.read()[0]
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_video_is_written_whole_or_not_at_all(tmp_path):
    frames = make_frames(2, 16, 16)
    write(tmp_path / "a.mp4", frames)
    before = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(ValueError, match="a frame of 8 x 8 in a video of 16 x 16"):
        write(tmp_path / "a.mp4", [*frames, frames[0][:, :8, :8]])
    with pytest.raises(OSError, match=r"cannot write .*a\.mp4: its writer made no file"):
        write(tmp_path / "a.mp4", [])
    assert (tmp_path / "a.mp4").read_bytes() == before


def test_files_that_are_no_videos_are_refused_by_name(tmp_path):
    (tmp_path / "text.mp4").write_text("this is no video\n" * 50)
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(9999))
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    write(tmp_path / "whole.mp4", make_frames(9, 48, 64))
    whole = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{tmp_path}/whole.mp4'\n")
    for name, error in [
        ("text.mp4", ValueError),
        ("noise.mp4", ValueError),
        ("empty.mp4", ValueError),
        ("half.mp4", ValueError),
        ("list.mp4", ValueError),
        ("folder.mp4", IsADirectoryError),
        ("missing.mp4", FileNotFoundError),
    ]:
        with pytest.raises(error, match=name), open_video(tmp_path / name) as video:
            list(video)


def test_nothing_is_printed_of_a_file_that_is_no_video(tmp_path):
    """In a process of its own: how much FFmpeg prints is settled when it is first used."""
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(9999))
    code = "import sys\nfrom normalkit.video import open_video\nwith open_video(sys.argv[1]): pass"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "noise.mp4"], capture_output=True, text=True)
    assert done.stderr.startswith("Traceback")
    assert "no video, whatever its name says" in done.stderr.splitlines()[-1]


def test_a_video_without_frames_is_refused(tmp_path):
    """A header as it is written before the first frame."""
    lossless(tmp_path / "a.avi", make_frames(3, 16, 16))
    data = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "a.avi").write_bytes(data[: data.index(b"movi") + 4])
    with pytest.raises(ValueError, match=r"a\.avi: (has no frame|no video)"), open_video(tmp_path / "a.avi") as video:
        list(video)


def test_a_video_cut_short_gives_what_it_has_and_says_what_is_missing(tmp_path):
    frames = make_frames(40, 48, 64)
    lossless(tmp_path / "a.avi", frames)
    data = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "a.avi").write_bytes(data[: len(data) // 2])
    with open_video(tmp_path / "a.avi") as video:
        found = len(list(video))
    assert 5 < found < 35
    assert video.missing() == 40 - found


def test_frames_that_claim_too_many_pixels_are_refused(tmp_path, monkeypatch):
    lossless(tmp_path / "a.mkv", make_frames(2, 16, 16))
    monkeypatch.setattr(images, "MAX_PIXELS", 255)
    with pytest.raises(ValueError, match=r"a\.mkv: the file claims 16 x 16 pixels"), open_video(tmp_path / "a.mkv"):
        pass


def test_a_webcam_that_is_not_there_is_said_to_be(capfd):
    with pytest.raises(OSError, match="webcam 77: cannot be opened"), open_webcam(77):
        pass
    with pytest.raises(ValueError, match="webcam -1: wanted 0"), open_webcam(-1):
        pass
    assert capfd.readouterr().err == ""


def test_a_webcam_is_a_video_without_an_end(tmp_path, monkeypatch):
    frames = make_frames(3, 16, 16)
    lossless(tmp_path / "a.mkv", frames)
    file = cv2.VideoCapture(str(tmp_path / "a.mkv"))
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: file)
    with open_webcam(0) as video:
        assert video.count is None
        assert torch.equal(next(iter(video)), frames[0])
