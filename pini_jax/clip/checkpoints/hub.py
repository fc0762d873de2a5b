"""Where a checkpoint lies: in this package, on this disk, or on the Hugging Face hub."""

from __future__ import annotations

import fnmatch
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from pini_jax.clip.checkpoints import tensors
from pini_jax.core import copies, extras
from pini_jax.core.bucket import is_url
from pini_jax.core.errors import InputError
from pini_jax.core.paths import ASSETS, check_address

BUNDLED = ASSETS / "tiny_clip"
CONFIGS = ("config.json", "open_clip_config.json")
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",))
SMALL = ["*.json", "merges.txt", "spiece.model"]  # all but the weights
SECONDS = 5.0  # for the hub's first answer
LOG = logging.getLogger(__name__)


def locate(source: str, tokenizer: bool = True) -> Path:
    """The folder, or the one weight file, of a checkpoint.

    What the hub's cache (in HF_HOME) holds completely is used as it is, without a network. Otherwise what a CLIP
    needs is fetched: the small files, and one set of weights.

    Args:
        source: `tiny_clip` (the bundled one), a folder or a file, of this machine or of a bucket, or a hub id
            (owner/name).
        tokenizer: whether the checkpoint must bring one.

    Raises:
        InputError: it is none of these, or is not in the cache and cannot be fetched.
    """
    if source == BUNDLED.name:
        return BUNDLED
    check_address("clip", source)
    if is_url(source):
        return _from_bucket(source)
    path = Path(os.path.expanduser(source))
    if source and path.exists():
        return path
    if not _is_hub_id(source):
        raise InputError(f"clip={source!r}: no such folder or file, and no hub id (owner/name)")
    return _from_hub(source, tokenizer)


def _from_bucket(url: str) -> Path:
    """A copy of a folder; or of a weight file with the small files beside it."""
    if not url.lower().endswith(tensors.SUFFIXES):
        return copies.fetch(url)
    folder, _, name = url.rpartition("/")
    wanted = (name, *SMALL)
    return (
        copies.fetch(folder, lambda key: any("/" not in key and fnmatch.fnmatch(key, own) for own in wanted))
        / name
    )


def _is_hub_id(source: str) -> bool:
    """Whether it may be an owner and a name; a mistyped path is none where it starts or ends as paths do."""
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) or source.lower().endswith(tensors.SUFFIXES):
        return False
    try:
        _client(".utils").validate_repo_id(source)
    except _client(".errors").HFValidationError:
        return False
    return True


def _client(part: str = "") -> ModuleType:
    """The hub's client, or a part of it: a tenth of a second to import, and needed for hub ids only."""
    return extras.require(f"huggingface_hub{part}", "hub")


def _from_hub(hub_id: str, tokenizer: bool) -> Path:
    folder = _cached(hub_id)
    lacking = list(_lacking(folder, tokenizer)) if folder else ["it"]
    if folder is None or lacking:
        folder = _fetch(hub_id, lacking)
        if lacking := list(_lacking(folder, tokenizer)):
            raise InputError(f"clip={hub_id!r}: the hub's copy lacks {', '.join(lacking)}")
    LOG.info("%s: commit %s, in the hub's cache", hub_id, folder.name)
    return folder


def _cached(hub_id: str) -> Path | None:
    """The snapshot of a repository that the cache calls the main one."""
    cached = (_client().try_to_load_from_cache(hub_id, name) for name in CONFIGS)
    return next((Path(path).parent for path in cached if isinstance(path, str)), None)


def _lacking(folder: Path, tokenizer: bool) -> Iterator[str]:
    """What a CLIP needs and a snapshot has not; a file whose bytes are gone is a dangling link."""
    try:
        yield from (path.name for path in tensors.files_of(folder) if not path.exists())
    except InputError:
        yield "weights"
    if tokenizer and not any(all((folder / name).exists() for name in names) for names in TOKENIZERS):
        yield "a tokenizer"


def _fetch(hub_id: str, lacking: list[str]) -> Path:
    client = _client()
    try:
        # This request is not repeated when it fails, and it tells which sets of weights there are.
        siblings = client.HfApi().model_info(hub_id, timeout=SECONDS).siblings or ()
        folder = Path(client.snapshot_download(hub_id, allow_patterns=SMALL, ignore_patterns="*/*"))
        files = [path.name for path in tensors.files_of(folder, [file.rfilename for file in siblings])]
        return Path(client.snapshot_download(hub_id, allow_patterns=files))
    except InputError:
        raise
    except Exception as error:  # of the hub, the network or the disk: what it is, its own words say
        why, remedy = _explain(hub_id, error)
        raise InputError(
            f"clip={hub_id!r}: no such folder, the hub's cache {client.constants.HF_HUB_CACHE} lacks "
            f"{', '.join(lacking)}, and {why}; {remedy}"
        ) from None


def _explain(hub_id: str, error: Exception) -> tuple[str, str]:
    """What went wrong, and what to do."""
    errors = _client(".errors")
    copy = f"where there is a network run `hf download {hub_id} --local-dir DIR`, copy DIR here, and name it"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids to fetch it", f"unset it, or {copy}"
    if isinstance(error, errors.GatedRepoError):
        page = f"https://huggingface.co/{hub_id}"
        return "its owner must grant access", f"ask for it on {page}, then run `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub shows none of this name", "correct it, or run `hf auth login` where it is private"
    words = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"it could not be fetched ({words})", copy
