"""A cluster of one machine by a real Slurm, in a folder of its own: begun and ended by a test."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CPUS = 8
"""As Slurm counts them; a machine with fewer is let pass (`config_overrides`)."""

CONFIGURATION = """
ClusterName=bnlab
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobCompType=jobcomp/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=30
ReturnToService=2
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmctldDebug=info
SlurmdDebug=info
MaxArraySize=100
MaxJobCount=30
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=60 PriorityTier=1 State=UP
PartitionName=urgent Nodes={host} MaxTime=60 PriorityTier=9 State=UP
"""


def missing() -> str:
    """Why there can be no cluster here; "" if there can."""
    lacking = [name for name in (*DAEMONS, "sbatch") if _path(name) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)} (Debian: slurm-wlm and munge)"
    return "" if os.getuid() == 0 else "starting slurmd takes root"


def _path(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[Path]:
    """Start munged, slurmctld and slurmd, and stop them; gives the path for SLURM_CONF."""
    folder.mkdir(mode=0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    configuration = folder / "slurm.conf"
    controller, daemon = _free_ports(2)
    configuration.write_text(
        CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0],
            user="root",
            controller=controller,
            daemon=daemon,
            folder=folder,
            cpus=CPUS,
        )
    )
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    munge += [f"--socket={folder}/munge.socket", "--foreground", "--force"]
    conf = ["-f", str(configuration), "-D"]
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    with ExitStack() as stack:
        for command in (["munged", *munge], ["slurmctld", *conf, "-c"], ["slurmd", *conf]):
            stack.enter_context(_daemon(command, folder, environment))
            if command[0] == "munged":
                _await((folder / "munge.socket").exists, folder)
        _await(lambda: b"idle" in _output(["sinfo", "-h", "-o", "%T"], environment), folder)
        yield configuration
        _output(["scancel", "--user=root"], environment)
        _await(lambda: not _output(["squeue", "-h"], environment).strip(), folder, check=False)


@contextmanager
def _daemon(command: Sequence[str], folder: Path, environment: dict[str, str]) -> Iterator[None]:
    program = _path(command[0])
    assert program is not None
    with (folder / f"{command[0]}.said").open("wb") as said:
        process = subprocess.Popen(
            [program, *command[1:]], stdout=said, stderr=said, env=environment
        )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await(done: Callable[[], bool], folder: Path, *, check: bool = True) -> None:
    until = time.monotonic() + 60
    while not done():
        if time.monotonic() > until:
            said = {log.name: log.read_text()[-2000:] for log in folder.glob("*.said")}
            assert not check, said
            return
        time.sleep(0.2)


def _output(command: Sequence[str], environment: dict[str, str]) -> bytes:
    return subprocess.run(command, capture_output=True, env=environment, check=False).stdout


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
