"""Charts as SVG and PDF, in a process beside the one that shows them: a PDF's letters alone take longer than a whole PNG."""

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CODE = "import sys; sys.path[:] = sys.argv[1:]; from affq.report import drawing; drawing.serve()"


class Drawing:
    """A process that writes figures as SVG and PDF. It ends with the one that began it, however that ends."""

    def __init__(self) -> None:
        # -I: no variable PYTHON*, no module of the user's. -W: what matplotlib warns of has been said for the PNG. In a session
        # of its own an interrupted cell does not end it.
        command = [sys.executable, "-I", "-W", "ignore", "-c", CODE, *sys.path]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        self._sender = ThreadPoolExecutor(1)  # a pipe holds less than a figure: sending it waits for the figures before

    def write(self, figure: "Figure", path: Path) -> None:
        """Write a figure to <path>.svg and <path>.pdf, in a while, as matplotlib is set now."""
        import matplotlib

        try:
            sent = pickle.dumps(figure)
        except (pickle.PicklingError, AttributeError, TypeError):
            sent = b"__main__"
        if b"__main__" in sent:  # it holds something that a notebook defined, such as the format of an axis
            _save(figure, path)
            return
        # The settings come first: they decide what reading the figure imports.
        data = pickle.dumps((path, dict(matplotlib.rcParams))) + sent
        self._sender.submit(cast(IO[bytes], self._process.stdin).write, data)

    def finish(self) -> None:
        """Wait until all is written. Raises RuntimeError, with the words of what is in the way, if something cannot be."""
        self._sender.shutdown()
        words = self._process.communicate()[1].decode(errors="replace").strip()
        if status := self._process.returncode:
            raise RuntimeError(f"charts cannot be written as SVG and PDF (exit status {status}): {words}")


def serve() -> None:
    """Write each figure that comes in, until there is no more."""
    import matplotlib
    from fontTools import subset

    # A PDF has no use for a font's tables of how letters join and shift, whose reading takes a third of the time.
    options = partial(subset.Options, drop_tables=[*subset.Options().drop_tables, "GSUB", "GPOS", "GDEF"])
    cast(Any, subset).Options = options
    figures = cast(BufferedReader, sys.stdin.buffer)
    try:
        while figures.peek(1):
            path, settings = pickle.load(figures)
            matplotlib.rcParams.update(settings)
            _save(pickle.load(figures), path)
    except OSError as error:
        sys.exit(str(error))


def _save(figure: "Figure", path: Path) -> None:
    """Write a figure without a date and with fixed ids: the same figures give the same files."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": path.name}):
        figure.savefig(f"{path}.svg", metadata={"Date": None})
    figure.savefig(f"{path}.pdf", metadata={"CreationDate": None})
