"""What a folder is said to be, for folders of which that is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from recordings import write_recording
from released import colours, write_frame, write_release

from normalkit import SyntheticRooms, write_normals
from normalkit.data import open_dataset
from normalkit.data.check import check_folder, report_figure
from normalkit.geometry import Convention


@pytest.fixture(scope="module")
def rooms():
    made = SyntheticRooms(5, size=(48, 64), seed=33)
    samples = [made[i] for i in range(5)]
    return [(s["normals"].permute(1, 2, 0).numpy(), s["mask"].numpy(), s["intrinsics"].numpy()) for s in samples]


def write_rooms(root, rooms, signs):
    for i, (normals, mask, matrix) in enumerate(rooms):
        frame = f"{'test' if i < 3 else 'train'}/{i:06}"
        write_frame("nyuv2", root, frame, normals, mask, signs=signs, matrix=matrix)
    return root


@pytest.mark.parametrize("convention", Convention)
def test_a_data_set(tmp_path, rooms, convention):
    report = check_folder(write_rooms(tmp_path, rooms, convention.signs))
    assert report.layout.name == "nyuv2"
    assert report.counts == {"all": 5, "test": 3, "train": 2}
    assert report.declared is Convention.DSINE
    assert report.guesses[0].convention is convention
    assert (report.evidence is None) == (convention is Convention.DSINE)
    assert report.verdict.startswith(f"{convention.name} (x ")
    assert "sure: 100.0%, from 5 pictures" in report.verdict
    # As the file has them, and so undone of what reading as DSINE did.
    stored = rooms[0][0] * np.array(convention.signs) * rooms[0][1][..., None]
    np.testing.assert_allclose(report.looks[0].normals.permute(1, 2, 0), stored, atol=8e-3)


@pytest.mark.parametrize(
    ("sureness", "verdict"),
    [
        (0.995, "DSINE (x left, y up, z to the viewer); sure: 99.5%, from 5 pictures"),
        (0.9, "DSINE (x left, y up, z to the viewer); likely: 90%, from 5 pictures; more of them"),
        (0.7, "the data cannot tell, from 5 pictures: DSINE (x left, y up, z to the viewer) 70%, OPENGL (x right, "),
    ],
)
def test_its_verdict_is_as_sure_as_the_guess(tmp_path, rooms, sureness, verdict):
    report = check_folder(write_rooms(tmp_path, rooms, (-1, -1, -1)))
    first, second, *rest = report.guesses
    unsure = [replace(first, sureness=sureness), replace(second, sureness=1 - sureness), *rest]
    assert second.name == "OPENGL"
    assert replace(report, guesses=unsure).verdict.startswith(verdict)


def test_a_verdict_names_few_of_many_rivals(tmp_path, rooms):
    report = check_folder(write_rooms(tmp_path, rooms, (-1, -1, -1)))
    even = [replace(guess, sureness=0.2 if i < 5 else 0) for i, guess in enumerate(report.guesses)]
    verdict = replace(report, guesses=even).verdict
    assert verdict.count("20%") == 3
    assert "20% and 2 others; look at more pictures" in verdict
    assert "others" not in replace(report, guesses=[replace(guess, sureness=1 / 3) for guess in even[:3]]).verdict


def test_its_lines(tmp_path, rooms):
    lines = check_folder(write_rooms(tmp_path, rooms, (-1, -1, -1))).lines()
    assert lines[0] == "layout     nyuv2: NYUv2 with GeoNet's normals, as DSINE's evaluation release has it"
    assert lines[1] == "pictures   all 5, test 3, train 2"
    assert "declared   DSINE" in lines
    heading = lines.index("") + 1
    rows = {line[28:40].strip(): line for line in lines[heading + 1 :]}
    assert set(rows) == {"OPENCV", "OPENGL", "DSINE", "TASKONOMY"}
    assert rows["DSINE"].split()[-4:-2] == ["100%", "100.0%"]
    # Columns stand below their heads.
    assert {len(line) for line in lines[heading:]} == {len(lines[heading])}


def test_fewer_pictures_and_a_convention_said_by_the_caller(tmp_path, rooms):
    root = write_rooms(tmp_path, rooms, Convention.OPENGL.signs)
    report = check_folder(root, pictures=2, convention=Convention.OPENGL)
    assert len(report.looks) == 2
    assert (report.declared, report.evidence) == (Convention.OPENGL, None)
    with pytest.raises(ValueError, match="pictures=0: wanted at least 1"):
        check_folder(root, pictures=0)


def test_a_split_whose_list_is_missing(tmp_path):
    write_release("taskonomy", tmp_path)
    next(tmp_path.glob("*.csv")).unlink()
    report = check_folder(tmp_path)
    assert report.counts == {"all": 3, "test": None, "val": None, "train": None}
    assert report.lines()[1] == "pictures   all 3, test not here, val not here, train not here"
    # Flat pictures: the data cannot tell, and it is said.
    assert report.verdict.startswith("the data cannot tell, from 3 pictures: ")
    assert report.evidence is None


def test_any_files_by_a_pattern(tmp_path, rooms):
    for i, (normals, mask, _) in enumerate(rooms):
        Image.fromarray(colours(normals * (1, -1, -1), mask)).save(tmp_path / f"n[{i}].png")
        Image.new("RGB", (64, 48)).save(tmp_path / f"photo {i}.jpg")
    with pytest.raises(ValueError, match="in no known layout"):
        check_folder(tmp_path)
    report = check_folder(tmp_path, normals="n[*].png", images="photo *.jpg")
    assert (report.layout, report.declared) == (None, None)
    assert report.counts == {"all": 5}
    assert report.guesses[0].convention is Convention.OPENGL
    assert report.looks[0].image.shape == (3, 48, 64)
    assert report.lines()[0] == "layout     pairs of files: photo *.jpg and n[*].png"
    assert check_folder(tmp_path, normals="n[*].png").lines()[0] == "layout     files: n[*].png"
    assert "declared   by nobody" in report.lines()
    with pytest.raises(FileNotFoundError, match=r"no file matches normals='\*\.exr'"):
        check_folder(tmp_path, normals="*.exr")
    for options in ({"images": "a"}, {"normals": "n[*].png", "dataset": "nyuv2"}):
        with pytest.raises(ValueError, match="images go with normals, and neither with a data set"):
            check_folder(tmp_path, **options)
    with pytest.raises(ValueError, match=r"images='photo 0.jpg': wanted a relative pattern with exactly one"):
        check_folder(tmp_path, normals="n[*].png", images="photo 0.jpg")


def test_any_files_by_their_names(tmp_path, rooms):
    for folder in ("rgb", "normal"):
        (tmp_path / folder).mkdir()
    for i, (normals, mask, _) in enumerate(rooms):
        Image.fromarray(colours(normals * (1, 1, -1), mask)).save(tmp_path / f"normal/{i}.png")
        Image.new("RGB", (64, 48), (i, 0, 0)).save(tmp_path / f"rgb/{i}.png")
    report = check_folder(tmp_path)
    assert report.lines()[0] == "layout     pairs of files: rgb/*.png and normal/*.png, by their names"
    assert report.guesses[0].convention is Convention.TASKONOMY
    assert [int(look.image[0, 0, 0]) for look in report.looks] == [0, 1, 2, 3, 4]
    # Scoring needs to be told, with the patterns at hand.
    with pytest.raises(ValueError, match=r"give patterns: images='rgb/\*\.png' and normals='normal/\*\.png'"):
        open_dataset(tmp_path)


def test_files_that_say_their_convention_wrongly(tmp_path, rooms):
    for i, (normals, mask, _) in enumerate(rooms):
        # Turned by hand before the writer turns them: the file lies.
        lie = torch.from_numpy(normals).permute(2, 0, 1) * torch.tensor([1.0, -1, -1]).view(3, 1, 1)
        write_normals(tmp_path / f"{i}.png", lie, torch.from_numpy(mask), convention=Convention.DSINE)
    report = check_folder(tmp_path, normals="*.png")
    assert report.declared is Convention.DSINE
    # x left after x right, y down after y up, z forward after z to the viewer.
    assert report.guesses[0].axes == ("left", "down", "forward")
    assert "said to be" not in report.evidence
    assert "look like no convention (x left, y down, z forward)" in report.evidence
    write_normals(tmp_path / "9.png", lie)
    with pytest.raises(ValueError, match=r"say different conventions \(0: DSINE, .*9: OPENCV\); part them"):
        check_folder(tmp_path, normals="*.png")


def test_labels_that_are_turned_when_read_are_judged_as_they_are(tmp_path, rooms):
    """Turned to the camera, Hypersim's would look right whichever way z pointed."""
    pytest.importorskip("h5py")
    for i, (normals, mask, _) in enumerate(rooms):
        write_frame("hypersim", tmp_path, f"ai_001_001/cam_00/{i:04}", normals, mask, signs=(1, 1, 1))
    report = check_folder(tmp_path)
    assert (report.declared, report.guesses[0].convention) == (Convention.OPENGL, Convention.OPENCV)
    assert report.evidence is not None


def test_a_recording(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_recording(tmp_path / "data", 3)
    report = check_folder(tmp_path / "data")
    assert report.layout.name == "7scenes"
    assert report.counts == {"all": 3, "test": None, "train": None}
    assert report.guesses[0].facing == 1
    assert len(report.looks) == 3


def test_the_figure(tmp_path, rooms):
    pytest.importorskip("matplotlib")
    report = check_folder(write_rooms(tmp_path, rooms, (-1, -1, -1)))
    texts = [text.get_text() for text in report_figure(report).texts]
    assert any("Which way do the normals point?" in text for text in texts)
    assert "DSINE: 100.0%" in texts
    assert "Image" in texts
