"""Certificates for the services and their clients, made once."""

import shutil
import subprocess

from real.process import HOME, Failure

USERS = {"alice": "alice-secret", "bob": "bob-secret"}


def certificates():
    """An authority, what it signed for servers and for alice, and a stranger's pair. Made once."""
    folder = HOME / "certificates"
    if folder.exists():
        return folder
    part = folder.with_name("certificates.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)

    def openssl(*arguments):
        run = subprocess.run(["openssl", *arguments], cwd=part, capture_output=True, text=True)
        if run.returncode != 0:
            raise Failure(f"openssl {arguments[0]} failed: {run.stderr.strip()}")

    def key(name):
        curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
        openssl("genpkey", *curve, "-out", f"{name}.key")

    def authority(name):
        key(name)
        extensions = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        subject = ["-subj", f"/CN=Millstream test authority {name}"]
        openssl("req", "-x509", "-new", "-key", f"{name}.key", "-days", "3650", *subject, *extensions,
                "-out", f"{name}.pem")

    def signed(name, common_name, by):
        key(name)
        (part / f"{name}.ext").write_text(
            "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
            "extendedKeyUsage=serverAuth,clientAuth\n"
            "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:127.0.0.2,IP:127.0.0.3\n"
        )
        openssl("req", "-new", "-key", f"{name}.key", "-subj", f"/CN={common_name}", "-out", f"{name}.csr")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{by}.pem", "-CAkey", f"{by}.key",
                "-CAcreateserial", "-days", "3650", "-extfile", f"{name}.ext", "-out", f"{name}.pem")

    authority("ca")
    authority("other-ca")
    signed("server", "localhost", "ca")
    signed("client", "alice", "ca")
    signed("stranger", "stranger", "other-ca")
    # Kafka wants the key and its chain in one file.
    pair = [part / "server.key", part / "server.pem", part / "ca.pem"]
    (part / "server-store.pem").write_text("".join(file.read_text() for file in pair))
    for waste in (*part.glob("*.csr"), *part.glob("*.ext"), *part.glob("*.srl")):
        waste.unlink()
    part.rename(folder)
    return folder


def shared_env():
    certs = HOME / "certificates"
    return {
        "SERVICES_HOME": HOME,
        "SERVICES_CA": certs / "ca.pem",
        "SERVICES_CLIENT_CERT": certs / "client.pem",
        "SERVICES_CLIENT_KEY": certs / "client.key",
        "SERVICES_STRANGER_CERT": certs / "stranger.pem",
        "SERVICES_STRANGER_KEY": certs / "stranger.key",
        "SERVICES_USER": "alice",
        "SERVICES_PASSWORD": USERS["alice"],
    }
