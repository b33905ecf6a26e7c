import math
import random
from itertools import combinations
from statistics import fmean

import pytest

from sana_scale import BestOfN, Candidate, best_of_k_curve, best_of_n
from sana_scale.curves import default_ks, subset_weights


def enumerated(scores, truth, k, keep):
    """The mean over all k-subsets of the mean truth of the `keep` that the judge likes best, ties in any order."""
    means = []
    for subset in combinations(range(len(scores)), k):
        ranked = sorted(subset, key=lambda place: -scores[place])
        edge = scores[ranked[keep - 1]]
        above = [truth[place] for place in subset if scores[place] > edge]
        tied = [truth[place] for place in subset if scores[place] == edge]
        means.append((sum(above) + (keep - len(above)) * fmean(tied)) / keep)
    return fmean(means)


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("levels", [4, 10**6])
def test_the_curve_is_that_of_all_subsets(keep, levels):
    draw = random.Random(levels + keep)
    scores = [draw.randrange(levels) / levels for _ in range(9)]
    truth = [float(draw.random() < 0.4) for _ in range(9)]
    curve = best_of_k_curve(scores, truth, keep=keep)
    assert curve.k == list(range(keep, 10))
    for place, k in enumerate(curve.k):
        # Sums of at most nine terms below one: a few times 1e-16.
        assert curve.mean[place] == pytest.approx(enumerated(scores, truth, k, keep), abs=1e-14)
        assert curve.oracle[place] == pytest.approx(enumerated(truth, truth, k, keep), abs=1e-14)
        assert curve.gap[place] == pytest.approx(curve.oracle[place] - curve.mean[place], abs=1e-14)


def test_without_truth_it_is_the_expected_best_score():
    scores = [0.1, 0.7, 0.4, 0.9]
    curve = best_of_k_curve(scores)
    assert curve.mean == pytest.approx([enumerated(scores, scores, k, 1) for k in range(1, 5)])
    assert (curve.oracle, curve.gap) == (curve.mean, [0.0] * 4)


def test_the_oracle_of_right_and_wrong_is_pass_at_k():
    truth = [1.0] * 3 + [0.0] * 17
    curve = best_of_k_curve(list(range(20)), truth)
    assert curve.oracle == pytest.approx([1 - math.comb(17, k) / math.comb(20, k) for k in curve.k])


def test_weights_are_shares_of_one_up_to_the_sizes_of_the_paper():
    long = ((4096, 256, 256), (4096, 2048, 64), (4096, 4000, 300), (2048, 1024, 4), (2048, 2048, 4))
    for length, k, keep in (*long, (2048, 1, 1), (2048, 4, 4), (37, 5, 3), (1, 1, 1)):
        weights = subset_weights(length, k, keep)
        assert len(weights) == length - k + keep
        assert min(weights) >= 0
        assert sum(weights) == pytest.approx(1, abs=1e-11)  # 2048 products in a row, 2e-16 each


def test_a_weight_is_that_of_whole_numbers():
    length, k, keep = 600, 300, 100
    for place, weight in enumerate(subset_weights(length, k, keep)):
        ranks = range(max(0, k - length + place), min(keep, place + 1, k))
        ways = sum(math.comb(place, rank) * math.comb(length - place - 1, k - rank - 1) for rank in ranks)
        # 600 factors in a row and as many terms, 2e-16 each; below 1e-300 nothing counts.
        assert weight == pytest.approx(ways / (math.comb(length, k) * keep), rel=1e-12, abs=1e-300)


def test_prompts_are_averaged():
    draw = random.Random(3)
    scores = [[draw.random() for _ in range(length)] for length in (8, 8, 12)]
    truth = [[draw.random() for _ in row] for row in scores]
    curve = best_of_k_curve(scores, truth)
    alone = [best_of_k_curve(*rows) for rows in zip(scores, truth, strict=True)]
    assert (curve.prompts, curve.images, curve.k) == (3, 8, list(range(1, 9)))
    assert curve.mean == pytest.approx([fmean(one.mean[place] for one in alone) for place in range(8)])
    assert curve.oracle == pytest.approx([fmean(one.oracle[place] for one in alone) for place in range(8)])


def test_the_bands_are_as_wide_as_the_spread_between_prompts_says():
    draw = random.Random(4)
    rows = [[draw.gauss(mean, 0.1) for _ in range(4)] for mean in (draw.gauss(0, 1) for _ in range(200))]
    curve = best_of_k_curve(rows, ks=[1])
    means = [fmean(row) for row in rows]
    spread = math.sqrt(sum((mean - fmean(means)) ** 2 for mean in means)) / 200
    (low, high) = curve.bands[0]
    # The end of a 95% band from 1000 resamples is known to 1/sqrt(1000 * 0.025 * 0.975) * 0.025 / 0.058 = 9%.
    assert high - curve.mean[0] == pytest.approx(1.96 * spread, rel=0.3)
    assert curve.mean[0] - low == pytest.approx(1.96 * spread, rel=0.3)
    assert curve.bands == best_of_k_curve(rows, ks=[1]).bands


def test_the_gap_has_its_own_band():
    draw = random.Random(5)
    scores = [[draw.random() for _ in range(8)] for _ in range(30)]
    truth = [[draw.random() + offset for _ in range(8)] for offset in range(30)]
    curve = best_of_k_curve(scores, truth)
    width = [high - low for low, high in curve.bands]
    gap_width = [high - low for low, high in curve.gap_bands]
    # Prompts differ by tens and gaps by fractions: resampled together the offsets cancel.
    assert max(gap_width) < 0.1 * min(width)
    assert all(low <= gap <= high for gap, (low, high) in zip(curve.gap, curve.gap_bands, strict=True))


def test_one_prompt_shows_no_spread():
    curve = best_of_k_curve([1.0, 2.0])
    assert (curve.bands, curve.oracle_bands, curve.gap_bands) == (None, None, None)


def test_a_long_curve_is_dense_where_it_bends():
    ks = default_ks(1, 2048)
    assert ks[:64] == list(range(1, 65))
    assert [k for k in (128, 256, 512, 1024) if k not in ks] == []
    assert (ks[-1], len(ks)) == (2048, 64 + 5 * 8)
    assert default_ks(4, 100)[:2] == [4, 5]
    assert default_ks(4, 100)[-1] == 100


def test_it_reads_the_scores_of_a_run(sampler, judge):
    curve = best_of_k_curve(best_of_n(sampler, judge, "a", n=20).scores)
    assert curve.mean[-1] == max(judge("a", [f"a:{seed}" for seed in range(20)]))


def test_it_takes_results_as_they_are(sampler, judge):
    one, other = (best_of_n(sampler, judge, prompt, n=20, seed=seed) for prompt, seed in (("a", 0), ("b", 7)))
    assert best_of_k_curve([one, other]) == best_of_k_curve([one.scores, other.scores])
    assert best_of_k_curve(one) == best_of_k_curve(one.scores)


@pytest.mark.parametrize(
    ("ask", "words"),
    [({"stopped": "Threshold(score=1)"}, r"was stopped by Threshold\(score=1\)"), ({"pruned": (3, 4)}, "gave up on 2")],
)
def test_results_that_are_no_random_sample_are_refused(ask, words):
    result = BestOfN(prompt="a", candidates=(Candidate(None, 0, 0.5), Candidate(None, 1, 0.4)), generated=2, **ask)
    for given in (result, [result]):
        with pytest.raises(ValueError, match=f"the run of 'a' {words}.*complete run"):
            best_of_k_curve(given)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (([],), "one prompt, or"),
        (([[1.0], []],), "one prompt, or"),
        (([[1.0], 2.0],), "one prompt, or"),
        (([1.0, math.nan],), "finite"),
        (([1.0, 2.0], [1.0]), "same number"),
        (([[1.0, 2.0]], [[1.0, 2.0], [1.0, 2.0]]), "same number"),
    ],
)
def test_senseless_scores_are_refused(ask, words):
    with pytest.raises(ValueError, match=words):
        best_of_k_curve(*ask)


@pytest.mark.parametrize("ask", [{"ks": [3]}, {"ks": [0]}, {"ks": []}, {"keep": 3}, {"keep": 2, "ks": [1]}])
def test_a_k_without_images_is_refused(ask):
    with pytest.raises(ValueError, match="must lie between"):
        best_of_k_curve([1.0, 2.0], **ask)


@pytest.mark.parametrize("ask", [{"confidence": 95}, {"confidence": 0}, {"confidence": math.nan}, {"resamples": 0}])
def test_senseless_bands_are_refused(ask):
    with pytest.raises(ValueError, match=r"confidence is .* and resamples "):
        best_of_k_curve([[1.0], [2.0]], **ask)
