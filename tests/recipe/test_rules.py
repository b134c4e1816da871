"""What the sections of a recipe must agree on, and the files it needs."""

import pytest

from emu2_lit import recipe as recipes
from emu2_lit.errors import UserError

CONFLICTS = {
    "no steps": (["trainer.max_steps=null"], "trainer: give one of max_steps and max_epochs"),
    "steps twice": (["trainer.max_epochs=1"], "both are given"),
    "uneven batch": (["data.micro_batch_size=3"], "8 is not a multiple of data.micro_batch_size=3"),
    "no model": (["model.preset=null"], "model: give model.weights"),
    "no data": (["data.sources=[]"], "data.sources: is empty"),
    "some weights": (["data.sources.0.weight=1", "data.sources.1.path=b.json"], "data.sources.1.weight: give a weight"),
    "zero weights": (["data.sources.0.weight=0"], "all weights are 0"),
    "lora in full": (["tuning.method=full", "tuning.lora.rank=4"], "tuning.lora.rank: has no effect"),
    "4-bit in full": (["tuning.method=full", "model.quantization=nf4"], "model.quantization: nf4"),
    "adapter in full": (["tuning.method=full", "model.adapter=a"], "emu2-lit export"),
    "all frozen": (
        ["tuning.method=full", "tuning.frozen=[visual,project_up,project_down,embeddings,lm,lm_head]"],
        "nothing would train",
    ),
    "groups and ddp": (["trainer.tensor_parallel=2", "tuning.method=full"], "goes with trainer.strategy=fsdp"),
    "groups and lora": (["trainer.tensor_parallel=2", "trainer.strategy=fsdp"], "for tuning.method=full only"),
    "no groups": (["trainer.tensor_parallel=0"], "trainer.tensor_parallel=0: at least 1"),
    "groups, compiled": (["trainer.tensor_parallel=2", "trainer.compile=true"], "set trainer.compile=false"),
    "groups, scaled": (["trainer.tensor_parallel=2", "trainer.precision=16-mixed"], "set trainer.precision=bf16-mixed"),
    "groups, fused": (["trainer.tensor_parallel=2", "optimizer.fused=true"], "set optimizer.fused=null"),
    "8 bits, divided": (["trainer.strategy=fsdp", "optimizer.name=adamw_8bit"], "adamw_8bit cannot be divided by fsdp"),
    "no targets": (["tuning.lora.targets=[]"], "tuning.lora.targets: is empty"),
    "drawings without a decoder": (
        ["callbacks.drawings.prompts.0.parts.0.text=a dog"],
        "callbacks.drawings: needs model.decoder",
    ),
    "drawings of nothing": (["model.decoder=tiny", "callbacks.drawings={}"], "callbacks.drawings.prompts: is empty"),
    "an empty prompt": (
        ["model.decoder=tiny", "callbacks.drawings.prompts=[{}]"],
        "callbacks.drawings.prompts.0.parts: is empty",
    ),
    "two things in one part": (
        ["model.decoder=tiny", "callbacks.drawings.prompts=[{parts: [{text: a, image: b.png}]}]"],
        "callbacks.drawings.prompts.0.parts.0: give one of text, image and box; text, image given",
    ),
    "a box inside out": (
        ["model.decoder=tiny", "callbacks.drawings.prompts=[{parts: [{box: [0.5, 0.1, 0.2, 0.9]}]}]"],
        "callbacks.drawings.prompts.0.parts.0.box: expected x1, y1, x2, y2",
    ),
    "not drawn": (
        ["data.generation.inline=1"],
        "data.generation.inline: has an effect with tuning.objective=generation",
    ),
    "no squares": (["data.pictures.min_size=9"], "data.pictures.min_size: has an effect with tuning.objective=decoder"),
    "decoder to train": (["tuning.objective=decoder"], "model.decoder: objective decoder trains it"),
    "decoder by lora": (["tuning.objective=decoder"], "tuning.method: objective decoder trains in full"),
    "decoder, divided": (
        ["tuning.objective=decoder", "trainer.strategy=fsdp"],
        "trainer.strategy: fsdp divides the language model, which objective decoder has none of",
    ),
    "decoder answers": (["tuning.objective=decoder"], "callbacks.answers: objective decoder has no answers"),
    "scale of latents": (["tuning.objective=autoencoder"], "data.validation: objective autoencoder measures"),
    "packed documents": (["data.packing=true", "tuning.objective=unified"], "data.packing: packs conversations"),
    "packed types": (
        ["data.packing=true", "data.types=[{name: a, batch_size: 8}]"],
        "data.packing: data.types have batch sizes in samples",
    ),
    "one beta": (["optimizer.betas=[0.9]"], "optimizer.betas: expected two numbers"),
}


@pytest.mark.parametrize(("overrides", "expected"), CONFLICTS.values(), ids=CONFLICTS)
def test_conflict(recipe_file, overrides, expected):
    with pytest.raises(UserError, match="^mine.yaml: ") as caught:
        recipes.load(recipe_file(), overrides)
    assert expected in str(caught.value)


def test_missing_folders_of_generation_are_named(recipe_file):
    recipe = recipes.load(recipe_file())
    recipe.data.generation.backgrounds, recipe.data.sources[0].prior = "walls", "dogs"
    assert recipes.missing_files(recipe)[1:] == [
        "data.sources.0.prior: no such file or folder: dogs",
        "data.generation.backgrounds: no such file or folder: walls",
    ]


def test_missing_files_are_named(recipe_file):
    drawings = "callbacks.drawings.prompts=[{parts: [{text: like}, {image: dog.jpg}]}]"
    recipe = recipes.load(
        recipe_file(),
        [
            "model.tokenizer=./tokenizer.model",
            "resume=old.ckpt",
            "model.decoder=./gen",
            drawings,
            "evaluation.encoders={dino: ./dino, clip: openai/clip, inception: fid.pth}",
        ],
    )
    assert recipes.missing_files(recipe) == [
        "data.sources.0.path: no such file or folder: chats.json",
        "model.tokenizer: no such file or folder: ./tokenizer.model",
        "model.decoder: no such file or folder: ./gen",
        "callbacks.drawings.prompts.0.parts.1.image: no such file or folder: dog.jpg",
        "evaluation.encoders.dino: no such file or folder: ./dino",
        "evaluation.encoders.inception: no such file or folder: fid.pth",
        "resume: no such file or folder: old.ckpt",
    ]


def test_files_that_are_there_are_not_missing(recipe_file, tmp_path):
    (tmp_path / "chats.json").write_text("[]")
    assert recipes.missing_files(recipes.load(recipe_file())) == []


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.sources.0.path=shards/{000..003}.tar"],
        ["data.sources.0.path=shards/*.tar"],
        ["data.prepare=digits", "data.sources.0.path=data/digits/chat.json"],
        ["data.sources.0.path=mine.yaml", "model.weights=BAAI/Emu2-Chat"],
        ["data.sources.0.path=mine.yaml", "model.weights=quickstart/caption"],
    ],
)
def test_what_is_made_later_or_elsewhere_is_not_missing(recipe_file, overrides):
    assert recipes.missing_files(recipes.load(recipe_file(), overrides)) == []
