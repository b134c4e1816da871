"""Figures that the paper prints, on its scale of 0..100, to stand beside measured ones.

`emu2`: table 1, few-shot, demonstrations by RICES. `emu2-chat`: tables 2 and 3, without demonstrations; the training
splits of VQAv2, OKVQA, GQA and TextVQA were learned.
"""

_BASE = {  # shots -> score
    "vqav2": {"0": 33.5, "4": 67.0, "8": 67.8, "16": 68.8},
    "okvqa": {"0": 26.7, "4": 53.2, "8": 54.1, "16": 57.1},
    "vizwiz": {"0": 40.4, "4": 54.6, "8": 54.7, "16": 57.0},
    "textvqa": {"0": 26.4, "4": 48.2, "8": 49.3, "16": 50.3},
    "hateful_memes": {"0": 52.2, "4": 62.4, "8": 65.8, "16": 66.0},
}
_CHAT = {
    "vqav2": 84.9, "okvqa": 64.8, "gqa": 65.1, "vizwiz": 54.9, "textvqa": 66.6, "seed": 62.8, "mmmu": 34.1,
    "refcoco": 90.40, "refcoco+": 87.05, "refcocog": 87.64,
}  # fmt: skip
PUBLISHED = {"emu2": _BASE, "emu2-chat": {name: {"0": score} for name, score in _CHAT.items()}}


# Tables of drawn pictures, on their scale of 0..1. DreamBench: paper, section 3.3 (one picture of the subject where
# marked, else several or tuned on them); it does not say whether the scores are against one or all real pictures.
# Autoencoding: of COCO pictures, with CLIP ViT-L.
DRAWINGS: dict[str, dict[str, dict[str, float]]] = {
    "dreambench": {
        "real pictures": {"dino": 0.774, "clip_i": 0.885},
        "Textual Inversion": {"dino": 0.569, "clip_i": 0.780, "clip_t": 0.255},
        "DreamBooth": {"dino": 0.668, "clip_i": 0.803, "clip_t": 0.305},
        "BLIP-Diffusion, tuned": {"dino": 0.670, "clip_i": 0.805, "clip_t": 0.302},
        "BLIP-Diffusion": {"dino": 0.594, "clip_i": 0.779, "clip_t": 0.300},
        "Re-Imagen": {"dino": 0.600, "clip_i": 0.740, "clip_t": 0.270},
        "SuTI": {"dino": 0.741, "clip_i": 0.819, "clip_t": 0.304},
        "Kosmos-G (one picture)": {"dino": 0.694, "clip_i": 0.847, "clip_t": 0.287},
        "Emu2-Gen (one picture)": {"dino": 0.766, "clip_i": 0.850, "clip_t": 0.287},
    },
    "autoencoding": {"Emu2-Gen": {"clip_i": 0.907}},
}
DRAWINGS["dreambench_all"] = DRAWINGS["dreambench"]


def published(benchmark: str, model: str, shots: str) -> float | None:
    """The paper's figure for `emu2` or `emu2-chat`, or None where it prints none; `shots` as figures are named."""
    return PUBLISHED[model].get(benchmark, {}).get(shots)
