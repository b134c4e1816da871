"""Metrics and answer normalisers: pure functions, no Lightning."""

from emu2_lit.evaluation.cider import cider, cider_items
from emu2_lit.evaluation.classification import choice_probability, roc_auc
from emu2_lit.evaluation.cobsat import Verdict, cobsat_scores, judge_by_choice, judge_picture
from emu2_lit.evaluation.confidence import Interval, mean_interval, paired_difference
from emu2_lit.evaluation.detection import box_accuracy, box_overlap, first_box, iou
from emu2_lit.evaluation.exact_match import exact_match, normalise
from emu2_lit.evaluation.openflamingo import openflamingo_answer, openflamingo_caption
from emu2_lit.evaluation.ptb import caption_words
from emu2_lit.evaluation.short_answer import short_answer
from emu2_lit.evaluation.vl_icl import answer_is_right, cut_answer, judge_question, picture_is_right
from emu2_lit.evaluation.vqa import normalise_vqa, vqa_accuracy

__all__ = [
    "Interval",
    "Verdict",
    "answer_is_right",
    "box_accuracy",
    "box_overlap",
    "caption_words",
    "choice_probability",
    "cider",
    "cider_items",
    "cobsat_scores",
    "cut_answer",
    "exact_match",
    "first_box",
    "iou",
    "judge_by_choice",
    "judge_picture",
    "judge_question",
    "mean_interval",
    "normalise",
    "normalise_vqa",
    "openflamingo_answer",
    "openflamingo_caption",
    "paired_difference",
    "picture_is_right",
    "roc_auc",
    "short_answer",
    "vqa_accuracy",
]
