#!/usr/bin/env bash
# Run the image of msapp on a synthetic dataset and compare it with a run on this machine.
#
# The container has no network, a random user id, a read-only root and a read-only /bids. Its
# files must be those of the host run, its images and tables equal within tests/container/compare.py.
#
# Settings, from the environment:
#   IMAGE    name (msapp:latest)
#   ENGINE   podman or docker (the first that holds the image)
#   VENV     the environment of the host run (.venv)
#   FLAGS    flags of both runs (--sloppy --nprocs 2)
#   PHANTOM  flags of the synthetic dataset (--fast --participants 2)
#
# Exit 69: no engine, no image, or no environment. Exit 1: the runs differ.
set -euo pipefail
cd "$(dirname "$0")/../.."

IMAGE="${IMAGE:-msapp:latest}"
BIN="$PWD/${VENV:-.venv}/bin"
case "${VENV:-}" in /*) BIN="$VENV/bin" ;; esac
read -ra flags <<< "${FLAGS:---sloppy --nprocs 2}"
read -ra phantom <<< "${PHANTOM:---fast --participants 2}"
# Far from ids that exist; also never root.
uid=$((20000 + RANDOM))

need() {
    echo "test_image.sh: needs $1" >&2
    exit 69
}

find_engine() {
    local name
    for name in ${ENGINE:-podman docker}; do
        command -v "$name" >/dev/null || continue
        if "$name" image inspect "$IMAGE" >/dev/null 2>&1; then
            echo "$name"
            return
        fi
    done
}

engine="$(find_engine)"
[ -n "$engine" ] || need "podman or docker, and the image $IMAGE: make image"
[ -x "$BIN/msapp" ] || need "msapp in $BIN, to compare with: make demo makes it"

scratch="$(mktemp -d)"
mkdir "$scratch/container"
# The random id writes here; with user namespaces it is no id that this script could give it to.
chmod 777 "$scratch" "$scratch/container"

contained() {
    "$engine" run --rm --network none --user "$uid:$uid" --read-only --tmpfs /tmp \
        "${limits[@]}" "${mounts[@]}" "$@"
}

clean_up() {
    # Files of another id: only the container that wrote them may be able to remove them.
    contained --entrypoint find "$IMAGE" /out -mindepth 1 -delete >/dev/null 2>&1 || true
    rm -rf "$scratch"
}
mounts=(--volume "$scratch/container:/out")
limits=()
trap clean_up EXIT
# podman asks for more open files and processes than some hosts allow.
if [ "$engine" = podman ] && ! contained --entrypoint true "$IMAGE" >/dev/null 2>&1; then
    limits=(--ulimit nofile=4096:4096 --ulimit nproc=4096:4096)
fi

echo "test_image.sh: $engine, $IMAGE, user $uid; flags: ${flags[*]}"
contained "$IMAGE" --version
echo "== nothing to build with is left"
# shellcheck disable=SC2016 # expanded in the container
contained --entrypoint sh "$IMAGE" -c \
    'for tool in gcc cc make git /opt/msapp/bin/pip; do ! command -v "$tool" || exit 1; done'

echo "== synthetic dataset"
"$BIN/msapp-phantom" "${phantom[@]}" "$scratch/bids" >/dev/null
mounts=(--volume "$scratch/bids:/bids:ro" --volume "$scratch/container:/out")

echo "== container"
started=$SECONDS
contained "$IMAGE" /bids /out participant "${flags[@]}" 2> "$scratch/container.log" ||
    { code=$?; tail -n 20 "$scratch/container.log" >&2; exit "$code"; }
contained "$IMAGE" /bids /out group
echo "$((SECONDS - started)) s"
grep -q '"Container"' "$scratch/container/dataset_description.json" ||
    { echo "dataset_description.json does not name the container" >&2; exit 1; }

echo "== host"
started=$SECONDS
"$BIN/msapp" "$scratch/bids" "$scratch/host" participant "${flags[@]}" 2> "$scratch/host.log" ||
    { code=$?; tail -n 20 "$scratch/host.log" >&2; exit "$code"; }
"$BIN/msapp" "$scratch/bids" "$scratch/host" group
echo "$((SECONDS - started)) s"

echo "== comparison"
"$BIN/python" tests/container/compare.py "$scratch/host" "$scratch/container"
echo "test_image.sh: passed"
