"""How far a run is: its status, its stage while it goes on, how it failed, what changed since it was made."""

from dataclasses import dataclass
from enum import StrEnum

from affq.results.provenance import Software


class Status(StrEnum):
    """The status of a run, the same word everywhere."""

    OK = "ok"
    MISSING = "missing"
    PARTIAL = "partial"
    STALE = "stale"
    FAILED = "failed"

    @property
    def has_figures(self) -> bool:
        """Return whether a run of this status has all its records, and so figures."""
        return self in (Status.OK, Status.STALE)


class Stage(StrEnum):
    """What a run that goes on is doing."""

    STARTING = "starting"
    LOADING = "loading"
    GENERATING = "generating"
    TIMING = "timing"
    ENDING = "ending"


class FailureKind(StrEnum):
    """What ended a run before its end, or spoilt its records."""

    INTERRUPTED = "interrupted"
    KERNEL_DIED = "kernel_died"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    UNSUPPORTED = "unsupported"
    LOAD_FAILED = "load_failed"
    SERVER_FAILED = "server_failed"
    ERROR = "error"
    DAMAGED = "damaged"
    OTHER_VERSION = "other_version"


@dataclass(frozen=True)
class Failure:
    """How a run failed: the kind, the last words, a remedy where one is known, and whether affq run is to try again.

    software: what ran then; None where nobody knows, as before it is recorded.
    """

    kind: FailureKind
    words: str
    remedy: str | None = None
    again: bool = False
    software: Software | None = None


@dataclass(frozen=True)
class State:
    """How far a run is.

    changes: what changed since a complete or partial run was made; empty where nothing did. texts_kept: of a partial run. Of a
    missing one, otherwise: what of its settings differs from those of an earlier run that is kept; lacks: what is not here, so
    that its records cannot be told, "" where they can.
    """

    status: Status
    texts_wanted: int
    failure: Failure | None = None
    changes: tuple[str, ...] = ()
    texts_kept: int = 0
    otherwise: tuple[str, ...] = ()
    lacks: str = ""

    @property
    def note(self) -> str:
        """Return why the run is not simply ok, in a few words; "" where it is."""
        changes = ", ".join(self.changes)
        if self.failure:
            remedy = f"; {self.failure.remedy}" if self.failure.remedy else ""
            return f"{self.failure.kind}: {self.failure.words}{remedy}"
        if self.status == Status.PARTIAL:
            return f"{self.texts_kept} of {self.texts_wanted} texts kept" + (f": {changes}" if changes else "")
        if self.status == Status.MISSING:
            earlier = f"; an earlier run of other {' and '.join(self.otherwise)} is kept" if self.otherwise else ""
            return self.lacks or f"not run yet{earlier}"
        return changes
