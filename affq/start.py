"""The first step of the command affq: Ctrl-C ends it without a traceback even while its modules are imported."""

import sys
from typing import Any, cast

# jsonschema would compile a grammar of internationalized addresses, and import a library of dates and times, when it is imported
# with nbformat, for seconds, and then never check one: it does without what cannot be imported.
for name in ("rfc3987_syntax", "isoduration"):
    cast(dict[str, Any], sys.modules).setdefault(name, None)


def entry() -> None:
    """Import the commands, and run the one that was typed."""
    try:
        from affq import cli
    except KeyboardInterrupt:
        sys.exit(130)
    cli.entry()
