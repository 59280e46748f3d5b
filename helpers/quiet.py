"""What keeps libraries and processes quiet that no setting of theirs mutes."""

import contextlib
import os
import sys


@contextlib.contextmanager
def stderr_muted():
    """Mute file descriptor 2, for libraries and processes that are not muted by their settings."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
