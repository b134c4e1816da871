"""`weights fetch` and `weights convert`: published weights on this machine, in bf16 safetensors."""

import argparse
from pathlib import Path


def register(commands: argparse._SubParsersAction) -> None:
    group = commands.add_parser("weights", help="published weights: download, convert once")
    actions = group.add_subparsers(title="actions", metavar="ACTION", required=True)

    fetch = actions.add_parser("fetch", help="download weights by their hub name, after a look at the disk")
    fetch.add_argument("name", help="such as BAAI/Emu2-Chat")
    fetch.add_argument("--out", type=Path, help="folder; default the hub's cache")
    fetch.add_argument("--revision", help="branch, tag or commit")
    fetch.set_defaults(command=fetch_weights)

    convert = actions.add_parser("convert", help="float32 .bin shards to bf16 safetensors, shard by shard")
    convert.add_argument("source", help="folder of weights as downloaded, or the hub name that was fetched")
    convert.add_argument("out", type=Path, help="folder to write")
    convert.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    convert.set_defaults(command=convert_weights)


def fetch_weights(args: argparse.Namespace) -> None:
    from emu2_lit.weights import fetch

    print(fetch(args.name, args.out, revision=args.revision))


def convert_weights(args: argparse.Namespace) -> None:
    from emu2_lit.weights import convert

    print(convert(args.source, args.out, dtype=args.dtype))
