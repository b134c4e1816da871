"""VQAv2, OKVQA, VizWiz, TextVQA: official files, scores counted by hand, submissions."""

import json

import pytest
from PIL import Image

from emu2_lit.errors import UserError
from emu2_lit.evaluation.benchmark import Prediction
from emu2_lit.evaluation.benchmarks import benchmarks, open_benchmark


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path)


def ten(*groups):
    """Ten annotators: ("yes", 7), ("no", 3)."""
    answers = [text for text, count in groups for _ in range(count)]
    return [{"answer": text, "answer_confidence": "yes", "answer_id": i + 1} for i, text in enumerate(answers)]


def write(folder, split, questions, annotations):
    folder.mkdir(exist_ok=True)
    name = f"v2_OpenEnded_mscoco_{split}_questions.json"
    (folder / name).write_text(json.dumps({"questions": questions}))
    if annotations:
        (folder / f"v2_mscoco_{split}_annotations.json").write_text(json.dumps({"annotations": annotations}))


@pytest.fixture
def vqav2(tmp_path):
    for split, number in (("train2014", 9), ("val2014", 42)):
        questions = [{"question_id": number * 1000 + i, "image_id": number, "question": f"what {i}?"} for i in range(3)]
        groups = [(("red", 10),), (("a cat", 4), ("dog", 6)), (("two", 2), ("3", 8))]
        annotations = [
            {"question_id": q["question_id"], "image_id": number, "answers": ten(*g)}
            for q, g in zip(questions, groups, strict=True)
        ]
        write(tmp_path / "vqa", split, questions, annotations)
        picture(tmp_path / "vqa" / split / f"COCO_{split}_{number:012d}.jpg")
    return tmp_path / "vqa"


def test_vqav2_reads_questions_answers_and_pictures(vqav2):
    benchmark = open_benchmark("vqav2", vqav2)
    assert [question.id for question in benchmark.queries] == ["42000", "42001", "42002"]
    assert [question.id for question in benchmark.support] == ["9000", "9001", "9002"]
    assert benchmark.queries[0].images == (str(vqav2 / "val2014" / "COCO_val2014_000000000042.jpg"),)
    assert benchmark.support[1].answers[0] == "a cat" and len(benchmark.support[1].answers) == 10


def test_vqa_accuracy_and_submission(vqav2):
    benchmark = open_benchmark("vqav2", vqav2)
    said = [Prediction(q.id, text) for q, text in zip(benchmark.queries, ["Red.", "cat", "2"], strict=True)]
    scores = benchmark.score(benchmark.queries, said)
    # ten of ten: 1. "cat" against four times "a cat": the official evaluator leaves the article, 0; OpenFlamingo's
    # drops it, 1. "2" against "two" twice: 0 and 0.6.
    assert scores["vqa_accuracy"] == pytest.approx((1 + 0 + 0) / 3)
    assert scores["vqa_accuracy_openflamingo"] == pytest.approx((1 + 1 + 0.6) / 3)
    name, content = benchmark.submission(benchmark.queries, said)
    assert (name, content[0]) == ("vqav2_val.json", {"question_id": 42000, "answer": "red"})


def test_vqav2_test_dev_is_submitted_with_every_test_question(vqav2):
    whole = [{"question_id": i, "image_id": 7, "question": "what?"} for i in range(4)]
    write(vqav2, "test2015", whole, [])
    write(vqav2, "test-dev2015", whole[1:3], [])
    benchmark = open_benchmark("vqav2", vqav2, split="test-dev")
    assert benchmark.queries[0].images[0].endswith("test2015/COCO_test2015_000000000007.jpg")
    said = [Prediction(question.id, "yes") for question in benchmark.queries]
    _, content = benchmark.submission(benchmark.queries, said)
    assert [(one["question_id"], one["answer"]) for one in content] == [(0, ""), (1, "yes"), (2, "yes"), (3, "")]
    assert not benchmark.queries[0].answers


def test_limit_spreads_evenly(vqav2):
    assert [q.id for q in open_benchmark("vqav2", vqav2, limit=2).queries] == ["42000", "42001"]


def test_vizwiz_has_answers_in_its_own_file(tmp_path):
    records = [{"image": "VizWiz_val_00000001.jpg", "question": "what is it?", "answers": ten(("can", 9), ("tin", 1))}]
    (tmp_path / "val.json").write_text(json.dumps(records))
    picture(tmp_path / "val" / "VizWiz_val_00000001.jpg")
    benchmark = open_benchmark("vizwiz", tmp_path)
    (question,) = benchmark.queries
    assert question.images == (str(tmp_path / "val" / "VizWiz_val_00000001.jpg"),)
    assert question.answers.count("can") == 9
    name, content = benchmark.submission([question], [Prediction(question.id, "A can")])
    assert (name, content) == ("vizwiz_val.json", [{"image": "VizWiz_val_00000001.jpg", "answer": "can"}])
    assert benchmark.score([question], [Prediction(question.id, "tin")])["vqa_accuracy"] == pytest.approx(0.3)


def test_textvqa_has_answers_in_its_own_file(tmp_path):
    data = [{"question_id": 5, "image_id": "abc", "question": "what brand?", "answers": ["nokia"] * 10}]
    (tmp_path / "TextVQA_0.5.1_val.json").write_text(json.dumps({"data": data}))
    picture(tmp_path / "train_images" / "abc.jpg")
    (question,) = open_benchmark("textvqa", tmp_path).queries
    assert question.images == (str(tmp_path / "train_images" / "abc.jpg"),) and question.answers == ("nokia",) * 10


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match="v2_OpenEnded_mscoco_val2014_questions.json"):
        open_benchmark("vqav2", tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        open_benchmark("okvqa", tmp_path / "nowhere")
    with pytest.raises(UserError, match="did you mean vqav2"):
        open_benchmark("vqa2", tmp_path)
    names = "vqav2 okvqa vizwiz textvqa hateful_memes coco_captions gqa refcoco refcoco+ refcocog seed mmmu custom"
    assert set(names.split()) <= benchmarks().keys()


def test_a_malformed_record_is_named(vqav2):
    path = vqav2 / "v2_OpenEnded_mscoco_val2014_questions.json"
    path.write_text(json.dumps({"questions": [{"question_id": 1, "image_id": 2}]}))
    with pytest.raises(UserError, match=r"val2014_questions.json, record 1: lacks 'question'"):
        open_benchmark("vqav2", vqav2)
