from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from emu2_lit.errors import UserError
from emu2_lit.evaluation.demonstrations import Features, select
from emu2_lit.evaluation.question import Question
from tests.distributed import run_ranks
from tests.evaluation.toy import NAMES, draw, naming, questions


@pytest.fixture(scope="module")
def support(tmp_path_factory) -> list[Question]:
    return questions(tmp_path_factory.mktemp("pictures"), 12, start=10)


@pytest.fixture(scope="module")
def query(tmp_path_factory) -> Question:
    return questions(tmp_path_factory.mktemp("query"), 1, start=1)[0]


@pytest.fixture
def like_15(tmp_path) -> Question:
    """Another picture, which the encoder by hand takes for that of q15."""
    return Question("query", (draw(tmp_path, "q15", 200),), "what?", group="b")


def ids(chosen) -> list[str]:
    return [one.id for one in chosen]


def brightness(values) -> torch.Tensor:
    """An encoder by hand: a direction that turns with the number in the file's name, one degree each."""
    degrees = torch.tensor([float(Path(value).stem[1:]) for value in values]).deg2rad()
    return torch.stack([degrees.cos(), degrees.sin()], dim=1)


def test_a_draw_depends_on_seed_and_query_alone(support, query):
    first = select(query, support, 4, "random", seed=1)
    assert first == select(query, support, 4, "random", seed=1)
    others = [select(replace(query, id=name), support, 4, "random", seed=1) for name in ("a", "b", "c")]
    assert any(ids(other) != ids(first) for other in others)
    assert any(ids(select(query, support, 4, "random", seed)) != ids(first) for seed in (2, 3, 4))
    assert len(set(ids(first))) == 4


def test_more_shots_contain_fewer(support, query):
    assert select(query, support, 6)[:3] == select(query, support, 3)


def test_all_of_the_support_can_be_drawn_and_each_equally_often(support, query):
    assert sorted(ids(select(query, support, 12))) == sorted(ids(support))
    drawn = [ids(select(replace(query, id=str(number)), support, 3)) for number in range(400)]
    counts = [sum(one.id in chosen for chosen in drawn) for one in support]
    assert min(counts) > 60 and max(counts) < 140  # 100 expected, standard deviation 9


def test_fixed_demonstrations_are_the_same_for_all(support, query):
    shown = {tuple(ids(select(replace(query, id=str(number)), support, 3, "fixed"))) for number in range(5)}
    assert len(shown) == 1


def test_none(support, query):
    assert select(query, support, 0) == () == select(query, support, 4, "none")


def test_the_most_similar_comes_last(support, like_15):
    features = Features(support, brightness)
    chosen = ids(select(replace(like_15, group=""), support, 4, "rices", features=features))
    assert chosen[-1] == "q15" and set(chosen[1:3]) == {"q14", "q16"} and chosen[0] in ("q13", "q17")
    assert features.similarity(like_15)[5] == pytest.approx(1.0)


def test_several_pictures_count_together_and_none_is_like_nothing(support):
    pair = replace(support[0], images=("/q10.png", "/q20.png"))
    features = Features([pair, replace(pair, images=()), *support], brightness)
    similarity = features.similarity(Question("query", ("/q15.png",), "what?"))
    assert similarity[0] == pytest.approx(1.0) and similarity[1] == 0.0
    assert features.similarity(Question("query", (), "what?")).abs().sum() == 0


@pytest.mark.parametrize("how", ["random", "fixed", "rices"])
def test_the_query_itself_is_never_shown(support, how):
    features = Features(support, brightness)
    for query in support:
        assert query.id not in ids(select(query, support, 11, how, features=features))


@pytest.mark.parametrize("form", ["copy", "bytes", "picture"])
def test_a_copy_of_the_querys_picture_is_not_shown(support, tmp_path, form):
    twin = support[3]
    copied = tmp_path / "q99.png"
    copied.write_bytes(Path(twin.images[0]).read_bytes())
    picture = Image.open(copied)
    value = {"copy": copied, "bytes": copied.read_bytes(), "picture": picture}[form]
    pool = [replace(one, images=(Image.open(one.images[0]),)) for one in support] if form == "picture" else support
    shown = select(Question("other", (value,), "what?"), pool, 11)
    assert sorted(ids(shown)) == sorted(one.id for one in support if one is not twin)


def test_a_question_about_no_picture_is_told_by_its_text(support):
    asked = Question("a", (), "two and two?", ("four",))
    pool = [replace(asked, id="b"), replace(asked, id="c", text="one and one?")]
    assert ids(select(asked, pool, 1)) == ["c"]


@pytest.mark.parametrize("how", ["random", "fixed", "rices"])
def test_shots_count_per_label(tmp_path, how):
    pool, query = naming(tmp_path, 10, start=10), naming(tmp_path, 1, start=1)[0]
    chosen = select(query, pool, 3, how, features=Features(pool, brightness))
    assert len(chosen) == 6 and [sum(one.label == name for one in chosen) for name in NAMES] == [3, 3]


def test_demonstrations_come_from_the_querys_group(support, like_15):
    pool = [replace(one, group="ab"[number % 2]) for number, one in enumerate(support)]
    for how in ("random", "fixed", "rices"):
        chosen = select(like_15, pool, 4, how, features=Features(pool, brightness))
        assert {one.group for one in chosen} == {"b"}
    with pytest.raises(UserError, match="group b"):
        select(like_15, pool, 7)


def test_what_the_benchmark_fixed_is_taken_in_its_order(tmp_path):
    shown = tuple(naming(tmp_path, 6, start=10))
    query = replace(naming(tmp_path, 1, start=1)[0], demonstrations=shown)
    assert select(query, [], 2) == shown[:4]
    assert select(replace(query, label=""), [], 2) == shown[:2]


def test_too_few_are_an_error(support, query):
    with pytest.raises(UserError, match="13 shots, but only 12"):
        select(query, support, 13)
    with pytest.raises(UserError, match="features"):
        select(query, support, 1, "rices")
    with pytest.raises(UserError, match="random"):
        select(query, support, 1, "rice")


def table_of_a_rank(pool) -> tuple[list, int]:
    torch.distributed.init_process_group("gloo")
    encoded = []
    features = Features(pool, lambda values: encoded.extend(values) or brightness(values))
    return features.table.tolist(), len(encoded)


def test_ranks_share_the_encoding(support):
    first, second = run_ranks(table_of_a_rank, 2, support[:5])
    assert first[0] == second[0] == Features(support[:5], brightness).table.tolist()
    assert (first[1], second[1]) == (3, 2)
