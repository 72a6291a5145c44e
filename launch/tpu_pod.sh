#!/bin/bash
# One job on all hosts of a Cloud TPU slice, a process a host:
#
#   TPU=my-tpu ZONE=us-east5-b DIR=influence_jax launch/tpu_pod.sh \
#     .venv/bin/python -m experiments.influence --config=C --workdir=/shared/W
#
# TPU and ZONE name the slice; DIR is the repository on every host, the same
# commit with the same environment (jax[tpu]). PROJECT is gcloud's own if unset.
# W must be on a file system that all hosts mount (Filestore), not their disks.
# --dry-run or DRY_RUN=1 prints the command each host would run, and gcloud's.
#
# To resume: the same command again, also on a slice of another size. If this
# terminal dies, processes may live on and hold the TPUs: run it in tmux, and
# end leftovers first:
#   gcloud compute tpus tpu-vm ssh $TPU --zone=$ZONE --worker=all \
#     --command="pkill -f 'experiments[.]'"
#
# On GKE by xpk, in place of this script:
#   xpk workload create --cluster=CLUSTER --workload=influence \
#     --tpu-type=v5p-128 --docker-image=IMAGE --max-restarts=10 --command='
#     python -m experiments.influence --config=C --workdir=/shared/W
#     --coordinator=auto'
set -euo pipefail

if [[ ${1:-} == --dry-run ]]; then DRY_RUN=1; shift; fi
if (($# == 0)); then
  echo 'usage: TPU=T ZONE=Z DIR=D launch/tpu_pod.sh CMD...' >&2
  exit 2
fi
# jax finds hosts and ids in the metadata of the slice.
set -- "$@" --coordinator=auto
remote="cd $(printf %q "${DIR:-influence_jax}") && $(printf '%q ' "$@")"
words=(
  gcloud compute tpus tpu-vm ssh "${TPU:?name of the slice}"
  "--zone=${ZONE:?zone of the slice}" ${PROJECT:+"--project=$PROJECT"}
  --worker=all "--command=$remote"
)
if [[ -n ${DRY_RUN:-} ]]; then
  echo "$remote"
  printf '%q ' "${words[@]}"
  echo
  exit
fi
exec "${words[@]}" < /dev/null
