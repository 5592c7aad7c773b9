"""Prometheus, Debian's; it scrapes what a file says that a test may rewrite."""

import shutil

from real.fetch import debian
from real.process import HOME, PORT, Unit, free
from real.registry import http_answers

INTERVAL = "1s"


class Prometheus(Unit):
    """The service and its only unit."""

    what = "Prometheus"

    def __init__(self):
        super().__init__("prometheus")
        self.units = [self]
        self.port = PORT + 91
        self.targets = HOME / "conf" / "prometheus-targets.json"

    def setup(self):
        if shutil.which("prometheus") is None:
            debian("prometheus")

    def start(self, _units):
        self.setup()
        free([self.port])
        self.targets.parent.mkdir(parents=True, exist_ok=True)
        if not self.targets.exists():
            self.targets.write_text("[]\n")
        config = HOME / "conf" / "prometheus.yml"
        config.write_text(
            f"global: {{ scrape_interval: {INTERVAL} }}\n"
            "scrape_configs:\n"
            "  - job_name: millstream\n"
            f"    file_sd_configs: [{{ files: ['{self.targets}'], refresh_interval: 1s }}]\n"
        )
        self.data.mkdir(parents=True, exist_ok=True)
        flags = {
            "config.file": config,
            "storage.tsdb.path": self.data,
            "web.listen-address": f"127.0.0.1:{self.port}",
        }
        self.launch(["prometheus", *(f"--{key}={value}" for key, value in flags.items())])

    def answers(self, _units=None):
        return http_answers(f"http://127.0.0.1:{self.port}/-/ready")

    def forget(self):
        shutil.rmtree(self.data, ignore_errors=True)
        self.targets.unlink(missing_ok=True)

    def env(self):
        return {
            "PROMETHEUS_URL": f"http://127.0.0.1:{self.port}",
            "PROMETHEUS_TARGETS": self.targets,
        }
