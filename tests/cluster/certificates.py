"""The keys and certificates of one control plane, by the openssl command."""

import subprocess
from pathlib import Path

NODE_ADDRESS = "10.250.0.1"
"""Of the node of tests/node; a kubelet wants one that is no loopback."""

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")

SIGNED = {
    "server": ("/CN=kube-apiserver", "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:kubernetes.default.svc"),
    "kubelet": ("/CN=kubelet", f"subjectAltName=IP:127.0.0.1,IP:{NODE_ADDRESS}"),
    "kubelet-client": ("/O=system:masters/CN=kubelet-client", "extendedKeyUsage=clientAuth"),
}
"""By file: whose certificate it is, and what makes it good for its use."""


def make_certificates(folder: Path) -> None:
    """Fills the folder with `NAME.crt` and `NAME.key`: an authority `ca`, what it signed, and `sa.key` for accounts."""
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
