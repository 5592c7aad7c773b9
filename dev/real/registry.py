"""Apicurio Registry: Confluent's REST interface, in memory."""

import shutil
import ssl
import urllib.error
import urllib.request

from real.certificates import certificates, shared_env
from real.fetch import MAVEN_DEPENDENCY_PLUGIN, download, maven, need_for
from real.process import HOME, PORT, Failure, Unit, free

APICURIO_VERSION = "3.0.9"


def registry_jars():
    def get(folder):
        artifact = f"io.apicurio:apicurio-registry-app:{APICURIO_VERSION}:tar.gz:all"
        maven(folder, [], f"{MAVEN_DEPENDENCY_PLUGIN}:copy", f"-Dartifact={artifact}")
        for archive in folder.glob("*.tar.gz"):
            shutil.unpack_archive(archive, folder)
            archive.unlink()

    return download("registry", APICURIO_VERSION, get)


class Registry(Unit):
    """The service and its only unit: Confluent's REST interface under /apis/ccompat/v7."""

    what = f"Apicurio Registry {APICURIO_VERSION}, in memory"
    path = "/apis/ccompat/v7"

    def __init__(self):
        super().__init__("registry")
        self.units = [self]
        self.port = PORT + 81

    def setup(self):
        need_for("registry", APICURIO_VERSION)
        registry_jars()
        certificates()

    def start(self, _units):
        self.setup()
        free([self.port, self.port + 1])
        jar = next(registry_jars().rglob("*-runner.jar"), None) or next(
            registry_jars().rglob("quarkus-run.jar"), None
        )
        if jar is None:
            raise Failure(f"Apicurio's archive in {registry_jars()} has no jar to run")
        certs = certificates()
        settings = {
            "quarkus.http.host": "127.0.0.1",
            "quarkus.http.port": self.port,
            "quarkus.http.ssl-port": self.port + 1,
            "quarkus.http.ssl.certificate.files": certs / "server.pem",
            "quarkus.http.ssl.certificate.key-files": certs / "server.key",
            "apicurio.storage.kind": "sql",
            "apicurio.storage.sql.kind": "h2",
            "apicurio.rest.deletion.artifact.enabled": "true",
            "quarkus.log.level": "WARN",
        }
        flags = [f"-D{key}={value}" for key, value in settings.items()]
        self.launch(["java", "-Xmx384m", *flags, "-jar", str(jar)])

    def answers(self, _units=None):
        urls = (f"http://127.0.0.1:{self.port}", f"https://127.0.0.1:{self.port + 1}")
        return all(http_answers(url + self.path + "/subjects") for url in urls)

    def forget(self):
        pass

    def env(self):
        return {
            "SCHEMA_REGISTRY_URL": f"http://127.0.0.1:{self.port}{self.path}",
            "SCHEMA_REGISTRY_TLS_URL": f"https://127.0.0.1:{self.port + 1}{self.path}",
        } | shared_env()


def http_answers(url):
    trust = ssl.create_default_context(cafile=HOME / "certificates" / "ca.pem")
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
    )
    try:
        with opener.open(url, timeout=5) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError, ValueError):
        return False
