import copy
import os
from dataclasses import replace

import pytest
import torch

from emu2_lit.errors import UserError
from emu2_lit.evaluation import runner
from emu2_lit.evaluation.pictures import Pictures
from emu2_lit.evaluation.predictions import PredictionFiles
from emu2_lit.evaluation.prefix import Prefix
from emu2_lit.evaluation.prompts import build, continuation
from emu2_lit.evaluation.runner import predict
from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration, Emu2Processor
from emu2_lit.model.lora import apply_lora
from emu2_lit.samples.encoding import encode
from emu2_lit.samples.sample import Part, Sample
from emu2_lit.settings import LoraSettings
from tests.distributed import run_ranks
from tests.evaluation.toy import NAMES, Toy, naming, questions

CONFIG = Emu2Config.preset("tiny").with_role_tokens()


def make_model() -> Emu2ForConditionalGeneration:
    """Random weights that write letters: what they say differs from question to question."""
    torch.manual_seed(0)
    model = Emu2ForConditionalGeneration(copy.deepcopy(CONFIG))
    with torch.no_grad():
        model.lm.lm_head.weight[CONFIG.base_vocab_size :] = 0
        model.lm.lm_head.weight[:3] = 0
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def processor():
    return Emu2Processor.for_config(CONFIG)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def toy(folder) -> Toy:
    return Toy(questions(folder, 7), questions(folder, 6, start=20))


def raw(predictions) -> dict[str, str]:
    return {one.id: one.raw for one in predictions}


def close(some, others) -> None:
    assert [one.id for one in some] == [one.id for one in others]
    for one, other in zip(some, others, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-4) and len(set(one.scores)) == len(one.scores)


def test_a_query_gets_the_answer_it_gets_alone(model, processor, toy):
    together = predict(model, processor, toy, 2, batch_size=3)
    alone = [predict(model, processor, toy, 2, queries=[question])[0] for question in toy.queries]
    assert together == alone
    assert len(set(raw(together).values())) > 1, "different questions, different answers: else nothing was compared"


def test_the_answer_is_what_the_model_writes_after_the_prompt(model, processor, toy):
    query, shown = toy.queries[0], toy.support[:2]
    fixed = replace(query, demonstrations=tuple(shown))
    (found,) = predict(model, processor, toy, 2, queries=[fixed])
    values = [Part("text", part.value) if part.kind == "text" else part for part in build(query, shown)]
    item = encode(Sample("a", (*values, Part("text", " ", learn=True))), processor)
    ids = item.input_ids[:-1][None]  # without </s>
    written = model.generate(
        input_ids=ids, pixel_values=item.pixel_values, num_beams=5, length_penalty=-1.0, max_new_tokens=4,
        min_new_tokens=1, do_sample=False,
    )  # fmt: skip
    assert found.raw == processor.batch_decode(written)[0] and found.text == toy.clean(found.raw)
    assert found.shots == 2


def likelihoods(model, processor, query, shown) -> list[float]:
    """One pass over the whole text for each choice, by the model's own loss."""
    scores = []
    for choice in query.choices:
        parts = [*build(query, shown), Part("text", continuation(query, choice), learn=True)]
        item = encode(Sample("a", tuple(parts)), processor)
        labels = item.labels.clone()
        labels[-1] = -100  # </s>
        output = model(input_ids=item.input_ids[None], labels=labels[None], pixel_values=item.pixel_values)
        scores.append(-output.text_loss.item())
    return scores


@pytest.mark.parametrize("ask", [questions, naming])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_choices_are_scored_by_their_mean_log_likelihood(model, processor, folder, ask, batch_size):
    choices = (*NAMES, "seven", "seventeen")
    shown = tuple(ask(folder, 4, start=20))
    queries = [replace(one, choices=choices, demonstrations=shown, label="") for one in ask(folder, 2)]
    found = predict(model, processor, Toy(queries, [], "likelihood"), 3, batch_size=batch_size)
    for one, query in zip(found, queries, strict=True):
        expected = likelihoods(model, processor, query, shown[:3])
        assert one.scores == pytest.approx(expected, abs=1e-4)
        assert one.text == choices[expected.index(max(expected))]


@pytest.mark.parametrize("answer_by", ["generation", "likelihood"])
@pytest.mark.parametrize("chat", [False, True])
def test_shared_demonstrations_are_read_once_and_nothing_changes(model, processor, toy, answer_by, chat, monkeypatch):
    read: list[int] = []
    original = Prefix.__init__

    def counted(self, model, prompt, pictures):
        read.append(len(prompt.ids))
        original(self, model, prompt, pictures)

    monkeypatch.setattr(Prefix, "__init__", counted)
    toy = replace(toy, answer_by=answer_by)
    plain = predict(model, processor, toy, 4, how="fixed", chat=chat, share_prefix=False)
    apart, read[:] = list(read), []
    shared = predict(model, processor, toy, 4, how="fixed", chat=chat)
    assert raw(shared) == raw(plain)
    if answer_by == "likelihood":
        close(shared, plain)
    assert apart == [] and len(read) == 1 and read[0] > 80


def test_what_differs_in_one_picture_is_not_shared(model, processor, toy):
    shown = toy.support[:2]
    queries = [replace(query, demonstrations=tuple(shown)) for query in toy.queries[:3]]
    other = replace(shown[1], images=toy.support[5].images)
    queries[2] = replace(queries[2], demonstrations=(shown[0], other))
    toy = replace(toy, answer_by="likelihood")
    together = predict(model, processor, toy, 2, queries=queries)
    close(together, [predict(model, processor, toy, 2, queries=[query])[0] for query in queries])


def test_each_picture_goes_through_the_tower_once(model, processor, toy):
    seen: list[int] = []
    handle = model.visual.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    predict(model, processor, toy, 4, how="rices", batch_size=2)
    handle.remove()
    assert sum(seen) == len(toy.queries) + len(toy.support)


def test_what_is_kept_of_pictures_stays_within_its_bounds(model, processor, toy):
    values = [question.images[0] for question in toy.queries]
    small, large = Pictures(model, processor, capacity=3000), Pictures(model, processor)
    for start in range(0, 7, 2):
        assert torch.allclose(small.embed(values[start : start + 2]), large.embed(values)[start : start + 2], atol=1e-6)
    assert len(small._kept) == 2  # of 4 x 64 float32 each


def test_tokens_per_picture_can_be_chosen(model, processor, toy):
    assert raw(predict(model, processor, toy, 1, n_query=4)) == raw(predict(model, processor, toy, 1))
    pictures = Pictures(model, processor, n_query=16)
    assert pictures.embed(toy.queries[0].images).shape == (1, 16, 64)
    found = predict(model, processor, replace(toy, answer_by="likelihood"), 1, n_query=16)
    fewer = predict(model, processor, replace(toy, answer_by="likelihood"), 1)
    assert found[0].scores != pytest.approx(fewer[0].scores, abs=1e-4)


def test_pictures_of_many_tokens_are_shown_with_64(model):
    config = Emu2Config.preset("small")
    config.vision_config.image_size, config.n_query = 224, 256
    assert Pictures(model, Emu2Processor.for_config(config)).n_query == 64


def test_shots_that_do_not_fit_are_none(processor, toy):
    config = Emu2Config.preset("tiny").with_role_tokens()
    config.text_config.max_position_embeddings = 130
    short = Emu2ForConditionalGeneration(config)
    assert predict(short, processor, toy, 1) is not None
    assert predict(short, processor, toy, 6) is None
    assert predict(short, processor, replace(toy, answer_by="likelihood"), 6) is None


def test_a_killed_evaluation_goes_on(model, processor, toy, tmp_path):
    whole = predict(model, processor, toy, 1, batch_size=2)
    files = PredictionFiles(tmp_path / "done")

    def killed(predictions):
        files.append(predictions)
        if len(files.read()) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(model, processor, toy, 1, batch_size=2, on_batch=killed)
    with open(tmp_path / "done" / "rank0.jsonl", "a") as file:
        file.write('{"id": "q0", "te')
    answered: list = []
    again = predict(
        model, processor, toy, 1, batch_size=2, done=files.read(),
        on_batch=lambda new: (answered.extend(new), files.append(new)),
    )  # fmt: skip
    assert again == whole and len(answered) == 3
    assert files.read() == {one.id: one for one in whole}


def test_zero_shots_true_and_flamingos(model, processor, toy):
    asked: list[str] = []
    original = processor.tokenizer.encode_segments

    def recorded(segments, *sizes):
        asked.append("".join("[image]" if s.kind == "image" else s.text for s in segments))
        return original(segments, *sizes)

    processor.tokenizer.encode_segments = recorded
    try:
        predict(model, processor, toy, 0, queries=toy.queries[:1])
        predict(model, processor, toy, 0, queries=toy.queries[:1], zero_shot="text")
    finally:
        del processor.tokenizer.encode_segments
    assert asked[0] == "[image]based on the picture, answer in one word or phrase. what is it called? short answer:"
    assert asked[-1].count("short answer: ") == 2 and asked[-1].count("[image]") == 1


def test_with_adapters(processor, toy):
    plain = predict(make_model(), processor, replace(toy, answer_by="likelihood"), 2)
    wrapped = apply_lora(make_model(), LoraSettings(rank=2, dropout=0.5))
    close(predict(wrapped, processor, replace(toy, answer_by="likelihood"), 2), plain)
    assert raw(predict(wrapped, processor, toy, 1)) == raw(predict(make_model(), processor, toy, 1))


def test_what_is_refused(model, processor, toy, tmp_path):
    with pytest.raises(UserError, match="two queries have the id q0"):
        predict(model, processor, toy, 0, queries=[toy.queries[0]] * 2)
    with pytest.raises(UserError, match="no choices"):
        nothing = replace(toy.queries[0], choices=())
        predict(model, processor, replace(toy, answer_by="likelihood"), 0, queries=[nothing])
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="bad.png"):
        predict(model, processor, toy, 0, queries=[replace(toy.queries[0], images=(tmp_path / "bad.png",))])


def answers_of_a_rank(toy, done):
    torch.distributed.init_process_group("gloo")
    processor, mine = Emu2Processor.for_config(CONFIG), []
    if os.environ["RANK"] == "1":
        done = {}
    found = predict(make_model(), processor, toy, 1, batch_size=2, done=done, on_batch=mine.extend)
    return found, [one.id for one in mine]


def test_two_ranks_share_the_queries(model, processor, toy):
    alone = predict(model, processor, toy, 1)
    (first, mine), (second, others) = run_ranks(answers_of_a_rank, 2, toy, {alone[3].id: alone[3]})
    assert first == second == alone
    assert sorted(mine + others) == sorted(one.id for one in alone if one.id != alone[3].id)
    assert len(mine) == len(others) == 3


def test_a_sharded_model_is_recognised(model):
    assert not runner.is_sharded(model)
    parameter = torch.nn.Linear(1, 1)
    parameter.weight.ds_id = 0  # as ZeRO-3 marks what it has taken apart
    assert runner.is_sharded(parameter)
