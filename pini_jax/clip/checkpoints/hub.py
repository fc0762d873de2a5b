"""Where a checkpoint lies: in this package, on this disk, or on the Hugging Face hub."""

from __future__ import annotations

import fnmatch
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pini_jax.clip.checkpoints import tensors
from pini_jax.core import copies, hub_client
from pini_jax.core.bucket import is_url
from pini_jax.core.errors import InputError
from pini_jax.core.hub_client import HubName
from pini_jax.core.paths import ASSETS, check_address

BUNDLED = ASSETS / "tiny_clip"
CONFIGS = ("config.json", "open_clip_config.json")
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",))
SMALL = ["*.json", "merges.txt", "spiece.model"]  # all but the weights
MOVED = "if it has moved, --clip=PATH says where the weights of a run are now"
LOG = logging.getLogger(__name__)


class Located(NamedTuple):
    """A checkpoint.

    Attributes:
        path: its folder, or its one weight file.
        source: what names just this one: for the hub's `owner/name@commit`, and else as it was named.
    """

    path: Path
    source: str


def locate(source: str, tokenizer: bool = True) -> Located:
    """Finds the files of a checkpoint.

    What the hub's cache (in HF_HOME) holds completely is used as it is, without a network. Otherwise what a CLIP
    needs is fetched: the small files, and one set of weights.

    Args:
        source: `tiny_clip` (the bundled one), a folder or a file, of this machine or of a bucket, or a name of the
            hub, `owner/name` or `owner/name@revision`, with a branch, a tag or a commit.
        tokenizer: whether the checkpoint must bring one.

    Raises:
        InputError: it is none of these, or is not in the cache and cannot be fetched.
    """
    if source == BUNDLED.name:
        return Located(BUNDLED, source)
    check_address("clip", source)
    if is_url(source):
        return Located(_from_bucket(source), source)
    path = Path(os.path.expanduser(source))
    if source and path.exists():
        return Located(path, source)
    name = hub_client.parse_id(source)
    if name is None or name.id.lower().endswith(tensors.SUFFIXES):
        raise InputError(f"clip={source!r}: no such folder or file, and no hub id ({hub_client.FORMS}); {MOVED}")
    folder = _from_hub(name, tokenizer)
    return Located(folder, str(name._replace(revision=folder.name)))


def _from_bucket(url: str) -> Path:
    """A copy of a folder; or of a weight file with the small files beside it."""
    if not url.lower().endswith(tensors.SUFFIXES):
        return copies.fetch_copy(url)
    folder, _, name = url.rpartition("/")
    wanted = (name, *SMALL)
    return (
        copies.fetch_copy(folder, lambda key: any("/" not in key and fnmatch.fnmatch(key, own) for own in wanted))
        / name
    )


def _from_hub(name: HubName, tokenizer: bool) -> Path:
    folder = _cached(name)
    lacking = list(_lacking(folder, tokenizer)) if folder else ["it"]
    if folder is None or lacking:
        folder = _fetch(name, lacking)
        if lacking := list(_lacking(folder, tokenizer)):
            raise InputError(f"clip={str(name)!r}: the hub's copy lacks {', '.join(lacking)}")
    LOG.info("%s: commit %s, in the hub's cache", name, folder.name)
    return folder


def _cached(name: HubName) -> Path | None:
    """The snapshot of a repository that the cache has of this revision."""
    look = hub_client.client().try_to_load_from_cache
    cached = (look(name.id, file, revision=name.revision) for file in CONFIGS)
    return next((Path(path).parent for path in cached if isinstance(path, str)), None)


def _lacking(folder: Path, tokenizer: bool) -> Iterator[str]:
    """What a CLIP needs and a snapshot has not; a file whose bytes are gone is a dangling link."""
    try:
        yield from (path.name for path in tensors.files_of(folder) if not path.exists())
    except InputError:
        yield "weights"
    if tokenizer and not any(all((folder / name).exists() for name in names) for names in TOKENIZERS):
        yield "a tokenizer"


def _fetch(name: HubName, lacking: list[str]) -> Path:
    client = hub_client.client()
    revision = name.revision
    try:
        # This request is not repeated when it fails, and it tells which sets of weights there are.
        siblings = client.HfApi().model_info(name.id, revision=revision, timeout=hub_client.SECONDS).siblings or ()
        small = client.snapshot_download(name.id, revision=revision, allow_patterns=SMALL, ignore_patterns="*/*")
        files = [path.name for path in tensors.files_of(Path(small), [file.rfilename for file in siblings])]
        return Path(client.snapshot_download(name.id, revision=revision, allow_patterns=files))
    except InputError:
        raise
    except Exception as error:  # of the hub, the network or the disk: what it is, its own words say
        why, remedy = hub_client.explain(name, error)
        raise InputError(
            f"clip={str(name)!r}: no such folder, the hub's cache {client.constants.HF_HUB_CACHE} lacks "
            f"{', '.join(lacking)}, and {why}; {remedy}; {MOVED}"
        ) from None
