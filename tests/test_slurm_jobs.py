"""What Slurm is told of a job, and the script that it runs, without a Slurm."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backsplit.errors import ConfigurationError
from backsplit.experiments.slurm.main import main
from backsplit.experiments.slurm.status import is_live, status
from backsplit.experiments.slurm.submit import JOB_SCRIPT, name_of, options_of, properties_of, title_of

TRAINING = {
    "type": "single",
    "rule": "train",
    "output": ["done/binary-0"],
    "wildcards": {"arm": "binary", "fold": "0"},
    "threads": 4,
    "resources": {"gpu": 1, "runtime": 60, "mem_mb": 8000, "slurm_partition": "gpu", "tmpdir": "/tmp"},
}
texts = st.text(max_size=5)
outputs = st.lists(texts, min_size=1, max_size=2)


@given(st.tuples(outputs, texts), st.tuples(outputs, texts))
def test_jobs_share_a_name_only_if_they_share_outputs_and_directory(one, other):
    names = [name_of(TRAINING | {"output": output}, Path("/", folder)) for output, folder in (one, other)]
    assert (names[0] == names[1]) == ([one[0], Path("/", one[1])] == [other[0], Path("/", other[1])])


@given(st.dictionaries(texts, texts))
def test_a_log_has_a_plain_name(wildcards):
    title = title_of(TRAINING | {"wildcards": wildcards})
    assert title.startswith("train")
    assert len(title) <= 100
    assert not set(title) & set("/%\\ '\"\n\0")


def test_resources_become_options():
    assert options_of(TRAINING) == [
        "--partition=gpu",
        "--time=60",
        "--mem=8000M",
        "--gpus=1",
        "--nodes=1",
        "--ntasks=1",
        "--cpus-per-task=4",
    ]
    extra = {"slurm_extra": "--constraint='a100|h100'", "slurm_account": "me", "slurm_qos": "long", "gpu": 0}
    told = options_of(TRAINING | {"resources": TRAINING["resources"] | extra})
    assert {"--constraint=a100|h100", "--account=me", "--qos=long"} < set(told)
    assert not any(option.startswith("--gpus") for option in told)


@pytest.mark.parametrize(("warning_s", "is_warned"), [(0, False), (3599, True), (3600, False)])
def test_a_limit_as_short_as_the_warning_has_none(warning_s, is_warned):
    told = options_of(TRAINING | {"resources": TRAINING["resources"] | {"slurm_warning_s": warning_s}})
    assert (f"--signal=B:USR1@{warning_s}" in told) == is_warned


def test_a_job_script_of_snakemake_is_read():
    text = f"#!/bin/sh\n# properties = {json.dumps(TRAINING)}\ncd /somewhere && run\n"
    assert properties_of(text, "a.sh") == TRAINING
    with pytest.raises(ConfigurationError, match=r"a\.sh has no line '# properties = '"):
        properties_of("#!/bin/sh\nrun\n", "a.sh")


@pytest.mark.parametrize(("left", "expected"), [("0\n", "success"), ("1\n", "failed"), ("143\n", "failed")])
def test_the_exit_status_that_a_job_left_is_believed(tmp_path, monkeypatch, left, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm/7.rc").write_text(left)
    assert status("7") == expected
    assert not is_live("7", "RUNNING")
    assert is_live("8", "RUNNING")


def test_without_slurm_there_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["status", "7"]) == 1
    assert capsys.readouterr().err == (
        "backsplit-slurm: error: no squeue on PATH; run this on a machine that submits to Slurm\n"
    )
    assert main(["submit"]) == 2


def test_a_profile_is_written_once(tmp_path, capsys):
    assert main(["profile", str(tmp_path / "mine")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'mine' / 'config.yaml'}\n"
    assert main(["profile", str(tmp_path / "mine")]) == 1
    assert "exists; edit it" in capsys.readouterr().err


JOB = """
{python} -c '
import signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: sys.exit({status}))
open("listening", "w").close()
time.sleep(100)
'
status=$?
sleep 0.3
exit $status
"""


@pytest.mark.parametrize("exit_status", [0, 3])
def test_the_warning_reaches_who_catches_it_and_the_exit_status_is_kept(tmp_path, exit_status):
    (tmp_path / "job.sh").write_text(JOB.format(python=sys.executable, status=exit_status))
    (tmp_path / "slurm").mkdir()
    number = f"test-{os.getpid()}-{exit_status}"
    environment = os.environ | {"SLURM_JOB_ID": number, "SLURM_JOB_NAME": "job"}
    job = subprocess.Popen(["bash", JOB_SCRIPT, "job.sh", "slurm"], cwd=tmp_path, env=environment)
    while not (tmp_path / "listening").exists():
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(30) == exit_status
    assert (tmp_path / f"slurm/{number}.rc").read_text() == f"{exit_status}\n"
    assert [path.name for path in (tmp_path / "slurm").iterdir()] == [f"{number}.rc"]
