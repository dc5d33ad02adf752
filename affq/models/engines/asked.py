"""What a study asks of an engine, and what an engine needs to know of a run. No library is imported here."""

from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from affq.errors import InputError
from affq.inference import Request, Sampling
from affq.models.sources import Source


@dataclass(frozen=True)
class AskedEngine:
    """An engine as a study names it.

    name: one of ENGINES. label: what tables and run ids call it. address: of a server; served: what it calls the model; of: the
    study's model that this is, by its name.
    """

    name: str
    label: str
    address: str | None = None
    served: str | None = None
    of: str | None = None

    @property
    def settings(self) -> str | dict[str, str | None]:
        """Return what of the engine changes a text or a reading."""
        return {"name": self.name, "address": self.address, "model": self.served} if self.address else self.name


class Decoding(Protocol):
    """How a study's texts are decoded."""

    @property
    def max_new_tokens(self) -> int: ...
    @property
    def thinking(self) -> bool: ...


class Measured(Protocol):
    """How a study times texts."""

    @property
    def new_tokens(self) -> int: ...
    @property
    def throughput(self) -> int: ...


class AskedStudy(Protocol):
    """What an engine needs to know of a study."""

    @property
    def requests(self) -> list[Request]: ...
    @property
    def batch(self) -> int: ...
    @property
    def generation(self) -> Decoding: ...
    @property
    def measurement(self) -> Measured: ...
    @property
    def device(self) -> str: ...
    @property
    def offload(self) -> bool: ...
    @property
    def sampling(self) -> Sampling | None: ...


class AskedRun(Protocol):
    """What an engine, and a prediction of its memory, needs to know of a run."""

    @property
    def study(self) -> AskedStudy: ...
    @property
    def model(self) -> Source: ...
    @property
    def precision(self) -> str: ...
    @property
    def engine(self) -> AskedEngine: ...
    @property
    def random_seed(self) -> int | None: ...


def check_address(address: str) -> str:
    """Return the address of a server, without slashes at its end. Raises InputError for what is none, or may hold a secret.

    A secret is not in the error, as it must not be in a study, which is published.
    """
    if "@" in address or "?" in address or "#" in address:
        problem = "the address of a server is to hold host, port and path alone, no user, password or query"
        raise InputError(problem, remedy="give its key in the environment, as OPENAI_API_KEY")
    try:
        parts = urlsplit(address)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or any(letter.isspace() for letter in address):
        raise InputError(f"{address!r} is no address of a server", value=address, remedy="write it as http://host:8080/v1")
    return address.rstrip("/")
