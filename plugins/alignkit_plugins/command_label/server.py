"""Listening: on the loopback interface, or on a network if that was asked for."""

import ipaddress
import os
import socket
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import click

from alignkit.annotation import AnnotationStore
from alignkit.errors import UserError
from alignkit.terminal import say
from alignkit_plugins.command_label.access import Keys
from alignkit_plugins.command_label.app import make_app
from alignkit_plugins.command_label.guard import LOOPBACK_NAMES, Names


class Address(NamedTuple):
    """Where to listen, and under which names to answer."""

    host: str
    port: int
    names: Names

    @classmethod
    def chosen(cls, host: str | None, port: int, lan: bool, allowed: tuple[str, ...]) -> "Address":
        """From the command's options. Raises UserError for a network address without --lan."""
        host = host or ("0.0.0.0" if lan else "127.0.0.1")
        extra = {name.casefold() for name in allowed}
        if is_loopback(host):
            return cls(host, port, Names(frozenset(LOOPBACK_NAMES | extra), addresses=False))
        if not lan:
            raise UserError(
                f"{host} can be reached from other machines",
                where="--host",
                hint="add --lan if that is meant: the connection is not encrypted",
            )
        own = socket.gethostname().casefold()
        names = LOOPBACK_NAMES | extra | {own, f"{own}.local", host.casefold()}
        return cls(host, port, Names(frozenset(names), addresses=True))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.casefold() == "localhost"


def serve(path: Path, address: Address, names: list[str]) -> None:
    """Say where the page is, and serve it until interrupted."""
    import uvicorn

    with closing(AnnotationStore(path, create=False)) as store, closing(_listen(address)) as listening:
        people = [store.annotators.add(name) for name in names]
        everybody = store.annotators.all() or [store.annotators.add("annotator-1")]
        port = listening.getsockname()[1]
        base = f"http://{_shown(address.host)}:{port}"
        _say_what(store, path)
        if not is_loopback(address.host):
            click.secho(
                f"warning: everybody who reaches {address.host} port {port} sees this page, and what is sent is not "
                "encrypted;\n  an invite link is all that is needed to answer as that person, the admin link to see "
                "everything",
                fg="yellow",
                err=True,
            )
        keys = Keys(store.annotators.secret())
        click.echo(f"\n  {'admin':<20} {base}/admin/{keys.admin_token()}")
        for person in people if people else everybody:
            if person.active:
                click.echo(f"  {person.name:<20} {base}/invite/{keys.invite_token(person.invite)}")
        click.echo("\nCtrl+C ends it; answers are kept, and the links stay the same.")
        # the access log would hold the invite links
        config = uvicorn.Config(
            make_app(store, names=address.names), log_level="warning", access_log=False, timeout_graceful_shutdown=3
        )
        with suppress(KeyboardInterrupt):  # uvicorn has closed what was open, and hands on how it was ended
            uvicorn.Server(config).run(sockets=[listening])


def _say_what(store: AnnotationStore, path: Path) -> None:
    click.echo(f"Labelling {path}")
    for collection in store.collections():
        progress = store.progress(collection)
        say(f"  {collection}: {progress.tasks} tasks, {progress.complete} complete, {progress.answers} answers")


def _listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    if os.name == "posix":  # elsewhere the option would let two servers share the port
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((address.host.strip("[]"), address.port))
    except OSError as error:
        listening.close()
        raise UserError(
            f"cannot listen on {address.host} port {address.port}: {error.strerror}",
            hint="choose another port with --port, 0 for any that is free",
        ) from None
    listening.listen(256)
    return listening


def _shown(host: str) -> str:
    """An address that others can type, where the host stands for all addresses of this machine."""
    if host in ("0.0.0.0", "::"):
        return _own_address()
    return f"[{host.strip('[]')}]" if ":" in host else host


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: asks which interface would be used
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])
