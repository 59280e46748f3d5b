"""The workshop behind the lesson: what runs, keeps, measures, draws and checks."""

from .. import PROJECT

RUNS = PROJECT / ".runs"  # a sweep writes its results here
