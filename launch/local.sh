#!/bin/bash
# One job of N processes on this machine: its GPUs, or a CPU for testing.
#
#   launch/local.sh [--dry-run] N CMD...
#   launch/local.sh 2 python -m experiments.influence --config=C --workdir=W
#
# Appends --coordinator, --num_processes and --process_id to CMD. Process 0
# writes to the terminal, process I to LOGS/process_I.log. The first that fails
# ends the others, and its status is this script's; Ctrl-C ends all.
# To resume: the same command again, also with another N.
#
# Read from the environment:
#   LOGS=DIR                where logs go; else a new temporary folder
#   PORT=P                  process 0 listens here; else a free port
#   PIN=0                   no pinning; else equal shares of this shell's cores
#   JAX_NUM_CPU_DEVICES=D   devices of each process, on a CPU
#   JAX_PLATFORMS=cpu       leaves GPUs alone; else they are split evenly
#   CUDA_VISIBLE_DEVICES    the GPUs to split; else all that nvidia-smi lists
#   DRY_RUN=1               as --dry-run: prints a line for each process
set -euo pipefail

die() { echo "local.sh: $*" >&2; exit 2; }
join() { local IFS=,; echo "$*"; }

free_port() {
  local port
  while port=$((20000 + RANDOM % 12000)); do  # below the ephemeral ones
    (: > "/dev/tcp/127.0.0.1/$port") 2> /dev/null || break
  done
  echo "$port"
}

my_cores() {  # '0-2,8' -> 0 1 2 8; nothing where there is no taskset
  local range ranges
  [[ ${PIN:-1} != 0 ]] && command -v taskset > /dev/null || return 0
  ranges=$(taskset -cp $$)
  ranges=${ranges##*: }
  for range in ${ranges//,/ }; do seq "${range%-*}" "${range#*-}"; done
}

my_gpus() {
  [[ ${JAX_PLATFORMS:-} != cpu ]] || return 0
  if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    tr , '\n' <<< "$CUDA_VISIBLE_DEVICES"
  elif command -v nvidia-smi > /dev/null; then
    nvidia-smi --query-gpu=index --format=csv,noheader || true
  fi
}

words_of() {  # fills `words` with what process $1 runs
  local each first
  words=(env "JAX_COORDINATOR_BIND_ADDRESS=127.0.0.1:$port")
  if [[ -n ${JAX_NUM_CPU_DEVICES:-} ]]; then
    words+=("JAX_NUM_CPU_DEVICES=$JAX_NUM_CPU_DEVICES")
  fi
  if ((${#gpus[@]} > 0)); then
    each=$((${#gpus[@]} / n))
    first=$((each * $1))
    words+=("CUDA_VISIBLE_DEVICES=$(join "${gpus[@]:first:each}")")
    # Inside SLURM jax would take one device a process if not told.
    words+=("JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((each - 1)))")
  fi
  if ((${#cores[@]} >= n)); then
    each=$((${#cores[@]} / n))
    first=$((each * $1))
    words+=(taskset -c "$(join "${cores[@]:first:each}")")
  fi
  words+=("${cmd[@]}" "--coordinator=127.0.0.1:$port")
  words+=("--num_processes=$n" "--process_id=$1")
}

start() {  # process $1; a group with its children, where setsid exists
  local group=env
  if command -v setsid > /dev/null; then group=setsid; fi
  words_of "$1"
  exec "$group" "${words[@]}" < /dev/null
}

send() {  # a signal to all that run, with their children
  local pid
  for pid in ${pids[@]+"${pids[@]}"}; do
    kill "-$1" -- "-$pid" 2> /dev/null || kill "-$1" "$pid" 2> /dev/null || :
  done
}

stop() {  # asks, waits up to 5 s (jax.distributed holds SIGTERM), insists
  local pid alive
  send TERM
  for _ in {1..50}; do
    alive=0
    for pid in ${pids[@]+"${pids[@]}"}; do
      if kill -0 "$pid" 2> /dev/null; then alive=1; fi
    done
    ((alive)) || break
    sleep 0.1
  done
  send KILL
}

sweep() {  # forgets who is done; leaves if any failed
  local i status failed=0
  for i in "${!pids[@]}"; do
    if kill -0 "${pids[i]}" 2> /dev/null; then continue; fi
    status=0
    wait "${pids[i]}" || status=$?
    if ((status)); then
      ((i == 0)) || tail -n 20 "$logs/process_$i.log" >&2
      echo "local.sh: process $i failed with status $status" >&2
      ((failed)) || failed=$status
    else
      unset "pids[i]"
    fi
  done
  ((failed == 0)) || exit "$failed"
}

if [[ ${1:-} == --dry-run ]]; then DRY_RUN=1; shift; fi
[[ $# -ge 2 && $1 =~ ^[1-9][0-9]*$ ]] ||
  die 'usage: launch/local.sh [--dry-run] N CMD...'
n=$1 cmd=("${@:2}") port=${PORT:-$(free_port)} pids=()
IFS=$'\n' read -r -d '' -a cores < <(my_cores) || :
IFS=$'\n' read -r -d '' -a gpus < <(my_gpus) || :
((${#gpus[@]} % n == 0)) || die "$n processes cannot share ${#gpus[@]} GPUs" \
  'evenly; choose another N or CUDA_VISIBLE_DEVICES, or JAX_PLATFORMS=cpu'

if [[ -n ${DRY_RUN:-} ]]; then
  for ((i = 0; i < n; i++)); do
    words_of "$i"
    printf '%q ' "${words[@]}"
    echo
  done
  exit
fi

logs=${LOGS:-$(mktemp -d "${TMPDIR:-/tmp}/local.XXXXXX")}
mkdir -p "$logs"
echo "local.sh: logs of processes from 1 on in $logs" >&2
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
for ((i = 0; i < n; i++)); do
  if ((i == 0)); then
    start 0 &
  else
    start "$i" > "$logs/process_$i.log" 2>&1 &
  fi
  pids+=($!)
done
while ((${#pids[@]} > 0)); do sleep 0.1; sweep; done
