"""How far is it? One line, rewritten, for work that takes more than a moment."""

import time

from IPython.display import DisplayHandle


class Line:
    """A line of text that is rewritten in its place, in a notebook; elsewhere, printed anew.

    Args:
        after: seconds of silence, for work that may be over by then.
    """

    def __init__(self, after=0):
        self.start, self.after, self.shown = time.perf_counter(), after, None

    def say(self, text):
        """Show the text and the seconds since the start."""
        seconds = time.perf_counter() - self.start
        if seconds < self.after:
            return
        text = _Text(f"{text}, {seconds:.0f} s")
        if self.shown:
            self.shown.update(text)
        else:
            self.shown = DisplayHandle()
            self.shown.display(text)


class _Text(str):
    """A string that is displayed without quotes."""

    def __repr__(self):
        return str(self)
