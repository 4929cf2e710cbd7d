# msapp: a BIDS App for multiple sclerosis MRI.
#
#   docker build -t msapp .
#       for CPUs; networks run on every machine, no CUDA is downloaded
#   docker build -t msapp --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
#       for NVIDIA GPUs, some gigabytes more; runs with --gpus all and msapp --device cuda
#
#   docker run --rm -u $(id -u):$(id -g) --read-only --tmpfs /tmp --network none \
#       -v /data:/bids:ro -v /results:/out msapp /bids /out participant
#
# scripts/container/build.sh does the same with buildah or podman.

# Any image with Python 3.11 or later and its venv module, such as Debian bookworm with python3-venv.
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG VERSION=0.1.0

# ---------------------------------------------------------------- build
FROM ${BASE_IMAGE} AS build
# The only package index that torch is taken from. PyPI's torch brings CUDA and is four times the
# size; empty: the index that pip is configured for.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Another build or version of torch, e.g. torch==2.13.0+cu130; empty: that of constraints.txt.
ARG TORCH_SPEC=""
WORKDIR /src
# pip stays outside the environment that is shipped.
RUN python3 -m venv /opt/pip \
    && python3 -m venv --without-pip /opt/msapp

# Dependencies first: this layer is kept until pyproject.toml or constraints.txt change.
# The secrets are optional (a mirror's pip configuration, a site's certificates); neither stays in
# a layer. The validator is what `msapp` checks its input with. torch comes first and by name in
# both calls, so that the second keeps the build that the first took, and adds what it needs.
COPY pyproject.toml constraints.txt ./
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca.crt,target=/etc/ssl/certs/ca-certificates.crt \
    python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
        > requirements.txt \
    && echo bids-validator-deno >> requirements.txt \
    && torch="${TORCH_SPEC:-$(grep '^torch==' constraints.txt)}" \
    && grep -v '^torch==' constraints.txt > others.txt \
    && set -- /opt/pip/bin/pip --python /opt/msapp/bin/python install --no-cache-dir \
        --disable-pip-version-check \
    && "$@" --no-deps ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} "${torch}" \
    && "$@" --constraint others.txt --requirement requirements.txt "${torch}"

# msapp/workflows and msapp/models are links to the folders beside; the wheel must hold their files.
COPY README.md LICENSE ./
COPY msapp msapp
COPY workflows workflows
COPY models models
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca.crt,target=/etc/ssl/certs/ca-certificates.crt \
    /opt/pip/bin/pip wheel --no-cache-dir --disable-pip-version-check --no-deps --wheel-dir /wheel . \
    && /opt/pip/bin/pip --python /opt/msapp/bin/python install --no-cache-dir \
        --disable-pip-version-check --no-deps /wheel/*.whl \
    && rm -rf build msapp.egg-info

# The folders that came through links are whole, and VERSION is the version of the code.
ARG VERSION
RUN site="$(/opt/msapp/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
    && diff -rq --exclude=__pycache__ workflows "${site}/msapp/workflows" \
    && diff -rq --exclude=__pycache__ models "${site}/msapp/models" \
    && found="$(/opt/msapp/bin/msapp --version)" \
    && if [ "${found}" != "msapp ${VERSION}" ]; then \
        echo "${found} is built, but ARG VERSION says ${VERSION}" >&2; exit 1; fi

# ---------------------------------------------------------------- runtime
FROM ${BASE_IMAGE} AS runtime
COPY --from=build /opt/msapp /opt/msapp

# Any user id, on a read-only root: all that libraries keep goes to /tmp. The font list of
# matplotlib cannot be baked in, since matplotlib ignores one that it may not write; with its own
# fonts alone it is made in 0.1 s. USER stands in for ids without an entry in /etc/passwd.
ENV PATH=/opt/msapp/bin:${PATH} \
    HOME=/tmp \
    USER=msapp \
    XDG_CACHE_HOME=/tmp/.cache \
    XDG_CONFIG_HOME=/tmp/.config \
    MPLCONFIGDIR=/tmp/.cache/matplotlib \
    NIPYPE_CONFIG_DIR=/tmp/.nipype \
    NILEARN_DATA=/tmp/.cache/nilearn \
    TEMPLATEFLOW_HOME=/tmp/.cache/templateflow \
    MPLBACKEND=Agg \
    NO_ET=1 \
    NIPYPE_NO_ET=1 \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /tmp

ARG IMAGE=msapp
ARG VERSION
ARG REVISION=unknown
ENV MSAPP_CONTAINER=${IMAGE}:${VERSION}
LABEL org.opencontainers.image.title="msapp" \
      org.opencontainers.image.description="A BIDS App for multiple sclerosis MRI. Research software, not a medical device." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

ENTRYPOINT ["msapp"]
CMD ["--help"]
