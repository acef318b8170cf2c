import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from normalkit.files import atomic_file, atomic_folder, check_writable, recover_folder

FILES = Path(sys.modules[atomic_file.__module__].__file__)


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def contents(folder):
    return {entry.name: entry.read_text() for entry in folder.iterdir()}


def make_folder(path, text):
    path.mkdir()
    (path / "config").write_text(text)
    (path / "weights").write_text(text)


def test_a_file_appears_under_its_name_only_when_whole(tmp_path):
    target = tmp_path / "a.normals.png"
    target.write_text("before")
    with atomic_file(target) as temporary:
        assert temporary.suffix == ".png"
        assert temporary.parent == tmp_path
        temporary.write_text("after")
        assert target.read_text() == "before"
    assert contents(tmp_path) == {"a.normals.png": "after"}


def test_permissions_of_files_are_kept_and_new_ones_follow_the_umask(tmp_path):
    plain, private, fresh = tmp_path / "plain", tmp_path / "private", tmp_path / "fresh"
    plain.write_text("")
    private.write_text("")
    private.chmod(0o600)
    for path in (private, fresh):
        with atomic_file(path) as temporary:
            temporary.write_text("x")
    with atomic_folder(tmp_path / "folder") as temporary:
        pass
    (tmp_path / "by_hand").mkdir()
    assert private.stat().st_mode & 0o777 == 0o600
    assert fresh.stat().st_mode == plain.stat().st_mode
    assert (tmp_path / "folder").stat().st_mode == (tmp_path / "by_hand").stat().st_mode


@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_an_error_in_the_block_leaves_all_as_it_was(tmp_path, atomic, error):
    target = tmp_path / "target"
    if atomic is atomic_file:
        target.write_text("before")
    else:
        make_folder(target, "before")

    def write_half():
        with atomic(target) as temporary:
            (temporary if atomic is atomic_file else temporary / "config").write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert names(tmp_path) == ["target"]
    assert (target if atomic is atomic_file else target / "config").read_text() == "before"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
def test_a_full_disk_is_named_with_the_path_and_the_mend(tmp_path, atomic):
    target = tmp_path / "target"
    with pytest.raises(OSError, match="free some space") as info, atomic(target), open("/dev/full", "w") as device:
        device.write("x")
    assert info.value.errno == errno.ENOSPC
    assert str(target) in str(info.value)
    assert names(tmp_path) == []


def test_an_error_of_another_file_in_the_block_keeps_its_own_words(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such file.*elsewhere"), atomic_file(tmp_path / "target"):
        (tmp_path / "elsewhere").read_text()


def test_a_writer_that_writes_nothing_is_an_error_and_keeps_the_file(tmp_path):
    (tmp_path / "target").write_text("before")
    with pytest.raises(OSError, match="target: its writer made no file"), atomic_file(tmp_path / "target"):
        pass
    assert contents(tmp_path) == {"target": "before"}


@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
@pytest.mark.parametrize(
    ("path", "error", "mend"),
    [
        ("missing/target", FileNotFoundError, "create it"),
        ("a_file/target", NotADirectoryError, "choose another path"),
        ("x" * 300, OSError, "shorter"),
    ],
)
def test_what_cannot_be_written_is_named_before_the_work(tmp_path, atomic, path, error, mend):
    (tmp_path / "a_file").write_text("")
    started = []

    def write():
        with atomic(tmp_path / path) as temporary:
            started.append(temporary)
            temporary.touch()

    with pytest.raises(error, match=mend) as info:
        write()
    # A name's length shows only in the renaming.
    assert started == [] or mend == "shorter"
    assert str(tmp_path / path) in str(info.value)
    assert names(tmp_path) == ["a_file"]


def test_file_and_folder_are_not_taken_for_one_another(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "model.old").write_text("mine")
    with pytest.raises(IsADirectoryError, match="folder: it is a folder"), atomic_file(tmp_path / "folder"):
        pytest.fail("the block must not start")
    for name in ("file", "model"):
        with pytest.raises(NotADirectoryError, match=f"{name}: a file stands"), atomic_folder(tmp_path / name):
            pytest.fail("the block must not start")
    assert names(tmp_path) == ["file", "folder", "model.old"]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_an_unwritable_folder_is_named_before_the_work(tmp_path, monkeypatch, code):
    def refuse(*args, **kwargs):
        raise OSError(code, "refused")

    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    for enter in (atomic_file, atomic_folder):
        with pytest.raises(OSError, match=r"target: .*choose another folder"), enter(tmp_path / "target"):
            pytest.fail("the block must not start")
    with pytest.raises(OSError, match="choose another folder"):
        check_writable(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_write_protection_is_respected(tmp_path):
    (tmp_path / "target").write_text("mine")
    (tmp_path / "target").chmod(0o444)
    with pytest.raises(PermissionError, match="target: no permission"), atomic_file(tmp_path / "target"):
        pytest.fail("the block must not start")
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(PermissionError, match="no permission"):
            check_writable(tmp_path)
        with pytest.raises(PermissionError, match="no permission"):
            check_writable(tmp_path / "new")
    finally:
        tmp_path.chmod(0o755)


def test_links_are_written_through(tmp_path):
    (tmp_path / "real").write_text("before")
    make_folder(tmp_path / "real_folder", "before")
    for link in ("real", "real_folder"):
        (tmp_path / f"to_{link}").symlink_to(tmp_path / link)
    with atomic_file(tmp_path / "to_real") as temporary:
        temporary.write_text("after")
    with atomic_folder(tmp_path / "to_real_folder") as temporary:
        (temporary / "config").write_text("after")
    assert (tmp_path / "to_real").is_symlink()
    assert (tmp_path / "to_real_folder").is_symlink()
    assert (tmp_path / "real").read_text() == "after"
    assert contents(tmp_path / "real_folder") == {"config": "after"}


def test_everything_is_flushed_to_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    events = []
    flush, replace, rename = os.fsync, os.replace, os.rename

    def fsync(descriptor):
        events.append(os.fstat(descriptor).st_ino)
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("named"), replace(*paths)))
    monkeypatch.setattr(os, "rename", lambda *paths: (events.append("named"), rename(*paths)))
    with atomic_file(tmp_path / "file") as temporary:
        temporary.write_text("x")
    written = [(tmp_path / "file").stat().st_ino]
    assert events == [*written, "named", tmp_path.stat().st_ino]
    events.clear()
    with atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "file").write_text("x")
    folder = tmp_path / "folder"
    wanted = {entry.stat().st_ino for entry in (folder, folder / "inner", folder / "inner" / "file")}
    assert wanted == set(events[: events.index("named")])
    assert events[-1] == tmp_path.stat().st_ino


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for text in ("one", "two"):
        with atomic_folder(tmp_path / "model") as temporary:
            (temporary / text).write_text(text)
        assert names(tmp_path) == ["model"]
        assert contents(tmp_path / "model") == {text: text}


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "refused"), KeyboardInterrupt()], ids=["OSError", "Ctrl-C"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("step", "kept"), [(0, "old"), (1, "old"), (2, "new")])
def test_an_error_in_the_swap_leaves_a_whole_folder(tmp_path, monkeypatch, step, kept, after, error):
    make_folder(tmp_path / "model", "old")
    rename, calls = os.rename, []

    def failing(source, target):
        calls.append(target)
        if len(calls) == step + 1:
            if after:
                rename(source, target)
            raise error
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    # What remains of the old folder after the swap is no failure; Ctrl-C is heard nonetheless.
    suppressed = step == 2 and isinstance(error, OSError)
    try:
        with atomic_folder(tmp_path / "model") as temporary:
            for name in ("config", "weights"):
                (temporary / name).write_text("new")
    except type(error):
        assert not suppressed
    else:
        assert suppressed
    if step == 1 and after:
        kept = "new"
    assert contents(tmp_path / "model") == {"config": kept, "weights": kept}
    assert [name for name in names(tmp_path) if not name.startswith(".")][:1] == ["model"]
    if step < 2:
        assert set(names(tmp_path)) <= {"model", "model.old"}


CRASH = """
    import importlib.util, os, sys
    from pathlib import Path
    source, target, step, after = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("files", source)
    files = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(files)
    rename, calls = os.rename, []

    def crashing(source, target):
        calls.append(source)
        here = len(calls) == int(step) + 1
        if here and after == "0":
            os._exit(7)
        rename(source, target)
        if here:
            os._exit(7)

    os.rename = crashing
    with files.atomic_folder(target) as temporary:
        for name in ("config", "weights"):
            Path(temporary, name).write_text("new")
        if step == "-1":
            os._exit(7)
"""


@pytest.mark.parametrize(
    ("step", "after", "stale", "survivor"),
    [
        (-1, 0, False, "old"),
        (0, 0, False, "old"),
        (0, 1, False, "old"),
        (1, 0, False, "old"),
        (1, 1, False, "new"),
        (2, 1, False, "new"),
        (0, 0, True, "old"),
        (0, 1, True, "old"),
        (1, 1, True, "old"),
        (2, 1, True, "new"),
    ],
)
def test_after_a_crash_at_any_step_a_whole_folder_is_found_and_the_next_save_works(
    tmp_path, step, after, stale, survivor
):
    target = tmp_path / "model"
    make_folder(target, "old")
    if stale:
        make_folder(tmp_path / "model.old", "older")
    script = textwrap.dedent(CRASH)
    crash = subprocess.run([sys.executable, "-c", script, str(FILES), str(target), str(step), str(after)], check=False)
    assert crash.returncode == 7
    assert contents(recover_folder(target)) == {"config": survivor, "weights": survivor}
    with atomic_folder(target) as temporary:
        (temporary / "config").write_text("next")
    assert contents(target) == {"config": "next"}
    assert [name for name in names(tmp_path) if not name.startswith(".normalkit-")] == ["model"]


def test_a_save_after_a_crash_needs_no_recovery_first_and_loses_nothing_when_it_fails(tmp_path):
    make_folder(tmp_path / "model.old", "old")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "model"):
        raise RuntimeError
    assert names(tmp_path) == ["model"]
    assert contents(tmp_path / "model")["config"] == "old"


def test_recovery_of_nothing_is_nothing_and_of_one_race_is_no_error(tmp_path, monkeypatch):
    assert recover_folder(tmp_path / "model") == tmp_path / "model"
    assert names(tmp_path) == []
    make_folder(tmp_path / "model.old", "old")
    rename = os.rename

    def overtaken(source, target):
        rename(source, target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", overtaken)
    assert contents(recover_folder(tmp_path / "model"))["config"] == "old"


def test_recovery_that_is_refused_says_so(tmp_path, monkeypatch):
    make_folder(tmp_path / "model.old", "old")

    def refuse(source, target):
        raise PermissionError(errno.EACCES, "refused")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(PermissionError, match="model: no permission"):
        recover_folder(tmp_path / "model")


def test_check_writable_makes_the_folder_and_leaves_nothing_in_it(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert names(tmp_path / "a" / "b") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="file: a file stands"):
        check_writable(tmp_path / "file")
