"""Metrics of drawn pictures, against values that are known or computed directly."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from emu2_lit.errors import UserError
from emu2_lit.evaluation.distances import Distances, load_inception
from emu2_lit.evaluation.encoders import Judges
from emu2_lit.evaluation.likeness import alike, averaged, diversity, pixel_fidelity, pixels
from tests.evaluation.drawing_cases import ColourMoments, MeanColour, colour_judges, plain


def test_likeness_is_the_mean_over_all_pairs(tmp_path):
    real = [tmp_path / "red.png", tmp_path / "white.png"]
    plain("red").save(real[0])
    plain("white").save(real[1])
    figures = alike([plain("red"), plain("lime")], real, "something red", colour_judges())
    root = 1 / math.sqrt(3)
    assert figures["colour_i"] == pytest.approx((1 + root + 0 + root) / 4, abs=1e-4)
    assert figures["colour_t"] == pytest.approx(0.5, abs=1e-4)
    assert alike([plain("red")], (), "", colour_judges()) == {}


def test_references_are_encoded_once(tmp_path):
    seen = []

    class Counting(MeanColour):
        def pictures(self, values):
            seen.extend(values)
            return super().pictures(values)

    paths = [tmp_path / f"{place}.png" for place in range(3)]
    for path in paths:
        plain("red").save(path)
    judges = Judges([Counting()])
    judges.references(judges.encoders[0], paths[:2])
    vectors = judges.references(judges.encoders[0], paths[::-1])
    assert seen == paths and vectors.shape == (3, 3)


def test_psnr_and_ssim_are_those_of_scikit_image():
    original = Image.fromarray(data.astronaut()).resize((64, 64))
    noisy = np.asarray(original).astype(int) + np.random.default_rng(0).integers(-30, 31, (64, 64, 3))
    drawn = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    figures = pixel_fidelity(drawn, original)
    one, other = np.asarray(drawn), np.asarray(original)
    assert figures["psnr"] == pytest.approx(peak_signal_noise_ratio(other, one), abs=1e-3)
    _, everywhere = structural_similarity(
        other, one, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )  # fmt: skip
    assert figures["ssim"] == pytest.approx(everywhere.mean(), abs=2e-3)  # borders are mirrored differently


def test_the_same_picture_is_told_as_such_whatever_its_size():
    picture = Image.fromarray(data.coffee()).resize((48, 48))
    figures = pixel_fidelity(picture, picture)
    assert figures["psnr"] == math.inf and figures["ssim"] == pytest.approx(1)
    assert pixel_fidelity(plain("red", (24, 24)), plain("red", (70, 31)))["psnr"] == math.inf


def test_diversity_is_the_mean_difference_of_pairs():
    assert diversity([plain("black"), plain("white"), plain("white")]) == pytest.approx(2 / 3)
    assert diversity([plain("red")] * 3) == 0 and math.isnan(diversity([plain("red")]))


def test_averages_over_the_rows_that_have_a_figure():
    assert averaged([{"a": 1.0}, {"a": 3.0, "b": 5.0}]) == {"a": 2.0, "b": 5.0}


def noise(seed: int, count: int, level: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, level, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)


def test_fid_is_frechets_distance_of_the_features():
    distances, network = Distances(ColourMoments()), ColourMoments()
    real, made = noise(0, 30, 256), noise(1, 40, 200)
    for picture in real:
        distances.add(picture[None], real=True)
    distances.add(made, real=False)
    state = torch.random.get_rng_state()
    figures = distances.figures()
    assert torch.equal(state, torch.random.get_rng_state())
    a, b = network(real).double(), network(made).double()
    product = torch.linalg.eigvals(torch.cov(a.T) @ torch.cov(b.T)).sqrt().real.sum()
    expected = (a.mean(0) - b.mean(0)).square().sum() + torch.cov(a.T).trace() + torch.cov(b.T).trace() - 2 * product
    assert figures["fid"] == pytest.approx(float(expected), abs=1e-6) and figures["kid"] > 0


def test_one_picture_has_no_distribution():
    distances = Distances(ColourMoments())
    distances.add(pixels(plain("red")), real=True)
    assert distances.figures() == {}


def test_inception_is_not_downloaded(tmp_path):
    with pytest.raises(UserError, match="nothing is downloaded"):
        load_inception(tmp_path / "gone.pth")
    (tmp_path / "there.pth").write_bytes(b"no network")
    with pytest.raises(UserError, match="torch-fidelity|not the Inception"):
        load_inception(tmp_path / "there.pth")
