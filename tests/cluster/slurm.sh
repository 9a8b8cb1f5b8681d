#!/usr/bin/env bash
# A SLURM of one node on the loopback device, for the tests that are marked `cluster`. As root, on
# Debian or Ubuntu, without systemd:
#   tests/cluster/slurm.sh start    installs the packages where they are missing, starts it, waits
#   tests/cluster/slurm.sh stop     cancels what runs there, ends it, removes its folder
# It has a partition `debug` without a time limit and no accounting.
set -euo pipefail

base=${LREXP_SLURM_DIR:-/var/tmp/lrexp-slurm}
export SLURM_CONF=/etc/slurm/slurm.conf  # where every command looks, also those of the tests
mark="# made by lrexp's tests/cluster/slurm.sh"

ours() { [ -f $SLURM_CONF ] && head -1 $SLURM_CONF | grep -qxF "$mark"; }

end() {  # the program of a pid file
    local file=$1 pid
    pid=$(cat "$file" 2>/dev/null) || return 0
    kill "$pid" 2>/dev/null || return 0
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || return 0; sleep 0.1; done
    kill -9 "$pid"
}

stop() {
    if ! ours; then echo "no SLURM of this script is here"; return; fi
    timeout 20 scancel --user=root --quiet 2>/dev/null || true
    for _ in $(seq 100); do
        [ -z "$(timeout 5 squeue -h 2>/dev/null)" ] && break
        sleep 0.2
    done
    end "$base/slurmd.pid"; end "$base/slurmctld.pid"; end "$base/munged.pid"
    rm -rf "$base" $SLURM_CONF
    echo "SLURM is stopped"
}

start() {
    if [ -f $SLURM_CONF ] && ! ours; then
        echo "$SLURM_CONF is of another SLURM: nothing was changed" >&2; exit 1
    fi
    if timeout 5 sinfo -h -t idle,alloc,mix 2>/dev/null | grep -q debug; then echo "SLURM runs"; return; fi
    ours && stop
    if ! command -v slurmctld slurmd sbatch munged >/dev/null; then
        apt-get update -q
        # Debian starts no services where this says so
        DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
            slurmctld slurmd slurm-client munge
    fi
    mkdir -p "$base"/{state,spool,log,munge} "$(dirname $SLURM_CONF)"
    [ -s /etc/munge/munge.key ] || mungekey --create --keyfile=/etc/munge/munge.key
    chown -R munge: /etc/munge "$base/munge"; chmod 755 "$base/munge"
    local name; name=$(uname -n | cut -d. -f1)
    cat > $SLURM_CONF <<CONF
$mark
ClusterName=lrexp
SlurmctldHost=$name(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$base/munge/socket,cred_expire=5  # also what a requeued job waits
CryptoType=crypto/munge
StateSaveLocation=$base/state
SlurmdSpoolDir=$base/spool
SlurmctldPidFile=$base/slurmctld.pid
SlurmdPidFile=$base/slurmd.pid
SlurmctldLogFile=$base/log/slurmctld.log
SlurmdLogFile=$base/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_interval=5,bf_interval=5
SlurmctldTimeout=60
SlurmdTimeout=60
MinJobAge=30
KillWait=30
NodeName=$name NodeAddr=127.0.0.1 CPUs=$(getconf _NPROCESSORS_ONLN) RealMemory=4000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
    runuser -u munge -- munged --socket="$base/munge/socket" --pid-file="$base/munge/munged.pid" \
        --log-file="$base/munge/log" --seed-file="$base/munge/seed" --force
    cp "$base/munge/munged.pid" "$base/munged.pid"
    slurmctld; slurmd
    for _ in $(seq 150); do
        if timeout 5 sinfo -h -t idle 2>/dev/null | grep -q debug; then
            echo "SLURM runs: $(sinfo -h -o '%P %D node, %c CPUs')"; return
        fi
        sleep 0.2
    done
    echo "SLURM does not come up: see $base/log" >&2; exit 1
}

case ${1:-} in
    start) start ;;
    stop) stop ;;
    *) sed -n '2,6s/^# \?//p' "$0"; exit 2 ;;
esac
