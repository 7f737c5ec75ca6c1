"""`fl db serve`: the page and the JSON API over a database."""

import os
import webbrowser
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError

from fl_main.errors import MissingExtraError, SettingsError, StoreError
from fl_main.settings import SecretSettings, TlsSettings, WebSettings
from fl_main.settings.files import check_web_binding

from ..model_db import ModelDB
from ..sqlite import FILE
from .common import DEFAULT_FOLDER, folder_option

if TYPE_CHECKING:
    from fl_main.db.web.serving import Place

TOKEN_VARIABLE = "FL_WEB_TOKEN"
NICE = 10  # beside a daemon, whose rounds come first


@click.command()
@folder_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8766,
    show_default=True,
    help="Port to listen on, 0 for a free one.",
)
@click.option("--root-path", default="", help="Path that a web server in front puts before every path: /fl.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help=f"File with what visitors must know (or variable {TOKEN_VARIABLE}); without it, nothing on this "
    "machine's own address, elsewhere a token that is made now.",
)
@click.option("--certificate", type=click.Path(path_type=Path), help="PEM file, for TLS.")
@click.option("--key", type=click.Path(path_type=Path), help="PEM file with its private key.")
@click.option("--insecure", is_flag=True, help="Listen beyond this machine without TLS all the same.")
@click.option("--open", "is_to_open", is_flag=True, help="Open the page in a browser.")
@click.option("--beside", is_flag=True, hidden=True)
@click.pass_context
def serve(ctx: click.Context, /, folder: Path | None, is_to_open: bool, beside: bool, **options: Any) -> None:
    """Show the database on a web page, with a JSON API under /api/; read-only.

    A daemon may be writing meanwhile. Ctrl-C ends it.
    """
    run = _extra()
    settings = _settings(**options)
    place = folder or ctx.obj or Path(DEFAULT_FOLDER)
    _check(place)
    if is_to_open and settings.token is not None:
        raise SettingsError("--open would show the token to all users of this machine: leave out one of them")
    if beside:
        os.nice(NICE)

    def told(found: "Place") -> None:
        click.echo(found.link)
        if is_to_open:
            Thread(target=webbrowser.open, args=(found.url,), daemon=True).start()

    run(place, settings, told, beside=beside)


def _check(place: Path) -> None:
    """See to it that there is a database; what else is wrong with it, the page tells."""
    try:
        ModelDB(place).close()
    except StoreError:
        if not (place / FILE).is_file():
            raise


def _settings(
    host: str,
    port: int,
    root_path: str,
    token_file: Path | None,
    certificate: Path | None,
    key: Path | None,
    insecure: bool,
) -> WebSettings:
    if (certificate is None) != (key is None):
        raise SettingsError("give --certificate and --key, or neither")
    tls = TlsSettings(certificate=certificate, key=key) if certificate and key else None
    token = None
    if token_file is not None:
        token = SecretSettings(file=token_file)
    elif TOKEN_VARIABLE in os.environ:
        token = SecretSettings(env=TOKEN_VARIABLE)
    try:
        found = WebSettings(host=host, port=port, root_path=root_path, tls=tls, token=token)
    except ValidationError:
        raise SettingsError(
            f"--root-path: {root_path!r} is not /, letters, digits and . _ ~ - that begin with /"
        ) from None
    check_web_binding(found, insecure, "--host", "give --certificate and --key")
    return found


def _extra() -> Any:
    """Return what serves; it needs packages that not everyone has."""
    try:
        from ..web.serving import serve
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("fl_main"):
            raise
        raise MissingExtraError(f"{error.name} is not installed: pip install 'fl_main[web]'") from None
    return serve
