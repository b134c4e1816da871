"""Drawings in the middle of a fit: what is drawn, what is left, and that training does not notice."""

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import GenerationEvaluation, GenerationSamples, Report
from emu2_lit.errors import UserError
from emu2_lit.evaluation.benchmarks import open_benchmark
from emu2_lit.evaluation.drawing_runner import DrawnPictures, draw
from emu2_lit.evaluation.encoders import Judges
from emu2_lit.model import Emu2DecoderConfig, Emu2Generator, Emu2VisualDecoder
from emu2_lit.model.box_picture import box_picture
from emu2_lit.settings import DrawingSettings
from tests.callbacks.test_answers import processor
from tests.callbacks.test_in_context import fit, pictures  # noqa: F401
from tests.distributed import run_ranks
from tests.evaluation.drawing_cases import MeanColour, colour_judges, dreambench_folder
from tests.evaluation.test_runner import make_model

pytest.importorskip("diffusers", reason="the visual decoder's library is not installed (extra `generation`)")
QUICK = DrawingSettings(steps=2)


def tiny_decoder() -> Emu2VisualDecoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Emu2VisualDecoder(Emu2DecoderConfig.preset("tiny")).eval()


@pytest.fixture(scope="module")
def prompts(pictures):  # noqa: F811
    return [["which digit is written here?"], ["a ", Path(pictures / "3.png"), box_picture((0.1, 0.2, 0.8, 0.9)), " x"]]


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    folder = dreambench_folder(tmp_path_factory.mktemp("dreambench"), {"cat": "cat"})
    return open_benchmark("dreambench", folder, limit=2)


def drawings(root, name):
    return [np.asarray(Image.open(path)).astype(int) for path in sorted((root / "drawings" / name).rglob("*.png"))]


@pytest.mark.parametrize("lora", [True, False])
def test_the_untouched_and_the_tuned_model_draw_the_same_prompts(tmp_path, pictures, prompts, lora):  # noqa: F811
    _, module = fit(
        tmp_path, pictures, GenerationSamples(prompts, tiny_decoder, QUICK, every_n_steps=2), steps=3, lora=lora, lr=0.1
    )
    names = sorted(path.name for path in (tmp_path / "drawings" / "samples").iterdir())
    assert names == ["base", "step=0000002", "step=0000003"]
    untouched = Emu2Generator(make_model(), processor(), tiny_decoder())
    tuned = Emu2Generator(module.model.eval(), processor(), tiny_decoder())
    for name, generator in (("base", untouched), ("step=0000003", tuned)):
        expected = DrawnPictures(tmp_path / name, 1)
        callback = GenerationSamples(prompts, tiny_decoder, QUICK)
        draw(generator, callback.tasks, QUICK, expected)
        for one, other in zip(drawings(tmp_path, f"samples/{name}"), _read(expected, callback), strict=True):
            assert np.abs(one - other).max() <= 1
    base, after = drawings(tmp_path, "samples/base"), drawings(tmp_path, "samples/step=0000003")
    assert all((one != other).any() for one, other in zip(base, after, strict=True))


def _read(drawn, callback):
    return [np.asarray(picture).astype(int) for task in callback.tasks for picture in drawn.read(task)]


@pytest.mark.parametrize("lora", [True, False])
def test_training_goes_on_as_if_nothing_had_happened(tmp_path, pictures, prompts, benchmark, lora):  # noqa: F811
    samples = GenerationSamples(prompts, tiny_decoder, QUICK, every_n_steps=1)
    scores = GenerationEvaluation([benchmark], tiny_decoder, QUICK)
    plain_trainer, plain = fit(tmp_path / "plain", pictures, steps=4, lora=lora)
    trainer, watched = fit(tmp_path / "watched", pictures, samples, scores, steps=4, lora=lora)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
    assert [part.training for part in plain.modules()] == [part.training for part in watched.modules()]
    assert plain_trainer.callback_metrics["val/loss"] == trainer.callback_metrics["val/loss"]


def test_random_states_and_modes_are_as_before(tmp_path, pictures, prompts):  # noqa: F811
    class Careless(Emu2VisualDecoder):
        """Draws numbers from everybody's generators."""

        def forward(self, *args, **kwargs):
            torch.rand(1), np.random.rand(), random.random()
            return super().forward(*args, **kwargs)

    class Look(Callback):
        def __init__(self, seen):
            self.seen = seen

        def on_train_batch_end(self, trainer, module, *_):
            modes = [part.training for part in module.modules()]
            self.seen.append((torch.random.get_rng_state().tolist(), np.random.rand(), random.getstate(), modes))
            np.random.seed(0)

    before, after = [], []
    np.random.seed(0)
    decoder = Careless(Emu2DecoderConfig.preset("tiny"))
    draws = GenerationSamples(prompts, decoder, QUICK, every_n_steps=1)
    fit(tmp_path, pictures, Look(before), draws, Look(after))
    assert before == after and len(before) == 2
    assert any(any(modes) for *_, modes in before)


def test_without_its_adapters_a_tuned_model_is_untouched(tmp_path, pictures, prompts):  # noqa: F811
    trainer, _ = fit(tmp_path / "first", pictures, lr=0.1)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    draws = GenerationSamples(prompts, tiny_decoder, QUICK)
    fit(tmp_path, pictures, draws, steps=3, resume=tmp_path / "two.ckpt")
    generator, expected = Emu2Generator(make_model(), processor(), tiny_decoder()), DrawnPictures(tmp_path / "own", 1)
    draw(generator, draws.tasks, QUICK, expected)
    for one, other in zip(drawings(tmp_path, "samples/base"), _read(expected, draws), strict=True):
        assert np.abs(one - other).max() <= 1


def test_sheets_go_to_tensorboard_and_onto_the_page(tmp_path, pictures, prompts, benchmark):  # noqa: F811
    watching = [
        GenerationSamples(prompts, tiny_decoder, QUICK, every_n_steps=2, run_dir=tmp_path),
        GenerationEvaluation([benchmark], tiny_decoder, QUICK, run_dir=tmp_path),
        Report(tmp_path),
    ]
    fit(tmp_path, pictures, *watching, logger=[TensorBoardLogger(tmp_path, "tensorboard", "")])
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Images("generation/samples")] == [2]
    assert [event.step for event in events.Images("generation/dreambench")] == [2]
    assert "generation_base/dreambench/embedding_cosine" in events.Tags()["scalars"]
    page = (tmp_path / "report.html").read_text()
    assert "Drawings: samples after 2 steps" in page and "Drawings: dreambench after 2 steps" in page
    assert page.count("data:image/png;base64") == 2
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert any("generation/dreambench/diversity" in record for record in records)
    sheet = Image.open(tmp_path / "generation" / "samples" / "step=0000002.png")
    columns, rows = 4, 2  # of the second prompt: two pictures, the untouched model's and the tuned one's
    assert sheet.width == columns * 280 and sheet.height > rows * 256


def test_scores_are_those_of_the_benchmark(tmp_path, pictures, benchmark):  # noqa: F811
    judges = colour_judges()
    watch = GenerationEvaluation([benchmark], tiny_decoder, QUICK, judges)
    trainer, module = fit(tmp_path, pictures, watch, lr=0.1)
    latest = DrawnPictures(tmp_path / "drawings" / "dreambench" / "latest", 4)
    expected, _ = benchmark.score(benchmark.tasks, latest.read, judges)
    assert expected.keys() == {"colour_i", "colour_t", "diversity"}
    base, _ = benchmark.score(
        benchmark.tasks, DrawnPictures(tmp_path / "drawings" / "dreambench" / "base", 4).read, judges
    )
    for name, value in expected.items():
        assert float(trainer.callback_metrics[f"generation/dreambench/{name}"]) == pytest.approx(value)
        assert float(trainer.callback_metrics[f"generation_base/dreambench/{name}"]) == pytest.approx(base[name])
    assert base["colour_i"] != expected["colour_i"]


def test_a_tower_that_learns_judges_as_it_is_now(tmp_path, pictures, benchmark):  # noqa: F811
    watch = GenerationEvaluation([benchmark], tiny_decoder, QUICK)
    trainer, module = fit(tmp_path, pictures, watch, lora=False, frozen=[], lr=0.05)
    fresh = GenerationEvaluation([benchmark], tiny_decoder, QUICK)
    with fresh.measuring(trainer, module, base=False) as generator:
        judges = fresh._open_judges(generator)
    latest = DrawnPictures(tmp_path / "drawings" / "dreambench" / "latest", 4)
    expected, _ = benchmark.score(benchmark.tasks, latest.read, judges)
    assert watch.figures["dreambench/embedding_cosine"] == pytest.approx(expected["embedding_cosine"], abs=1e-5)


def test_a_resumed_run_remembers_the_untouched_model(tmp_path, pictures, prompts, benchmark):  # noqa: F811
    first = GenerationEvaluation([benchmark], tiny_decoder, QUICK)
    trainer, _ = fit(tmp_path, pictures, first, GenerationSamples(prompts, tiny_decoder, QUICK), lora=False)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    before = drawings(tmp_path, "samples/base")
    second = GenerationEvaluation([benchmark], tiny_decoder, QUICK)
    samples = GenerationSamples(prompts, tiny_decoder, QUICK)
    fit(tmp_path, pictures, second, samples, lora=False, steps=4, resume=tmp_path / "two.ckpt")
    assert second.base == first.base and second.base
    assert all((one == other).all() for one, other in zip(before, drawings(tmp_path, "samples/base"), strict=True))


def test_full_tuning_under_way_has_no_untouched_model(tmp_path, pictures, prompts):  # noqa: F811
    trainer, _ = fit(tmp_path, pictures, lora=False)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    samples = GenerationSamples(prompts, tiny_decoder, QUICK)
    with pytest.warns(UserWarning, match="untouched model cannot draw any more"):
        fit(tmp_path, pictures, samples, lora=False, steps=3, resume=tmp_path / "two.ckpt")
    assert not (tmp_path / "drawings" / "samples" / "base").exists()
    assert (tmp_path / "generation" / "samples" / "step=0000003.png").is_file()


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_low_precision_is_for_drawing_not_for_judging(tmp_path, pictures, prompts, benchmark, precision):  # noqa: F811
    class Exact(MeanColour):
        def pictures(self, values):
            assert torch.get_default_dtype() == torch.float32 and not torch.is_autocast_enabled("cpu")
            return super().pictures(values)

    def decoder():
        return tiny_decoder().to(torch.bfloat16)

    samples = GenerationSamples(prompts, decoder, QUICK)
    scores = GenerationEvaluation([benchmark], decoder, QUICK, Judges([Exact()]))
    settings = dict(steps=1, val_check_interval=1, precision=precision)
    fit(tmp_path, pictures, samples, scores, **settings)
    fit(tmp_path / "tower", pictures, by_tower := GenerationEvaluation([benchmark], decoder, QUICK), **settings)
    assert "dreambench/embedding_cosine" in by_tower.figures
    assert scores.figures and (tmp_path / "generation" / "samples" / "step=0000001.png").is_file()


def test_a_run_that_is_stopped_does_not_stay_to_draw(tmp_path, pictures, prompts):  # noqa: F811
    class Stop(Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = True

    fit(tmp_path, pictures, Stop(), GenerationSamples(prompts, tiny_decoder, QUICK), steps=3)
    assert [path.name for path in (tmp_path / "drawings" / "samples").iterdir()] == ["base"]


def test_a_dry_run_draws_nothing(tmp_path, pictures, prompts, benchmark):  # noqa: F811
    watching = GenerationSamples(prompts, tiny_decoder, QUICK), GenerationEvaluation([benchmark], tiny_decoder, QUICK)
    fit(tmp_path, pictures, *watching, fast_dev_run=2)
    assert not (tmp_path / "drawings").exists()


def test_what_cannot_be_drawn_is_refused(benchmark):
    with pytest.raises(UserError, match="no prompts"):
        GenerationSamples([], tiny_decoder)
    with pytest.raises(UserError, match="same name"):
        GenerationEvaluation([benchmark, benchmark], tiny_decoder)


def figures_of_a_rank(root, pictures, benchmark) -> dict:  # noqa: F811
    torch.use_deterministic_algorithms(True)
    watch = GenerationEvaluation([benchmark], tiny_decoder, QUICK)
    settings = {} if os.environ["WORLD_SIZE"] == "1" else dict(devices=2, strategy="ddp")
    fit(root, pictures, watch, steps=1, val_check_interval=1, **settings)
    return watch.base


def test_two_ranks_share_the_prompts(tmp_path, pictures, benchmark):  # noqa: F811
    (alone,) = run_ranks(figures_of_a_rank, 1, tmp_path / "one", pictures, benchmark)
    first, second = run_ranks(figures_of_a_rank, 2, tmp_path / "two", pictures, benchmark)
    assert first == second == alone
