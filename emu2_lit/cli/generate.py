"""`generate`: draw pictures of a prompt."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emu2_lit.cli.weight_options import add_weight_options, chosen, positive
from emu2_lit.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from emu2_lit.model import Emu2Generator, Emu2VisualDecoder

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def register(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "generate",
        help="draw pictures of a prompt",
        description="Draw what texts and pictures, in the order given, say. One --image alone is drawn from its own "
        "embeddings (autoencoding); an --image before a --prompt is edited by it. A --phrase, --box and --image that "
        "stand together say what one thing is called, where it is to stand and what it looks like, each of them "
        "optional; an option that repeats begins the next thing. Things with a phrase or a box follow the texts, as "
        "in training.",
    )
    command.add_argument("run", metavar="RUN", help="a run's folder, an adapter, weights or a hub name")
    pieces = dict(dest="prompt", action=_Piece, default=[])
    command.add_argument("--prompt", metavar="TEXT", help="what to draw; may be given several times", **pieces)
    command.add_argument("--image", metavar="FILE", help="a picture to see", **pieces)
    command.add_argument("--phrase", metavar="TEXT", help="what a thing is called, such as 'the dog'", **pieces)
    command.add_argument(
        "--box", metavar="X1,Y1,X2,Y2", help="where it is to stand: pixels of a 448x448 canvas, or 0..1", **pieces
    )
    command.add_argument("--decoder", metavar="FOLDER", help="Emu2-Gen's folder or file (default: the run's, or RUN)")
    command.add_argument("--out", metavar="FILE", default="out.png", help="out.png; of several out_0.png, out_1.png")
    command.add_argument("-n", "--count", type=positive, default=1, help="how many pictures (default 1)")
    command.add_argument("--seed", type=int, default=0, help="of the first picture; the next ones count up (default 0)")
    command.add_argument("--guidance", type=float, help="1 is none (default: the run's, or 3)")
    command.add_argument("--steps", type=positive, help="of denoising (default: the run's, or 50)")
    command.add_argument("--height", type=positive, help="pixels; default the decoder's own, as published 1024")
    command.add_argument("--width", type=positive, help="likewise")
    command.add_argument("--offload", action="store_true", help="weights wait in main memory, and visit the device")
    command.add_argument("--quantization", choices=("nf4",), help="hold the LM in 4 bits, always on the device")
    command.add_argument("--device", help="cuda:0, cpu (default: the best one)")
    command.add_argument("--no-safety-checker", action="store_true", help="leave it out where the decoder has one")
    add_weight_options(command)
    command.set_defaults(command=generate)


def generate(args: argparse.Namespace) -> None:
    from emu2_lit.run.decoder import drawing_of

    prompt = prompt_of(args.prompt)
    if Path(args.out).suffix.lower() not in PICTURES:
        raise UserError(f"--out {args.out}: give a picture's name, ending in one of {', '.join(PICTURES)}")
    decoder, usual = drawing_of(args.run)
    drawing = replace(
        usual, guidance_scale=usual.guidance_scale if args.guidance is None else args.guidance,
        steps=args.steps or usual.steps, height=args.height or usual.height, width=args.width or usual.width,
        images_per_prompt=args.count, seed=args.seed,
    )  # fmt: skip
    pictures = _load(args, args.decoder or decoder).generate(prompt, drawing)
    for path, picture in zip(_names(Path(args.out), len(pictures)), pictures, strict=True):
        _write(picture, path)
        print(path)


class _Piece(argparse.Action):
    """Keeps the pieces of a prompt as (option, value), in their order."""

    def __call__(self, parser, namespace, value, option_string=None):
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), (self.option_strings[0][2:], value)])


def prompt_of(pieces: list[tuple[str, str]]) -> list[Any]:
    """Texts, pictures and subjects from the options, subjects last.

    Raises:
        UserError: nothing is given, or a box is none.
    """
    from emu2_lit.model import Subject

    if not pieces:
        raise UserError("nothing to draw: give a --prompt, an --image to draw again, or things with --phrase and --box")
    prompt, subjects = [], []
    for thing in _things(pieces):
        if "prompt" in thing:
            prompt.append(thing["prompt"])
        elif thing.keys() == {"image"}:
            prompt.append(Path(thing["image"]))
        else:
            box, image = thing.get("box"), thing.get("image")
            subjects.append(Subject(thing.get("phrase"), box and _corners(box), image and Path(image)))
    return prompt + subjects


def _things(pieces: list[tuple[str, str]]) -> list[dict[str, str]]:
    """Texts by themselves; other options together until one repeats."""
    things: list[dict[str, str]] = []
    for option, value in pieces:
        if option == "prompt" or not things or "prompt" in things[-1] or option in things[-1]:
            things.append({})
        things[-1][option] = value
    return things


def _corners(text: str) -> tuple[float, ...]:
    """A box in 0..1."""
    from emu2_lit.model.box_picture import CANVAS

    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4 or not all(0 <= number <= CANVAS for number in numbers):
        raise UserError(f"--box {text}: give X1,Y1,X2,Y2 in pixels of a {CANVAS}x{CANVAS} canvas, or each in 0..1")
    if numbers[0] == numbers[2] or numbers[1] == numbers[3]:
        raise UserError(f"--box {text}: it has no area")
    scale = 1 if max(numbers) <= 1 else CANVAS
    return tuple(number / scale for number in numbers)


def _load(args: argparse.Namespace, draws: str | None) -> "Emu2Generator":
    import torch

    from emu2_lit.model import Emu2Generator
    from emu2_lit.run import load_run

    device = args.device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    home = "cpu" if args.offload else device
    decoder = _decoder(args, draws, home)
    place = device if args.quantization else home
    model, processor = load_run(args.run, quantization=args.quantization, device_map={"": place}, **chosen(args))
    generator = Emu2Generator(model, processor, decoder)
    if args.offload:
        generator.offload(device)
    return generator


def _decoder(args: argparse.Namespace, draws: str | None, device: str) -> "Emu2VisualDecoder":
    """First, for it is the smaller part, and mistakes show soon."""
    from emu2_lit.run.decoder import open_decoder
    from emu2_lit.weights import local_folder

    if draws is None:
        path = Path(args.run) if Path(args.run).exists() else local_folder(args.run)
        if path.is_dir() and not (path / "unet").is_dir():
            raise UserError(f"{path}: has no visual decoder of its own; give one with --decoder, such as Emu2-Gen's "
                            "folder")  # fmt: skip
        draws = str(path)
    return open_decoder(draws, device=device, safety_checker=False if args.no_safety_checker else None)


def _names(out: Path, count: int) -> list[Path]:
    return [out] if count == 1 else [out.with_name(f"{out.stem}_{place}{out.suffix}") for place in range(count)]


def _write(picture: "Image", path: Path) -> None:
    from PIL import Image

    from emu2_lit.model.weight_writing import whole_file

    with whole_file(path) as file:
        picture.save(file, format=Image.registered_extensions()[path.suffix.lower()])
