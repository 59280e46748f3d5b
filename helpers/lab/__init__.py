"""The workshop behind the lesson: what runs, keeps, measures, draws and checks."""
