#!/bin/bash
# What Slurm runs: a job script of Snakemake's. Keeps its exit status for `backsplit-slurm status`, and passes Slurm's
# warning that the time limit is near to those processes of the job that catch it: `backsplit train` then stops after
# the epoch. The processes between, which a signal would end, do not get it.
script=$1 folder=$2

pass_on_warning() {
    local process caught
    echo "the time limit is near: $(date "+%F %T.%3N")"
    for process in $(grep --files-with-matches --null-data --line-regexp --no-messages --fixed-strings \
            "SLURM_JOB_ID=$SLURM_JOB_ID" /proc/[0-9]*/environ | cut --delimiter=/ --fields=3); do
        caught=$(sed --quiet 's/^SigCgt:\s*//p' "/proc/$process/status" 2>/dev/null)
        if [[ $process != "$$" && -n $caught ]] && (( 16#$caught >> 9 & 1 )); then
            kill -USR1 "$process"
        fi
    done
}

is_warned=0
trap 'is_warned=1; pass_on_warning' USR1
echo "job $SLURM_JOB_ID ($SLURM_JOB_NAME) on $(hostname): $(date "+%F %T.%3N")"
bash "$script" &
while true; do
    is_warned=0
    wait $!
    status=$?
    (( is_warned )) || break  # else the signal ended `wait`, not the job
done
echo "$status" >"$folder/.$SLURM_JOB_ID.rc" && mv "$folder/.$SLURM_JOB_ID.rc" "$folder/$SLURM_JOB_ID.rc"
exit "$status"
