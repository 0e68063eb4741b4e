"""Submit a job of Snakemake's, unless it is alive already: a driver that was killed leaves its jobs in the queue."""

import hashlib
import json
import re
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from backsplit.errors import ConfigurationError
from backsplit.experiments.slurm.controller import UnreachableError, queue, submit_batch
from backsplit.experiments.slurm.files import FOLDER, exit_status_of, log_of, script_of
from backsplit.experiments.slurm.status import is_live
from backsplit.files import write_text

Properties = dict[str, Any]
"""What Snakemake writes into a job script: rule, wildcards, output, threads, resources."""
MARK = "# properties = "
JOB_SCRIPT = Path(__file__).parent / "job.sh"
TRY_AGAIN_S = 5.0
RESOURCES = {
    "slurm_partition": "--partition={}",
    "slurm_account": "--account={}",
    "slurm_qos": "--qos={}",
    "runtime": "--time={}",
    "mem_mb": "--mem={}M",
    "gpu": "--gpus={}",
}


def submit(script: str) -> str:
    """Number of the live job that does what a job script says; submitted now if there is none.

    Waits for as long as the controller does not answer.

    Args:
        script: path of the script that Snakemake wrote.

    Raises:
        ConfigurationError: the script is not one of Snakemake's, or Slurm refuses the job.
    """
    text = Path(script).read_text(encoding="utf-8")
    properties = properties_of(text, script)
    name = name_of(properties, Path.cwd())
    is_told = False
    while True:
        try:
            return _live_job(name) or _submit(text, properties, name)
        except UnreachableError as error:
            if not is_told:
                sys.stderr.write(f"{name}: {error}; waiting for it\n")
            is_told = True
            time.sleep(TRY_AGAIN_S)


def properties_of(text: str, script: str) -> Properties:
    """What a job script says of its job.

    Raises:
        ConfigurationError: it says nothing of one.
    """
    for line in text.splitlines():
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    raise ConfigurationError(f"{script} has no line {MARK!r}; expected a job script of Snakemake's")


def name_of(properties: Properties, directory: Path) -> str:
    """The same for the same outputs below the same directory, and only for those."""
    told_apart = [str(directory), properties["output"], properties.get("wildcards")]
    digest = hashlib.sha256(json.dumps(told_apart, sort_keys=True).encode()).hexdigest()
    return f"bs-{_rule_of(properties)}-{digest[:10]}"


def title_of(properties: Properties) -> str:
    """Rule and wildcards, for the name of a log: at most 100 letters, digits, dots, hyphens and underscores."""
    parts = (_rule_of(properties), *map(str, properties.get("wildcards", {}).values()))
    return re.sub(r"[^A-Za-z0-9._-]+", "_", ".".join(parts))[:100]


def _rule_of(properties: Properties) -> str:
    return properties["groupid"] if properties["type"] == "group" else properties["rule"]


def options_of(properties: Properties) -> list[str]:
    """What Slurm is told to provide, on one node.

    A limit that is no longer than the warning has no warning: the job would be told to stop when it starts.
    """
    given = properties["resources"]
    options = [option.format(given[name]) for name, option in RESOURCES.items() if given.get(name)]
    options += ["--nodes=1", "--ntasks=1", f"--cpus-per-task={properties['threads']}"]
    warning_s = given.get("slurm_warning_s", 0)
    if 0 < warning_s < 60 * given.get("runtime", 0):
        options.append(f"--signal=B:USR1@{warning_s}")
    return options + shlex.split(given.get("slurm_extra", ""))


def _live_job(name: str) -> str | None:
    """Number of the job of this name that has not ended."""
    for job, state in queue(f"--name={name}").items():
        if is_live(job, state):
            sys.stderr.write(f"{name}: goes on as job {job}, which is {state.lower()}\n")
            return job
    return None


def _submit(text: str, properties: Properties, name: str) -> str:
    write_text(text, Path(script_of(name)))
    options = [f"--job-name={name}", "--dependency=singleton"]
    options += [f"--output={log_of(title_of(properties))}", "--open-mode=append"]  # a job that Slurm requeues goes on
    before = time.time()
    job = submit_batch([*options, *options_of(properties)], str(JOB_SCRIPT), script_of(name), FOLDER)
    _forget_namesake(job, before)
    return job


def _forget_namesake(job: str, submitted: float) -> None:
    """Remove the exit status of an older job of this number: a cluster that was set up anew counts from 1 again."""
    left = Path(exit_status_of(job))
    if left.exists() and left.stat().st_mtime < submitted - 60:
        left.unlink()
