"""An own certificate authority, and a certificate of it for this machine."""

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files: of the authority, of the chain, of the key."""

    authority: Path
    chain: Path
    key: Path


def issue(folder: Path) -> Certificates:
    """Write certificates for 127.0.0.1 into a folder."""
    files = Certificates(folder / "authority.pem", folder / "chain.pem", folder / "key.pem")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(files.authority)
    issued.cert_chain_pems[0].write_to_path(files.chain)
    issued.private_key_pem.write_to_path(files.key)
    return files
