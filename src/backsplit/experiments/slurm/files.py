"""The folder of a driver's working directory that holds what is known of its jobs, and every name in it, once."""

FOLDER = "slurm"
QUEUE = f"{FOLDER}/queue"
"""The user's jobs and their states as last seen; its first line is when, in seconds since 1970."""


def exit_status_of(job: str) -> str:
    """Exit status of the job of this number; only there once it has ended by itself."""
    return f"{FOLDER}/{job}.rc"


def script_of(name: str) -> str:
    """What Snakemake wants run by the job of this name."""
    return f"{FOLDER}/{name}.sh"


def log_of(title: str) -> str:
    """Output of a job, as `sbatch` wants it: `%j` becomes the number."""
    return f"{FOLDER}/{title}-%j.log"
