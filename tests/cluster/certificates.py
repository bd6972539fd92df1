"""The keys and certificates of one control plane, by the openssl command."""

import subprocess
from pathlib import Path

NODE_ADDRESS = "10.250.0.1"
"""Address of the node of tests/node; a kubelet needs one that is no loopback address."""

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")

SIGNED = {
    "server": ("/CN=kube-apiserver", "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:kubernetes.default.svc"),
    "kubelet": ("/CN=kubelet", f"subjectAltName=IP:127.0.0.1,IP:{NODE_ADDRESS}"),
    "kubelet-client": ("/O=system:masters/CN=kubelet-client", "extendedKeyUsage=clientAuth"),
}
"""File -> the subject of its certificate, and the extensions that its use needs."""


def make_certificates(folder: Path) -> None:
    """Write `NAME.crt` and `NAME.key` into the folder: an authority `ca`, what it signed, and `sa.key` for accounts."""
    _openssl(folder, "req", "-x509", *KEY, "-days", "30", "-subj", "/CN=tests", "-keyout", "ca.key", "-out", "ca.crt")
    for name, (subject, extension) in SIGNED.items():
        (folder / f"{name}.ext").write_text(f"{extension}\n")
        _openssl(folder, "req", *KEY, "-subj", subject, "-keyout", f"{name}.key", "-out", f"{name}.csr")
        _openssl(
            folder,
            *("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.crt", "-days", "30", "-extfile", f"{name}.ext"),
            *("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"),
        )
    _openssl(folder, "genrsa", "-out", "sa.key", "2048")


def _openssl(folder: Path, *arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
