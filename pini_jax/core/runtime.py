"""What every command shares: the settings of its process, and how it ends."""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from collections.abc import Iterator

import absl.logging
import jax

from pini_jax.core import paths, processes, stop
from pini_jax.core.errors import InputError, UsageError


def keep_programs() -> None:
    """Keeps compiled programs in the cache folder, unless the process keeps them elsewhere."""
    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        jax.config.update("jax_compilation_cache_dir", str(paths.cache_folder() / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


def prepare() -> None:
    """Keeps compiled programs in the cache, and prints the package's own messages as plain lines."""
    keep_programs()
    # Orbax logs every save, and a failed one from each of its threads; what fails is raised as well.
    absl.logging.set_verbosity(absl.logging.FATAL)
    # Nor do coroutines that a damaged or unwritable checkpoint stopped have more to say.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda unraisable: None
    ours = logging.getLogger("pini_jax")
    ours.setLevel(logging.INFO)
    ours.propagate = False  # absl's handler would print every line again
    if not ours.handlers:
        ours.addHandler(logging.StreamHandler())


@contextlib.contextmanager
def errors_as_lines() -> Iterator[None]:
    """Ends the process with one line and no traceback for errors that the user can correct."""
    try:
        yield
    except (stop.Stopped, KeyboardInterrupt) as asked:
        print(f"stopped: {str(asked) or stop.SAVED}", file=sys.stderr)
        sys.exit(stop.STATUS)
    except InputError as error:
        processes.fail(_line(error))
        print(_line(error), file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except OSError as error:
        processes.end_if_one_is_gone()
        processes.fail(_line(error))
        sys.stdout.flush()
        stop.end(_line(error), 1)  # after a failed write, threads of Orbax may wait for each other without end
    except Exception:
        processes.end_if_one_is_gone()
        processes.fail(traceback.format_exc())
        raise


def _line(error: Exception) -> str:
    """One line; of a traceback that a library has put into its message, what it ends with."""
    text = str(error).strip()
    if "Traceback" in text:
        text = text.splitlines()[-1].partition(": ")[2]
    return f"error: {' '.join(text.split())}"
