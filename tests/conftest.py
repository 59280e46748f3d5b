import sys

import pytest
from hypothesis import settings

from helpers import data

settings.register_profile("busy", deadline=None)  # on a busy machine any time limit fails
settings.load_profile("busy")


@pytest.fixture(autouse=True)
def seeded():
    """No test's random numbers depend on the tests before it."""
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)


@pytest.fixture(scope="session")
def few():
    """A tenth of the subset."""
    digits = data.load("subset")
    parts = {k: getattr(digits, k)[:350] for k in ("x_train", "y_train", "x_val", "y_val")}
    return data.Data("few", **parts, x_test=digits.x_test, y_test=digits.y_test)
