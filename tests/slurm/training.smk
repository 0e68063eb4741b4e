# One real training, of more epochs than any time limit allows. `workspace` is prepared.
rule train:
    output:
        "trained",
    resources:
        runtime=2,
        slurm_warning_s=45,
    shell:
        "backsplit train --workspace {config[workspace]} --arm backsplit --device cpu --workers 0"
        " --epochs 100000 --iterations 1; touch {output}"
