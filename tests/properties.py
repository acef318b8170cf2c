"""Properties that hypothesis tries to break: a few cases in the quick tests, many in the slow ones."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

QUICK, MANY = 20, 600
"""Cases of each property."""

DTYPES = ("float16", "bfloat16", "float32", "float64")

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 12)


def holds(**strategies: st.SearchStrategy) -> Callable[[Callable[..., None]], Callable[[int], None]]:
    """Make a function of drawn arguments two tests: of a few cases, the same each time, and a slow one of many."""

    def decorate(check: Callable[..., None]) -> Callable[[int], None]:
        @pytest.mark.parametrize(
            "cases", [QUICK, pytest.param(MANY, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])]
        )
        def test(cases: int) -> None:
            tried = 0

            def counted(**drawn: object) -> None:
                nonlocal tried
                tried += 1
                check(**drawn)

            run = settings(max_examples=cases, deadline=None, derandomize=cases == QUICK, database=None)
            run(given(**strategies)(counted))()
            assert tried >= cases

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate
