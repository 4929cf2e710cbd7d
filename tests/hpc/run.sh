#!/bin/bash
# msapp-slurm against a real SLURM on this host, as `make test-slurm` runs it.
#
# Starts munged, slurmctld and slurmd of its own in a temporary folder, and shows with four
# synthetic participants, of which one is broken, one is killed and one is queued again, that
# submitting again completes all but the broken one. Then runs one participant by nipype's
# SLURM plugin. Nothing is installed; everything that was started is ended.
#
# Settings, from the environment:
#   SIF             an image: the same by Apptainer (`msapp-slurm --image`), without nipype's plugin
#   APPTAINER_ROOT  a folder with a system that holds apptainer, for hosts without a package of
#                   it; see scripts/container/apptainer_in_tree.sh

set -euo pipefail

export PATH=$PATH:/usr/sbin:/sbin LOGNAME=${LOGNAME:-$(id -un)}
missing=''
for program in munged slurmctld slurmd sbatch squeue sinfo scontrol scancel; do
    command -v "$program" > /dev/null || missing+=" $program"
done
if [[ -n $missing ]]; then
    echo "test-slurm: missing:$missing. On Debian: apt-get install slurm-wlm munge" >&2
    exit 69
fi
for program in msapp msapp-phantom msapp-slurm; do
    command -v "$program" > /dev/null || {
        echo "test-slurm: $program is not on PATH; call this by make test-slurm." >&2
        exit 69
    }
done

by=()
if [[ -n ${SIF:-} ]]; then
    SIF=$(realpath -e "$SIF")
    [[ -n ${APPTAINER_ROOT:-} ]] || command -v apptainer > /dev/null || {
        echo 'test-slurm: SIF is given, and apptainer is not on PATH.' >&2
        exit 69
    }
    by=("--image=$SIF")
fi

# The space and the quote are there on purpose.
top=$(mktemp -d)
base="$top/it's a test"
slurm=$top/slurm
mkdir -p "$base" "$slurm/state" "$slurm/spool"
chmod 711 "$top" "$slurm"
if [[ -n ${SIF:-} && -n ${APPTAINER_ROOT:-} ]]; then
    # Jobs get this environment from sbatch.
    mkdir "$top/bin"
    ln -s "$(realpath "$(dirname "$0")/../../scripts/container/apptainer_in_tree.sh")" \
        "$top/bin/apptainer"
    APPTAINER_SEES=$top:$(dirname "$SIF")
    export PATH=$top/bin:$PATH APPTAINER_ROOT APPTAINER_SEES
fi
bids=$base/bids
out=$base/out
pids=()

finish() {
    local code=$?
    trap - EXIT
    if [[ $code != 0 ]]; then
        echo "test-slurm: FAILED (exit code $code)" >&2
        tail -n 20 "$slurm"/slurm*d.log "$out"/logs/slurm/*/*.out >&2 || true
    fi
    # In this order: jobs, then slurmd and slurmctld, then munged, which they need to end well.
    timeout 20 scancel --user="$(id -u)" --signal=KILL --full 2> /dev/null || true
    for ((index = ${#pids[@]} - 1; index >= 0; index--)); do
        kill "${pids[index]}" 2> /dev/null || true
        wait "${pids[index]}" 2> /dev/null || true
    done
    rm -rf "$top" || { sleep 5; rm -rf "$top"; }
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

indent() {
    sed "s|$top|TOP|g; s/^/    /"
}

say() {
    printf '[%3d s] %s\n' "$SECONDS" "$*"
}

fail() {
    echo "test-slurm: $*" >&2
    exit 1
}

# until_true SECONDS WHAT COMMAND...
until_true() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        ((SECONDS < end)) || fail "waited in vain: $what"
        sleep 0.5
    done
}

start_slurm() {
    local host memory
    host=$(uname -n)
    host=${host%%.*}
    memory=$(awk '/^MemAvailable/ {print int($2 / 1024)}' /proc/meminfo)
    cat > "$slurm/slurm.conf" << CONF
ClusterName=msapptest
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$slurm/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=5,sched_interval=5
ReturnToService=2
MailProg=/bin/true
PropagateResourceLimits=NONE
KillWait=10
StateSaveLocation=$slurm/state
SlurmdSpoolDir=$slurm/spool
SlurmctldPidFile=$slurm/slurmctld.pid
SlurmdPidFile=$slurm/slurmd.pid
SlurmctldLogFile=$slurm/slurmctld.log
SlurmdLogFile=$slurm/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=$memory
PartitionName=test Nodes=$host Default=YES MaxTime=30 State=UP
CONF
    export SLURM_CONF=$slurm/slurm.conf
    (umask 077 && head -c 1024 /dev/urandom > "$slurm/munge.key")
    munged --foreground --force --key-file="$slurm/munge.key" --socket="$slurm/munge.socket" \
        --pid-file="$slurm/munged.pid" --seed-file="$slurm/munge.seed" \
        --log-file="$slurm/munged.log" > "$slurm/munged.out.log" 2>&1 &
    pids+=($!)
    until_true 20 'munged' test -S "$slurm/munge.socket"
    slurmctld -D > "$slurm/slurmctld.out.log" 2>&1 &
    pids+=($!)
    slurmd -D -N "$host" > "$slurm/slurmd.out.log" 2>&1 &
    pids+=($!)
    until_true 60 'an idle node' node_is_idle
}

node_is_idle() {
    [[ $(sinfo --noheader --format=%t 2> /dev/null) == idle ]]
}

queue_is_empty() {
    [[ -z $(squeue --noheader) ]]
}

# steps_of PARTICIPANT NUMBER: whether it has run so many steps, in any run
steps_of() {
    local count
    count=$(cat "$out"/logs/*/timings.tsv 2> /dev/null | grep -c "^$1"$'\t.*\tdone\t' || true)
    ((count >= $2))
}

# row_of PARTICIPANT COLUMN: a cell of its newest row
row_of() {
    cat "$out"/logs/*/summary.tsv | awk -F '\t' -v who="$1" -v at="$2" \
        '$1 == who {cell = $at} END {print cell}'
}

# status CODE: call --status, which must end with this code; its lines are in $said
status() {
    local code=0
    said=$(msapp-slurm "$bids" "$out" --status) || code=$?
    indent <<< "$said"
    [[ $code == "$1" ]] || fail "--status ended with $code instead of $1"
}

has_line() {
    grep -q -- "$1" <<< "$said" || fail "no line '$1'"
}

say 'writing four participants, of which sub-02 is cut short'
msapp-phantom --fast --sessions 1 --participants 4 "$bids" 2> /dev/null
find "$bids" -path '*sub-*' -type f \( -name '*_T?w.*' \) -delete
truncate --size=20000 "$bids/sub-02/ses-1/anat/sub-02_ses-1_FLAIR.nii.gz"

start_slurm
say "SLURM is up: $(sbatch --version)"

flags=("${by[@]}" --cpus=1 --mem=3G --time=20 --max-tasks=2 --sbatch-option=--partition=test)
flags+=(-- --sloppy)
msapp-slurm "$bids" "$out" "${flags[@]}" | indent
array=$(awk 'NR == 2 {print $1}' "$out"/logs/slurm/*/jobs.tsv)
status 1
has_line '^4 participants: 4 queued'

until_true 600 'steps of sub-03' steps_of sub-03 5
job=$(squeue --noheader --jobs="${array}_3" --format=%A)
mapfile -t processes < <(scontrol listpids "$job" | awk 'NR > 1 && $1 > 0 {print $1}')
say "killing the ${#processes[@]} processes of sub-03 (job ${array}_3)"
kill -KILL "${processes[@]}"

until_true 600 'steps of sub-04' steps_of sub-04 5
say "queueing sub-04 again (job ${array}_4)"
scontrol requeue "${array}_4"

until_true 1200 'the end of all jobs' queue_is_empty
say 'the first submission has ended'
status 1
has_line '^done: sub-01 sub-04$'
has_line '^failed: sub-02: .*cut short'
has_line '^missing: sub-03: '
grep -q 'sub-04: try 2 on' "$out"/logs/slurm/*/"${array}_4.out" || fail 'sub-04 had no second try'
(($(row_of sub-04 6) > 0)) || fail 'sub-04 reused nothing of its first try'
say "sub-04 was queued again and reused $(row_of sub-04 6) of $(row_of sub-04 4) steps"

say 'submitting again who is not done'
code=0
said=$(msapp-slurm "$bids" "$out" --wait "${flags[@]}") || code=$?
indent <<< "$said"
[[ $code == 1 ]] || fail "--wait ended with $code instead of 1"
has_line '^Submitted 2 participants'
has_line '^done: sub-01 sub-03 sub-04$'
has_line '^failed: sub-02: .*cut short'
has_line '^4 participants: 3 done, 1 failed.$'
(($(row_of sub-03 6) > 0)) || fail 'sub-03 reused nothing of its killed run'
say "sub-03 reused $(row_of sub-03 6) of $(row_of sub-03 4) steps"

for label in sub-01 sub-03 sub-04; do
    grep -q "$label" "$out/group.html" || fail "$label is not in group.html"
done
if grep -q 'sub-02' "$out/group.html"; then fail 'sub-02 is in group.html'; fi
said=$(msapp-slurm "$bids" "$out" --participant-label 01 03 04 "${flags[@]}")
has_line '^Nothing to submit'
status 1
say 'group.html holds three participants; nothing is left to submit but sub-02'

if [[ -n ${SIF:-} ]]; then
    grep -q '"Container"' "$out/dataset_description.json" || fail 'no container is named'
    say "passed, by $(apptainer --version) and $(basename "$SIF")"
    exit 0
fi

# nipype passes paths to sbatch without quotes: no space here.
plugin=$top/plugin
mkdir "$plugin"
printf 'plugin: SLURM\nplugin_args:\n  sbatch_args: --mem=1G --time=10\n' > "$plugin/slurm.yml"
said=$(msapp "$bids" "$plugin/out" participant --participant-label 01 --sloppy \
    --skip-bids-validation --use-plugin "$plugin/slurm.yml" 2> "$plugin/msapp.log") || {
    tail -n 20 "$plugin/msapp.log" >&2
    fail "nipype's SLURM plugin: $said"
}
has_line '^sub-01: done'
say "by nipype's SLURM plugin: $said"
say 'passed'
