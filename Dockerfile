# The base layer that executor images start FROM: any image with Python 3.8 or later becomes one that the platform can run.
#
#   docker build -t ymir-exc .
#   docker build -t ymir-exc --build-arg BASE_IMAGE=pytorch/pytorch:2.4.0-cuda12.4-cudnn9-runtime .
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS wheel
ARG PIP_INDEX_URL=
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY ymir_exc ymir_exc
RUN env ${PIP_INDEX_URL:+PIP_INDEX_URL="$PIP_INDEX_URL"} python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM ${BASE_IMAGE}
# Mirrors, for builds behind slow links; what is given here stays in force for images built FROM this one.
ARG PIP_INDEX_URL=
ARG APT_MIRROR=
RUN if [ -n "$PIP_INDEX_URL" ]; then python -m pip config --global set global.index-url "$PIP_INDEX_URL"; fi \
 && if [ -n "$APT_MIRROR" ]; then \
      find /etc/apt -name '*.list' -o -name '*.sources' | xargs -r sed -i -E "s#https?://[^/ ]+#${APT_MIRROR%/}#"; fi

COPY --from=wheel /wheel /tmp/wheel
RUN PIP_BREAK_SYSTEM_PACKAGES=1 python -m pip install --no-cache-dir /tmp/wheel/*.whl && rm -rf /tmp/wheel

COPY docker/start.sh /usr/bin/start.sh
COPY docker/train /usr/local/bin/train
RUN chmod 755 /usr/bin/start.sh /usr/local/bin/train && mkdir -p /app /img-man && chmod 777 /app

# The platform starts the image under a uid that has no entry in /etc/passwd and so no home: caches go to /tmp.
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_BREAK_SYSTEM_PACKAGES=1 \
    HOME=/tmp \
    USER=ymir \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

WORKDIR /app
# No ENTRYPOINT, nor the one of the base: the platform reads the templates with `docker run IMAGE cat /img-man/...`.
ENTRYPOINT []
CMD ["/usr/bin/start.sh"]
