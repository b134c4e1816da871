"""Words of captions as the COCO evaluation counts them: Penn Treebank tokens, lower case, without punctuation.

The COCO caption evaluation (https://arxiv.org/abs/1504.00325, section 3.1) runs the Java PTBTokenizer of Stanford
CoreNLP. These rules were written from what it makes of captions and agree with it on ordinary English; oddities
(smileys, web addresses, an initial that ends a sentence) may be cut elsewhere.
"""

import html
import re

# Those that keep their period; other words before a period end a sentence.
_ABBREVIATIONS = (
    "mr mrs ms dr prof st ave rd blvd sgt capt lt col gen gov sen rep rev jr sr inc co corp ltd vs etc ft dept est jan "
    "feb mar apr jun jul aug sept oct nov dec mon tue tues wed thu thurs fri calif conn fla va md mt ga al tel ext "
    "bldg bros cf messrs mme maj adm cmdr det supt pres hon pvt cpl ariz colo kan ky mich minn mo mont neb nev okla "
    "penn tenn vt wis wyo sq alex wm ct"
).replace(" ", "|")
_TOKEN = re.compile(
    rf"""
      (?:[a-z]\.){{2,}}                                # u.s.  p.m.
    | (?<!\w)(?:{_ABBREVIATIONS}|[a-z]|ph\.d)\.(?!\w)  # st.  j.
    | (?<!\w)(?:no|nos|pp|fig|art)\.(?=\s*\d)          # no. 42, and no period before other things
    | (?<!\S)[-+]?\d+(?:[.,:/]\d+)*(?=[ap]m\b)         # 7:30|am
    | '(?:em|n|\d0s)\b'? | 't(?=is\b|was\b)            # rock 'n' roll  the '90s  't|is
    | n't(?!\w) | '(?:s|re|ve|d|ll|m)(?!\w)            # is|n't  dog|'s
    | (?<!\w)(?:[dol]'[a-z]{{2,}}|ma'am|c'mon|at&t|ol'|y'|c\+\+)
    | (?:can(?=not\b)|gon(?=na\b)|wan(?=na\b)|got(?=ta\b)|lem(?=me\b)|gim(?=me\b))
    | (?:(?<!\S)[-+](?=\d))?[^\W_]+                    # a word or a number ...
      (?:[-_/](?=[^\W_])[^\W_]+ | (?<=\d)[.,:]\d[^\W_]* | (?<=[a-z])\.(?=[a-z])[^\W_]+)*   # t-shirt  1,000  and/or
    | [?!]+ | _{{2,}}
    | \S
    """,
    re.VERBOSE,
)
# The evaluation drops a single mark only, and keeps brackets: its list names them in capitals.
_DROPPED = frozenset("'`\".?!,:;-")
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_STRAIGHT = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": " - ", "—": " - ", "…": "..."})


def caption_words(text: str) -> list[str]:
    """The words of a caption, as CIDEr counts them: "A dog's life, isn't it?" gives a dog 's life is n't it."""
    text = html.unescape(text).lower().translate(_STRAIGHT)
    text = re.sub(r"(?<=[a-z])n't(?!\w)", " n't", text)
    return [_BRACKETS.get(token, token) for token in _TOKEN.findall(text) if token not in _DROPPED]
