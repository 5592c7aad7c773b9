"""Processes that we start, find again by pid and start time, and end."""

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

HOME = Path(os.environ.get("MILLSTREAM_SERVICES_HOME") or Path.home() / ".cache/millstream-dev")
PORT = int(os.environ.get("MILLSTREAM_SERVICES_PORT") or 29000)
# Set by `during` for everything below it: what is started there ends with it.
DURING = "MILLSTREAM_SERVICES_DURING"

STOP_SECONDS_MAX = 20


class Failure(Exception):
    """What went wrong, for the reader; `code` is the exit code."""

    def __init__(self, message, code=1):
        super().__init__(message)
        self.code = code


def say(text):
    print(f"services: {text}", file=sys.stderr, flush=True)


class Unit:
    """One process that we start, find again by pid and start time, and end."""

    def __init__(self, name):
        self.name = name
        self.log = HOME / "log" / f"{name}.log"
        self.data = HOME / "data" / name
        self.record = HOME / "run" / f"{name}.json"

    def launch(self, command):
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        note = {"pid": process.pid, "born": born(process.pid), "during": DURING in os.environ}
        self.write(note)

    def read(self):
        try:
            return json.loads(self.record.read_text())
        except (OSError, ValueError):
            return None

    def write(self, note):
        self.record.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.record.with_suffix(".new")
        fresh.write_text(json.dumps(note))
        fresh.rename(self.record)

    def keep(self):
        """Somebody asked for it by hand: it outlives the command that started it."""
        note = self.read()
        if note and note["during"] and DURING not in os.environ:
            self.write({**note, "during": False})

    def pid(self):
        """The pid, if that process is still the one that we started."""
        note = self.read()
        if note and note["born"] is not None and born(note["pid"]) == note["born"]:
            return note["pid"]
        return None

    def signal(self, number):
        pid = self.pid()
        if pid is None:
            raise Failure(f"{self.name} does not run; start it with: services up {self.name}", 2)
        self.send(pid, number)

    def send(self, pid, number):
        os.killpg(pid, number)

    def stop(self):
        pid = self.pid()
        if pid is not None:
            for number in (signal.SIGCONT, signal.SIGTERM):
                self.send(pid, number)
            deadline = time.monotonic() + STOP_SECONDS_MAX
            while self.pid() is not None and time.monotonic() < deadline:
                time.sleep(0.05)
            if self.pid() is not None:
                self.send(pid, signal.SIGKILL)
            self.gone()
            say(f"{self.name} is down")
        self.record.unlink(missing_ok=True)

    def gone(self):
        """Waits for the end of a process that was sent SIGKILL."""
        while self.pid() is not None:
            time.sleep(0.02)

    def tail(self, lines=25):
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


def born(pid):
    """When a process started, as the system says it; None when there is none, or only its ashes."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        lines = subprocess.run(
            ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True
        ).stdout.split(maxsplit=1)
        return lines[1].strip() if len(lines) == 2 and not lines[0].startswith("Z") else None
    # The name in parentheses may itself have spaces and parentheses.
    fields = stat[stat.rindex(")") + 2 :].split()
    if fields[0] not in "ZX":
        return fields[19]
    try:
        # The first thread may be gone while others still hold the ports.
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
    except OSError:
        return None
    return fields[19] if threads > 1 else None


@contextlib.contextmanager
def locked(name, how=fcntl.LOCK_EX):
    HOME.mkdir(parents=True, exist_ok=True)
    with open(HOME / name, "a") as file:
        fcntl.flock(file, how)
        yield file


def free(ports, address="127.0.0.1"):
    """Refuses to start beside a stranger that has one of our ports."""
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                raise Failure(
                    f"port {port} cannot be had ({error.strerror}); end the program that has it, or set "
                    "MILLSTREAM_SERVICES_PORT (and MILLSTREAM_SERVICES_HOME) to others",
                    2,
                ) from None
