import json
import os
from dataclasses import replace

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import InContextEvaluation, Report, StepCheckpoint
from callbacks.in_context_base import weights_key
from emu2_lit.errors import UserError
from emu2_lit.evaluation.benchmarks.fast_binding import FILE, FastBinding, GeneratedBinding
from emu2_lit.evaluation.runner import predict
from emu2_lit.model.lora import apply_lora
from emu2_lit.modules import ChatTuning
from emu2_lit.settings import LoraSettings, OptimizerSettings
from tests.callbacks.test_answers import Conversations, processor
from tests.callbacks.toy import make_trainer
from tests.distributed import run_ranks
from tests.evaluation.test_runner import make_model
from tests.evaluation.toy import Toy, naming, questions


class Likely(Toy):
    """Scores that move with every step: the mean probability of the first choice."""

    def item_score(self, question, prediction) -> float:
        return float(torch.tensor(prediction.scores).softmax(0)[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def toy(folder) -> Likely:
    return Likely(questions(folder, 5), questions(folder, 6, start=20), "likelihood")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    for number in range(7):
        Image.effect_noise((8 + number, 8), 90).convert("RGB").save(folder / f"{number}.png")
    return folder


def fit(root, pictures, *callbacks, steps=2, lora=True, resume=None, frozen=None, lr=1e-2, **settings):
    module = ChatTuning(
        make_model(), processor(), lora=LoraSettings(rank=2, dropout=0.2) if lora else None, frozen=frozen,
        optimizer=OptimizerSettings(lr=lr, warmup_steps=0),
    )  # fmt: skip
    trainer = make_trainer(
        root, steps, *callbacks, **(dict(accumulate_grad_batches=1, val_check_interval=2) | settings)
    )
    trainer.fit(module, datamodule=Conversations(pictures), ckpt_path=resume)
    return trainer, module


def score(model, toy, shots: int) -> float:
    found = predict(model, processor(), toy, shots, chat=True)
    return toy.score(toy.queries, found)["exact_match"]


def test_scores_are_those_of_the_tuned_and_of_the_untouched_model(tmp_path, pictures, toy):
    watch = InContextEvaluation([toy], shots=(0, 2))
    trainer, module = fit(tmp_path, pictures, watch)
    for shots in (0, 2):
        name = f"toy/shots_{shots}"
        assert watch.scores[name] == pytest.approx(score(module.model, toy, shots), abs=1e-5)
        assert watch.base[name] == pytest.approx(score(make_model(), toy, shots), abs=1e-5)
        assert abs(watch.scores[name] - watch.base[name]) > 1e-3
        assert float(trainer.callback_metrics[f"in_context/{name}"]) == pytest.approx(watch.scores[name])
        assert float(trainer.callback_metrics[f"in_context_base/{name}"]) == pytest.approx(watch.base[name])


def test_full_tuning_measures_the_base_before_the_first_step(tmp_path, pictures, toy):
    watch = InContextEvaluation([toy], shots=(1,))
    fit(tmp_path, pictures, watch, lora=False)
    assert watch.base["toy/shots_1"] == pytest.approx(score(make_model(), toy, 1), abs=1e-5)
    assert watch.scores["toy/shots_1"] != pytest.approx(watch.base["toy/shots_1"], abs=1e-3)


@pytest.mark.parametrize("lora", [True, False])
def test_training_goes_on_as_if_nothing_had_happened(tmp_path, pictures, toy, lora):
    _, plain = fit(tmp_path / "plain", pictures, steps=4, lora=lora)
    _, watched = fit(tmp_path / "watched", pictures, InContextEvaluation([toy], how="rices"), steps=4, lora=lora)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
    assert [part.training for part in plain.modules()] == [part.training for part in watched.modules()]
    trained = [parameter.requires_grad for parameter in plain.parameters()]
    assert trained == [parameter.requires_grad for parameter in watched.parameters()]


def test_what_is_left_to_look_at(tmp_path, pictures, folder):
    names = replace(
        Toy(naming(folder, 5), naming(folder, 8, start=20), max_new_tokens=2), name="names", answer_by="generation"
    )
    watch = InContextEvaluation([names], shots=(0, 1), num_beams=1, grid=3)
    logger = TensorBoardLogger(tmp_path, "tensorboard", "")
    trainer, _ = fit(tmp_path, pictures, watch, Report(tmp_path), steps=4, logger=logger)
    left = tmp_path / "in_context"
    assert sorted(path.name for path in (left / "curves").iterdir()) == ["step=0000002.png", "step=0000004.png"]
    sheet = Image.open(left / "episodes" / "names" / "step=0000004.png")
    assert sheet.width == 3 * 192, "one demonstration of each name, and the query"
    records = [json.loads(line) for line in (left / "scores.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [2, 4] and records[1]["tuned"] == watch.scores
    assert json.loads((left / "best.json").read_text()) == watch.best
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Images("in_context/curves")] == [2, 4]
    assert [event.step for event in events.Images("in_context/episodes/names")] == [2, 4]
    assert len(events.Scalars("in_context/names/shots_1")) == 2
    assert [event.step for event in events.Scalars("in_context_base/names/shots_1")][0] == 0
    page = (tmp_path / "report.html").read_text()
    assert "Scores over demonstrations after 4 steps" in page and "Episodes of names" in page
    history = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in history if "in_context/names/shots_1" in record] == [2, 4]


def test_the_best_score_is_kept(tmp_path, pictures, toy):
    watch = InContextEvaluation([toy], shots=(2,))
    fit(tmp_path, pictures, watch, steps=6)
    lines = (tmp_path / "in_context" / "scores.jsonl").read_text().splitlines()
    found = {record["step"]: record["tuned"]["toy/shots_2"] for record in map(json.loads, lines)}
    step = max(found, key=found.get)
    assert sorted(found) == [2, 4, 6] and watch.best == {"toy/shots_2": {"score": found[step], "step": step}}


def test_a_resumed_run_goes_on_with_its_figures(tmp_path, pictures, toy):
    first = InContextEvaluation([toy], shots=(1,))
    trainer, _ = fit(tmp_path, pictures, first, lora=False)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    second = InContextEvaluation([toy], shots=(1,), run_dir=tmp_path / "second")
    trainer, _ = fit(tmp_path, pictures, second, steps=4, lora=False, resume=tmp_path / "two.ckpt")
    assert second.base == first.base and set(second.best) == set(first.best)
    assert float(trainer.callback_metrics["in_context_base/toy/shots_1"]) == pytest.approx(first.base["toy/shots_1"])


def test_a_resumed_full_run_that_asks_anew_has_no_base(tmp_path, pictures, toy):
    trainer, _ = fit(tmp_path, pictures, InContextEvaluation([toy], shots=(1,)), lora=False)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    other = InContextEvaluation([toy], shots=(2,))
    with pytest.warns(UserWarning, match="already under way"):
        fit(tmp_path, pictures, other, steps=4, lora=False, resume=tmp_path / "two.ckpt")
    assert other.base is None and list(other.scores) == ["toy/shots_2"]


def test_the_base_is_measured_once_for_the_same_weights_and_questions(tmp_path, pictures, toy):
    class Counted(Likely):
        scored = 0

        def score(self, questions, predictions):
            Counted.scored += 1
            return super().score(questions, predictions)

    counted = Counted(toy.queries, toy.support, "likelihood")

    def measured(name: str, benchmark=counted, **settings) -> int:
        before = Counted.scored
        watch = InContextEvaluation([benchmark], shots=(1,), base_folder=tmp_path / "base", **settings)
        fit(tmp_path / name, pictures, watch, val_check_interval=100)
        return Counted.scored - before

    assert measured("first") == 1 and measured("again") == 0
    assert measured("other seed", seed=1) == 1 and measured("fewer", limit=3) == 1
    assert measured("other support", replace(counted, support=counted.support[1:])) == 1
    for path in (tmp_path / "base").iterdir():
        path.write_text("{")
    assert measured("damaged") == 1


def test_weights_are_told_apart_whatever_wraps_them():
    plain, wrapped = make_model(), apply_lora(make_model(), LoraSettings(rank=2), [5])
    assert weights_key(plain) == weights_key(wrapped)
    with torch.no_grad():
        plain.project_up.weight.add_(1e-3)
    assert weights_key(plain) != weights_key(wrapped)


def test_a_run_that_loses_too_much_is_ended_where_it_can_be_saved(tmp_path, pictures, toy):
    class Falling(Likely):
        def score(self, questions, predictions):
            value = super().score(questions, predictions)["exact_match"]
            seen.append(value)
            return {"exact_match": value - 0.3 * (len(seen) > 2)}  # base, first validation, second ...

    seen: list[float] = []
    watch = InContextEvaluation([Falling(toy.queries, toy.support, "likelihood")], shots=(1,), stop_below=0.2)
    keep = StepCheckpoint(tmp_path / "checkpoints", every_n_steps=100)
    with pytest.warns(UserWarning, match="toy/shots_1 fell"):
        trainer, _ = fit(tmp_path, pictures, watch, keep, steps=20, lr=1e-6, enable_checkpointing=True)
    assert trainer.global_step == 5 and "more than 0.2 below" in watch.stopped
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("*.ckpt")) == ["step=0000005.ckpt"]
    assert trainer.limit_val_batches == 1.0 and len(seen) == 3


def test_a_small_loss_does_not_stop(tmp_path, pictures, toy):
    watch = InContextEvaluation([toy], shots=(1,), stop_below=0.9)
    trainer, _ = fit(tmp_path, pictures, watch, steps=4)
    assert trainer.global_step == 4 and watch.stopped is None


def test_shots_that_do_not_fit_are_left_out(tmp_path, pictures, toy):
    def short(*callbacks):
        module = ChatTuning(make_model(), processor(), lora=LoraSettings(rank=2))
        module.source.config.text_config.max_position_embeddings = 200
        trainer = make_trainer(tmp_path, 1, *callbacks, accumulate_grad_batches=1, val_check_interval=1)
        trainer.fit(module, datamodule=Conversations(pictures))
        return trainer

    watch = InContextEvaluation([toy], shots=(0, 5))
    trainer = short(watch)
    assert watch.base["toy/shots_5"] is watch.scores["toy/shots_5"] is None
    assert "in_context/toy/shots_0" in trainer.callback_metrics
    assert "in_context/toy/shots_5" not in trainer.callback_metrics


def test_fast_concept_binding(tmp_path, pictures, folder):
    support, queries = naming(folder, 4, start=20), naming(folder, 3)
    pair = lambda one: {"image": one.images[0], "name": one.answers[0]}  # noqa: E731
    episodes = [dict(id=one.id, support=[pair(shown) for shown in support], query=pair(one)) for one in queries]
    (tmp_path / FILE).write_text("".join(json.dumps(episode) + "\n" for episode in episodes))
    watch = InContextEvaluation([FastBinding(tmp_path), GeneratedBinding(tmp_path)], shots=(0, 1, 2), num_beams=1)
    fit(tmp_path, pictures, watch)
    assert list(watch.scores) == [
        f"fast_binding_2way{kind}/shots_{k}" for kind in ("", "_generated") for k in (0, 1, 2)
    ]
    sheet = Image.open(tmp_path / "in_context" / "episodes" / "fast_binding_2way" / "step=0000002.png")
    assert sheet.width == 5 * 192, "two demonstrations of each name, and the query"


def test_flamingos_zero_shot_is_called_so(tmp_path, pictures, toy):
    watch = InContextEvaluation([toy], shots=(0, 1), zero_shot="text")
    fit(tmp_path, pictures, watch)
    assert list(watch.scores) == ["toy/shots_0_text", "toy/shots_1"]
    with pytest.raises(UserError, match="same name"):
        InContextEvaluation([toy, toy])


def test_similar_demonstrations_need_a_frozen_tower(tmp_path, pictures, toy):
    with pytest.raises(UserError, match="frozen tower"):
        fit(tmp_path, pictures, InContextEvaluation([toy], how="rices"), lora=False, frozen=["project_down"])


def test_a_tower_that_trains_is_asked_anew(tmp_path, pictures, toy):
    watch = InContextEvaluation([toy], shots=(1,))
    _, module = fit(tmp_path, pictures, watch, lora=False, frozen=["project_down"])
    assert watch.scores["toy/shots_1"] == pytest.approx(score(module.model, toy, 1), abs=1e-5)


def test_a_dry_run_writes_nothing(tmp_path, pictures, toy):
    fit(tmp_path / "run", pictures, InContextEvaluation([toy], shots=(1,)), fast_dev_run=1)
    assert not (tmp_path / "run" / "in_context").exists()


def scores_of_a_rank(root, pictures, toy, watched: bool):
    torch.use_deterministic_algorithms(True)
    watch = InContextEvaluation([toy], shots=(0, 2), how="rices", run_dir=root / os.environ["RANK"])
    settings = {} if os.environ["WORLD_SIZE"] == "1" else dict(devices=2, strategy="ddp_find_unused_parameters_true")
    _, module = fit(root, pictures, *([watch] if watched else []), **settings)
    trained = {name: value.detach().clone() for name, value in module.named_parameters() if value.requires_grad}
    return watch.base, watch.scores, trained


def test_two_ranks_share_the_queries(tmp_path, pictures, toy):
    (alone,) = run_ranks(scores_of_a_rank, 1, tmp_path / "one", pictures, toy, True)
    first, second = run_ranks(scores_of_a_rank, 2, tmp_path / "two", pictures, toy, True)
    _, plain = run_ranks(scores_of_a_rank, 2, tmp_path / "plain", pictures, toy, False)
    assert first[:2] == second[:2] and first[0] == pytest.approx(alone[0], abs=1e-5)
    for name, value in plain[2].items():
        assert torch.equal(value, first[2][name]) and torch.equal(value, second[2][name]), name
    assert (tmp_path / "two" / "0" / "in_context").exists() and not (tmp_path / "two" / "1").exists()
