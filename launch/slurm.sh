#!/bin/bash
# One job on the nodes of a SLURM cluster. From the root of the repository, in
# the Python environment of the job:
#
#   sbatch --nodes=8 launch/slurm.sh python -m experiments.influence \
#     --config=C --workdir=/shared/W
#   bash launch/slurm.sh --dry-run CMD...   # or DRY_RUN=1: a line a process
#
# Edit the lines below, or give them to sbatch, which overrules them.
# A process a GPU: --ntasks-per-node=8 --gpus-per-task=1 --cpus-per-task=8.
# No GPUs: take their line away. W must be on a file system that all nodes see.
#
#SBATCH --job-name=influence
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-task=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#
# To resume: the same command again, also with other --nodes. SLURM does that
# itself after preemption or the loss of a node (--requeue), and this script asks
# for it 120 s before the time limit. A process that fails ends the job for good.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
set -euo pipefail

# With --coordinator=auto jax finds process 0 in SLURM's variables; if it does
# not, set JAX_COORDINATOR_ADDRESS=HOST:PORT. It would also take one GPU a task,
# number SLURM_LOCALID: so say which are the task's own. They are all that it
# sees where SLURM binds GPUs to tasks, and its share of the node's elsewhere.
# shellcheck disable=SC2016
task='
  gpus=${CUDA_VISIBLE_DEVICES:-$(nvidia-smi --query-gpu=index \
    --format=csv,noheader 2> /dev/null | paste -sd, -)}
  if [[ -n $gpus ]]; then
    seen=$(tr , "\n" <<< "$gpus" | wc -l)
    own=${SLURM_GPUS_PER_TASK:-$seen} own=${own##*:} first=0
    if ((seen > own)); then first=$((SLURM_LOCALID * own)); fi
    export JAX_LOCAL_DEVICE_IDS=$(seq -s, "$first" $((first + own - 1)))
  fi
  exec "$@"
'

option() { sed -n "s/^#SBATCH --$1=//p" "$0"; }

dry_run() {
  local per=${SLURM_NTASKS_PER_NODE:-$(option ntasks-per-node)} i
  local n=$((${SLURM_NNODES:-$(option nodes)} * per))
  local gpus=${SLURM_GPUS_PER_TASK:-$(option gpus-per-task)}
  for ((i = 0; i < n; i++)); do
    printf 'env SLURM_NTASKS=%d SLURM_PROCID=%d ' "$n" "$i"
    printf 'SLURM_LOCALID=%d ' $((i % per))
    if [[ -n $gpus ]]; then
      printf 'JAX_LOCAL_DEVICE_IDS=%s ' "$(seq -s, 0 $((${gpus##*:} - 1)))"
    fi
    printf '%q ' "$@"
    echo
  done
}

requeued=''
# shellcheck disable=SC2329  # USR1 invokes it
requeue() {
  requeued=yes
  echo "slurm.sh: the time limit is near, job $SLURM_JOB_ID is queued again"
  scontrol requeue "$SLURM_JOB_ID" || echo 'slurm.sh: no, submit it yourself'
}

if [[ ${1:-} == --dry-run ]]; then DRY_RUN=1; shift; fi
(($# > 0)) || { echo 'usage: sbatch launch/slurm.sh CMD...' >&2; exit 2; }
set -- "$@" --coordinator=auto
if [[ -n ${DRY_RUN:-} ]]; then dry_run "$@"; exit; fi

: "${SLURM_JOB_ID:?run me by sbatch, or with --dry-run}"
echo "slurm.sh: job $SLURM_JOB_ID, restart ${SLURM_RESTART_COUNT:-0}"
trap requeue USR1
# srun does not take --cpus-per-task over from sbatch.
srun --kill-on-bad-exit=1 --label \
  ${SLURM_CPUS_PER_TASK:+"--cpus-per-task=$SLURM_CPUS_PER_TASK"} \
  bash -c "$task" task "$@" &
step=$! status=0
wait "$step" || status=$?
if [[ -n $requeued ]]; then  # the signal ended `wait`, not the step
  status=0
  wait "$step" || status=$?
fi
exit "$status"
