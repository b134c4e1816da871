"""`export`: hand a result on."""

import argparse
from pathlib import Path

from emu2_lit.cli.weight_options import add_weight_options, chosen


def register(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("export", help="write a result for other programs, adapters merged in")
    command.add_argument("run", metavar="RUN", help="a run's folder, a checkpoint in it, an adapter, or weights")
    command.add_argument("--to", required=True, choices=("hf", "native", "adapter"), help="the form to write")
    command.add_argument("--out", type=Path, help="folder (hf, adapter) or file (native); default RUN/export/...")
    command.add_argument(
        "--merge", action=argparse.BooleanOptionalAction, default=True, help="merge the adapter into the weights"
    )
    command.add_argument(
        "--merge-error", action=argparse.BooleanOptionalAction, default=True,
        help="of an adapter tuned on 4 bits: run the model before and after, and print how far its logits move",
    )  # fmt: skip
    command.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: as the run has it")
    command.add_argument("--rotary-buffers", action="store_true", help="native: with the buffers of the first release")
    add_weight_options(command)
    command.set_defaults(command=export)


def export(args: argparse.Namespace) -> None:
    from emu2_lit.export import export as write

    written = write(
        args.run, to=args.to, out=args.out, merge=args.merge, merge_error=args.merge_error, dtype=args.dtype,
        rotary_buffers=args.rotary_buffers, **chosen(args),
    )  # fmt: skip
    print(f"{args.to}: {written}")
