#!/usr/bin/env bash
# Make a SIF file of the image of msapp, run it on a synthetic dataset, and compare with this machine.
#
# Settings, from the environment:
#   IMAGE           name (msapp:latest), held by podman or docker
#   SIF             the SIF file: used where it exists, else made and kept there (nowhere: removed)
#   APPTAINER_ROOT  a folder with a system that holds apptainer, for hosts without a package of
#                   it; see apptainer_in_tree.sh
#   VENV            the environment of the host run (.venv)
#   FLAGS           flags of both runs (--sloppy --nprocs 2)
#   PHANTOM         flags of the synthetic dataset (--fast --participants 2)
#   SELF_TEST       1: run the %test of Singularity.def too, some minutes more
#
# Exit 69: no apptainer, no image, or no environment. Exit 1: the runs differ.
set -euo pipefail
cd "$(dirname "$0")/../.."

IMAGE="${IMAGE:-msapp:latest}"
BIN="$PWD/${VENV:-.venv}/bin"
case "${VENV:-}" in /*) BIN="$VENV/bin" ;; esac
read -ra flags <<< "${FLAGS:---sloppy --nprocs 2}"
read -ra phantom <<< "${PHANTOM:---fast --participants 2}"

need() {
    echo "test_apptainer.sh: needs $1" >&2
    exit 69
}

engine=''
for name in podman docker; do
    if command -v "$name" >/dev/null && "$name" image inspect "$IMAGE" >/dev/null 2>&1; then
        engine="$name"
        break
    fi
done
[ -n "$engine" ] || need "podman or docker, and the image $IMAGE: make image"
[ -x "$BIN/msapp" ] || need "msapp in $BIN, to compare with: make demo makes it"
program="$(command -v apptainer || command -v singularity || true)"
[ -n "$program" ] || [ -n "${APPTAINER_ROOT:-}" ] ||
    need 'apptainer (https://apptainer.org), or a system that holds it, named by APPTAINER_ROOT'

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/tmp" "$scratch/container" "$scratch/work"

if [ -n "${APPTAINER_ROOT:-}" ]; then
    program="$PWD/scripts/container/apptainer_in_tree.sh"
    export APPTAINER_SEES="$scratch"
fi
export APPTAINER_TMPDIR="$scratch/tmp" APPTAINER_CACHEDIR="$scratch/tmp/cache"
export SINGULARITY_TMPDIR="$scratch/tmp" SINGULARITY_CACHEDIR="$scratch/tmp/cache"

apptainer_() {
    (cd "$scratch" && "$program" "$@")
}

# Root needs no privilege for this, and has none; only root may cut the network off everywhere.
isolated=(--containall --no-privs --workdir "$scratch/work")
if [ "$(id -u)" = 0 ]; then isolated+=(--net --network none); fi

echo "test_apptainer.sh: $IMAGE from $engine; flags: ${flags[*]}"
make_sif() {
    "$engine" save --output "$scratch/msapp.tar" "$IMAGE"
    cp Singularity.def "$scratch"
    apptainer_ build --notest "$scratch/msapp.sif" Singularity.def > "$scratch/build.log" 2>&1 ||
        { tail -n 20 "$scratch/build.log" >&2; exit 1; }
    rm -rf "$scratch/msapp.tar" "$scratch/tmp/cache"
}

echo "== SIF"
started=$SECONDS
if [ -f "${SIF:-}" ]; then
    cp "$SIF" "$scratch/msapp.sif"
else
    make_sif
    [ -z "${SIF:-}" ] || cp "$scratch/msapp.sif" "$SIF"
fi
echo "$(du --apparent-size -m "$scratch/msapp.sif" | cut -f1) MB in $((SECONDS - started)) s"
apptainer_ run "${isolated[@]}" "$scratch/msapp.sif" --version
if [ "${SELF_TEST:-0}" = 1 ]; then
    echo "== %test"
    apptainer_ test "${isolated[@]}" "$scratch/msapp.sif"
fi

echo "== synthetic dataset"
"$BIN/msapp-phantom" "${phantom[@]}" "$scratch/bids" >/dev/null

echo "== container"
started=$SECONDS
binds=(-B "$scratch/bids:/bids:ro" -B "$scratch/container:/out")
apptainer_ run "${isolated[@]}" "${binds[@]}" "$scratch/msapp.sif" \
    /bids /out participant "${flags[@]}" 2> "$scratch/container.log" ||
    { code=$?; tail -n 20 "$scratch/container.log" >&2; exit "$code"; }
apptainer_ run "${isolated[@]}" "${binds[@]}" "$scratch/msapp.sif" /bids /out group
echo "$((SECONDS - started)) s"

echo "== host"
started=$SECONDS
"$BIN/msapp" "$scratch/bids" "$scratch/host" participant "${flags[@]}" 2> "$scratch/host.log" ||
    { code=$?; tail -n 20 "$scratch/host.log" >&2; exit "$code"; }
"$BIN/msapp" "$scratch/bids" "$scratch/host" group
echo "$((SECONDS - started)) s"

echo "== comparison"
"$BIN/python" tests/container/compare.py "$scratch/host" "$scratch/container"
echo "test_apptainer.sh: passed"
