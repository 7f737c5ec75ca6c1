"""The certificate and private key with which a port speaks TLS."""

import ssl
from pathlib import Path

from fl_main.errors import SettingsError
from fl_main.settings import TlsSettings
from fl_main.settings.yaml_text import read_text

_STRANGERS = {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"}  # OpenSSL's words for two that are no pair


def server_context(tls: TlsSettings, section: str) -> ssl.SSLContext:
    """Return what a port needs to speak TLS.

    Args:
        tls: Where its certificate and key are.
        section: Of the settings, for errors.

    Raises:
        SettingsError: With one line for each file that is not what it should be, or one if they do not
            belong together.
    """
    mistakes = [
        pem_mistake(f"{section}.certificate", tls.certificate, "CERTIFICATE"),
        pem_mistake(f"{section}.key", tls.key, "PRIVATE KEY"),
    ]
    if any(mistakes):
        raise SettingsError("\n".join(filter(None, mistakes)))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ssl.SSLError) as error:
        both = f"{section}: {tls.certificate} and {tls.key}"
        if isinstance(error, ssl.SSLError) and error.reason in _STRANGERS:
            raise SettingsError(
                f"{both} do not belong together: the key is that of another certificate"
            ) from error
        raise SettingsError(f"{both} are no certificate and key: {error}") from error
    return context


def pem_mistake(name: str, path: Path, label: str) -> str:
    """Say what is wrong with a PEM file; empty if nothing is.

    Args:
        name: The setting that names it.
        path: Of the file.
        label: What is to be in it.
    """
    try:
        text = read_text(path, f"{name}: {path}")
    except SettingsError as exc:
        return str(exc)
    if "-----BEGIN ENCRYPTED" in text:  # the daemon would wait for a password that nobody types
        return f"{name}: {path}: is encrypted: give a key without a password"
    if f"{label}-----" not in text:
        return f"{name}: {path}: holds no PEM block '{label}'"
    return ""
