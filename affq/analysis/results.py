"""A study's results as frames."""

from affq.analysis import comparison, tables
from affq.errors import InputError
from affq.results import records


def smallest_change(study, results):
    """Say what change of F1 a study can see: (frame as comparison.detectable gives it, whose texts it is reckoned from)."""
    try:
        own = comparison.detectable(comparison.Compared(tables.texts(records(results, study)), study))
    except InputError:  # no run of it is complete, or its weights are not here
        own = ()
    if len(own):
        return own, "its own texts"
    return comparison.foreseen(study)
