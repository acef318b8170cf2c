"""Models on the Hugging Face Hub: found by `owner/name`, and uploaded; the folder of a checkpoint is the repository.

Not `huggingface_hub.ModelHubMixin`: it keeps constructor arguments in a `config.json` of its own kind, and goes on
without one that it cannot fetch. Its functions below that are used here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypedDict

from huggingface_hub import CommitOperationAdd, HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from normalkit.files import recover_folder
from normalkit.models.card import PLACEHOLDER

__all__ = ["HubOptions", "find_checkpoint", "upload_checkpoint"]

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CARD = "README.md"
"""The files of a checkpoint."""

# A name and its owner; `runs/best` is one too, and so a folder that exists comes first.
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


# Of the client's package, which differs between versions of huggingface_hub: a lost connection is one, and in some no
# error of the system.
_HTTPError: type[BaseException] = HfHubHTTPError.__bases__[0]


class HubOptions(TypedDict, total=False):
    """What `find_checkpoint` takes for a model on the Hub."""

    revision: str | None
    cache_dir: str | Path | None
    token: str | bool | None
    local_files_only: bool


def find_checkpoint(
    source: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder of a checkpoint: a local one, or one that is downloaded from the Hub and kept.

    Of a model on the Hub the weights and the config are fetched, and nothing else. Once they are here, they are also
    found without a network.

    Args:
        source: A folder; or `owner/name` of a model on the Hub as a string, where there is no such folder.
        revision: Branch, tag or commit on the Hub; None for its main branch.
        cache_dir: Where downloads are kept; None for the cache of `huggingface_hub`.
        token: For a private model; None for the one that `hf auth login` stored, False for none.
        local_files_only: Take what was downloaded before, and ask nobody.

    Returns:
        The folder. A local one need not exist: whoever reads it says so.

    Raises:
        FileNotFoundError: Neither a folder nor the Hub has it, or what the Hub has is no checkpoint.
        PermissionError: The Hub wants a token that has access.
        OSError: The Hub cannot be reached.
        ValueError: `revision` is given for a local folder.
    """
    folder = recover_folder(source)
    if folder.exists() or not isinstance(source, str) or not _REPOSITORY.fullmatch(source):
        if revision is not None:
            raise ValueError(f"revision={revision!r}: {source} is a local folder, which has none; leave it out")
        return folder
    try:
        found = Path(
            snapshot_download(
                source,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                local_files_only=local_files_only,
                allow_patterns=[CONFIG, WEIGHTS],
            )
        )
    except (OSError, _HTTPError) as error:
        raise _explained(error, source, revision, local_files_only) from error
    missing = [name for name in (CONFIG, WEIGHTS) if not (found / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{source}: the model on the Hub has no {' and no '.join(missing)}, so it is none of normalkit; "
            "`model.push_to_hub` uploads one that is"
        )
    return found


def upload_checkpoint(
    folder: str | Path,
    repo_id: str,
    *,
    commit_message: str = "Push model using normalkit",
    private: bool | None = None,
    token: str | bool | None = None,
    branch: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a checkpoint to the Hub, in one commit; the repository is made if there is none.

    The weights, the config and the card are uploaded as they are; what else the folder has stays here. The card's
    snippet gets the name of the repository.

    Args:
        folder: A folder that `save_model` or a training wrote.
        repo_id: `owner/name`, or a name of yours.
        commit_message: Says what changed.
        private: Whether a new repository is private; None for the owner's default.
        token: One that may write; None for the one that `hf auth login` stored.
        branch: The branch to commit to, made if there is none; None for the main one.
        create_pr: Open a pull request instead of committing.

    Returns:
        The address of the commit.

    Raises:
        FileNotFoundError: The folder or one of its files is missing.
        PermissionError: The token may not write there, or there is none.
        OSError: The Hub cannot be reached, or refuses.
        ValueError: The folder is no valid checkpoint, or `repo_id` no name of a repository.
    """
    from normalkit.models.base import ImageModel

    # What does not load here would not load for others.
    ImageModel.from_pretrained(Path(folder))
    folder = recover_folder(folder)
    api = HfApi(token=token, library_name="normalkit")
    try:
        name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if branch is not None and not create_pr:
            api.create_branch(name, branch=branch, exist_ok=True)
        files: dict[str, str | bytes] = {file: str(folder / file) for file in (WEIGHTS, CONFIG)}
        # Checkpoints of the first versions have no card.
        if (folder / CARD).is_file():
            files[CARD] = (folder / CARD).read_text(encoding="utf-8").replace(PLACEHOLDER, name).encode()
        commit = api.create_commit(
            name,
            operations=[
                CommitOperationAdd(path_in_repo=file, path_or_fileobj=content) for file, content in files.items()
            ],
            commit_message=commit_message,
            revision=branch,
            create_pr=create_pr,
        )
    except (OSError, _HTTPError) as error:
        raise _upload_error(error, repo_id) from error
    return str(commit.pr_url if create_pr else commit.commit_url)


def _explained(error: BaseException, source: str, revision: str | None, local_files_only: bool) -> OSError:
    none = f"{source}: there is no such folder here, and"
    if isinstance(error, GatedRepoError):
        return PermissionError(
            f"{none} the model of that name on the Hub is gated: ask for access on its page, and log in with "
            "`hf auth login` or pass token="
        )
    if isinstance(error, RepositoryNotFoundError):
        return FileNotFoundError(
            f"{none} the Hub has no such model, or a private one: check the spelling, and for a private one log in "
            "with `hf auth login` or pass token="
        )
    if isinstance(error, RevisionNotFoundError):
        return FileNotFoundError(
            f"{source}: the model on the Hub has no revision={revision!r}; give a branch, tag or commit that is there"
        )
    if isinstance(error, LocalEntryNotFoundError) and local_files_only:
        return FileNotFoundError(
            f"{none} no model of that name was downloaded before; leave out local_files_only to download it, or "
            "give the cache_dir that has it"
        )
    return OSError(
        f"{none} no model of that name could be downloaded ({_reason(error)}): check the path, or the network, or give "
        "the folder of a checkpoint"
    )


def _upload_error(error: BaseException, repo_id: str) -> OSError:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    if status in (401, 403):
        return PermissionError(
            f"repo_id={repo_id!r}: the Hub lets nobody write there with this token ({_reason(error)}); log in with "
            "`hf auth login`, or pass token=, with one that may write"
        )
    return OSError(f"repo_id={repo_id!r}: could not be uploaded ({_reason(error)}); check the network and try again")


def _reason(error: BaseException) -> str:
    """One line of what went wrong first: the outer error says only that something did."""
    while isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
