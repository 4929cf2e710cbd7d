#!/usr/bin/env bash
# Run apptainer from a folder that holds another system, for hosts without a package of it.
#
#   apptainer_in_tree.sh ARGUMENTS OF APPTAINER
#
# Settings, from the environment:
#   APPTAINER_ROOT  the folder of the system, such as made by
#                   mmdebstrap --variant=minbase --include=apptainer,squashfs-tools sid FOLDER
#   APPTAINER_SEES  folders of this host that are seen there, at the same place, joined by ":"
#
# Needs root. A link to this file, named apptainer and put on PATH, serves programs that look for
# it there. The folder is entered with pivot_root: a plain chroot is not enough, since apptainer
# itself changes the root.
set -euo pipefail
: "${APPTAINER_ROOT:?names no folder with a system that holds apptainer}"

# shellcheck disable=SC2016 # expanded by the inner shell
exec unshare --mount --propagation private bash -c '
    set -e
    tree=$1 here=$PWD
    shift
    mount --bind "$tree" "$tree"
    mkdir -p "$tree/old"
    # A minimal system lacks these, and apptainer copies them into the container.
    touch "$tree/etc/hosts" "$tree/etc/resolv.conf"
    mount --rbind /dev "$tree/dev"
    mount --rbind /sys "$tree/sys"
    mount -t proc proc "$tree/proc"
    IFS=: read -ra folders <<< "${APPTAINER_SEES:-}"
    for folder in "${folders[@]}"; do
        mkdir -p "$tree$folder"
        mount --bind "$folder" "$tree$folder"
    done
    cd "$tree"
    pivot_root . old
    umount -l /old
    cd "$here" 2> /dev/null || cd /
    export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    exec apptainer "$@"' _ "$APPTAINER_ROOT" "$@"
