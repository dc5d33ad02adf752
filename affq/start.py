"""The first step of the command affq: Ctrl-C ends it without a traceback even while its modules are imported."""

import sys


def entry() -> None:
    """Import the commands, and run the one that was typed."""
    try:
        from affq import cli
    except KeyboardInterrupt:
        sys.exit(130)
    cli.entry()
