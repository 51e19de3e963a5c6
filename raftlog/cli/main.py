"""``raftlog`` on the command line: one app of small commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, NoReturn

import typer

from raftlog import __version__
from raftlog.cli import bench, cluster, consume, dev, group, moving, produce, storage, topic, unclean, upgrade
from raftlog.cli.errors import exit_code_of, open_missing_streams
from raftlog.cli.output import Format
from raftlog.cli.session import BrokersOption, FormatOption, Session

app = typer.Typer(
    name="raftlog",
    help="Work with a raftlog cluster: topics, records, groups, health. Data goes to stdout, talk to stderr.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
topic_app = typer.Typer(
    help="Create, list, describe, alter and delete topics; publish to them and read them.", no_args_is_help=True
)
_TOPIC_COMMANDS: dict[str, Callable[..., object]] = {
    "create": topic.create,
    "list": topic.list_topics,
    "describe": topic.describe,
    "alter": topic.alter,
    "delete": topic.delete,
    "produce": produce.produce,
    "consume": consume.consume,
}
for _name, _command in _TOPIC_COMMANDS.items():
    topic_app.command(_name)(_command)
cluster_app = typer.Typer(
    help="See who is there, and what is wrong; move replicas between nodes; finish an upgrade.", no_args_is_help=True
)
cluster_app.command("info")(cluster.info)
cluster_app.command("health")(cluster.health)
cluster_app.command("move")(moving.move)
cluster_app.command("drain")(moving.drain)
cluster_app.command("remove")(moving.remove)
cluster_app.command("balance")(moving.balance)
cluster_app.command("moves")(moving.moves)
cluster_app.command("upgrade")(upgrade.upgrade)
group_app = typer.Typer(help="Consumer groups: who reads what, how far behind; move and delete them.", no_args_is_help=True)
group_app.command("list")(group.list_groups)
group_app.command("describe")(group.describe)
group_app.command("delete")(group.delete)
group_app.command("seek")(group.seek)

storage_app = typer.Typer(help="Look into a stopped node's data directory, check it, compact it.", no_args_is_help=True)
storage_app.command("info")(storage.info)
storage_app.command("check")(storage.check)
storage_app.command("compact")(storage.compact)
storage_app.command("force-configuration")(unclean.force_configuration)
storage_app.command("forget-unclean")(unclean.forget_unclean)
storage_app.command("forget-damage")(unclean.forget_damage)

app.add_typer(topic_app, name="topic")
app.add_typer(group_app, name="group")
app.add_typer(cluster_app, name="cluster")
app.add_typer(storage_app, name="storage")
app.command("produce", help="The same as: raftlog topic produce.")(produce.produce)
app.command("consume", help="The same as: raftlog topic consume.")(consume.consume)
app.command("bench")(bench.bench)
app.command("dev")(dev.dev)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"raftlog {__version__}\n")
        raise typer.Exit


@app.callback()
def shared(
    ctx: typer.Context,
    brokers: BrokersOption = None,
    form: FormatOption = None,
    tls_ca: Annotated[str | None, typer.Option(metavar="FILE", help="PEM certificates that sign those of the nodes")] = None,
    tls_cert: Annotated[str | None, typer.Option(metavar="FILE", help="PEM certificate of this client")] = None,
    tls_key: Annotated[str | None, typer.Option(metavar="FILE", help="PEM key of that certificate")] = None,
    version: Annotated[  # noqa: ARG001 - its callback does the work
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    """Work with a raftlog cluster: topics, records, groups, health. Data goes to stdout, talk to stderr."""
    ctx.obj = Session(brokers=brokers, form=form or Format.TEXT, tls_ca=tls_ca, tls_cert=tls_cert, tls_key=tls_key)


def run_command(argv: Sequence[str]) -> int:
    """Run one command line (without the program's name); the exit code."""
    return exit_code_of(lambda: app(args=list(argv), prog_name="raftlog", standalone_mode=False))


def main() -> NoReturn:
    """The console script."""
    open_missing_streams()
    sys.exit(run_command(sys.argv[1:]))
