"""FerretDB: MongoDB's wire protocol over SQLite."""

import os
import shutil
import socket
import subprocess

from real.certificates import certificates, shared_env
from real.fetch import download
from real.process import PORT, Failure, Unit, free

FERRETDB_VERSION = "1.24.2"
MODULE = "github.com/FerretDB/FerretDB"


def ferretdb():
    return download("ferretdb", FERRETDB_VERSION, build, ["go"])


def build(folder):
    """The module is published without the version file that its start insists on."""
    source = folder / "source"
    source.mkdir()
    (source / "go.mod").write_text(
        f"module services/mongo\n\ngo 1.23\n\nrequire {MODULE} v{FERRETDB_VERSION}\n"
    )
    (source / "tools.go").write_text(
        f'//go:build tools\n\npackage tools\n\nimport _ "{MODULE}/cmd/ferretdb"\n'
    )

    def go(*arguments):
        run = subprocess.run(
            ["go", *arguments],
            cwd=source,
            env={**os.environ, "GOFLAGS": "-mod=mod"},
            capture_output=True,
            text=True,
        )
        if run.returncode != 0:
            raise Failure(f"go {arguments[0]} failed:\n{run.stderr.strip()[-2000:]}")
        return run.stdout.strip()

    go("mod", "download", MODULE)
    copy = source / "ferretdb"
    shutil.copytree(go("list", "-m", "-f", "{{.Dir}}", MODULE), copy)
    for path in (copy, *copy.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)
    (copy / "build/version/version.txt").write_text(f"v{FERRETDB_VERSION}\n")
    go("mod", "edit", "-replace", f"{MODULE}=./ferretdb")
    go("build", "-o", str(folder / "ferretdb"), f"{MODULE}/cmd/ferretdb")
    shutil.rmtree(source)


class Mongo(Unit):
    """The service and its only unit."""

    what = f"FerretDB {FERRETDB_VERSION}, MongoDB's wire protocol"

    def __init__(self, name="mongo", prefix="MONGODB", port=PORT + 71):
        super().__init__(name)
        self.units = [self]
        self.prefix, self.port = prefix, port

    def setup(self):
        ferretdb()
        certificates()

    def start(self, _units):
        self.setup()
        free([self.port, self.port + 1])
        certs = certificates()
        self.data.mkdir(parents=True, exist_ok=True)
        settings = {
            "handler": "sqlite",
            "sqlite-url": f"file:{self.data}/",
            "state-dir": self.data,
            "listen-addr": f"127.0.0.1:{self.port}",
            "listen-tls": f"127.0.0.1:{self.port + 1}",
            "listen-tls-cert-file": certs / "server.pem",
            "listen-tls-key-file": certs / "server.key",
            "debug-addr": "-",
            "log-level": "warn",
            "telemetry": "disable",
        }
        flags = [f"--{key}={value}" for key, value in settings.items()]
        self.launch([str(ferretdb() / "ferretdb"), *flags])

    def answers(self, _units=None):
        try:
            for port in (self.port, self.port + 1):
                socket.create_connection(("127.0.0.1", port), timeout=3).close()
        except OSError:
            return False
        return True

    def forget(self):
        shutil.rmtree(self.data, ignore_errors=True)

    def env(self):
        return {
            f"{self.prefix}_URI": f"mongodb://127.0.0.1:{self.port}/",
            f"{self.prefix}_TLS_URI": f"mongodb://127.0.0.1:{self.port + 1}/",
        } | shared_env()
