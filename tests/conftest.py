import pytest

from helpers import data


@pytest.fixture(scope="session")
def few():
    """A tenth of the subset."""
    digits = data.load("subset")
    parts = {k: getattr(digits, k)[:350] for k in ("x_train", "y_train", "x_val", "y_val")}
    return data.Data("few", **parts, x_test=digits.x_test, y_test=digits.y_test)
