"""How is a file written whole?"""

import contextlib
import json
import os
import tempfile
from pathlib import Path


@contextlib.contextmanager
def write_whole(path):
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds.

    A reader sees the old file or the new one, never half of one. If the block raises, the
    temporary file is removed and `path` stays as it was. The temporary name keeps the suffixes
    of `path`, for writers that choose the format by them.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix="." + path.name)
    os.close(handle)
    try:
        yield Path(name)
        os.umask(mask := os.umask(0))  # the user's, which can only be read by being set
        os.chmod(name, 0o666 & ~mask)  # mkstemp's files are private
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def write_text(path, text):
    """Write text to `path`, whole."""
    with write_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, content):
    """Write `content` to `path` as indented JSON, whole."""
    write_text(path, json.dumps(content, indent=1) + "\n")
