"""Files of the cache: whole, whoever writes them."""

import os
import subprocess
import sys
import threading

from pini_jax.data import cache

WRITE = """
import sys
from pathlib import Path
from pini_jax.data import cache
for i in range(30):
    assert cache.keep(Path(sys.argv[1]), sys.argv[2].encode() * 200_000)
"""


def test_a_file_is_whole_whoever_writes_it(tmp_path):
    """Processes and threads at once: what is read is what one of them wrote."""
    path = tmp_path / "a" / "b.bin"
    writers = [subprocess.Popen([sys.executable, "-c", WRITE, str(path), letter]) for letter in "xy"]
    threads = [threading.Thread(target=cache.keep, args=(path, b"z" * 200_000)) for _ in range(20)]
    for thread in threads:
        thread.start()
    seen = 0
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            content, seen = path.read_bytes(), seen + 1
            assert len(content) == 200_000 and len(set(content)) == 1
    for thread in threads:
        thread.join()
    assert [writer.returncode for writer in writers] == [0, 0] and seen
    assert os.listdir(path.parent) == ["b.bin"]


def test_what_cannot_be_written_is_a_line(tmp_path, caplog):
    (tmp_path / "file").touch()
    assert not cache.keep(tmp_path / "file" / "x", b"")
    assert "x could not be cached (" in caplog.text
