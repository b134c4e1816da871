"""Every shipped recipe runs: two steps of it, or its evaluation, on the tiny preset where its own weights are too large
for a test."""

import json

import pytest
from PIL import Image

from emu2_lit import recipe as recipes
from emu2_lit.run import fit
from emu2_lit.run.evaluate import evaluate
from tests.evaluation.drawing_cases import dreambench_folder
from tests.run.conftest import short

TRAINED = [name for name in recipes.names() if not name.startswith("evaluate/")]
DRAWN = ["evaluate/dreambench"]
EVALUATED = [name for name in recipes.names() if name.startswith("evaluate/") and name not in DRAWN]


@pytest.mark.parametrize("name", TRAINED)
def test_two_steps(name, caption_model, tmp_path, episodes, drawings):
    values = recipes.read(name)
    overrides = [
        "trainer.max_epochs=null", "trainer.max_steps=2", "trainer.val_check_interval=null", "trainer.accelerator=cpu",
        "trainer.devices=1", "trainer.num_nodes=1", "trainer.strategy=auto", "trainer.tensor_parallel=1",
        "data.micro_batch_size=2", "data.workers=0", "data.validation_limit=4",
    ]  # fmt: skip
    made = {"episodes": episodes, "drawings": drawings}.get(values["data"]["prepare"])
    overrides += [f"data.folder={made.parent}"] if made else []
    sizes = [f"types.{place}.batch_size" for place in range(len(values["data"]["types"]))] or ["global_batch_size"]
    overrides += [f"data.{size}=4" for size in sizes]
    kind = "chat" if values["tuning"]["objective"] == "chat" else "captions"
    data = caption_model.parent / "data" / "digits" / f"{kind}_train.json"
    overrides += [f"{key}={data}" for key in recipes.required_keys(values)]
    if values["model"]["weights"]:
        overrides.append(f"model.weights={caption_model}")
    if values["tuning"]["objective"] in ("decoder", "autoencoder"):
        overrides += ["data.pictures.min_size=0"]
    if values["tuning"]["objective"] == "generation":
        overrides += ["data.generation.min_size=8", "drawing.steps=2"]
    if values["model"]["decoder"]:
        overrides.append("model.decoder=tiny")
    if values["callbacks"]["answers"]:
        overrides += ["callbacks.answers.limit=4", "callbacks.answers.max_new_tokens=2"]
    overrides += [f"evaluation.benchmarks.{place}.limit=4" for place in range(len(values["evaluation"]["benchmarks"]))]
    result = fit(short(name, tmp_path, *overrides))
    assert result.status == ("dry run" if values["trainer"]["fast_dev_run"] else "finished")
    assert result.summary["steps"] == 2


@pytest.fixture
def official_files(tmp_path):
    """Folders of the benchmarks of the paper's few-shot table, in the published form, with 20 items each."""
    root = tmp_path / "data"
    for name in ("vqav2", "okvqa"):
        for split in ("train2014", "val2014"):
            questions, annotations = zip(*(vqa(root / name, split, place) for place in range(20)), strict=True)
            prefix = "v2_" if name == "vqav2" else ""
            write(root / name / f"{prefix}OpenEnded_mscoco_{split}_questions.json", {"questions": questions})
            write(root / name / f"{prefix}mscoco_{split}_annotations.json", {"annotations": annotations})
    for split in ("train", "val"):
        seen = [draw(root / "vizwiz" / split / f"{place}.jpg", place, split).name for place in range(20)]
        asked = [{"image": name, "question": "what?", "answers": ["red"] * 10} for name in seen]
        write(root / "vizwiz" / f"{split}.json", asked)
        asked = [{"question_id": place, "image_id": f"{split}{place}", "question": "what?", "answers": ["red"] * 10}
                 for place in range(20)]  # fmt: skip
        for one in asked:
            draw(root / "textvqa" / "train_images" / f"{one['image_id']}.jpg", one["question_id"], split)
        write(root / "textvqa" / f"TextVQA_0.5.1_{split}.json", {"data": asked})
    for split in ("train", "test_seen"):
        memes = [{"id": f"{split}{place}", "img": f"img/{split}{place}.png", "label": place % 2, "text": "hello"}
                 for place in range(20)]  # fmt: skip
        for place, meme in enumerate(memes):
            draw(root / "hateful_memes" / meme["img"], place, split)
        (root / "hateful_memes" / f"{split}.jsonl").write_text("".join(json.dumps(meme) + "\n" for meme in memes))
    return root


def vqa(folder, split, place):
    draw(folder / split / f"COCO_{split}_{place:012d}.jpg", place, split)
    answers = [{"answer": "red", "answer_id": number} for number in range(10)]
    question = {"question_id": place, "image_id": place, "question": "what colour is it?"}
    return question, {"question_id": place, "image_id": place, "answers": answers}


def draw(path, place, split):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (12 * place, 100 if split.startswith("train") else 0, 0)).save(path)
    return path


def write(path, content):
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", EVALUATED)
def test_evaluation(name, caption_model, tmp_path, official_files, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = recipes.read(name)["evaluation"]["benchmarks"]
    overrides = ["trainer.accelerator=cpu", "model.dtype=float32", "evaluation.num_beams=1"]
    overrides += [f"evaluation.benchmarks.{place}.limit=3" for place in range(len(asked))]
    own = [{"id": n, "image": f"vizwiz/val/{n}.jpg", "question": "what?", "answers": ["red"]} for n in range(9)]
    (official_files / "own.jsonl").write_text("\n".join(map(json.dumps, own)))
    overrides += [f"{key}={official_files / 'own.jsonl'}" for key in recipes.required_keys(recipes.read(name))]
    scores = evaluate(short(name, tmp_path, f"model.weights={caption_model}", *overrides))
    assert len(scores) == len(asked) * len(recipes.read(name)["evaluation"]["shots"])
    assert all(score.answered and score.score is not None for score in scores)
    assert (tmp_path / "run" / "report.html").is_file()
    if name == "evaluate/few_shot":
        assert {score.benchmark for score in scores} == {one["name"] for one in asked}
        assert all(score.published is not None for score in scores)
        assert (tmp_path / "run" / "submissions" / "shots_4" / "vqav2_val.json").is_file()


@pytest.mark.parametrize("name", DRAWN)
def test_drawing(name, caption_model, tmp_path, monkeypatch):
    pytest.importorskip("diffusers", reason="the visual decoder's library is not installed (extra `generation`)")
    monkeypatch.chdir(tmp_path)
    dreambench_folder(tmp_path / "data" / "dreambench", {"cat": "cat", "can": "can"})
    overrides = [
        f"model.weights={caption_model}", "model.decoder=tiny", "model.dtype=float32", "trainer.accelerator=cpu",
        "evaluation.benchmarks.0.limit=3", "evaluation.encoders.dino=null", "evaluation.encoders.clip=null",
        "drawing.steps=2",
    ]  # fmt: skip
    (score,) = evaluate(short(name, tmp_path, *overrides))
    assert score.prompts == 3 and score.pictures == 12
    assert score.figures.keys() == {"embedding_cosine", "diversity"} and score.published
    assert len(list((tmp_path / "run" / "drawings").rglob("*.png"))) == 12
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Emu2-Gen (one picture)" in page and "Drawings: dreambench" in page
