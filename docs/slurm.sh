#!/bin/bash
# A run over several nodes under SLURM that goes on by itself after a time limit or a preemption, and after nothing else.
# From the checkout, in the environment that has sgdmix_hub, on a file system that the nodes share:
#
#   sbatch docs/slurm.sh OUTPUT_DIR scripts/augment_dataset.py --config generate.yaml ...
#
# One task a node starts that node's processes, one for each GPU. Fit these to your cluster:
#SBATCH --job-name=sgdmix
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
# SIGTERM to all processes, but not to this script, two minutes before the time is up: they end within half a minute, shards kept.
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

set -uo pipefail
output_dir=${1:?usage: sbatch docs/slurm.sh OUTPUT_DIR scripts/augment_dataset.py ...}
shift
report=$output_dir/state/error.json
rm -f "$report" # an earlier attempt's: it must not speak for this one
trap : TERM # a preemption may signal this script too: it has the last word

# What runs on each node. A launcher fails in the same way whatever happened: here, 75 says that it was told to stop before, 100 that it
# was not. That matters where a node's only process is killed, and srun then stops the other nodes.
# shellcheck disable=SC2016 # expanded on the node
task='
trap stopped=75 TERM
accelerate launch --config_file sgdmix_hub/accelerate_configs/nodes.yaml --num_machines "$SLURM_NNODES" --machine_rank "$SLURM_NODEID" \
    --num_processes "$((SLURM_NNODES * SLURM_GPUS_ON_NODE))" "$@" || exit "${stopped:-100}"
'
main_process_ip=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
main_process_port=$((10000 + SLURM_JOB_ID % 20000)) # jobs that share a node do not meet
srun --kill-on-bad-exit=1 bash -c "$task" task \
    --main_process_ip "$main_process_ip" --main_process_port "$main_process_port" "$@" --output_dir "$output_dir"
status=$?

((status == 0)) && exit 0

# srun gives the highest code of all nodes: 75 where every node was told to stop before anything failed on it. Without a report the signal
# came before the programs had begun.
exit_code=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["exit_code"])' "$report" 2>/dev/null)
if [[ $status == 75 && (! -e $report || $exit_code == 75) ]]; then
    echo "slurm.sh: told to stop, queued again"
    exec scontrol requeue "$SLURM_JOB_ID"
fi
echo "slurm.sh: failed; the reason is above and in $report" >&2
exit 1
