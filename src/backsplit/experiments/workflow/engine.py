"""Snakemake in a process of its own: reads what to run from a file, writes a line of JSON for each thing that happens.

Run by `driver`. Snakemake holds no lock, because the driver does.
"""

import json
import logging
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from snakemake.api import SnakemakeApi
from snakemake.cli import parse_args
from snakemake.logging import logger
from snakemake.scheduling.greedy import SchedulerSettings
from snakemake.settings.types import (
    ConfigSettings,
    DAGSettings,
    ExecutionSettings,
    OutputSettings,
    RemoteExecutionSettings,
    RerunTrigger,
    ResourceSettings,
    SchedulingSettings,
)
from snakemake_interface_common.exceptions import ApiError, WorkflowError
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

from backsplit.experiments.jobs import die_with_run

SNAKEFILE = "Snakefile"
MARKERS, DONE = "markers/", ".done"
ALWAYS = ("--workflow-profile", "none", "--scheduler", "greedy")
"""Of Snakemake's arguments."""
EVENTS = {"job_info": "started", "job_finished": "finished", "job_error": "failed"}


class _Tell(logging.Handler):
    """Writes starts and ends of jobs to stdout, each with the name of the job."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[int, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Tell one thing."""
        event = getattr(record, "event", None)
        told = EVENTS.get(getattr(event, "value", str(event)))
        number = getattr(record, "jobid", getattr(record, "job_id", None))
        if told is None or number is None:
            return
        outputs = [str(path) for path in getattr(record, "output", None) or []]
        if outputs and outputs[0].startswith(MARKERS):
            self.names[number] = outputs[0].removeprefix(MARKERS).removesuffix(DONE)
        if number in self.names:
            sys.stdout.write(json.dumps({"event": told, "job": self.names[number]}) + "\n")
            sys.stdout.flush()


def run(path: Path) -> None:
    """Run what a file of `driver` says, to the end.

    Raises:
        WorkflowError: a job failed; the others were done.
    """
    told: dict[str, Any] = json.loads(path.read_text())
    die_with_run(Path(told["lifeline"]))
    _, chosen = parse_args([*told["arguments"], *ALWAYS])
    with SnakemakeApi(OutputSettings()) as api:
        logger.addHandler(_Tell())
        workflow = api.workflow(
            ResourceSettings(
                cores=chosen.cores,
                nodes=chosen.jobs,
                resources=chosen.resources,
                overwrite_threads=chosen.set_threads,
                overwrite_resources=chosen.set_resources,
                default_resources=chosen.default_resources,
            ),
            config_settings=ConfigSettings(config={"run": str(path)}),
            snakefile=Path(str(files("backsplit.experiments.workflow") / SNAKEFILE)),
            workdir=Path(told["root"]),
        )
        triggers = frozenset({RerunTrigger.MTIME})
        dag = workflow.dag(DAGSettings(targets={"all"}, rerun_triggers=triggers, force_incomplete=True))
        dag.execute_workflow(
            executor=chosen.executor,
            execution_settings=ExecutionSettings(
                lock=False, keep_going=True, latency_wait=chosen.latency_wait, retries=chosen.retries
            ),
            remote_execution_settings=RemoteExecutionSettings(
                seconds_between_status_checks=chosen.seconds_between_status_checks,
                max_status_checks_per_second=chosen.max_status_checks_per_second,
            ),
            scheduling_settings=SchedulingSettings(scheduler="greedy"),
            scheduler_settings=SchedulerSettings(),
            executor_settings=ExecutorPluginRegistry().get_plugin(chosen.executor).get_settings(chosen),
        )


if __name__ == "__main__":
    try:
        run(Path(sys.argv[1]))
    except (WorkflowError, ApiError) as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(1) from None
