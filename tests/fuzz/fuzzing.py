"""How many examples a fuzz test takes, and edits of bytes.

Some dozens, the same ones every time; PINI_FUZZ_EXAMPLES=100000 draws so many others.
"""

import os

from hypothesis import HealthCheck, settings
from hypothesis import given as given_examples
from hypothesis import strategies as st

EXAMPLES = os.environ.get("PINI_FUZZ_EXAMPLES")


def given(*strategies, share=1):
    """Runs a test on examples: a few, or a share of as many as the variable says."""

    def decorate(test):
        number = max(5, int(EXAMPLES or 60) // share)
        options = dict(max_examples=number, derandomize=EXAMPLES is None, deadline=None, database=None)
        return settings(**options, suppress_health_check=list(HealthCheck))(given_examples(*strategies)(test))

    return decorate


@st.composite
def edits(draw, content, places):
    """Bytes, changed at one of these places."""
    start = draw(st.sampled_from(places))
    stop = min(len(content), start + draw(st.integers(0, 8)))
    kind = draw(st.sampled_from(["flip", "set", "insert", "delete", "repeat", "cut"]))
    if kind == "flip":
        new = bytes([content[start] ^ 1 << draw(st.integers(0, 7))])
        return content[:start] + new + content[start + 1 :]
    if kind == "set":
        new = draw(st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 8, bytes(8), b"\x7f" * 4]))
        return content[:start] + new + content[start + len(new) :]
    if kind == "insert":
        return content[:start] + draw(st.binary(min_size=1, max_size=8)) + content[start:]
    if kind == "repeat":
        return content[:stop] * draw(st.integers(1, 3)) + content[start:]
    return content[:start] + (content[stop:] if kind == "delete" else b"")


@st.composite
def mutants(draw, content):
    """Bytes, changed at up to four places."""
    for _ in range(draw(st.integers(1, 4))):
        content = draw(edits(content or b"\0", range(max(1, len(content)))))
    return content
