"""What is said of names that a prompt does not tell apart."""

import pytest

from pini_jax.data.datasets import findings


@pytest.mark.parametrize(
    "names, said",
    [
        (("cat", "Cat_"), "'cat' = 'Cat_'"),
        (("cat", "cat\u200b"), r"'cat' = 'cat\u200b'"),
        (("caf\u00e9", "cafe\u0301"), r"'caf\xe9' = 'cafe\u0301'"),
        (("\ufb01sh", "fish"), "'\ufb01sh' = 'fish'"),
    ],
    ids=["case", "no width", "composed", "ligature"],
)
def test_names_that_look_the_same_are_written_letter_by_letter(names, said):
    assert findings.same_names(("dog", *names, "cow")) == (said,)
