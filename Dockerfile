# docker build -t pini_jax .
# docker run --rm --volume "$PWD:/work" pini_jax train --config=digits --workdir=runs/digits
#
# With --build-arg ACCELERATOR=cuda13 or =tpu it is for that; `--gpus all` of docker run shows it the GPUs.
FROM python:3.12-slim
ARG ACCELERATOR=
WORKDIR /source
COPY requirements.lock .
RUN pip install --no-cache-dir --require-hashes --requirement requirements.lock
RUN test -z "$ACCELERATOR" || pip install --no-cache-dir --constraint requirements.lock "jax[$ACCELERATOR]"
COPY . .
RUN pip install --no-cache-dir --no-deps .
WORKDIR /work
ENTRYPOINT ["pini"]
