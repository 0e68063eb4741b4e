"""A recipe through the Slurm profile: `backsplit run` submits its jobs, and finishes what was cancelled."""

import subprocess
import sys
from pathlib import Path

import pytest

from backsplit.experiments.slurm.profiles import write_profile

sys.path.insert(0, str(Path(__file__).parent))
from cluster import Cluster, running_cluster, why_not

from studies import TINY_RECIPE


def start(cluster: Cluster, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "backsplit", "run", "tiny.yaml", "--profile", "profile", "--device", "cpu"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, env=cluster.environment, **pipes)


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_a_recipe_runs_through_slurm_and_the_same_command_finishes_what_was_cancelled(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY_RECIPE)
    profile = Path(write_profile(str(tmp_path / "profile")))
    profile.write_text(profile.read_text().replace("retries: 5", "retries: 0"))
    with running_cluster() as cluster:
        first = start(cluster, tmp_path)
        cancelled = cluster.wait_for_job("bs-train-")
        cluster.run("scancel", cancelled)
        output, _ = first.communicate(timeout=1000)
        assert first.returncode == 1, output
        store = tmp_path / "backsplit-workspace"
        done = {path: path.stat().st_mtime_ns for path in store.glob("markers/**/*.done")}
        assert any("train" in str(path) for path in done), "the other training was finished"
        again = start(cluster, tmp_path)
        output, _ = again.communicate(timeout=1000)
        assert again.returncode == 0, output
        assert all(path.stat().st_mtime_ns == when for path, when in done.items()), "nothing was done twice"
        assert "| cyst | backsplit |" in next(store.glob("studies/*/table.md")).read_text()
