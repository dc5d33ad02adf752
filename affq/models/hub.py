"""Models of the Hugging Face hub: find them in its cache, fetch them, say in one sentence why not.

Only `fetch` reaches the network, and only commands call it, never a notebook.
"""

import contextlib
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from affq.errors import InputError
from affq.models import checkpoints, quantized, weights
from affq.models.precisions import STORED

# What of a hub repository makes a model: no folders inside it (other formats), no second copy of the weights.
WANTED = {
    "allow_patterns": ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"],
    "ignore_patterns": ["*/*", "consolidated*"],
}
COMMIT = re.compile(r"[0-9a-f]{40}")
PATIENCE_S = 5  # with a hub that does not answer: its client would go on for half a minute, or for ever


def token() -> str | Literal[False]:
    """Return the hub token of the environment, or False: none that was stored elsewhere is ever sent."""
    return os.environ.get("HF_TOKEN") or False


def find(repository: str, revision: str) -> Path | None:
    """Return the folder of a hub repository's revision in the hub's cache; None if it is not there, or no repository's name."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repository, revision=revision, local_files_only=True, allow_patterns=["config.json"]))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    # A reference is a file that anything may have written: it names a commit, or nothing.
    return folder if COMMIT.fullmatch(folder.name) and (folder / "config.json").is_file() else None


def fetch(repository: str, revision: str, say: Callable[[str], None] = print, task: str = checkpoints.GENERATION) -> Path:
    """Bring a hub repository's revision into the hub's cache, unless all of it is there, and return its folder.

    A commit that the cache holds is kept, although a branch may have moved since; what it lacks of that commit is fetched. The
    hub is asked only where the cache does not know which files the commit has. The configuration comes first: a model that
    cannot be loaded for the task is refused before its weights are fetched. Raises InputError if it cannot be had.
    """
    from huggingface_hub.constants import HF_HUB_OFFLINE

    there = find(repository, revision)
    asks = not HF_HUB_OFFLINE and not (there and _is_listed(repository, there.name))
    try:
        with _explained(repository, revision):
            if asks:
                say(f"Asking the hub for {repository} at {revision} …")
                _need_answer()
            return _download(repository, there.name if there else revision, say, task)
    except InputError:
        with contextlib.suppress(InputError):
            if there:
                checkpoints.examine(there, task)
                if asks:
                    say(f"The hub cannot be asked: what its cache has of {repository} is used, and is enough to load it.")
                return there
        raise


def _is_listed(repository: str, commit: str) -> bool:
    """Return whether the hub's cache knows which files a commit has."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        get_cached_repo_tree(repository, revision=commit)
    except CachedRepoTreeNotFoundError:
        return False
    return True


def _need_answer() -> None:
    """Raise what the hub's client raises unless the hub answers, whatever it says, within PATIENCE_S."""
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.utils import get_session

    get_session().head(ENDPOINT, timeout=PATIENCE_S)


def _download(repository: str, revision: str, say: Callable[[str], None], task: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    download: Callable[..., Any] = functools.partial(snapshot_download, repository, revision=revision, token=token())
    download(allow_patterns=["config.json"], dry_run=True)  # raises where the hub cannot be asked
    config = checkpoints.check_configuration(Path(download(allow_patterns=["config.json"])), task)
    if words := quantized.lacks(quantized.of_configuration(config), STORED):
        raise InputError(words, value=repository)
    plan = download(**WANTED, dry_run=True)
    if not any(file.filename.endswith(".safetensors") for file in plan):
        problem = (
            f"{repository} at {revision} has no safetensors weights, and pickle weights are never loaded, since they can run code"
        )
        raise InputError(problem, value=f"{repository}@{revision}", remedy="choose another revision or model")
    if to_fetch_bytes := sum(file.file_size or 0 for file in plan if file.will_download):
        weights.need_disk(Path(HF_HUB_CACHE), to_fetch_bytes)
        say(f"Fetching {repository} at {revision} from the hub, {to_fetch_bytes / 1e6:,.0f} MB …")
    return Path(download(**WANTED))


@contextlib.contextmanager
def _explained(repository: str, revision: str) -> Iterator[None]:
    """Turn what the hub's client raises into one sentence with a remedy."""
    from huggingface_hub import errors

    name = f"{repository} at {revision}"
    sent = "the token in HF_TOKEN was sent" if token() else "HF_TOKEN is not set"
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # connections, proxies, certificates, a server's errors: the client's types are many
        cause: BaseException = error
        if isinstance(error, (errors.DryRunError, errors.LocalEntryNotFoundError)):
            cause = error.__cause__ or error  # its own words come on top of what happened
        words = f"{type(cause).__name__}: {cause}".split("\n")[0]
        problem = f"there is no folder {repository} here, and {name} cannot be fetched from the hub ({words})"
        remedy: str | None = "check the spelling, the network and the disk (affq doctor)"
        if isinstance(cause, errors.OfflineModeIsEnabled):
            # The client heeds the second where the first is not set; 0 in the first overrules both.
            forbids = next((key for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(key)), "HF_HUB_OFFLINE")
            problem = f"{name} is not, or not whole, in the hub's cache, and {forbids} forbids to fetch it"
            remedy = "HF_HUB_OFFLINE=0 allows it; or is it a folder, and the path wrong?"
        elif isinstance(cause, OSError) and cause.filename:
            problem = f"{name} cannot be written to {cause.filename} ({cause.strerror})"
            remedy = "let HF_HOME name a folder that you can write to, with room in it"
        elif isinstance(cause, errors.GatedRepoError):
            problem = (
                f"{name} is gated: accept its terms on its page of the hub, then set the environment variable HF_TOKEN to a "
                f"token of yours that may read it ({sent})"
            )
            remedy = None
        elif isinstance(cause, errors.RepositoryNotFoundError):
            problem = f"the hub has no model {repository!r}, or a private one, and there is no such folder here"
            remedy = f"check its spelling, or set HF_TOKEN if it is private ({sent})"
        elif isinstance(cause, errors.RevisionNotFoundError):
            problem, remedy = f"{repository} has no revision {revision!r}", "give a branch, a tag or a commit of it"
        raise InputError(problem, value=f"{repository}@{revision}", remedy=remedy) from None
