"""Files are written whole; libraries are loaded as they must be."""

import os
import subprocess
import sys

import pytest

from helpers import PROJECT
from helpers.lab import files


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "results.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError), files.write_whole(path) as temporary:
        temporary.write_bytes("half a file, then not bytes")
    with pytest.raises(TypeError):
        files.write_json(path, {"b": object()})
    assert path.read_text() == '{\n "a": 1\n}\n'
    assert os.listdir(path.parent) == ["results.json"]


@pytest.mark.slow
def test_keras_runs_on_tensorflow_whatever_is_set():
    environment = os.environ | {"KERAS_BACKEND": "numpy"}
    command = [sys.executable, "-c", "from helpers import model; model.build(0).summary()"]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert "5,012,490" in done.stdout, done.stderr
