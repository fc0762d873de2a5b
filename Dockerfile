# docker build -t pini_jax .
# docker run --rm --volume "$PWD:/work" pini_jax train --config=digits --workdir=runs/digits
#
# With --build-arg ACCELERATOR=cuda13 or =tpu it is for that; `--gpus all` of docker run shows it the GPUs.
FROM python:3.12-slim
ARG ACCELERATOR=
WORKDIR /source
COPY requirements.lock .
RUN pip install --no-cache-dir --require-hashes --requirement requirements.lock
# The lock's versions alone: it has no hashes of what an accelerator adds, and pip would ask for them.
RUN sed '/--hash/d; s/ \\$//' requirements.lock > versions.txt
RUN test -z "$ACCELERATOR" || pip install --no-cache-dir --constraint versions.txt "jax[$ACCELERATOR]"
COPY . .
RUN pip install --no-cache-dir --no-deps .
WORKDIR /work
ENTRYPOINT ["pini"]
