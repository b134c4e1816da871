import json
import os

import pytest
import torch
from lightning import LightningDataModule
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from callbacks import GeneratedAnswers
from callbacks.answers import generate_answers, question_text
from emu2_lit.evaluation import exact_match
from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration, Emu2Processor
from emu2_lit.modules import ChatTuning
from emu2_lit.samples.encoding import encode, prompt
from emu2_lit.samples.sample import Part, Sample
from emu2_lit.settings import LoraSettings, OptimizerSettings
from tests.callbacks.toy import make_trainer
from tests.distributed import run_ranks

CONFIG = Emu2Config.preset("tiny").with_role_tokens()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(7):
        Image.effect_noise((8 + number, 8), 90).convert("RGB").save(folder / f"{number}.png")
    return folder


def conversation(number: int, folder) -> Sample:
    """A picture (none for every third sample), a question that grows with the number, an answer."""
    parts = [Part("image", folder / f"{number}.png", "user")] if number % 3 else []
    question = "which digit is written here?" + " is it even or odd?" * number
    parts += [Part("text", question, "user"), Part("text", "seven", "assistant", learn=True)]
    return Sample(f"sample {number}", tuple(parts))


def processor() -> Emu2Processor:
    return Emu2Processor.for_config(CONFIG)


class Conversations(LightningDataModule):
    """One sample a step to learn, seven to validate."""

    def __init__(self, folder):
        super().__init__()
        self.samples = [conversation(number, folder) for number in range(7)]
        self.processor = processor()

    def batches(self, samples):
        items = [encode(sample, self.processor) for sample in samples]
        batches = []
        for item in items:
            batch = dict(
                input_ids=item.input_ids[None], labels=item.labels[None],
                attention_mask=torch.ones_like(item.input_ids)[None], sample_ids=[item.sample_id], skipped=[],
            )  # fmt: skip
            batches.append(batch | ({} if item.pixel_values is None else {"pixel_values": item.pixel_values}))
        return DataLoader(batches, batch_size=None)

    def train_dataloader(self):
        return self.batches(self.samples)

    def val_dataloader(self):
        return self.batches(self.samples[:2])

    def validation_samples(self):
        return self.samples


def fit(root, pictures, *callbacks, steps: int = 2, resume=None, **settings):
    module = ChatTuning(
        CONFIG,
        processor(),
        lora=LoraSettings(rank=2, dropout=0.2),
        optimizer=OptimizerSettings(lr=1e-2, warmup_steps=0),
    )
    settings = dict(accumulate_grad_batches=1, val_check_interval=2) | settings
    trainer = make_trainer(root, steps, *callbacks, **settings)
    trainer.fit(module, datamodule=Conversations(pictures), ckpt_path=resume)
    return trainer, module


def read(root) -> list[dict]:
    return [json.loads(line) for line in (root / "answers.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Emu2ForConditionalGeneration(CONFIG).eval()


def test_a_batch_gives_the_answers_that_each_question_gets_alone(model, pictures):
    prompts = [prompt(conversation(number, pictures))[0] for number in range(7)]
    together = generate_answers(model, processor(), prompts, 6, "cpu")
    alone = [generate_answers(model, processor(), [sample], 6, "cpu")[0] for sample in prompts]
    assert together == alone
    assert len(set(together)) > 1, "different questions, different answers: else nothing was compared"


def test_a_picture_that_cannot_be_read_gives_an_empty_answer(model, pictures, tmp_path):
    (tmp_path / "1.png").write_bytes(b"no picture")
    samples = [prompt(conversation(number, folder))[0] for number, folder in ((1, tmp_path), (2, pictures))]
    answers = generate_answers(model, processor(), samples, 6, "cpu")
    assert answers == ["", generate_answers(model, processor(), samples[1:], 6, "cpu")[0]]
    assert generate_answers(model, processor(), samples[:1], 6, "cpu") == [""]


def test_the_question_is_the_last_one(pictures):
    parts = (
        Part("text", "be brief", "system"), Part("text", "first?", "user"), Part("text", "yes", "assistant"),
        Part("text", "and", "user"), Part("image", pictures / "0.png", "user"), Part("text", " second?", "user"),
    )  # fmt: skip
    assert question_text(Sample("a", parts)) == "and second?"
    assert question_text(Sample("a", parts[:2])) == "first?"


def test_a_fit_measures_before_and_after_and_leaves_answers_to_look_at(tmp_path, pictures):
    answers = GeneratedAnswers(limit=5, max_new_tokens=4, batch_size=2, grid=3)
    trainer, _ = fit(tmp_path, pictures, answers)
    entries = read(tmp_path)
    assert [entry["id"] for entry in entries] == [f"sample {number}" for number in (0, 1, 2, 4, 5)]
    assert all(entry["correct"] == exact_match(entry["prediction"], entry["answer"]) for entry in entries)
    assert entries[1]["question"] == "which digit is written here? is it even or odd?"
    score = sum(entry["correct"] for entry in entries) / 5
    assert float(trainer.callback_metrics["val/exact_match"]) == pytest.approx(score)
    assert float(trainer.callback_metrics["val/exact_match_base"]) == pytest.approx(answers.base)
    sheets = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert sheets == ["step=0000000.png", "step=0000002.png"]
    assert Image.open(tmp_path / "samples" / sheets[0]).width == 3 * 192


def test_answers_are_those_of_the_tuned_model(tmp_path, pictures):
    answers = GeneratedAnswers(max_new_tokens=4)
    _, module = fit(tmp_path, pictures, answers, steps=4)
    prompts = [prompt(conversation(number, pictures))[0] for number in range(7)]
    module.eval()
    expected = generate_answers(module.model, module.processor, prompts, 4, "cpu")
    assert [answer.prediction for answer in answers.answers] == expected


def test_training_goes_on_as_if_nothing_had_happened(tmp_path, pictures):
    _, plain = fit(tmp_path / "plain", pictures, steps=4)
    _, watched = fit(tmp_path / "watched", pictures, GeneratedAnswers(max_new_tokens=2), steps=4)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
    modes = [part.training for part in plain.modules()]
    assert modes == [part.training for part in watched.modules()]


def test_a_resumed_run_remembers_how_it_began(tmp_path, pictures):
    first = GeneratedAnswers(max_new_tokens=2)
    trainer, _ = fit(tmp_path, pictures, first)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    second = GeneratedAnswers(tmp_path / "second", max_new_tokens=2)
    trainer, _ = fit(tmp_path, pictures, second, steps=3, resume=tmp_path / "two.ckpt", val_check_interval=100)
    assert second.base == first.base and not second.answers
    assert float(trainer.callback_metrics["val/exact_match_base"]) == pytest.approx(first.base)


def test_pictures_go_to_the_loggers_that_take_them(tmp_path, pictures):
    class ImageLogger(CSVLogger):
        """With the method that W&B's logger has."""

        images: list = []

        def log_image(self, key, images, step):
            self.images.append((key, images[0].size, step))

    loggers = [
        TensorBoardLogger(tmp_path, "tensorboard", ""),
        CSVLogger(tmp_path, "csv", ""),
        ImageLogger(tmp_path, "i"),
    ]
    fit(tmp_path, pictures, GeneratedAnswers(max_new_tokens=2, grid=1), logger=loggers)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Images("val/answers")] == [0, 2]
    assert [event.step for event in events.Scalars("val/exact_match_base")][0] == 0
    assert [(key, step) for key, _, step in loggers[2].images] == [("val/answers", 0), ("val/answers", 2)]


def test_mixed_precision(tmp_path, pictures):
    fit(tmp_path, pictures, GeneratedAnswers(max_new_tokens=2), precision="bf16-mixed")
    assert len(read(tmp_path)) == 7


def test_without_validation_samples_there_is_nothing_to_do(tmp_path, pictures):
    class Nothing(Conversations):
        def validation_samples(self):
            return []

    trainer = make_trainer(tmp_path, 1, GeneratedAnswers(), accumulate_grad_batches=1)
    trainer.fit(ChatTuning(CONFIG, processor()), datamodule=Nothing(pictures))
    assert "val/exact_match" not in trainer.callback_metrics and not (tmp_path / "answers.jsonl").exists()


def answers_of_a_rank(root, pictures) -> list[str]:
    torch.use_deterministic_algorithms(True)
    answers = GeneratedAnswers(root / os.environ["RANK"], max_new_tokens=4, batch_size=2)
    settings = {} if os.environ["WORLD_SIZE"] == "1" else dict(devices=2, strategy="ddp")
    fit(root, pictures, answers, steps=1, val_check_interval=100, **settings)
    return [answer.prediction for answer in answers.answers]


def test_two_ranks_share_the_questions(tmp_path, pictures):
    (alone,) = run_ranks(answers_of_a_rank, 1, tmp_path / "one", pictures)
    first, second = run_ranks(answers_of_a_rank, 2, tmp_path / "two", pictures)
    assert first == second == alone
    assert (tmp_path / "two" / "0" / "answers.jsonl").exists() and not (tmp_path / "two" / "1").exists()
