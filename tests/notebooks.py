"""What makes the notebooks tests: a pytest plugin, loaded by .pytest.ini.

Notebooks run on the bundled digits unless $SVD_DATASET says otherwise, and draw into a temporary
folder: figures/ holds the published pictures. `--nbval` compares every output, else only the
tagged ones.
"""

import os
import tempfile


def pytest_configure(config):
    config.option.nbval_lax = not config.option.nbval
    os.environ.setdefault("SVD_DATASET", "subset")
    folder = tempfile.TemporaryDirectory(prefix="figures-")
    config.add_cleanup(folder.cleanup)
    os.environ["SVD_FIGURES"] = folder.name
    if "PYTEST_XDIST_WORKER" in os.environ:  # one thread each: those of two would fight
        for name in ("OMP", "OPENBLAS", "TF_INTRAOP", "TF_INTEROP"):
            prefix, _, part = name.partition("_")
            os.environ[f"{prefix}_NUM_{part}_THREADS" if part else f"{name}_NUM_THREADS"] = "1"
