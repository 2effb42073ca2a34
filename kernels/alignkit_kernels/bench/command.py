"""The subcommand `bench`. torch is imported when it runs."""

from pathlib import Path

import click

from alignkit.errors import UserError

DTYPES = ("float32", "bfloat16", "float16")


@click.command("bench")
@click.argument("ops", nargs=-1, metavar="[OP]…")
@click.option("--shape", "shapes", multiple=True, metavar="T=…,H=…,V=…", help="tokens, hidden size, vocabulary")
@click.option(
    "--model", type=click.Path(path_type=Path, file_okay=False), help="folder to take hidden size and vocabulary from"
)
@click.option(
    "--mask",
    "masked",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    help="share of tokens that do not count",
)
@click.option(
    "--dtype", "dtypes", multiple=True, type=click.Choice(DTYPES), help="default: bfloat16 on a GPU, else float32"
)
@click.option(
    "--impl", "impls", multiple=True, metavar="NAME", help="kernel components to compare with eager; default: all"
)
@click.option("--forward", is_flag=True, help="without gradients, as for old and reference log-probs")
@click.option(
    "--seconds", type=click.FloatRange(0.01), default=1.0, show_default=True, help="for each op and implementation"
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 …")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="write the rows to this file"
)
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="draw times and memory (png, svg, pdf)")
def command(
    ops: tuple[str, ...],
    shapes: tuple[str, ...],
    model: Path | None,
    masked: float,
    dtypes: tuple[str, ...],
    impls: tuple[str, ...],
    forward: bool,
    seconds: float,
    device: str,
    seed: int,
    json_file: Path | None,
    plot: Path | None,
) -> None:
    """Compare the implementations of the ops on your shapes and device.

    For every installed implementation: time of forward and backward, memory over the inputs, error against float64, and
    how far from the floor, which is what the matrix products or the memory traffic alone would take on this device,
    measured in the same run.

    OP is one of token_logprob, linear_logprob, linear_kl, fused_linear_policy_loss, policy_loss, value_loss, gae and
    pairwise_loss; all of them, if none is named.
    """
    from alignkit_kernels.bench.session import Request, run_session

    for path in (json_file, plot):
        if path is not None and not path.parent.is_dir():
            raise UserError("this folder does not exist", where=path.parent)
    run_session(Request(ops, shapes, model, masked, dtypes, impls, forward, seconds, device, seed), json_file, plot)
