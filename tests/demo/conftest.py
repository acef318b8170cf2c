"""The page, served, for the tests of it by HTTP and in a browser."""

import pytest
from coloured import Itself, free_port


@pytest.fixture(scope="module")
def model():
    return Itself()


@pytest.fixture(scope="module")
def address(model):
    # Here, as the other tests of this folder also run without Gradio.
    from normalkit.demo.server import serving

    with serving(model, port=free_port()) as url:
        yield url
