"""The contract of an engine: what turns a model's weights and prompts into tokens. Those that there are: affq.models.engines."""

from collections.abc import Sequence
from typing import Any, Protocol

from affq.inference.kernels import KernelTime
from affq.inference.measure import TextReading
from affq.inference.probes import Clock, Probe
from affq.inference.requests import AloneText, AtToken, Generation, Made, Request


class ServerError(RuntimeError):
    """A server that went away, or fails at what it is there for: later it may go on."""


class Engine(Protocol):
    """One run's model in the hands of an engine, in a process of its own. Its methods are called in this order.

    What cannot be had raises PrecisionError, LoadError or InputError, which say it in a sentence, and end the run.

    device: where it computes: cpu, cuda, or server for a machine that is not known here.
    """

    device: str

    def weights_sha256(self) -> str:
        """Return the SHA-256 (hex) of all that decides what is generated; UNKNOWN where the weights are elsewhere."""

    def about(self) -> dict[str, str]:
        """Return what the engine is, by name: its version and build, and the settings that it is used with. Records keep it.

        Empty where the versions of libraries, which every record has, say it all.
        """

    def import_all(self) -> None:
        """Import all that loading and generating will need: what comes after is the model's memory, not the code's."""

    def instruments(self) -> tuple[Probe, Clock]:
        """Return the probe of the memory that the model will take, and the clock. Call it before loading."""

    def load(self) -> None:
        """Load the model, and prove that the precision took effect wherever the weights can be counted."""

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        """Return how many tokens each request takes, rendered. Raises InputError for one that the model has no room for."""

    def make_ready(self, requests: Sequence[Request]) -> dict[str, float]:
        """Compute the first of all requests once; return {compile_s} if the engine compiles, for prompts as long as theirs."""

    def texts(self, batch: Sequence[Request], at_token: AtToken | None = None) -> tuple[list[Generation], int | str]:
        """Generate one batch as the study asks for; return its texts, and the bytes of its keys and values (or UNKNOWN).

        An engine whose server goes away raises: the batches before are kept, and the run goes on with this one later.
        """

    def prepare(self, requests: Sequence[Request]) -> Any:
        """Return the inputs of `produce` for a batch; what else one of this size needs is done now, outside the clock."""

    def produce(self, inputs: Any, new_tokens: int, at_token: AtToken | None = None) -> list[Made]:
        """Generate greedily exactly `new_tokens` for each prompt, end-of-text ignored, as far as the engine lets one choose."""

    def profile(self, inputs: Any, new_tokens: int) -> list[KernelTime]:
        """Return the time of each kernel while one text is generated; none where the engine's kernels cannot be counted."""

    def census(self) -> list[dict[str, Any]]:
        """Return what is stored, as loading.by_role gives it; empty where it cannot be counted."""

    def alone(self, readings: Sequence[TextReading]) -> list[AloneText]:
        """Return what each timed text is by itself, cut at its end, once for each request, to be compared with its batch's."""

    def described(self) -> dict[str, Any]:
        """Return what serves the loaded model, as results.schemas.Model has it."""

    def close(self) -> None:
        """Give back what outlives a process: connections, servers, threads."""
