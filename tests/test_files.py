import os

import pytest

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
