#!/usr/bin/env bash
# Build the image of msapp with buildah, podman or docker, whichever is there.
#
# Settings, from the environment:
#   IMAGE        name (msapp); it is tagged with the version and with "latest"
#   BASE_IMAGE   an image with Python 3.11 or later and venv (as in the Dockerfile)
#   TORCH_INDEX  the package index for torch (as in the Dockerfile: a build for CPUs); set and
#                empty: the indices that pip is configured for here
#   TORCH_SPEC   another build or version of torch, e.g. torch==2.13.0+cu130
#   ENGINE       buildah, podman or docker (the first that works)
#
# This machine's pip configuration and certificates are shown to pip during the build, as secrets,
# and are in no layer. Exit 69: no engine.
set -euo pipefail
cd "$(dirname "$0")/../.."

IMAGE="${IMAGE:-msapp}"
PYTHON="${PYTHON:-python3}"
VERSION="$(sed -n "s/^__version__ = '\(.*\)'$/\1/p" msapp/__init__.py)"
REVISION="$(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

find_engine() {
    local name
    for name in ${ENGINE:-buildah podman docker}; do
        command -v "$name" >/dev/null || continue
        # A docker client without its daemon cannot build.
        [ "$name" != docker ] || docker info >/dev/null 2>&1 || continue
        echo "$name"
        return
    done
    echo "build.sh: needs ${ENGINE:-buildah, podman or docker (with its daemon running)}." >&2
    echo "On Debian: apt-get install --no-install-recommends podman buildah runc netavark uidmap" >&2
    exit 69
}

# The certificates that this machine trusts, where it says so; else the system's.
find_certificates() {
    local file
    for file in "${SSL_CERT_FILE:-}" "${PIP_CERT:-}" "${REQUESTS_CA_BUNDLE:-}" \
        "$("$PYTHON" -m pip config get global.cert 2>/dev/null || true)" \
        /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
        if [ -n "$file" ] && [ -f "$file" ]; then
            echo "$file"
            return
        fi
    done
}

# What pip is told here, as one file: variables come first in pip's own list and win.
write_pip_configuration() {
    echo '[global]'
    "$PYTHON" -m pip config list 2>/dev/null |
        sed -n -e "s/^\(global\|install\|:env:\)\.\([a-z-]*\)='\(.*\)'$/\2 = \3/p" |
        sed -e 's/\\n/ /g' -e '/^cert = /d' -e '/^client-cert = /d' | awk '!seen[$1]++'
    if [ -n "$1" ]; then echo 'cert = /etc/ssl/certs/ca-certificates.crt'; fi
}

# Folders of wheels and indices on this machine that the configuration names. An index called
# "simple" links to files beside it, so the folder above is taken.
local_folders() {
    sed -n -e 's/^\(find-links\|index-url\|extra-index-url\) = //p' "$1" | tr ' ' '\n' |
        sed -e 's|^file://||' -e 's|\(/.*\)/simple/*$|\1|' | grep '^/' | sort -u | while read -r path; do
        if [ -e "$path" ]; then echo "$path"; fi
    done
}

engine="$(find_engine)"
certificates="$(find_certificates)"
write_pip_configuration "$certificates" > "$scratch/pip.conf"

arguments=(--file Dockerfile --tag "$IMAGE:$VERSION" --tag "$IMAGE:latest"
    --build-arg "VERSION=$VERSION" --build-arg "REVISION=$REVISION" --build-arg "IMAGE=$IMAGE"
    --build-arg "TORCH_SPEC=${TORCH_SPEC:-}"
    --secret "id=pip.conf,src=$scratch/pip.conf")
if [ -n "${BASE_IMAGE:-}" ]; then arguments+=(--build-arg "BASE_IMAGE=$BASE_IMAGE"); fi
if [ -n "${TORCH_INDEX+set}" ]; then arguments+=(--build-arg "TORCH_INDEX=$TORCH_INDEX"); fi
if [ -n "$certificates" ]; then arguments+=(--secret "id=ca.crt,src=$certificates"); fi

if [ "$engine" != docker ]; then
    # A mirror or proxy may listen on this machine alone.
    arguments+=(--network host)
    while read -r folder; do
        arguments+=(--volume "$folder:$folder:ro")
    done < <(local_folders "$scratch/pip.conf")
fi

echo "build.sh: $engine builds $IMAGE:$VERSION"
started=$SECONDS
case "$engine" in
    # chroot isolation works inside containers and virtual machines without user namespaces.
    buildah) buildah bud --isolation "${BUILDAH_ISOLATION:-chroot}" --layers "${arguments[@]}" . ;;
    podman) podman build --isolation "${BUILDAH_ISOLATION:-oci}" --layers "${arguments[@]}" . ;;
    docker) docker build "${arguments[@]}" . ;;
esac
echo "build.sh: $IMAGE:$VERSION built in $((SECONDS - started)) s"
