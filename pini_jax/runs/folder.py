"""The files of a run's folder, and the config that it belongs to.

| file                   | what                                                                               |
|------------------------|------------------------------------------------------------------------------------|
| `config.json`          | every setting                                                                       |
| `provenance.json`      | the command, the commit, the packages, plug-ins and weights that began it           |
| `selection.json`       | the images of training and validation, under a hash                                 |
| `split.json`           | the splits, where they were cut here                                                |
| `metrics.jsonl`        | loss, accuracy and learning rate, a line every so many steps                        |
| `checkpoints/`         | trainables, optimiser and position                                                  |
| `predictions.parquet`  | its predictions, image by image, from which all metrics follow                      |
| `injector.safetensors` | what was learned, for prediction                                                    |
| `classes.safetensors`  | the classes' embeddings, where they are enough                                      |
| `result.json`          | all that was measured; written last                                                 |
| `failure.json`         | why there is no result, where training diverged                                     |
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import jax

from pini_jax import config as configs
from pini_jax import plugins
from pini_jax.config import Config
from pini_jax.core import paths
from pini_jax.core.errors import InputError
from pini_jax.core.paths import CHECKPOINTS, RESULT
from pini_jax.core.wording import listed, plain
from pini_jax.data.datasets import records, sources, splits
from pini_jax.data.datasets.records import Dataset
from pini_jax.evaluate import predictions
from pini_jax.runs import injector, provenance
from pini_jax.task.run import Run
from pini_jax.train import checkpoint
from pini_jax.train.recorder import METRICS, owners

CONFIG, PROVENANCE, SELECTION = "config.json", "provenance.json", "selection.json"
SPLIT, FAILURE = "split.json", "failure.json"
LOCK, HOLDER = ".lock", ".holder"
WRITTEN = (  # in the order in which a failed run's are deleted, so that a kill leaves one that has failed
    *(PROVENANCE, SELECTION, SPLIT, METRICS, predictions.FILE, injector.FILE, injector.CLASSES),
    *(CONFIG, FAILURE),
)
SEAL = "seal"  # the hash over all else in a file
FORMAT = 2  # of result.json and selection.json; 1 had no hash
OTHER = "; choose another workdir"
LOG = logging.getLogger(__name__)


# ------------------------------------------------------------------------------------------------ whose it is


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds a folder for one command; the lock goes with the process, however it ends.

    Raises:
        InputError: another process holds it.
        OSError: there can be no such folder.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    if jax.process_index():  # the first process writes for all
        yield
        return
    file, holder = workdir / LOCK, workdir / HOLDER
    lock = filelock.FileLock(file)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        who = plain(holder.read_text(errors="replace")) if holder.exists() else "another process"
        raise InputError(f"{workdir} is being written by {who}: wait for it, or choose another workdir") from None
    with lock:
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        try:
            yield
        finally:
            holder.unlink(missing_ok=True)
            if not (workdir / CONFIG).exists():
                file.unlink(missing_ok=True)  # the folder is left as it was


def claim(run: Run) -> None:
    """Makes the folder the run's: writes config.json, selection.json, and split.json if the split was made here.

    Raises:
        InputError: the folder was made with other data.
    """
    (run.workdir / CHECKPOINTS).mkdir(exist_ok=True)
    write_provenance(run)  # first: what version 0.1 made has none
    paths.write_json(run.workdir / CONFIG, configs.to_dict(run.config))
    write_selection(run)
    if sources.kind_of(run.config.dataset)[0].cut:
        paths.write_json(run.workdir / SPLIT, splits.rows(run.shared.whole), indent=None)


def make_room(config: Config, workdir: Path) -> None:
    """Makes the folder, and deletes what another config's run that has failed left there; call it under the lock.

    Raises:
        InputError: the folder belongs to another config; the message names what differs.
        OSError: there can be no such folder.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    if not _belongs_to(config, workdir) and _has_failed(workdir):
        _clear(workdir)


def finished(config: Config, workdir: Path) -> dict[str, Any] | None:
    """The result of this config's run in `workdir`; None if it has not finished or not begun.

    Raises:
        InputError: the folder belongs to another config; the message names what differs.
    """
    if not _belongs_to(config, workdir) or not (workdir / RESULT).exists():
        return None
    try:
        return read_sealed(workdir / RESULT)
    except InputError as error:
        LOG.warning("%s; it is made again from the last checkpoint", error)
        return None


def _belongs_to(config: Config, workdir: Path) -> bool:
    """Whether the run there is this config's; not where there is none, or another one that has failed.

    Raises:
        InputError: it is another one's.
    """
    file = workdir / CONFIG
    if not file.exists():
        return False
    if _is_of_version_0_1(workdir):
        raise InputError(f"{workdir} was made by version 0.1, which reads it{OTHER}")
    written, wanted = paths.read_object(file, OTHER), json.loads(json.dumps(configs.to_dict(config)))
    if written != wanted and not _has_failed(workdir):
        differ = listed(_differences(written, wanted), "; ")
        raise InputError(f"{workdir} holds a run of another config ({differ}); choose another workdir")
    return bool(written == wanted)


def _is_of_version_0_1(workdir: Path) -> bool:
    """Which wrote no provenance.json, no seals, and no hashes of images into checkpoints."""
    if (workdir / PROVENANCE).exists() or checkpoint.recorded(workdir / CHECKPOINTS):
        return False
    with contextlib.suppress(InputError, OSError):
        return SEAL not in paths.read_object(workdir / SELECTION)
    return True


def _differences(written: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in sorted(written.keys() | wanted.keys()):
        a, b = written.get(key), wanted.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key} is {json.dumps(a)} there, {json.dumps(b)} here"


def record_failure(workdir: Path, reason: str) -> None:
    """Records why a run has no result: its folder then accepts another config."""
    paths.write_json(workdir / FAILURE, {"reason": reason})


def _has_failed(workdir: Path) -> bool:
    return (workdir / FAILURE).exists() and not (workdir / RESULT).exists()


def _clear(workdir: Path) -> None:
    """Leaves nothing of a run that has failed."""
    if jax.process_index():  # the first process deletes for all
        return
    with contextlib.suppress(InputError):
        reason = paths.read_object(workdir / FAILURE).get("reason")
        LOG.info("%s held a run that had failed (%s)", workdir, reason)
    shutil.rmtree(workdir / CHECKPOINTS, ignore_errors=True)
    for name in WRITTEN:
        (workdir / name).unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------ sealed files


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with its format and a hash over all of it."""
    whole = {"format": FORMAT} | dict(content)
    return whole | {SEAL: _hash(whole)}


def unseal(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The content that was given to `seal`.

    Raises:
        InputError: the content does not match its hash, or has none.
    """
    if SEAL not in content:
        raise InputError(f"{path} has no hash: it is damaged, or of an earlier version, 0.1, which reads it")
    whole = {key: value for key, value in content.items() if key != SEAL}
    if _hash(whole) != content[SEAL]:
        raise InputError(f"{path} does not match its hash: it was changed, or is damaged")
    return {key: value for key, value in whole.items() if key != "format"}


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_result(workdir: Path, result: Mapping[str, Any]) -> None:
    """Writes result.json, which makes the run finished."""
    paths.write_json(workdir / RESULT, seal(result))
    (workdir / FAILURE).unlink(missing_ok=True)


def read_sealed(path: Path) -> dict[str, Any]:
    """The content that was given to `seal`, from a file.

    Raises:
        InputError: it is damaged, or of version 0.1, which wrote no hash.
    """
    return unseal(paths.read_object(path, OTHER), path)


def write_selection(run: Run) -> None:
    """Writes selection.json: the images that training and validation may see, in the format of CoOp's split files.

    Where it is lost or damaged it is made again, if the run's checkpoints belong to the same images.

    Raises:
        InputError: the file or a checkpoint says something else.
    """
    rows = splits.rows(run.data._replace(test=()))
    path = run.workdir / SELECTION
    content = describe_data(run.data) | rows
    if run.shared.left_out:
        content["left_out"] = dict(run.shared.left_out)
    written = _read_if_whole(path)
    if written is not None and not same_data(*map(_images, (written, json.loads(json.dumps(content))))):
        raise InputError(f"the data have changed since {path} was written{OTHER}")
    says = {} if written is not None else checkpoint.recorded(run.workdir / CHECKPOINTS)
    if any(says.get(key, own) != own for key, own in owners(run).items()):
        raise InputError(f"{path} cannot be read, and the checkpoints beside it belong to other data{OTHER}")
    paths.write_json(path, seal(content), indent=None)


def _images(selection: Mapping[str, Any]) -> dict[str, Any]:
    """What a selection says of images, but for why some cannot be read: that is as Pillow puts it."""
    return dict(selection) | {"left_out": sorted(selection.get("left_out", ()))}


def same_data(written: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two descriptions name the same images, by the keys that both have: earlier versions lack hashes of
    bytes.
    """
    return all(written[key] == now[key] for key in written.keys() & now.keys())


def _read_if_whole(path: Path) -> dict[str, Any] | None:
    """What a sealed file says; None where it is not there, or damaged."""
    if not path.exists():
        return None
    try:
        return read_sealed(path)
    except InputError as error:
        LOG.warning("%s; it is made again", error)
        return None


def describe_data(data: Dataset) -> dict[str, Any]:
    """Identifies the images of a run: those of training and validation by their bytes, test images by names,
    classes and total size.
    """
    selection, test = (records.list_hash(images) for images in (data.train + data.val, data.test))
    return {
        "sha256": selection,
        "content_sha256": records.content_hash(data.train + data.val),
        "test_sha256": test,
        "test_bytes": records.total_size(data.test),
    }


def write_provenance(run: Run) -> None:
    """Writes provenance.json when the run begins; later commands compare their plug-ins with it."""
    path = run.workdir / PROVENANCE
    begun = _read_if_whole(path)
    if begun is None:
        origin = provenance.describe_origin(run.config.plugins) | {"clip": run.shared.frozen.source}
        paths.write_json(path, seal(origin))
    else:
        plugins.warn_of_changes(begun["plugins"], f"{run.workdir} was begun")


def pinned_clip(configs: Mapping[Path, Config]) -> str:
    """What names the weights of the first of these folders that was begun, by the hub's commit; "" if none was.

    Nor is it of use where the config names other weights than the run was begun with.
    """
    for workdir, config in configs.items():
        with contextlib.suppress(InputError, OSError):
            pinned = str(read_sealed(workdir / PROVENANCE).get("clip", ""))
            return pinned if pinned.partition("@")[0] == config.clip.partition("@")[0] else ""
    return ""
