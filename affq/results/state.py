"""How far a run is: its status, how it failed, what changed since; each a word of a fixed list."""

from dataclasses import dataclass, field
from enum import StrEnum


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


class FailureKind(StrEnum):
    """What ended a run before its end, or spoilt its records."""

    INTERRUPTED = "interrupted"
    KERNEL_DIED = "kernel_died"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    UNSUPPORTED = "unsupported"
    LOAD_FAILED = "load_failed"
    ERROR = "error"
    DAMAGED = "damaged"
    OTHER_VERSION = "other_version"


@dataclass(frozen=True)
class Failure:
    """How a run failed: the kind, the last words, a remedy where one is known, and whether affq run is to try again.

    software: what ran then, as `provenance.software` gives it.
    """

    kind: FailureKind
    words: str
    remedy: str | None = None
    again: bool = False
    software: dict = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """How far a run is.

    changes: what changed since a complete or partial run was made; empty where nothing did. texts_kept: of a partial run.
    """

    status: Status
    texts_wanted: int
    failure: Failure | None = None
    changes: tuple[str, ...] = ()
    texts_kept: int = 0

    @property
    def note(self) -> str:
        """Return why the run is not simply ok, in a few words; "" where it is."""
        match self.status:
            case Status.FAILED:
                remedy = f"; {self.failure.remedy}" if self.failure.remedy else ""
                return f"{self.failure.kind}: {self.failure.words}{remedy}"
            case Status.PARTIAL:
                changed = f": {', '.join(self.changes)}" if self.changes else ""
                return f"{self.texts_kept} of {self.texts_wanted} texts kept{changed}"
            case Status.MISSING:
                return "not run yet"
        return ", ".join(self.changes)
