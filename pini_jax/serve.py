"""Serves a page that classifies the photos dropped on it.

    pini serve --workdir=runs/digits

    curl -F file=@three.png http://127.0.0.1:8000/predict

POST /predict takes files, or JSON with base64, and answers with the rows of `pini predict`; ?topk=0 lists all
classes. /health says what is served, and /metrics is for Prometheus. SIGTERM ends it after the requests that were
begun.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from absl import flags

from pini_jax.core import command, extras
from pini_jax.core.paths import check_address
from pini_jax.evaluate import prediction
from pini_jax.serving.refusal import Limits
from pini_jax.use import classifier

PACKAGES = ("starlette", "uvicorn", "python_multipart", "prometheus_client")


def define_flags(values: flags.FlagValues) -> None:
    """What is loaded, how it predicts, where it listens, and how much it takes."""
    flags.DEFINE_string(
        "workdir", None, "A run's folder, its injector.safetensors, or hub:owner/name.", flag_values=values
    )
    flags.DEFINE_string("clip", "", "Where the CLIP is now, if not where it was.", flag_values=values)
    flags.DEFINE_enum("mode", "mean", prediction.MODES, "How noise is used.", flag_values=values)
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen at; 0.0.0.0 for all.", flag_values=values)
    flags.DEFINE_integer("port", 8000, "Port; 0 for a free one.", 0, 65535, flag_values=values)
    most = Limits()
    flags.DEFINE_integer("bytes", most.bytes, "The most of one request.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("pixels", most.pixels, "The most of one image.", lower_bound=1, flag_values=values)
    text = "The most images that wait at once."
    flags.DEFINE_integer("queue", most.queue, text, lower_bound=1, flag_values=values)
    text = "The most to arrive, and to answer."
    flags.DEFINE_float("seconds", most.seconds, text, lower_bound=0.1, flag_values=values)


def main(values: flags.FlagValues, _: Sequence[str]) -> None:
    """Listens until it is told to stop."""
    for name in PACKAGES:
        extras.require(name, "serve")
    from pini_jax.serving import app, server  # of the extra

    for name, value in (("--workdir", values.workdir), ("--clip", values.clip)):
        check_address(name, value)
    limits = Limits(values.bytes, values.pixels, values.queue, values.seconds)
    with socket.create_server((values.host, values.port), backlog=server.CONNECTIONS) as address:
        made = app.make_app(classifier.load_classifier(values.workdir, values.clip), values.mode, limits)
        print(f"http://{values.host}:{address.getsockname()[1]}", flush=True)
        server.serve(made, address, limits.seconds)


COMMAND = command.Command("pini serve", __doc__, define_flags, main, required=("workdir",))

if __name__ == "__main__":
    command.run(COMMAND)
