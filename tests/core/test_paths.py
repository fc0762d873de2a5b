"""Paths of other stores are refused before anything is written to a folder of their name."""

import pytest

from pini_jax.core.errors import InputError
from pini_jax.core.paths import refuse_scheme


@pytest.mark.parametrize(
    "value",
    [
        "gs://bucket/run",
        "s3://bucket/run",
        "GS://bucket",
        "hdfs://host:9000/x",
        "abfss+x://a@b/c",
        "folder:gs://b/c",
    ]
    + ["file:///tmp/run", "https://host/x", "s3a://b"],
)
def test_a_scheme_is_refused(value):
    with pytest.raises(InputError, match="only paths of this machine") as error:
        refuse_scheme("workdir", value)
    assert str(error.value).startswith(f"workdir='{value}': ")
    assert ("leave the file:// out" in str(error.value)) == value.startswith("file")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "runs/a",
        "/data//images",
        "folder:/data/x",
        "owner/name",
        "C:/data",
        "C:\\data",
        "a:b",
        "a:/b",
        "~/x",
        "://x",
    ]
    + ["cifar10:3.0.2", "http:", "1://x"],
)
def test_paths_and_names_pass(value):
    refuse_scheme("workdir", value)
