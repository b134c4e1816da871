import math

from emu2_lit.evaluation import Verdict, cobsat_scores, judge_by_choice, judge_picture


def test_the_judge_is_asked_for_both_words_even_after_a_no():
    asked = []

    def judge(picture, question):
        asked.append(question)
        return "cow" in question

    verdict = judge_picture("picture", latent="Park", non_latent="cow", judge=judge)
    assert verdict == Verdict(latent=False, non_latent=True)
    assert not verdict.total
    assert asked == [
        "Decide whether the image contains amusement park. Answer with yes or no.",
        "Decide whether the image contains cow. Answer with yes or no.",
    ]


def test_multiple_choice():
    shown = {"car", "wireframe"}
    offered = []

    def choose(picture, options):
        offered.append(list(options))
        return next((option for option in options if option in shown), options[0])

    options = (["car", "dog"], ["sketch", "3d"])
    assert judge_by_choice("picture", "car", "3d", *options, choose) == Verdict(True, True)
    assert offered == [["car", "dog"], ["sketch", "wireframe"]]
    assert judge_by_choice("picture", "dog", "3d", *options, choose) == Verdict(False, True)


def test_a_picture_is_right_where_both_are():
    verdicts = [Verdict(True, True), Verdict(True, False), Verdict(False, True), Verdict(True, False)]
    assert cobsat_scores(verdicts) == {"total": 0.25, "latent": 0.75, "non_latent": 0.5}
    assert next(iter(cobsat_scores(verdicts))) == "total"
    assert all(math.isnan(value) for value in cobsat_scores([]).values())
