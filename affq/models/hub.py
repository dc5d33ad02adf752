"""Models of the Hugging Face hub: find them in its cache, fetch them, say in one sentence why not.

Only `fetch` reaches the network, and only commands call it, never a notebook.
"""

import contextlib
import os
import re
import sys
from pathlib import Path

from affq.errors import InputError
from affq.models import checkpoints, weights

# What of a hub repository makes a model: no folders inside it (other formats), no second copy of the weights.
WANTED = {
    "allow_patterns": ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"],
    "ignore_patterns": ["*/*", "consolidated*"],
}


COMMIT = re.compile(r"[0-9a-f]{40}")


def token():
    """Give the hub token of the environment, or False: none that was stored elsewhere is ever sent."""
    return os.environ.get("HF_TOKEN") or False


def find(repository, revision):
    """Find the folder of a hub repository's revision in the hub's cache; None if it is not there, or no repository's name."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        found = Path(snapshot_download(repository, revision=revision, local_files_only=True, allow_patterns=["config.json"]))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    # A reference is a file that anything may have written: it names a commit, or nothing.
    return found if COMMIT.fullmatch(found.name) and (found / "config.json").is_file() else None


def fetch(repository, revision, say=print, task=checkpoints.GENERATION):
    """Bring a hub repository's revision into the hub's cache, unless all of it is there, and return its folder.

    A commit that the cache holds is kept, although a branch may have moved since; what it lacks of that commit is fetched. The
    configuration comes first: a model that cannot be loaded for the task is refused before its weights are fetched. Raises
    InputError if it cannot be had.
    """
    there = find(repository, revision)
    try:
        with _explained(repository, revision):
            return _download(repository, there.name if there else revision, say, task)
    except InputError:
        with contextlib.suppress(InputError):
            if there:
                checkpoints.examine(there, task)
                return there  # the hub cannot be asked, and nothing that is needed is missing
        raise


def _download(repository, revision, say, task):
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    which = {"revision": revision, "token": token()}
    snapshot_download(repository, **which, allow_patterns=["config.json"], dry_run=True)  # raises where the hub cannot be asked
    checkpoints.check_configuration(Path(snapshot_download(repository, **which, allow_patterns=["config.json"])), task)
    plan = snapshot_download(repository, **which, **WANTED, dry_run=True)
    if not any(file.filename.endswith(".safetensors") for file in plan):
        raise InputError(
            f"{repository} at {revision} has no safetensors weights, and pickle weights are never loaded, since they can run "
            f"code; choose another revision or model"
        )
    if to_fetch_bytes := sum(file.file_size or 0 for file in plan if file.will_download):
        weights.need_disk(Path(HF_HUB_CACHE), to_fetch_bytes)
        say(f"Fetching {repository} at {revision} from the hub, {to_fetch_bytes / 1e6:,.0f} MB …")
    return Path(snapshot_download(repository, **which, **WANTED))


@contextlib.contextmanager
def _explained(repository, revision):
    """Turn what the hub's client raises into one sentence with a remedy."""
    from huggingface_hub import errors

    name = f"{repository} at {revision}"
    seen = "the token in HF_TOKEN was sent" if token() else "HF_TOKEN is not set"
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # connections, proxies, certificates, a server's errors: the client's types are many
        if isinstance(error, (errors.DryRunError, errors.LocalEntryNotFoundError)):
            error = error.__cause__ or error  # its own words come on top of what happened
        words = f"{type(error).__name__}: {error}".split("\n")[0]
        said = (
            f"there is no folder {repository} here, and {name} cannot be fetched from the hub ({words}); "
            f"check the spelling, the network and the disk (affq doctor)"
        )
        if isinstance(error, errors.OfflineModeIsEnabled):
            said = f"{name} is not, or not whole, in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it; unset it once"
        elif isinstance(error, errors.GatedRepoError):
            said = (
                f"{name} is gated: accept its terms on its page of the hub, then set the environment variable HF_TOKEN to a "
                f"token of yours that may read it ({seen})"
            )
        elif isinstance(error, errors.RepositoryNotFoundError):
            said = (
                f"the hub has no model {repository!r}, or a private one, and there is no such folder here; "
                f"check its spelling, or set HF_TOKEN if it is private ({seen})"
            )
        elif isinstance(error, errors.RevisionNotFoundError):
            said = f"{repository} has no revision {revision!r}; give a branch, a tag or a commit of it"
        raise InputError(said) from None
