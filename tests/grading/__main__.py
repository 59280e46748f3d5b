"""Grades copies of the project, see grade.py: `python -m tests.grading FOLDER`."""

import sys

from .grade import main

sys.exit(main())
