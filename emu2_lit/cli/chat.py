"""`chat`: talk to a result."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from emu2_lit.cli.weight_options import add_weight_options, chosen, positive
from emu2_lit.errors import UserError

if TYPE_CHECKING:
    from emu2_lit.cli.conversation import Conversation

HELP = "/image FILE and /video FILE go before your next question; /reset forgets the turns; /quit ends"


def register(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("chat", help="talk to a result")
    command.add_argument("run", metavar="RUN", help="a run's folder, an adapter, weights or a hub name")
    command.add_argument("--prompt", help="one question, answered and done; without it, a conversation")
    command.add_argument("--image", action="append", default=[], metavar="FILE", help="with the first question")
    command.add_argument("--video", metavar="FILE", help="a video file or a folder of frames, likewise")
    command.add_argument("--frames", type=positive, default=8, help="frames taken of a video (default 8)")
    command.add_argument("--system", help="system message; default the checkpoint's own")
    command.add_argument("--grounding", action="store_true", help="answer with boxes")
    command.add_argument("--max-new-tokens", type=positive, default=256, help="longest answer (default 256)")
    command.add_argument("--beams", type=positive, default=1, help="beams searched (default 1: greedy)")
    command.add_argument("--quantization", choices=("nf4",), help="hold the LM in 4 bits")
    command.add_argument(
        "--device-map", help="auto: spread over all GPUs, the rest in host memory; cpu; cuda:0 (default: the best one)"
    )
    add_weight_options(command)
    command.set_defaults(command=chat)


def chat(args: argparse.Namespace) -> None:
    conversation = _load(args)
    if args.prompt is not None:
        print(conversation.ask(args.prompt, args.image, args.video, args.frames))
        return
    print(HELP, file=sys.stderr)
    talk(conversation, args.image, args.video, args.frames)


def _load(args: argparse.Namespace) -> "Conversation":
    import torch

    from emu2_lit.cli.conversation import Conversation
    from emu2_lit.run import load_run

    device = args.device_map or ("cuda:0" if torch.cuda.is_available() else "cpu")
    device_map = "auto" if device == "auto" else {"": device}
    model, processor = load_run(args.run, quantization=args.quantization, device_map=device_map, **chosen(args))
    if not processor.tokenizer.chat:
        raise UserError(
            f"{args.run}: a base model, without the role tokens of conversations; tune it on some first: "
            f"emu2-lit fit chat/lora model.weights={args.run} data.sources.0.path=..."
        )
    generation = {"max_new_tokens": args.max_new_tokens, "num_beams": args.beams, "do_sample": False}
    return Conversation(model, processor, args.system, args.grounding, generation)


def talk(conversation: "Conversation", images: list[str], video: str | None, n_frames: int) -> None:
    """Read questions and commands from standard input until it ends; a mistake costs one line, not the session."""
    images = list(images)
    while (line := _read_line()) is not None:
        command, _, rest = line.strip().partition(" ")
        try:
            if command == "/quit":
                return
            if command == "/reset":
                conversation.reset()
                images, video = [], None
            elif command == "/image":
                images += _file_names(rest)
            elif command == "/video":
                video = _file_names(rest)[-1]
            elif command.startswith("/"):
                raise UserError(f"no command {command}; {HELP}")
            elif command:
                pictures, images, video = (images, video), [], None
                print(conversation.ask(line.strip(), *pictures, n_frames), flush=True)
        except UserError as error:
            print(f"emu2-lit: {error}", file=sys.stderr)


def _file_names(text: str) -> list[str]:
    """Names, quoted where they hold spaces; UserError for those that are not there."""
    try:
        names = shlex.split(text)
    except ValueError:  # an apostrophe
        names = [text.strip()]
    names = [str(Path(name).expanduser()) for name in names if name]
    absent = [name for name in names if not Path(name).exists()]
    if absent or not names:
        raise UserError(f"{', '.join(absent)}: no such file" if absent else "name a file")
    return names


def _read_line() -> str | None:
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return None
