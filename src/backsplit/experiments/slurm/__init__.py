"""Slurm for Snakemake's cluster-generic executor: `backsplit-slurm submit`, `status` and `profile`.

The driver starts a process for each job that it submits and for each look at one, so these modules import little. They
ask `squeue` alone, never the accounting database, which many clusters lack and which can be away. What they keep is in
the folder `slurm` of the working directory: for each job a log, the script that it runs, and its exit status.
"""
