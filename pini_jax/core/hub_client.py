"""The client of the Hugging Face hub: names of repositories with a revision, and what its refusals mean."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from pini_jax.core import extras
from pini_jax.core.errors import InputError

FORMS = "owner/name, owner/name@revision"
SECONDS = 5.0  # for the hub's first answer
LOG = logging.getLogger(__name__)


class HubName(NamedTuple):
    """A repository of models.

    Attributes:
        id: `owner/name`.
        revision: a branch, a tag or a commit; None for the main branch.
    """

    id: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.id}@{self.revision}" if self.revision else self.id


def client(part: str = "") -> ModuleType:
    """The hub's client, or a part of it: a tenth of a second to import, and needed for names of the hub only."""
    return extras.require(f"huggingface_hub{part}", "hub")


def parse_id(text: str) -> HubName | None:
    """`owner/name` or `owner/name@revision`; None for what is neither, such as most paths."""
    found = re.fullmatch(r"(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w./+-]*))?", text)
    if not found:
        return None
    try:
        client(".utils").validate_repo_id(found[1])
    except client(".errors").HFValidationError:
        return None
    return HubName(found[1], found[2])


def explain(name: HubName, error: Exception, wanted: str = "fetched") -> tuple[str, str]:
    """What went wrong where something was to be fetched, pushed or asked for, and what to do."""
    errors = client(".errors")
    at = f" --revision {name.revision}" if name.revision else ""
    copy = f"where there is a network run `hf download {name.id}{at} --local-dir DIR`, copy DIR here, and name it"
    remedy = copy if wanted == "fetched" else "try again"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids to fetch it", f"unset it, or {copy}"
    if isinstance(error, errors.GatedRepoError):
        page = f"https://huggingface.co/{name.id}"
        return "its owner must grant access", f"ask for it on {page}, then run `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub shows none of this name", "correct it, or run `hf auth login` where it is private"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the hub has no revision {name.revision or 'main'} of it", "correct it"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return "the hub's repository lacks what is wanted", "name another"
    words = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"it could not be {wanted} ({words})", remedy


def fetch_file(name: HubName, file: str) -> Path:
    """A file of a repository, as it is there now; from the hub's cache where the hub does not answer.

    Raises:
        InputError: there is none, or it cannot be fetched.
    """
    cached = client().try_to_load_from_cache(name.id, file, revision=name.revision)
    try:
        # This request is not repeated when it fails.
        client().HfApi().model_info(name.id, revision=name.revision, timeout=SECONDS)
        return Path(client().hf_hub_download(name.id, file, revision=name.revision))
    except Exception as error:  # of the hub, the network or the disk
        why, remedy = explain(name, error)
        if not isinstance(cached, str):
            raise InputError(f"{name}: {why}; {remedy}") from None
        LOG.warning("%s: %s; what the hub's cache has of it is used: %s", name, why, cached)
        return Path(cached)


def push(name: HubName, files: Mapping[str, bytes], message: str, private: bool) -> str:
    """Commits files to a repository, which is made if there is none; the address of the commit.

    Raises:
        InputError: it cannot be; the message says why.
    """
    api, addition = client().HfApi(), client().CommitOperationAdd
    additions = [addition(path_in_repo=path, path_or_fileobj=content) for path, content in files.items()]
    try:
        api.create_repo(name.id, private=private, exist_ok=True)
        return str(api.create_commit(name.id, additions, commit_message=message).commit_url)
    except Exception as error:  # of the hub, the network or the disk
        why, remedy = explain(name, error, "pushed")
        raise InputError(f"{name}: {why}; {remedy}") from None


def has_file(name: HubName, file: str) -> bool:
    """Whether a repository has a file; not where there is no such repository.

    Raises:
        InputError: the hub does not say.
    """
    try:
        return bool(client().HfApi().file_exists(name.id, file, revision=name.revision))
    except Exception as error:  # of the hub or the network
        why, remedy = explain(name, error, "asked for")
        raise InputError(f"{name}: {why}; {remedy}") from None
