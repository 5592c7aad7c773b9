"""What a service needs before it starts: programs, and jars that Maven fetches once."""

import os
import re
import shutil
import subprocess
import time

from real.process import HOME, Failure, say

# Later ones insist on the parents of what they copy, which not every mirror has.
MAVEN_DEPENDENCY_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:2.8"
DEBIAN = {
    "go": "golang",
    "java": "openjdk-17-jre-headless",
    "mvn": "maven",
    "openssl": "openssl",
}


def need(*programs):
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        packages = " ".join(DEBIAN[program] for program in missing)
        raise Failure(f"needs {', '.join(missing)}; on Debian: apt-get install {packages}", 2)
    if "java" in programs:
        said = subprocess.run(["java", "-version"], capture_output=True, text=True).stderr
        version = re.search(r'version "(\d+)', said)
        if version and int(version[1]) < 17:
            raise Failure(f"needs Java 17 or newer; `java -version` says {version[1]}", 2)


def debian(package):
    """Installs a package where we may; its own service is not started."""
    if os.getuid() != 0 or shutil.which("apt-get") is None:
        raise Failure(f"needs {package}; on Debian: apt-get install {package}", 2)
    say(f"installing Debian's {package} (once)")
    for command in (["update"], ["install", "-y", "--no-install-recommends", package]):
        run = subprocess.run(
            ["apt-get", "-qq", *command],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"},
            capture_output=True,
            text=True,
        )
    if run.returncode != 0:
        raise Failure(f"{package} could not be installed:\n{run.stderr.strip()[-2000:]}")


def jars_of(name, version):
    return HOME / "jars" / f"{name}-{version}"


def need_for(name, version):
    """All that is missing is said at once, before the first download."""
    programs = ["java"]
    if not jars_of(name, version).exists():
        programs.append("mvn")
    if not (HOME / "certificates").exists():
        programs.append("openssl")
    need(*programs)


def download(name, version, get, programs=("java", "mvn")):
    """Fills jars/NAME-VERSION once; half a download is begun again."""
    folder = jars_of(name, version)
    if folder.exists():
        return folder
    need(*programs)
    say(f"downloading {name} {version} with {programs[-1]} (once)")
    started, part = time.monotonic(), folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    get(part)
    part.rename(folder)
    say(f"downloaded {name} in {time.monotonic() - started:.0f} s")
    return folder


def maven(folder, dependencies, *arguments):
    pom = folder / "pom.xml"
    listed = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>"
        f"<version>{version}</version></dependency>"
        for group, artifact, version in dependencies
    )
    pom.write_text(
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>millstream.dev</groupId><artifactId>services</artifactId><version>1</version>"
        f"<packaging>pom</packaging><dependencies>{listed}</dependencies></project>\n"
    )
    command = ["mvn", "-q", "-B", "-f", str(pom), *arguments, f"-DoutputDirectory={folder}"]
    for attempt in (1, 2, 3):
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode == 0:
            return
        if attempt < 3:
            time.sleep(2 * attempt)
    words = (run.stdout + run.stderr).strip()[-2000:]
    raise Failure(f"Maven could not fetch the jars; see its settings.xml for mirrors:\n{words}")
