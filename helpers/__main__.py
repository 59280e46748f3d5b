"""`python -m helpers` runs the notebooks: see helpers/lab/sweep.py."""

import sys

from .lab.sweep import main

if __name__ == "__main__":
    sys.exit(main())
