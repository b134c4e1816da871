"""`data check`: what is in a file; `convert`: annotations; `cache`: pictures' features; `compare`: what runs saw."""

import argparse
import json
import sys
from pathlib import Path
from typing import get_args, get_type_hints

from emu2_lit.cli.recipes import add_recipe
from emu2_lit.errors import UserError
from emu2_lit.recipe import DataSection, GenerationSection, PictureSection, SourceSection, TuningSection

OBJECTIVES = get_args(get_type_hints(TuningSection)["objective"])
LISTED = 20  # bad samples printed; --json has all


def register(commands: argparse._SubParsersAction) -> None:
    group = commands.add_parser("data", help="see data before training on it, or make them")
    actions = group.add_subparsers(title="actions", metavar="ACTION", required=True)
    check = actions.add_parser("check", help="count samples, measure lengths, list every bad one, show examples")
    check.add_argument("files", nargs="+", metavar="FILE", help="JSON, JSONL, Parquet, tars")
    check.add_argument("--format", default="auto", help="an importer's name (default: told by the records)")
    check.add_argument("--root", help="folder that image paths start from (default: the file's own)")
    check.add_argument("--system-message", help="for samples without their own: comprehensive, concise, none or a text")
    check.add_argument("--objective", choices=OBJECTIVES, default="chat", help="what documents are learned for")
    check.add_argument("--preset", default="tiny", help="model whose visual tokens are counted (default tiny)")
    check.add_argument("--tokenizer", help="tokenizer.model to count with (default: the tiny one)")
    check.add_argument("--max-length", type=int, default=DataSection().max_length, help="tokens (default 2048)")
    check.add_argument("--show", type=int, default=2, metavar="N", help="examples of each file (default 2)")
    check.add_argument("--json", action="store_true", help="machine-readable output")
    check.set_defaults(command=check_files)
    convert = actions.add_parser("convert", help="grounded samples for generation from COCO's annotations")
    convert.add_argument("annotations", type=Path, metavar="COCO.json", help="with images, annotations and categories")
    convert.add_argument("--images", type=Path, required=True, metavar="FOLDER", help="where the pictures are")
    convert.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl", help="what is written")
    convert.add_argument("--captions", type=Path, metavar="FILE", help="COCO's captions (default: made of the names)")
    convert.add_argument("--min-share", type=float, help="of its picture that a box must cover (default 0.01)")
    convert.set_defaults(command=convert_annotations)
    cache = actions.add_parser("cache", help="what the frozen tower makes of a recipe's pictures, computed once")
    add_recipe(cache)
    cache.add_argument("--out", metavar="FOLDER", help="where to (default: data.features, or else features)")
    cache.add_argument("--processes", type=int, metavar="N", help="at once (default: one for each GPU)")
    cache.set_defaults(command=cache_features)
    compare = actions.add_parser("compare", help="did two runs see the same samples in the same order?")
    compare.add_argument("runs", nargs=2, metavar="RUN", help="run folder")
    compare.set_defaults(command=compare_batches)


def check_files(args: argparse.Namespace) -> int:
    """2 if a run would stop at so many bad samples."""
    from datamodules.check import check

    sources = [
        SourceSection(path=path, format=args.format, root=args.root, system_message=args.system_message)
        for path in args.files
    ]
    report = check(
        sources,
        _processor(args),
        args.max_length,
        examples=args.show,
        progress=_progress,
        learn_pictures=args.objective == "unified",
        generation=GenerationSection() if args.objective == "generation" else None,
        pictures=_pictures(args),
    )
    print(json.dumps(report.to_dict(), indent=2) if args.json else report.text(limit=LISTED))
    return 2 if len(report.bad) > DataSection().bad_budget * report.samples else 0


def _pictures(args: argparse.Namespace) -> PictureSection | None:
    """What is cut out of pictures for the decoder of the preset's size; its pixels stay uncounted."""
    if args.objective not in ("decoder", "autoencoder"):
        return None
    from emu2_lit.model import Emu2Config

    return PictureSection(size=Emu2Config.preset(args.preset).vision_config.image_size)


def convert_annotations(args: argparse.Namespace) -> None:
    from datamodules.coco import MIN_SHARE, convert

    share = MIN_SHARE if args.min_share is None else args.min_share
    print(convert(args.annotations, args.images, args.out, args.captions, share).text(args.out))


def cache_features(args: argparse.Namespace) -> None:
    from emu2_lit.recipe import load, missing_files

    if args.processes is not None and args.processes < 1:
        raise UserError(f"--processes: {args.processes} is none")
    out = args.out or load(args.recipe, args.overrides).data.features or "features"
    recipe = load(args.recipe, [*args.overrides, f"data.features={out}"])
    if missing := missing_files(recipe):
        raise UserError("\n".join(f"{args.recipe}: {message}" for message in missing))
    from emu2_lit.run.cache import cache

    print(cache(recipe, args.processes, _counted).describe())


def compare_batches(args: argparse.Namespace) -> int:
    """1 if they differ."""
    from emu2_lit.run.compare import compare_runs

    same, told = compare_runs(*args.runs)
    print(told)
    return 0 if same else 1


def _processor(args: argparse.Namespace):
    """The processor that counts tokens: that of a chat model of the preset's sizes."""
    from emu2_lit.model import Emu2Config, Emu2Processor

    config = Emu2Config.preset(args.preset).with_role_tokens()
    if not args.tokenizer:
        return Emu2Processor.for_config(config)
    return Emu2Processor.from_sentencepiece(args.tokenizer, config=config, chat=True)


def _counted(counts, total: int):
    """Counts of finished pictures, shown as they come; plain lines where nobody watches a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("pictures {task.completed}/{task.total}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as shown:
        task = shown.add_task("pictures", total=total)
        for count in counts:
            shown.advance(task, count)
            yield count
            if not sys.stderr.isatty():
                print(f"{shown.tasks[task].completed:.0f} of {total} pictures", file=sys.stderr)


def _progress(indexes):
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(indexes, "reading", console=console, transient=True, disable=not sys.stderr.isatty())
