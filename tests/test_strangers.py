"""Files of strangers: refused with a line that names the file, in little memory, and with no code in them run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from strangers import CHECKED, MOST_MEMORY

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")


def tried(folder, number):
    """The report of `strangers.py`, a process of its own: a crash of a reader is a failure here, not the end."""
    pytest.importorskip("h5py")
    pytest.importorskip("OpenEXR")
    script = [sys.executable, Path(__file__).with_name("strangers.py"), folder / "work", str(number)]
    (folder / "work").mkdir()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(script, env=environment, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "work" / "report.json").read_text())


def check(report):
    assert report["hacked"] == []
    taken = [case for case in report["hostile"] if case["error"] not in ("ValueError", "FileNotFoundError")]
    assert taken == []
    # Found before memory was asked for, not by the limit.
    assert [case for case in report["hostile"] if "alloc" in case["message"]] == []
    assert max(case["peak"] for case in report["hostile"]) < MOST_MEMORY
    for name, counts in report["damaged"].items():
        assert counts.keys() <= {"refused", "same", "other"}, name
        assert counts.get("refused", 0) > 0, name
    assert {name: report["damaged"][name].get("other", 0) for name in CHECKED} == dict.fromkeys(CHECKED, 0)


def test_files_of_strangers_are_refused(tmp_path):
    report = tried(tmp_path, 8)
    assert len(report["hostile"]) > 60
    check(report)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_many_damaged_files_are_refused_or_read_to_the_end(tmp_path):
    report = tried(tmp_path, 300)
    print(len(report["hostile"]), max(case["peak"] for case in report["hostile"]))
    print(report["damaged"])
    check(report)
