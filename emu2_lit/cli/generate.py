"""`generate`: draw pictures of a prompt."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

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
        description="Draw what texts and pictures, in this order, say. One picture alone is drawn from its own "
        "embeddings (autoencoding); a picture and a text edit it.",
    )
    command.add_argument("run", metavar="RUN", help="a run's folder, an adapter, weights or a hub name")
    command.add_argument("prompt", metavar="TEXT_OR_PICTURE", nargs="+", help="a text, or a file of a picture")
    command.add_argument("--decoder", metavar="FOLDER", help="Emu2-Gen's folder or native file; default RUN")
    command.add_argument("--out", metavar="FILE", default="out.png", help="out.png; of several out_0.png, out_1.png")
    command.add_argument("--images", type=positive, default=1, help="how many (default 1)")
    command.add_argument("--seed", type=int, default=0, help="of the first picture; the next ones count up (default 0)")
    command.add_argument("--guidance", type=float, default=3.0, help="1 is none (default 3)")
    command.add_argument("--steps", type=positive, default=50, help="of denoising (default 50)")
    command.add_argument("--height", type=positive, help="pixels; default the decoder's own, as published 1024")
    command.add_argument("--width", type=positive, help="likewise")
    command.add_argument("--offload", action="store_true", help="weights wait in main memory, and visit the device")
    command.add_argument("--quantization", choices=("nf4",), help="hold the LM in 4 bits, always on the device")
    command.add_argument("--device", help="cuda:0, cpu (default: the best one)")
    command.add_argument("--no-safety-checker", action="store_true", help="leave it out where the decoder has one")
    add_weight_options(command)
    command.set_defaults(command=generate)


def generate(args: argparse.Namespace) -> None:
    from emu2_lit.settings import DrawingSettings

    prompt = [_part(one) for one in args.prompt]
    if Path(args.out).suffix.lower() not in PICTURES:
        raise UserError(f"--out {args.out}: give a picture's name, ending in one of {', '.join(PICTURES)}")
    drawing = DrawingSettings(args.guidance, args.steps, args.height, args.width, args.images, args.seed)
    pictures = _load(args).generate(prompt, drawing)
    for path, picture in zip(_names(Path(args.out), len(pictures)), pictures, strict=True):
        _write(picture, path)
        print(path)


def _part(argument: str) -> str | Path:
    """A picture where the argument names one, by its ending or because it is there; else a text."""
    if argument.lower().endswith(PICTURES) and not any(sign in argument for sign in " \n"):
        return Path(argument)
    try:
        return Path(argument) if Path(argument).is_file() else argument
    except (OSError, ValueError):  # a text too long for a name
        return argument


def _load(args: argparse.Namespace) -> "Emu2Generator":
    import torch

    from emu2_lit.model import Emu2Generator
    from emu2_lit.run import load_run

    device = args.device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    home = "cpu" if args.offload else device
    decoder = _decoder(args, home)
    place = device if args.quantization else home
    model, processor = load_run(args.run, quantization=args.quantization, device_map={"": place}, **chosen(args))
    generator = Emu2Generator(model, processor, decoder)
    if args.offload:
        generator.offload(device)
    return generator


def _decoder(args: argparse.Namespace, device: str) -> "Emu2VisualDecoder":
    """First, for it is the smaller part, and mistakes show soon."""
    from emu2_lit.model import Emu2VisualDecoder
    from emu2_lit.weights import local_folder

    name = args.decoder or args.run
    path = Path(name) if Path(name).exists() else local_folder(name)
    if args.decoder is None and path.is_dir() and not (path / "unet").is_dir():
        raise UserError(f"{path}: has no visual decoder of its own; give one with --decoder, such as Emu2-Gen's folder")
    read = Emu2VisualDecoder.from_native if path.is_file() else Emu2VisualDecoder.from_pretrained
    return read(path, device=device, safety_checker=False if args.no_safety_checker else None)


def _names(out: Path, count: int) -> list[Path]:
    return [out] if count == 1 else [out.with_name(f"{out.stem}_{place}{out.suffix}") for place in range(count)]


def _write(picture: "Image", path: Path) -> None:
    from PIL import Image

    from emu2_lit.model.weight_writing import whole_file

    with whole_file(path) as file:
        picture.save(file, format=Image.registered_extensions()[path.suffix.lower()])
