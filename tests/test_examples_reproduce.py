"""The command that reruns both assignments: its steps by stand-ins, and the real ones on next to nothing."""

import itertools
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import tyro
from recordings import write_recording
from scripts import loaded_example, run_example
from squares import write_squares

from normalkit.signals import STOP_SIGNALS
from normalkit.study import Variant, run_study

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")]

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_squares(folder / "squares")
    write_recording(folder / "kitchen" / "train", 8)
    for name, seed in (("val", 1), ("test", 2)):
        write_recording(folder / "kitchen" / name, 3, seed=seed)
    (folder / "photos").mkdir()
    for photo in sorted((folder / "kitchen" / "val").glob("*.jpg")):
        (folder / "photos" / photo.name).write_bytes(photo.read_bytes())
    return folder


@pytest.fixture
def reproduce():
    with loaded_example(EXAMPLES / "reproduce.py") as module:
        yield module


@pytest.fixture
def config(reproduce, data, tmp_path):
    """Of all steps."""

    def make(**changes):
        everything = {
            "cifar10": data / "squares",
            "frames": data / "kitchen",
            "cifar10_test": data / "squares",
            "frames_test": data / "kitchen" / "test",
            "photos": (data / "photos",),
            "out": tmp_path / "out",
            "workers": 0,
        }
        return reproduce.Config(**{**everything, **changes})

    return make


class Scripts:
    """Stand-ins: each makes the checkpoint and the results of its step, or ends with the code that is given for it."""

    def __init__(self, reproduce, cfg, codes=None):
        self.codes, self.calls = codes or {}, []
        self.steps = {tuple(step.command): step for step in reproduce.plan(cfg)}

    def __call__(self, command):
        step = self.steps[tuple(command)]
        self.calls.append(step.name)
        if step.name in self.codes:
            return self.codes[step.name]
        for result in step.results:
            result = result.with_name(result.name.replace("*", ""))
            result.parent.mkdir(parents=True, exist_ok=True)
            if result.suffix == ".csv":
                run_study([Variant("base net", {})], accuracies, seeds=[0, 1], table=result)
            else:
                texts = {".md": f"| {step.name} |\n", ".json": '{"mean": 21.5, "flip": false, "by_class": {}}'}
                result.write_text(texts.get(result.suffix, "a picture"))
        if "--resume" in command:
            out = Path(command[command.index("--out") + 1])
            for folder in ("best", "seed0/last"):
                (out / folder).mkdir(parents=True, exist_ok=True)
                # A finished run is left alone.
                if not (out / folder / "model.safetensors").exists():
                    (out / folder / "model.safetensors").touch()
        return 0


def accuracies(variant, seed):
    return {"accuracy": 71.25, "accuracy_flip": 72.5}


@pytest.fixture
def scripts(reproduce, monkeypatch):
    def replace(cfg, **codes):
        stand_ins = Scripts(reproduce, cfg, {name.replace("_", "-"): code for name, code in codes.items()})
        monkeypatch.setattr(reproduce, "run", stand_ins)
        return stand_ins

    return replace


@pytest.mark.parametrize("quick", [True, False])
def test_the_words_are_those_that_the_scripts_know(reproduce, config, quick):
    steps = reproduce.plan(config(quick=quick, epochs=7))
    assert len({step.name for step in steps}) == len(steps) == (13 if quick else 17)
    studies = set()
    for step in steps:
        with loaded_example(EXAMPLES / step.script) as script:
            parsed = tyro.cli(script.Config, args=list(map(str, step.words)))
            assert Path(getattr(parsed, "data", None) or parsed.photos[0]).exists()
            if step.script == "surface_normals/ablate.py":
                assert set(parsed.variants or ()) <= set(script.STUDIES[parsed.study])
                assert parsed.settings.epochs == (1 if quick else 7)
                studies.add((parsed.study, parsed.encoder))
            if step.script == "cifar10/ablate.py":
                assert parsed.epochs == (1 if quick else 7)
    encoders = ("test_resnet",) if quick else ("tf_efficientnet_lite0", "resnet18")
    # No study of the scripts is forgotten.
    with loaded_example(EXAMPLES / "surface_normals" / "ablate.py") as script:
        assert studies == set(itertools.product(script.STUDIES, encoders))


def test_no_epochs_are_not_the_scripts_own(reproduce, config):
    """They refuse them."""
    for step in reproduce.plan(config(epochs=0)):
        if step.script.endswith("ablate.py"):
            assert [str(step.words[i + 1]) for i, word in enumerate(step.words) if str(word).endswith("epochs")] == [
                "0"
            ]


def test_all_results_stand_on_one_page(reproduce, config, scripts, tmp_path, capsys):
    cfg = config()
    ran = scripts(cfg)
    assert reproduce.main(cfg) == 0
    names = [step.name for step in reproduce.plan(cfg)]
    assert ran.calls == names
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"[1/17] cifar10-base: {sys.executable} ")
    assert "[1/17] cifar10-base: done, 0 s" in lines
    page = (tmp_path / "out" / "README.md").read_text()
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == names
    assert "| base net | **71.25 ± 0.00** | **72.50 ± 0.00** | 2 |" in " ".join(page.split())
    assert "\n| normals-skips-resnet18 |\n" in page
    assert "[test.json](surface_normals/test.json): mean 21.5000\n" in page
    assert "![photos](surface_normals/photos/photos.png)" in page
    assert str(EXAMPLES) not in page


def test_started_again_it_asks_the_scripts_that_train_and_makes_nothing_else_anew(reproduce, config, scripts):
    cfg = config()
    first, ran = scripts(cfg), None
    reproduce.main(cfg)
    again = scripts(cfg)
    assert reproduce.main(cfg) == 0
    derived = {"cifar10-test", "normals-report", "normals-photos", "normals-test"}
    assert [name for name in first.calls if name not in derived] == again.calls
    # A newer network, and a result that is gone.
    later = time.time() + 10
    os.utime(cfg.out / "surface_normals" / "unet" / "best" / "model.safetensors", (later, later))
    (cfg.out / "cifar10" / "test.png").unlink()
    ran = scripts(cfg)
    # The stand-in for the training would touch the network.
    ran.codes["normals-train"] = 0
    assert reproduce.main(cfg) == 0
    assert derived <= set(ran.calls)


def test_results_are_made_anew_when_anything_in_the_data_is_newer(reproduce, config, scripts, data):
    cfg = config()
    scripts(cfg)
    reproduce.main(cfg)
    later = time.time() + 10
    (photo, *_) = (data / "photos").iterdir()
    os.utime(photo, (later, later))
    try:
        # The folders themselves are as old as before.
        ran = scripts(cfg)
        assert reproduce.main(cfg) == 0
        assert [name for name in ran.calls if name in ("normals-report", "normals-photos")] == ["normals-photos"]
    finally:
        os.utime(photo)


def test_photos_of_which_a_page_is_missing_are_drawn_again(reproduce, config, scripts):
    cfg = config()
    scripts(cfg)
    reproduce.main(cfg)
    (cfg.out / "surface_normals" / "photos" / "photos.md").unlink()
    ran = scripts(cfg)
    assert reproduce.main(cfg) == 0
    assert "normals-photos" in ran.calls


def test_a_step_that_fails_leaves_the_others_alone(reproduce, config, scripts, capsys):
    cfg = config()
    ran = scripts(cfg, normals_train=1, cifar10_ablation=137)
    assert reproduce.main(cfg) == 1
    waiting = {"normals-report", "normals-photos", "normals-test"}
    assert set(ran.calls) == {step.name for step in reproduce.plan(cfg)} - waiting
    said = capsys.readouterr()
    assert "[4/17] cifar10-ablation: failed with exit code 137" in said.out
    errors = said.err.splitlines()
    assert errors[0].startswith("5 of 17 steps are not done; the others are kept")
    assert errors[1:3] == ["  cifar10-ablation: failed with exit code 137", "  normals-train: failed with exit code 1"]
    assert errors[3].startswith("  normals-report: left out: ")
    assert errors[3].endswith("model.safetensors is missing")
    mended = scripts(cfg)
    assert reproduce.main(cfg) == 0
    assert waiting < set(mended.calls)


@pytest.mark.parametrize("code", [130, 143])
def test_a_step_that_is_stopped_stops_all(reproduce, config, scripts, code):
    cfg = config()
    ran = scripts(cfg, cifar10_improved=code)
    assert reproduce.main(cfg) == code
    assert ran.calls == ["cifar10-base", "cifar10-base-plain", "cifar10-improved"]
    page = (cfg.out / "README.md").read_text()
    assert page.count("\nnot run this time.\n") == len(reproduce.plan(cfg)) - 3


def test_a_result_of_another_version_costs_the_page_nothing_else(reproduce, config, scripts):
    cfg = config(frames=None, frames_test=None, photos=(), only=("cifar10-base", "cifar10-ablation"))
    scripts(cfg)
    reproduce.main(cfg)
    (cfg.out / "cifar10" / "base" / "results.csv").write_text("epoch,loss\n")
    scripts(cfg, cifar10_base=1)
    assert reproduce.main(cfg) == 1
    page = (cfg.out / "README.md").read_text()
    assert "results.csv is not shown: " in page
    assert "| cifar10-ablation |" in page


def test_the_page_keeps_the_results_of_steps_that_are_not_run(reproduce, config, scripts):
    scripts(config())
    reproduce.main(config())
    cfg = config(only=("cifar10-base",))
    ran = scripts(cfg)
    assert reproduce.main(cfg) == 0
    assert ran.calls == ["cifar10-base"]
    page = (cfg.out / "README.md").read_text()
    assert "\n| normals-skips-resnet18 |\n" in page
    assert page.count("\nnot run this time.\n") == len(reproduce.plan(config())) - 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to do: give --cifar10, --frames or both"),
        (["--frames", "{data}/nowhere"], "{data}/nowhere: no such file or folder"),
        (["--cifar10", "{data}/squares", "--photos", "{data}/none"], "{data}/none: no such file or folder"),
        (["--cifar10", "{data}/squares", "--photos", "{data}/photos"], "--photos without --frames: "),
        (["--cifar10", "{data}/squares", "--frames-test", "{data}/kitchen/test"], "--frames-test without --frames: "),
        (["--frames", "{data}/kitchen", "--cifar10-test", "{data}/squares"], "--cifar10-test without --cifar10: "),
        (["--cifar10", "{data}/squares", "--only", "normals-train"], "--only: no normals-train; wanted some of cifar1"),
        (["--cifar10", "{data}/squares", "--seeds"], "--seeds is empty: give at least one number"),
        (["--cifar10", "{data}/squares", "--out", "{data}/squares/train/red/0.png"], "cannot write {data}/squares"),
    ],
)
def test_bad_words_are_one_line(data, tmp_path, capsys, words, message):
    words = ["--out", tmp_path / "out", *(word.format(data=data) for word in words)]
    assert run_example(EXAMPLES / "reproduce.py", *words) == 1
    errors = capsys.readouterr().err
    assert message.format(data=data) in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()


def test_a_quick_run_leaves_the_folder_of_the_real_one_alone(reproduce, data, scripts, tmp_path, monkeypatch):
    """Its networks would be in the way there: the scripts go on with no run of other settings."""
    monkeypatch.chdir(tmp_path)
    words = ["--cifar10", str(data / "squares"), "--only", "cifar10-ablation"]
    folders = []
    monkeypatch.setattr(reproduce, "run", lambda command: folders.append(command[command.index("--runs") + 1]) or 0)
    for more in ([], ["--quick"]):
        assert reproduce.main(tyro.cli(reproduce.Config, args=[*words, *more])) == 0
    assert folders[0].startswith("runs/reproduction/")
    assert not Path(folders[1]).is_relative_to("runs/reproduction")
    assert sorted(path.name for path in Path("runs").iterdir()) == ["reproduction", "reproduction-quick"]


def test_exit_codes_are_the_scripts(reproduce):
    python, before = [sys.executable, "-c"], signal.getsignal(signal.SIGINT)
    assert reproduce.run([*python, "raise SystemExit(3)"]) == 3
    assert reproduce.run([*python, "import os; os.kill(os.getpid(), 9)"]) == 137
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals")
@pytest.mark.parametrize("signum", STOP_SIGNALS)
def test_signals_reach_the_script_once(reproduce, tmp_path, signum):
    ready, caught = tmp_path / "ready", tmp_path / "caught"
    script = f"""
import pathlib, signal, time
def note(signum, frame):
    with open({str(caught)!r}, "a") as file:
        file.write("x")
signal.signal({int(signum)}, note)
pathlib.Path({str(ready)!r}).touch()
deadline = time.monotonic() + 60
while not pathlib.Path({str(caught)!r}).exists() and time.monotonic() < deadline:
    time.sleep(0.01)
time.sleep(0.2)
raise SystemExit({128 + signum})
"""

    def stop():
        deadline = time.monotonic() + 60
        while not ready.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signum)

    # A suite started under nohup ignores SIGHUP, which a script then is not to be sent.
    before = signal.signal(signum, signal.default_int_handler)
    thread = threading.Thread(target=stop)
    thread.start()
    try:
        assert reproduce.run([sys.executable, "-c", script]) == 128 + signum
    finally:
        thread.join()
        signal.signal(signum, before)
    assert caught.read_text() == "x"


def words_of(cfg):
    """The command line of a configuration."""
    return [
        *("--cifar10", cfg.cifar10, "--frames", cfg.frames, "--out", cfg.out, "--cifar10-test", cfg.cifar10_test),
        *("--frames-test", cfg.frames_test, "--photos", *cfg.photos, "--workers", cfg.workers, "--quick"),
    ]


def test_quick_runs_a_training_and_a_test_of_each_assignment(reproduce, config, monkeypatch, tmp_path):
    """In this process, which has loaded everything."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(reproduce, "run", lambda command: run_example(*command[1:]))
    cfg = config(quick=True, only=("cifar10-base", "cifar10-improved", "cifar10-test", "normals-train", "normals-test"))
    assert reproduce.main(cfg) == 0
    page = (cfg.out / "README.md").read_text()
    assert "| improved net, modern recipe |" in page
    assert page.count("[test.json](") == 2
    assert len(list((cfg.out / "surface_normals" / "test").glob("*.normals.png"))) == 3


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_quick_runs_everything_and_goes_on_from_there(config, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = words_of(config())
    assert run_example(EXAMPLES / "reproduce.py", *words) == 0
    out = tmp_path / "out"
    tables = {path: path.read_bytes() for path in out.rglob("*.csv")}
    assert {path.name for path in tables} >= {"results.csv", "ablation.csv", "skips-test_resnet.csv", "errors.csv"}
    page = (out / "README.md").read_text()
    assert "failed" not in page
    assert "left out" not in page
    assert "| skips 2 and 3 " in page
    capfd.readouterr()
    assert run_example(EXAMPLES / "reproduce.py", *words) == 0
    assert {path: path.read_bytes() for path in tables} == tables
    said = capfd.readouterr().out
    # The runs of the two studies that share none, of Table 2 and of the three networks; and what is made of them.
    assert said.count(": finished earlier: ") == 3 + 8 + 6
    assert said.count(": finished earlier\n") == 4
