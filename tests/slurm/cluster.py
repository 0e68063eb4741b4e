"""A real Slurm of one node on this machine, without systemd and without a database: munge, slurmctld and slurmd.

All three listen on loopback alone, with a folder, a key, a socket and ports of their own, and end with the `with`
block, or with the process that started them. By hand, as root, `python tests/slurm/cluster.py COMMAND...` runs a
command beside such a cluster.
"""

import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

NUM_CPUS, NUM_GPUS, MEMORY_MB = 8, 3, 500_000
"""What the node is said to have."""
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
CONFIGURATION = """
ClusterName=toy
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=slurm
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=300
KillWait=5
GresTypes=gpu
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/node
SlurmctldPidFile={folder}/controller/pid
SlurmdPidFile={folder}/node/pid
NodeName={host} NodeAddr=127.0.0.1 CPUs={num_cpus} RealMemory={memory_mb} Gres=gpu:toy:{num_gpus} Feature=a100
PartitionName=gpu Nodes={host} Default=YES MaxTime=1-0 State=UP
"""


def why_not() -> str | None:
    """Why no cluster can be started here, if so."""
    if os.geteuid() != 0:
        return "a Slurm of its own needs root"
    if missing := [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]:
        return f"no {', '.join(missing)}; `apt-get install slurm-wlm munge` brings them"
    address = socket.gethostbyname(socket.gethostname())
    if not address.startswith("127."):
        return f"this host's name means {address}, where Slurm would listen; it must mean a loopback address"
    return None


class Cluster:
    """The daemons of one cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = [_free_port(), _free_port()]
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}
        self._daemons: dict[str, subprocess.Popen] = {}

    def start(self) -> None:
        """Start all and wait until the node is idle."""
        self.folder.chmod(0o755)
        for name, user in (("munge", "munge"), ("controller", "slurm"), ("node", "root")):
            (self.folder / name).mkdir()
            shutil.chown(self.folder / name, user, user)
        self._write_configuration()
        key = self.folder / "munge" / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        shutil.chown(key, "munge", "munge")
        munge = [f"--{name}={self.folder}/munge/{name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
        self._start("munged", "--foreground", f"--key-file={key}", *munge, user="munge")
        _wait_for((self.folder / "munge" / "socket").exists, "munged")
        self.start_controller()
        self._start("slurmd", "-D")
        _wait_for(lambda: self.run("sinfo", "--noheader", "--format=%T").stdout.strip() == "idle", "an idle node")

    def _write_configuration(self) -> None:
        for number, minor in zip(range(NUM_GPUS), (3, 5, 7), strict=True):  # copies of /dev/null, zero and full
            os.mknod(self.folder / f"gpu{number}", stat.S_IFCHR | 0o666, os.makedev(1, minor))
        host = socket.gethostname().partition(".")[0]
        (self.folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                host=host,
                folder=self.folder,
                controller_port=self.ports[0],
                node_port=self.ports[1],
                num_cpus=NUM_CPUS,
                memory_mb=MEMORY_MB,
                num_gpus=NUM_GPUS,
            )
        )
        (self.folder / "gres.conf").write_text(
            f"NodeName={host} Name=gpu Type=toy File={self.folder}/gpu[0-{NUM_GPUS - 1}]\n"
        )

    def start_controller(self) -> None:
        """Start slurmctld; it takes up the state of the one before."""
        self._start("slurmctld", "-D", user="slurm")

    def stop_controller(self) -> None:
        """End slurmctld; jobs go on."""
        self._stop("slurmctld")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """One of Slurm's commands."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=120)

    def wait_for_job(self, name: str) -> str:
        """Number of the first job that runs and has a name that begins so."""
        for _ in range(600):
            lines = self.run("squeue", "--noheader", "--states=RUNNING", "--format=%i %j").stdout.splitlines()
            if found := [line.split()[0] for line in lines if f" {name}" in line]:
                return found[0]
            time.sleep(0.5)
        raise TimeoutError(f"no job {name} after 5 minutes")

    def stop(self) -> None:
        """End jobs, then daemons, the last started first."""
        if "slurmctld" in self._daemons:
            self.run("scancel", "--me")
            self.run("scontrol", "update", "nodename=ALL", "state=drain", "reason=end")
            try:
                _wait_for(lambda: not self.run("squeue", "--noheader").stdout.strip(), "the end of all jobs")
            except TimeoutError as error:
                sys.stderr.write(f"{error}\n")
        for program in reversed(list(self._daemons)):
            self._stop(program)

    def _start(self, program: str, *arguments: str, user: str = "root") -> None:
        log = (self.folder / f"{program}.log").open("a")
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--pdeathsig=TERM"]
        with log:
            self._daemons[program] = subprocess.Popen(
                [*as_user, program, *arguments], stdout=log, stderr=log, env=self.environment, start_new_session=True
            )

    def _stop(self, program: str) -> None:
        daemon = self._daemons.pop(program)
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def told(self) -> str:
        """The last lines of each daemon."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{log.name}: {line}" for log in logs for line in log.read_text().splitlines()[-5:])


@contextmanager
def running_cluster() -> Generator[Cluster]:
    """A cluster with an idle node."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    cluster = Cluster(folder)
    try:
        try:
            cluster.start()
        except TimeoutError as error:
            raise RuntimeError(f"{error}\n{cluster.told()}") from None
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)


def _path() -> str:
    """Where the daemons lie is not on every user's path."""
    return f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(is_there, what: str) -> None:
    for _ in range(300):
        if is_there():
            return
        time.sleep(0.1)
    raise TimeoutError(f"no sign of {what} after 30 s")


if __name__ == "__main__":
    if reason := why_not():
        sys.exit(reason)
    with running_cluster() as running:
        sys.exit(subprocess.run(sys.argv[1:], env=running.environment, check=False).returncode)
