"""What several test modules share."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# Loader workers end by SIGTERM, and those of a shell that ignores it would inherit that and outlive the tests.
signal.signal(signal.SIGTERM, signal.SIG_DFL)

# The first backward pass starts a thread for each GPU, with which no child could be forked any more; and a test that
# enters torch's FakeTensorMode makes torch believe in a GPU.
torch.ones(1, requires_grad=True).sum().backward()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small nets are slower with more, equal bits need equally many, and forked children can use but one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with red_kitchen and CIFAR-10; the test is skipped where there is none."""
    default = Path(__file__).parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("NORMALKIT_DATA", default)).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set NORMALKIT_DATA to its folder")
    return folder
