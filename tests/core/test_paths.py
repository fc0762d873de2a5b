"""Addresses of other stores are refused before anything is written; and a file is whole, or as it was."""

import pytest

from pini_jax.core.errors import InputError
from pini_jax.core.paths import beside, check_address, refuse_bucket


@pytest.mark.parametrize(
    "value",
    ["GS://bucket", "gcs://bucket", "hdfs://host:9000/x", "abfss+x://a@b/c", "folder:hf://b/c"]
    + ["file:///tmp/run", "https://host/x", "s3a://b"],
)
def test_an_unknown_scheme_is_refused(value):
    for check in (check_address, refuse_bucket):
        with pytest.raises(InputError, match="only paths of this machine, gs:// and s3:// are known") as error:
            check("workdir", value)
        assert str(error.value).startswith(f"workdir='{value}': ")
        assert ("leave the file:// out" in str(error.value)) == value.startswith("file")


@pytest.mark.parametrize("value", ["gs://bucket/run", "s3://bucket/run", "folder:gs://b/c", "s3://bucket"])
def test_buckets_pass_unless_a_path_is_wanted(value):
    check_address("workdir", value)
    with pytest.raises(InputError, match="must be a path of this machine"):
        refuse_bucket("--output", value)


@pytest.mark.parametrize("value", ["gs://", "s3:///run", "features:gs:///x.npz"])
def test_an_address_names_its_bucket(value):
    with pytest.raises(InputError, match="names no bucket"):
        check_address("workdir", value)


@pytest.mark.parametrize("value", ["gs:/bucket/run", "folder:s3:/b/c", "file:/tmp/run", "https:/host/x"])
def test_an_address_has_two_slashes(value):
    """`Path("gs://bucket")` has one, and would be a folder `gs:` here."""
    for check in (check_address, refuse_bucket):
        with pytest.raises(InputError, match="has one slash behind"):
            check("workdir", value)


@pytest.mark.parametrize(
    "value",
    ["", "runs/a", "/data//images", "folder:/data/x", "owner/name", "C:/data", "C:\\data", "a:b", "a:/b", "~/x"]
    + ["://x", "cifar10:3.0.2", "http:", "1://x", "./gs:/x", "runs/s3:/x"],
)
def test_paths_and_names_pass(value):
    check_address("workdir", value)
    refuse_bucket("workdir", value)


def test_what_is_written_beside_a_file_takes_its_place_or_goes(tmp_path):
    file = tmp_path / "a"
    with beside(file) as partial:
        partial.write_text("first")
        assert not file.exists()
    with pytest.raises(KeyError), beside(file) as partial:
        partial.write_text("second")
        raise KeyError
    assert file.read_text() == "first" and list(tmp_path.iterdir()) == [file]
