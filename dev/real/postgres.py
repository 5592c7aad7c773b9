"""PostgreSQL, Debian's or whichever is installed."""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

from real.certificates import USERS, certificates, shared_env
from real.fetch import debian
from real.process import PORT, Failure, Unit, free

# PostgreSQL refuses to run as root; its files are then where its own user may go.
AS_POSTGRES = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]


def programs():
    """The directory of `initdb`, the newest there is."""
    found = [Path(folder) for folder in os.environ.get("PATH", "").split(":")]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    wanted = ("initdb", "pg_isready", "postgres")
    return next((folder for folder in found if all((folder / name).exists() for name in wanted)), None)


class Postgres(Unit):
    """The service and its only unit. The users log in with SCRAM; the owner is `postgres`."""

    what = "PostgreSQL"

    def __init__(self, name="postgres", prefix="POSTGRES", port=PORT + 32):
        super().__init__(name)
        self.units = [self]
        self.prefix, self.port = prefix, port
        self.root = os.getuid() == 0
        if self.root:
            self.data = Path("/var/tmp") / f"millstream-dev-{self.port}" / "postgres"

    def setup(self):
        if programs() is None:
            debian("postgresql")
        certificates()

    def command(self, program, *arguments):
        own = AS_POSTGRES if self.root else []
        return [*own, str(programs() / program), *map(str, arguments)]

    def start(self, _units):
        self.setup()
        free([self.port])
        cluster = self.data / "cluster"
        if not (cluster / "PG_VERSION").exists():
            shutil.rmtree(self.data, ignore_errors=True)
            self.make(cluster)
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.data,
            "wal_level": "logical",
            "max_connections": 60,
            "shared_buffers": "32MB",
            "ssl": "on",
            "ssl_cert_file": self.data / "server.pem",
            "ssl_key_file": self.data / "server.key",
            "ssl_ca_file": self.data / "ca.pem",
        }
        words = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        self.launch(self.command("postgres", "-D", cluster, *words))

    def make(self, cluster):
        self.data.mkdir(parents=True)
        certs = certificates()
        for name in ("server.pem", "server.key", "ca.pem"):
            shutil.copy(certs / name, self.data / name)
            (self.data / name).chmod(0o600)
        if self.root:
            for path in (self.data, *self.data.iterdir()):
                shutil.chown(path, "postgres", "postgres")
        run = subprocess.run(
            self.command("initdb", "-D", cluster, "-U", "postgres", "-A", "trust", "-E", "UTF8"),
            capture_output=True,
            text=True,
        )
        if run.returncode != 0:
            raise Failure(f"initdb failed: {run.stderr.strip()}")
        roles = "".join(
            f"CREATE ROLE {user} LOGIN SUPERUSER PASSWORD '{word}';\n" for user, word in USERS.items()
        )
        run = subprocess.run(
            self.command("postgres", "--single", "-D", cluster, "postgres"),
            input=roles,
            capture_output=True,
            text=True,
        )
        if run.returncode != 0:
            raise Failure(f"PostgreSQL could not be given its users: {run.stderr.strip()}")
        (cluster / "pg_hba.conf").write_text(
            "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        )

    def answers(self, _units=None):
        ready = self.command("pg_isready", "-q", "-h", "127.0.0.1", "-p", self.port)
        return subprocess.run(ready).returncode == 0

    def send(self, pid, number):
        """Each of its processes leads a group of its own."""
        if number not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT):
            super().send(pid, number)
            return
        # Stopped, it makes no more of them.
        os.kill(pid, signal.SIGSTOP)
        for one in [*children(pid), pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, number)

    def forget(self):
        shutil.rmtree(self.data, ignore_errors=True)

    def env(self):
        return {
            f"{self.prefix}_URL": f"postgres://postgres@127.0.0.1:{self.port}/postgres",
            f"{self.prefix}_ADDRESS": f"127.0.0.1:{self.port}",
        } | shared_env()


def children(pid):
    """The processes that a process made, and that still have it for a parent."""
    lines = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True).stdout
    pairs = [line.split() for line in lines.splitlines()]
    return [int(one) for one, parent in pairs if int(parent) == pid]
