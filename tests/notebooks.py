"""What makes the notebooks tests: a pytest plugin, loaded by .pytest.ini.

Notebooks run on the bundled digits unless $SVD_DATASET says otherwise, and draw into a temporary
folder: figures/ holds the published pictures. `--nbval` compares every output, else only the
tagged ones.
"""

import os
import tempfile

# Tests run in more processes than cores, where threads of several processes would fight.
THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "TF_NUM_INTRAOP_THREADS",
)


def pytest_configure(config):
    config.option.nbval_lax = not config.option.nbval
    os.environ.setdefault("SVD_DATASET", "subset")
    folder = tempfile.TemporaryDirectory(prefix="figures-")
    config.add_cleanup(folder.cleanup)
    os.environ["SVD_FIGURES"] = folder.name
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.update(dict.fromkeys(THREADS, "1"))


# The longest first, for the processes to end together; the many short ones fill the gaps. One
# notebook trains the baseline while another waits for it; a third would wait, too.
LONG = ["03_dynamic_svd", "02_factorized_network", "test_kinds", "01_truncated_svd", "test_grade"]
LONG += ["test_exercises", "test_goal", "test_neurons", "test_sweep", "test_moments", "test_model"]


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: [item.path.stem == name for name in LONG], reverse=True)
