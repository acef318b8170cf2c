"""examples/large_scale: training on shards, alone and in two processes, and the arithmetic of the plan."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import loaded_example, run_example

from normalkit import SyntheticRooms, write_shards
from normalkit.models.checkpoint import read_config
from normalkit.training import read_rows

EXAMPLES = Path(__file__).parents[1] / "examples" / "large_scale"

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ("--encoder", "test_resnet", "--pretrained", "False", "--height", 32, "--width", 48, "--workers", 0)
SMALL += ("--settings.precision", "no")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    for name, length in (("train", 9), ("val", 3)):
        rooms = SyntheticRooms(length, size=(32, 48), seed=0)
        write_shards(rooms, folder / name, samples_per_shard=4, shuffle=0, progress=False)
    return folder


def words(shards, out, *more):
    return ("--data", shards / "train", "--val", shards / "val", "--out", out, *SMALL, *more)


def test_training_on_shards(shards, tmp_path, capsys):
    out = tmp_path / "run"
    more = ("--batch-size", 2, "--settings.epochs", 1)
    assert run_example(EXAMPLES / "train.py", *words(shards, out, *more)) == 0
    assert f"9 samples, 1 epochs: {out}/best" in capsys.readouterr().out
    (row,) = read_rows(out / "metrics.csv")
    assert 0 < row["mean"] < 180
    facts = read_config(out / "best")
    assert facts["order"] == {"processes": 1, "workers": 0, "window": 1000, "batch": 2}
    # A run in other processes, or workers, would have other batches.
    again = words(shards, out, "--resume", "--batch-size", 2, "--settings.epochs", 1, "--window", 5)
    assert run_example(EXAMPLES / "train.py", *again) == 1
    assert "order.window" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_train_on_shards(shards, tmp_path):
    """By torchrun, as the page on large data has it."""
    out = tmp_path / "run"
    more = ("--batch-size", 2, "--settings.epochs", 1)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, EXAMPLES / "train.py", *words(shards, out, *more)]
    cpu = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), env=cpu, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert len(read_rows(out / "metrics.csv")) == 1
    facts = json.loads((out / "best" / "config.json").read_text())
    assert facts["order"]["processes"] == 2


def test_the_plan_is_arithmetic(capsys):
    options = ("--pictures", 7200, "--samples-per-shard", 1000, "--bytes-per-picture", 5e5, "--writes-per-core", 2)
    options += ("--reads-per-core", 10, "--epochs", 10, "--gpu-rates", 20, 100, "--nodes", 1, 2)
    options += ("--gpus-per-node", 4, "--cores-per-node", 20)
    assert run_example(EXAMPLES / "plan.py", *options) == 0
    rows = [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in capsys.readouterr().out.splitlines() if line
    ]
    assert rows[:6] == [
        ["7,200 pictures"],
        ["---", "---"],
        ["shards", "8 of 500 MB"],
        ["storage", "0.0 TB"],
        ["writing them", "1 core hours"],
        ["on 1 node", "0.1 hours"],
    ]
    # 72,000 samples at 80 a second; then four cores of five feed a GPU 40 a second, 160 in all.
    assert rows[-2] == ["20", "2.0", "40", "0.2 h", "0.1 h"]
    assert rows[-1] == ["100 (fed 40)", "10.0", "80", "0.1 h", "0.1 h"]


def test_a_node_with_a_core_for_each_gpu_alone_trains_nothing():
    with loaded_example(EXAMPLES / "plan.py") as plan:
        cfg = plan.Config(bytes_per_picture=1, writes_per_core=1, reads_per_core=1, cores_per_node=8, gpus_per_node=8)
        with pytest.raises(ValueError, match="cores_per_node=8: wanted more than one for each of the 8 GPUs"):
            plan.main(cfg)
