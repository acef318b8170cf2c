"""Writing files and folders so that a crash, a full disk or Ctrl-C never leaves a half-written one; and links."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["atomic_file", "atomic_folder", "check_links", "check_writable", "recover_folder"]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_MENDS = {
    errno.ENOENT: "its folder does not exist: create it, or check the spelling",
    errno.ENOTDIR: "a file stands where a folder is needed: choose another path",
    errno.EEXIST: "a file stands where a folder is needed: choose another path",
    errno.EISDIR: "it is a folder: give the name of a file in it",
    errno.EACCES: "no permission to write there: choose another folder, or change its permissions",
    errno.EPERM: "no permission to write there: choose another folder, or change its permissions",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.ENOSPC: "the disk is full: free some space, or choose another folder",
    errno.EDQUOT: "the disk quota is used up: free some space, or choose another folder",
    errno.EFBIG: "the file is larger than is allowed there: choose another folder",
    errno.ENAMETOOLONG: "the name is too long for the file system: choose a shorter one",
}


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Write a file under a temporary name, and give it its own only when it is whole and on the disk.

    The temporary name is in the same folder and has the same suffix, so that writers which choose
    a format by it work. A link is followed: the file it points to is replaced.

    Args:
        path: The file to write or replace; its folder must exist.

    Yields:
        The temporary path to write to; no file is there yet. It is removed if the block raises, and
        `path` is then as it was.

    Raises:
        OSError: The folder is missing or cannot be written, `path` is a folder or write-protected, the disk
            is full, or the block wrote nothing. The first four are found before the block runs.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_file(folder / "figures.csv") as temporary:
        ...     _ = temporary.write_text("mean,median")
        >>> [file.name for file in folder.iterdir()]
        ['figures.csv']
    """
    target = Path(os.path.realpath(path))
    temporary = target.parent / f"{_temporary_name()}{target.suffix}"
    with _explained(path):
        _probe(target.parent)
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    try:
        with _explained(path, only=_FULL):
            yield temporary
        if not temporary.exists():
            raise OSError(f"cannot write {path}: its writer made no file")
        with _explained(path):
            if target.exists():
                shutil.copymode(target, temporary)
            _sync(temporary)
            os.replace(temporary, target)
            _sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Write a folder beside its place, and swap it in only when it is whole and on the disk.

    The swap is three renames: `<name>` to `<name>.old`, the new folder to `<name>`, and `<name>.old`
    away. At every moment one of the first two names is a whole folder; after a crash between the first two
    renames `recover_folder` puts `<name>.old` back. That name is reserved: a folder of it is replaced.

    Args:
        path: The folder to write or replace; its parent must exist.

    Yields:
        The temporary, empty folder to write into. It is removed if the block raises, and `path` is then
        as it was.

    Raises:
        OSError: The parent is missing or cannot be written, `path` or `<name>.old` is a file, or the disk is full.
    """
    target = Path(os.path.realpath(path))
    temporary = target.parent / _temporary_name()
    with _explained(path):
        recover_folder(target)
        for folder in (target, _old(target)):
            if folder.exists() and not folder.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    try:
        with _explained(path):
            temporary.mkdir()
        with _explained(path, only=_FULL):
            yield temporary
        with _explained(path):
            _sync_tree(temporary)
            _swap(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def recover_folder(path: str | Path) -> Path:
    """Put back the folder which a crash inside `atomic_folder` left as `<name>.old`; call it before reading.

    Several processes may call it at once. Where `path` exists, or has no `<name>.old`, nothing happens.

    Args:
        path: A folder that `atomic_folder` writes.

    Returns:
        The path, which exists if there is anything to read.

    Raises:
        OSError: The folder cannot be renamed.
    """
    target = Path(os.path.realpath(path))
    old = _old(target)
    if not target.exists() and old.is_dir():
        try:
            os.rename(old, target)
        except OSError as error:
            # Another process may have been quicker.
            if not target.exists():
                raise _explain(error, path) from error
    return Path(path)


def check_writable(folder: str | Path) -> None:
    """Create a folder, with its parents, and try to write in it: before long work, not after.

    Args:
        folder: The folder that results will be written to.

    Raises:
        OSError: It cannot be created or written; the message names it and the mend.
    """
    with _explained(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        _probe(Path(folder))


def check_links(root: str | Path, files: Iterable[Path]) -> None:
    """Refuse files of a folder that a link leads out of it, as one in a data set of strangers may.

    Args:
        root: The folder, which may itself be a link.
        files: Paths that begin with `root`; those that do not exist are no links.

    Raises:
        ValueError: A link of the folder leads out of it; the message names it.
    """
    top = Path(os.path.realpath(root))
    folders: set[Path] = set()
    for file in files:
        suspects = [file] if file.is_symlink() else []
        if file.parent not in folders:
            folders.add(file.parent)
            suspects.append(file.parent)
        for path in suspects:
            real = Path(os.path.realpath(path))
            # Where no link is on the way, a path may name what lies outside, as ../rgb does.
            plain = os.path.normpath(os.path.join(top, os.path.relpath(path, root)))
            if str(real) != plain and not real.is_relative_to(top):
                raise ValueError(
                    f"{path}: a link that leads out of {root}, to {real}; copy the files there, or give the folder "
                    "that they lie in"
                )


def _swap(temporary: Path, target: Path) -> None:
    old = _old(target)
    try:
        if target.exists():
            _discard(old)
            os.rename(target, old)
        os.rename(temporary, target)
    finally:
        # After a failure or Ctrl-C between the renames; nothing happens where the target is in place.
        recover_folder(target)
    _sync_folder(target.parent)
    # The new folder is in its place: a rest of the old one that cannot be removed is no failure.
    with suppress(OSError):
        _discard(old)


def _discard(folder: Path) -> None:
    """Remove a folder, renamed first: `<name>.old` is whole or absent, so that it can always be put back."""
    if folder.exists():
        rubbish = folder.parent / _temporary_name()
        os.rename(folder, rubbish)
        shutil.rmtree(rubbish, ignore_errors=True)


def _old(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.old"


def _temporary_name() -> str:
    # Hidden, and free of the target's name: that may be as long as the file system allows.
    return f".normalkit-{secrets.token_hex(8)}"


def _probe(folder: Path) -> None:
    """Raise the system's own error if no file can be made in `folder`; permission bits alone do not tell."""
    probe = folder / _temporary_name()
    try:
        probe.touch(exist_ok=False)
    finally:
        with suppress(OSError):
            probe.unlink()


def _sync(file: Path) -> None:
    # Windows flushes only what was opened for writing.
    descriptor = os.open(file, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    # Some network file systems refuse to flush a folder, and Windows cannot open one.
    with suppress(OSError):
        _sync(folder)


def _sync_tree(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        for name in files:
            _sync(Path(parent, name))
        _sync_folder(Path(parent))


@contextmanager
def _explained(path: str | Path, *, only: frozenset[int] | None = None) -> Iterator[None]:
    """Give errors of the system the path and the mend; those whose number is not in `only`, where given, pass."""
    try:
        yield
    except OSError as error:
        if error.errno is None or (only is not None and error.errno not in only):
            raise
        raise _explain(error, path) from error


def _explain(error: OSError, path: str | Path) -> OSError:
    mend = _MENDS.get(error.errno or 0, str(error))
    # The number makes it a FileNotFoundError, PermissionError and so on.
    return OSError(error.errno, f"cannot write {path}: {mend}")
