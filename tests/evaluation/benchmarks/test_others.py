"""The other benchmarks: official files, scores counted by hand, submissions."""

import json
import pickle

import pytest
from PIL import Image

from datamodules.context import Context
from datamodules.importers import import_record
from emu2_lit.errors import UserError
from emu2_lit.evaluation.benchmark import Prediction
from emu2_lit.evaluation.benchmarks import open_benchmark
from emu2_lit.evaluation.demonstrations import select
from emu2_lit.evaluation.prompts import build


def picture(path, colour="red"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)
    return path


def lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_hateful_memes(tmp_path):
    records = [{"id": f"0{i}", "img": f"img/{i}.png", "label": i % 2, "text": f"meme {i}"} for i in range(4)]
    lines(tmp_path / "test_seen.jsonl", records)
    lines(tmp_path / "train.jsonl", records[:2])
    benchmark = open_benchmark("hateful_memes", tmp_path)
    assert benchmark.queries[1].answers == ("yes",) and len(benchmark.support) == 2
    text = build(benchmark.queries[1], (), "emu2")[-1].value
    assert text == "is an image with: 'meme 1' written on it. Is it hateful? Answer:"
    hate = [-0.2, -0.1, -1.0, -3.0]  # of "yes"; "no" is at -0.5
    pairs = zip(benchmark.queries, hate, strict=True)
    said = [Prediction(q.id, "yes" if h > -0.5 else "no", scores=(-0.5, h)) for q, h in pairs]
    # positives are 1 and 3, negatives 0 and 2: of the pairs (1,0) (1,2) (3,0) (3,2) the first two are in order
    scores = benchmark.score(benchmark.queries, said)
    assert scores["roc_auc"] == pytest.approx(2 / 4) and scores["accuracy"] == 2 / 4
    name, content = benchmark.submission(benchmark.queries, said)
    assert name == "hateful_memes.csv" and content.splitlines()[:2] == ["id,proba,label", "00,0.574443,1"]


def test_coco_captions(tmp_path):
    words = ["a cat sits on a red sofa", "two dogs run over green grass", "a man rides a brown horse"]
    images = [
        {"split": split, "filepath": "val2014", "filename": f"{i}.jpg", "cocoid": i, "sentences": [{"raw": words[i]}]}
        for i, split in enumerate(["test", "test", "train"])
    ]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images}))
    benchmark = open_benchmark("coco_captions", tmp_path)
    assert [q.id for q in benchmark.queries] == ["0", "1"] and benchmark.support[0].answers == (words[2],)
    right = [Prediction(q.id, q.answers[0]) for q in benchmark.queries]
    assert benchmark.score(benchmark.queries, right)["cider"] == pytest.approx(10)
    swapped = [Prediction("0", words[1]), Prediction("1", words[0])]
    assert benchmark.score(benchmark.queries, swapped)["cider"] < 0.1
    assert benchmark.submission(benchmark.queries, right)[1][1] == {"image_id": 1, "caption": words[1]}
    assert benchmark.clean('a "cat" Output:a dog') == "a cat"


def test_gqa(tmp_path):
    record = {"imageId": "n12", "question": "is it red?", "answer": "yes"}
    (tmp_path / "testdev_balanced_questions.json").write_text(json.dumps({"201": record}))
    picture(tmp_path / "images" / "n12.jpg")
    benchmark = open_benchmark("gqa", tmp_path)
    assert benchmark.queries[0].images == (str(tmp_path / "images" / "n12.jpg"),)
    assert benchmark.score(benchmark.queries, [Prediction("201", "Yes")]) == {"exact_match": 1.0}
    assert benchmark.submission(benchmark.queries, [Prediction("201", "no")])[1] == [
        {"questionId": "201", "prediction": "no"}
    ]
    with pytest.raises(UserError, match="lacks val_balanced_questions.json"):
        open_benchmark("gqa", tmp_path, split="val")


def refcoco(folder, refs):
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    (folder / "instances.json").write_text(
        json.dumps(
            {
                "annotations": [{"id": 3, "bbox": [56, 0, 112, 112]}],
                "images": [{"id": 8, "width": 224, "height": 224, "file_name": "COCO_train2014_000000000008.jpg"}],
            }
        )
    )


def test_refcoco(tmp_path):
    sentences = [{"sent_id": 1, "sent": "left dog"}, {"sent_id": 2, "sent": "the dog"}]
    ref = {"ref_id": 5, "ann_id": 3, "image_id": 8, "split": "val", "sentences": sentences}
    refcoco(tmp_path, [ref, {**ref, "split": "train"}])
    benchmark = open_benchmark("refcoco", tmp_path)
    assert [q.id for q in benchmark.queries] == ["5_1", "5_2"] and benchmark.grounding
    assert benchmark.queries[0].extra["box"] == (0.25, 0, 0.75, 0.5)

    def reply(*corners):
        return "".join(["<object>", *(f"<patch_index_{c:04d}>" for c in corners), "</object>"])

    said = [Prediction("5_1", reply(56, 0, 168, 112)), Prediction("5_2", reply(0, 0, 112, 112))]
    # the first is the box itself; the second shares half of each box: IoU 1/3
    assert [benchmark.item_score(*pair) for pair in zip(benchmark.queries, said, strict=True)] == [1.0, 0.0]
    assert benchmark.item_score(benchmark.queries[0], Prediction("5_1", "on the left")) == 0.0


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    refcoco(tmp_path, [])
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(Image.new))
    with pytest.raises(UserError, match="not a plain pickle"):
        open_benchmark("refcoco", tmp_path)


def test_seed(tmp_path):
    choices = {f"choice_{letter}": f"option {letter}" for letter in "abcd"}
    still = {"question_id": "1", "data_id": "7.png", "question": "what?", "answer": "B", "data_type": "image"} | choices
    content = {"questions": [still, {**still, "question_id": "2", "data_type": "video"}]}
    (tmp_path / "SEED-Bench.json").write_text(json.dumps(content))
    picture(tmp_path / "SEED-Bench-image" / "7.png")
    (question,) = (benchmark := open_benchmark("seed", tmp_path)).queries
    assert question.choices == ("A", "B", "C", "D") and "B. option b" in question.text
    assert benchmark.score([question], [Prediction("1", "B")]) == {"accuracy": 1.0}
    assert benchmark.submission([question], [Prediction("1", "A")])[1] == '{"question_id": "1", "prediction": "A"}\n'


def test_mmmu_from_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the parquet extra")
    import pyarrow

    content = {"bytes": picture(tmp_path / "a.png").read_bytes(), "path": "a.png"}
    row = {
        "id": "validation_Art_1", "question": "Which of <image 2> and <image 1>?", "options": "['left', '<image 2>']",
        "answer": "A", "question_type": "multiple-choice", "image_1": content, "image_2": content,
    }  # fmt: skip
    rows = pyarrow.Table.from_pylist([row, {**row, "question_type": "open"}])
    parquet.write_table(rows, tmp_path / "validation-0.parquet")
    (question,) = (benchmark := open_benchmark("mmmu", tmp_path)).queries
    assert len(question.images) == 2 and question.images[0] == content["bytes"]
    assert question.choices == ("A", "B") and question.answers == ("A",) and "<image" not in question.text
    assert benchmark.submission([question], [Prediction(question.id, "B")])[1] == {"validation_Art_1": "B"}


def test_vl_icl_operators_come_from_their_own_group(tmp_path):
    root = tmp_path / "operator_induction"
    picture(root / "q.png")
    picture(root / "s.png", "blue")
    query = {"id": 1, "image": ["q.png"], "question": "what?", "answer": 6, "operator": "x"}
    support = {"id": 9, "image": ["s.png"], "question": "what?", "answer": [5, 1, 7]}
    (root / "query.json").write_text(json.dumps([query]))
    (root / "support.json").write_text(json.dumps([support]))
    benchmark = open_benchmark("vl_icl_operator_induction", tmp_path)
    (shown,) = select(benchmark.queries[0], benchmark.support, 1)
    assert shown.answers == ("7",)
    assert benchmark.item_score(benchmark.queries[0], Prediction("1", "6", raw="6. what")) == 1.0


def test_vl_icl_open_mi_shots_count_per_class(tmp_path):
    root = tmp_path / "open_mi"
    names = ("dax", "wug", "zup")
    support = {name: {"images": [f"{name}{i}.png" for i in range(5)], "caption": name} for name in names}
    for name in support:
        for image in support[name]["images"]:
            picture(root / image)
    record = {"id": 4, "image": ["dax0.png"], "question": "", "answer": "dax", "support": support}
    (root / "query.json").write_text(json.dumps([record]))
    (root / "support.json").write_text("[]")
    (question,) = open_benchmark("vl_icl_open_mi", tmp_path).queries
    shown = select(question, (), 2)
    labels = [one.label for one in shown]
    assert len(set(labels)) == 2 and sorted(labels.count(name) for name in set(labels)) == [2, 2] and "dax" in labels


def test_a_benchmark_of_ones_own(tmp_path):
    picture(tmp_path / "a.png")
    lines(tmp_path / "mine.jsonl", [{"id": 1, "image": "a.png", "question": "what?", "answers": ["red", "crimson"]}])
    (question,) = (benchmark := open_benchmark("custom", tmp_path / "mine.jsonl")).queries
    assert benchmark.name == "mine" and benchmark.answer_by == "generation"
    assert benchmark.score([question], [Prediction("1", "Crimson")]) == {"exact_match": 1.0}
    lines(tmp_path / "mine.jsonl", [{"id": 1, "question": "?", "choices": ["a", "b"]}, {"id": 2, "question": "?"}])
    with pytest.raises(UserError, match="all or none"):
        open_benchmark("custom", tmp_path / "mine.jsonl")
    (tmp_path / "mine.jsonl").write_text("{")
    with pytest.raises(UserError, match=r"mine.jsonl, line 1: is not JSON"):
        open_benchmark("custom", tmp_path / "mine.jsonl")


def test_fast_binding_is_worded_as_its_episodes_are_learned(episodes):
    benchmark = open_benchmark("fast_binding_2way", episodes)
    question = benchmark.queries[0]
    parts = build(question, select(question, (), 4), "emu2")
    record = json.loads((episodes / "fast_binding_2way.jsonl").read_text().splitlines()[0])
    learned = import_record(record, Context(episodes, "line 1")).parts
    assert [(part.kind, part.value) for part in parts] == [(part.kind, part.value) for part in learned[:-1]]
    assert len(benchmark.queries) >= 1000
    assert question.choices == tuple(sorted({one.label for one in question.demonstrations}))
    assert benchmark.item_score(question, Prediction(question.id, question.answers[0])) == 1.0


def test_fast_binding_says_which_line_is_wrong(tmp_path):
    (tmp_path / "fast_binding_2way.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(UserError, match="line 1: is no episode"):
        open_benchmark("fast_binding_2way", tmp_path)
