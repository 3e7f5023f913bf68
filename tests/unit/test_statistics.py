import math
import random
from statistics import NormalDist, stdev

import pytest

from rlhf_tuning.statistics import (
    clustered_auc,
    clustered_difference,
    clustered_mean,
    clustered_share,
    clustered_win_rate,
    holm,
    length_controlled_win_rate,
    mean_interval,
    paired_difference,
    ratio_interval,
    repeated_win_rate,
    sign_test,
    student_t_quantile,
    wilson_interval,
    win_rate,
)


def trinomial(wins: int, ties: int, losses: int, win: float, tie: float) -> float:
    """The exact chance of an outcome, by logarithms so that large counts do not overflow."""
    n = wins + ties + losses
    chance = math.lgamma(n + 1) - sum(math.lgamma(count + 1) for count in (wins, ties, losses))
    for count, share in ((wins, win), (ties, tie), (losses, 1 - win - tie)):
        if count:
            chance += count * math.log(share) if share > 0 else -math.inf
    return math.exp(chance)


@pytest.mark.parametrize("n", [30, 100, 200])
@pytest.mark.parametrize("rate", [0.5, 0.6, 0.75])
@pytest.mark.parametrize("tie", [0.0, 0.1, 0.4])
def test_win_rate_interval_covers_the_truth_as_often_as_it_says(n: int, rate: float, tie: float) -> None:
    """Coverage summed exactly over every outcome, not sampled, so the bounds need no allowance for chance."""
    win = rate - tie / 2
    covered = total = 0.0
    for wins in range(n + 1):
        for ties in range(n + 1 - wins) if tie else [0]:
            chance = trinomial(wins, ties, n - wins - ties, win, tie)
            if chance > 1e-7:
                total += chance
                interval = win_rate(wins, ties, n - wins - ties)
                covered += chance * (interval.low <= rate <= interval.high)
    assert total == pytest.approx(1, abs=1e-3)
    assert 0.93 <= covered / total <= 0.975


def test_half_counted_wilson_would_cover_too_much_with_ties() -> None:
    """Why the win rate is not Wilson's interval of wins + ties / 2."""
    rng = random.Random(0)
    trials = 2000
    covered = 0
    for _ in range(trials):
        scores = rng.choices([1.0, 0.5, 0.0], weights=[0.2, 0.6, 0.2], k=100)
        low, high = wilson_interval(sum(scores), 100)
        covered += low <= 0.5 <= high
    assert covered / trials > 0.99


@pytest.mark.parametrize(("wins", "losses"), [(0, 7), (7, 0), (3, 4), (120, 80), (1, 0)])
def test_win_rate_without_ties_is_wilson(wins: int, losses: int) -> None:
    estimate = win_rate(wins, 0, losses)
    assert (estimate.low, estimate.high) == pytest.approx(wilson_interval(wins, wins + losses), abs=1e-9)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [((1, 13, 7), (-0.517, -0.026)), ((6, 139, 16), (-0.124, -0.0054))],
)
def test_win_rate_matches_published_intervals(counts: tuple[int, int, int], expected: tuple[float, float]) -> None:
    """Fagerland, Lydersen and Laake 2014, Statistics in Medicine 33:2850: differences of paired proportions."""
    estimate = win_rate(*counts)
    assert (2 * estimate.low - 1, 2 * estimate.high - 1) == pytest.approx(expected, abs=5e-4)


def test_win_rate_is_symmetric() -> None:
    forward, back = win_rate(31, 9, 14), win_rate(14, 9, 31)
    assert forward.rate == pytest.approx(1 - back.rate)
    assert (forward.low, forward.high) == pytest.approx((1 - back.high, 1 - back.low))


def test_ties_alone_give_an_interval_around_one_half() -> None:
    estimate = win_rate(0, 20, 0)
    assert estimate.rate == 0.5
    half_width = 0.5 * 1.959964**2 / (20 + 1.959964**2)
    assert (estimate.low, estimate.high) == pytest.approx((0.5 - half_width, 0.5 + half_width), abs=1e-6)


@pytest.mark.parametrize("counts", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (5, 0, 0), (0, 0, 5)])
def test_win_rate_interval_stays_within_0_and_1_and_holds_the_rate(counts: tuple[int, int, int]) -> None:
    estimate = win_rate(*counts)
    assert 0 <= estimate.low <= estimate.rate <= estimate.high <= 1
    assert estimate.high - estimate.low > 0.3


def test_rejects_a_win_rate_of_nothing() -> None:
    with pytest.raises(ValueError, match="at least one comparison"):
        win_rate(0, 0, 0)


def test_rejects_negative_counts() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        win_rate(3, -1, 2)


def test_wilson_interval_matches_published_values() -> None:
    """Newcombe 1998, Statistics in Medicine 17:857, table I, method 3."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_a_proportion_of_no_trials_may_be_anything() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_wilson_interval_widens_with_confidence() -> None:
    narrow, wide = wilson_interval(30, 50, confidence=0.8), wilson_interval(30, 50, confidence=0.99)
    assert wide.low < narrow.low < 0.6 < narrow.high < wide.high


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5), (0, -1), (math.nan, 5)])
def test_rejects_impossible_proportions(successes: float, n: int) -> None:
    with pytest.raises(ValueError, match="between 0 and n"):
        wilson_interval(successes, n)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, math.nan])
def test_rejects_impossible_confidence(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        wilson_interval(1, 2, confidence)


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        (1, 12.7062),
        (2, 4.30265),
        (3, 3.18245),
        (5, 2.57058),
        (10, 2.22814),
        (29, 2.04523),
        (30, 2.04227),
        (99, 1.98422),
    ],
)
def test_student_t_quantile_matches_the_tables(degrees: int, expected: float) -> None:
    assert student_t_quantile(0.975, degrees) == pytest.approx(expected, rel=3e-6)
    assert student_t_quantile(0.025, degrees) == pytest.approx(-expected, rel=3e-6)


def test_student_t_median_is_zero() -> None:
    assert student_t_quantile(0.5, 4) == pytest.approx(0, abs=1e-12)


def test_mean_interval_by_hand() -> None:
    """Values 1, 2, 3, 4: mean 2.5, deviation 1.290994, t with 3 degrees 3.182446."""
    estimate = mean_interval([1, 2, 3, 4])
    half = 3.182446 * 1.290994 / 2
    assert estimate == pytest.approx((2.5, 2.5 - half, 2.5 + half, 4), abs=1e-5)


@pytest.mark.parametrize("n", [3, 12])
def test_mean_interval_covers_the_truth_as_often_as_it_says(n: int) -> None:
    rng = random.Random(1)
    trials = 4000
    covered = 0
    for _ in range(trials):
        estimate = mean_interval([rng.gauss(0.3, 2) for _ in range(n)])
        covered += estimate.low <= 0.3 <= estimate.high
    assert 0.935 <= covered / trials <= 0.965


def test_one_value_says_nothing_of_its_spread() -> None:
    assert mean_interval([4.0]) == (4.0, -math.inf, math.inf, 1)


def test_equal_values_have_no_spread() -> None:
    assert mean_interval([2.0, 2.0, 2.0]) == (2.0, 2.0, 2.0, 3)


def test_rejects_a_mean_of_nothing() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        mean_interval([])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rejects_values_that_are_not_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="position 1"):
        mean_interval([1.0, bad])


def test_pairing_takes_out_what_the_two_share() -> None:
    before = [1.0, 50.0, -20.0, 7.0]
    after = [2.0, 51.5, -19.5, 8.0]
    estimate = paired_difference(before, after)
    assert estimate.mean == pytest.approx(1.0)
    assert 0 < estimate.low < estimate.high < 2
    assert estimate.n == 4


def test_rejects_pairs_of_unequal_length() -> None:
    with pytest.raises(ValueError, match="2 and 1"):
        paired_difference([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("wins", "losses", "p"), [(0, 0, 1.0), (5, 0, 1 / 32), (4, 1, 6 / 32), (0, 5, 1.0), (60, 40, 0.0284439668)]
)
def test_sign_test_is_the_binomial_tail(wins, losses, p):
    assert sign_test(wins, losses) == pytest.approx(p, rel=1e-8)


def test_sign_test_rejects_negative_counts():
    with pytest.raises(ValueError, match="0 or more"):
        sign_test(-1, 3)


def test_one_value_a_cluster_is_students_interval():
    values = [0.0, 1.0, 1.0, 0.5, 1.0]
    assert clustered_mean(values, range(5)) == pytest.approx(mean_interval(values))


def test_copies_of_a_value_in_its_cluster_add_nothing():
    values = [0.0, 1.0, 1.0, 0.5, 1.0]
    once = clustered_mean(values, range(5))
    assert clustered_mean(values * 4, [*range(5)] * 4) == pytest.approx(once)


def test_clustered_interval_covers_where_the_plain_one_does_not():
    rng = random.Random(0)
    covered = {"clustered": 0, "plain": 0}
    for _ in range(1000):
        values, clusters = [], []
        for cluster in range(40):
            level = rng.gauss(0, 1)
            for _ in range(rng.randint(1, 6)):
                values.append(level + rng.gauss(0, 0.5))
                clusters.append(cluster)
        for name, estimate in (("clustered", clustered_mean(values, clusters)), ("plain", mean_interval(values))):
            covered[name] += estimate.low <= 0 <= estimate.high
    # 1,000 runs: a coverage of 95% shows as 93.4% to 96.2% in 95 of 100 cases.
    assert 925 <= covered["clustered"] <= 970
    assert covered["plain"] < 850


def test_a_clustered_share_is_wilson_s_with_one_trial_a_cluster_and_never_narrower_than_that_of_its_clusters():
    assert clustered_share([1.0, 1.0, 0.0], "abc") == (2 / 3, *wilson_interval(2, 3), 3)
    assert clustered_share([1.0] * 40, [number // 2 for number in range(40)]) == (1.0, *wilson_interval(20, 20), 40)
    assert clustered_share([1.0, 0.0], "aa") == (0.5, 0.0, 1.0, 2)
    values, clusters = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0] * 20, [number // 3 for number in range(120)]
    assert clustered_share(values, clusters)[:3] == clustered_mean(values, clusters)[:3]


def test_an_area_under_the_curve_counts_pairs_in_order_with_ties_by_half():
    scores, liked = [3.0, 1.0, 2.0, 1.0, 0.0], [True, True, True, False, False]
    assert clustered_auc(scores, liked, range(5)).mean == pytest.approx((2 + 1.5 + 2) / 6)
    assert clustered_auc([1.0, 0.0] * 10, [True, False] * 10, range(20)) == (1.0, *wilson_interval(10, 10), 20)
    with pytest.raises(ValueError, match="scores of both kinds"):
        clustered_auc([1.0], [True], "a")


def test_a_difference_of_two_kinds_is_that_of_their_means():
    values, liked = [3.0, 1.0, 0.0, 1.0, 0.5], [True, True, False, False, False]
    found = clustered_difference(values, liked, range(5))
    assert (found.mean, found.n) == (pytest.approx(1.5), 5)
    with pytest.raises(ValueError, match="values of both kinds"):
        clustered_difference([1.0], [True], "a")


def test_what_is_said_of_two_kinds_covers_the_truth_where_rows_come_in_clusters():
    """80 prompts with three answers each, of which those to one prompt have something in common."""
    rng = random.Random(5)
    truths = {clustered_auc: NormalDist().cdf(1 / 2), clustered_difference: 1.0}
    covered = dict.fromkeys(truths, 0)
    for _ in range(300):
        common = [rng.gauss(0, 1) for _ in range(80)]
        liked = [rng.random() < 0.7 for _ in range(240)]
        values = [common[row // 3] + like + rng.gauss(0, 1) for row, like in enumerate(liked)]
        for estimate, truth in truths.items():
            found = estimate(values, liked, [row // 3 for row in range(240)])
            covered[estimate] += found.low <= truth <= found.high
    assert all(0.92 <= count / 300 <= 0.99 for count in covered.values()), covered


def test_clustered_mean_rejects_values_without_cluster():
    with pytest.raises(ValueError, match="each value needs a cluster"):
        clustered_mean([1.0, 2.0], ["a"])


def preferences(rng, n, skill, taste, longer):
    """Comparisons in which an answer's quality and its length decide on the logit scale."""
    scores, lengths = [], []
    for _ in range(n):
        difference = rng.gauss(longer, 20)
        lengths.append(difference)
        scores.append(float(rng.random() < 1 / (1 + math.exp(-(skill + taste * math.tanh(difference / 20))))))
    return scores, lengths


def at_equal_length(scores, lengths, prompts):
    return length_controlled_win_rate(scores, lengths, prompts, clustered_win_rate(scores, prompts).rate)


def test_length_control_takes_away_what_length_alone_won():
    scores, lengths = preferences(random.Random(1), 2000, skill=0.0, taste=2.0, longer=25)
    assert sum(scores) / 2000 > 0.75
    controlled = at_equal_length(scores, lengths, range(len(scores)))
    assert controlled.low < 0.5 < controlled.high
    assert controlled.n == 2000


def test_length_control_leaves_what_quality_won():
    scores, lengths = preferences(random.Random(2), 2000, skill=1.0, taste=0.0, longer=25)
    controlled = at_equal_length(scores, lengths, range(len(scores)))
    assert controlled.low < 1 / (1 + math.exp(-1.0)) < controlled.high
    assert controlled.low > 0.65


def test_length_controlled_interval_covers():
    rng = random.Random(3)
    truth = 1 / (1 + math.exp(-0.4))
    covered = 0
    for _ in range(400):
        controlled = at_equal_length(*preferences(rng, 200, skill=0.4, taste=1.0, longer=5), range(200))
        covered += controlled.low <= truth <= controlled.high
    assert 365 <= covered <= 395


def test_copies_of_a_comparison_in_its_cluster_tell_length_control_nothing():
    scores, lengths = preferences(random.Random(4), 300, skill=0.4, taste=1.0, longer=5)
    once = at_equal_length(scores, lengths, range(300))
    assert at_equal_length(scores * 3, lengths * 3, [*range(300)] * 3)[:3] == pytest.approx(once[:3], abs=2e-3)


def test_length_control_survives_length_that_decides_alone():
    lengths = [float(length) for length in range(-20, 21)]
    controlled = at_equal_length([float(length > 0) for length in lengths], lengths, range(len(lengths)))
    assert 0 <= controlled.low < controlled.mean < controlled.high <= 1


@pytest.mark.parametrize(
    ("scores", "lengths"),
    [
        ([1.0] * 9, list(range(-4, 5))),
        ([1.0, 0.0] * 10, [3.0] * 20),
        # One of the two nearly always gives the longer answer.
        ([1.0, 0.0] * 50, [*range(1, 98), -1, -2, -3]),
        ([1.0, 0.0] * 50, [*range(-97, 0), 1, 2, 3]),
    ],
)
def test_without_enough_to_go_by_there_is_no_length_control(scores, lengths):
    assert at_equal_length(scores, lengths, range(len(scores))) is None


def test_where_no_lengths_differ_the_win_rate_is_that_at_equal_length():
    wins, ties, losses = 2, 1, 1
    seen = win_rate(wins, ties, losses)
    assert at_equal_length([1.0, 1.0, 0.5, 0.0], [0.0] * 4, range(4)) == (seen.rate, seen.low, seen.high, 4)


def test_holm_adjusts_each_value_for_those_that_are_left_and_keeps_their_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([1.5])


def test_holm_is_seldom_wrong_where_there_is_no_difference():
    rng = random.Random(5)
    wrong = sum(min(holm([rng.random() for _ in range(6)])) <= 0.05 for _ in range(2000))
    assert 70 <= wrong <= 130


def test_a_share_with_one_trial_a_cluster_is_wilsons():
    assert clustered_share([1.0, 0.5, 0.0, 1.0], range(4)) == (0.625, *wilson_interval(2.5, 4), 4)


def test_clusters_that_all_agree_are_as_sure_as_so_many_trials():
    share = clustered_share([1.0] * 12, [0, 1, 2] * 4)
    assert share == pytest.approx((1.0, wilson_interval(3, 3).low, 1.0, 12))
    found = clustered_win_rate([1.0] * 12, [0, 1, 2] * 4)
    assert found.rate[:3] == pytest.approx(win_rate(3, 0, 0)[:3])
    assert (found.rate.wins, found.clusters, found.won, found.lost) == (12, 3, 3, 0)


def test_a_cluster_counts_for_whoever_wins_it_more_often():
    found = clustered_win_rate([1.0, 1.0, 0.0, 0.0, 0.5, 0.0], ["a", "a", "a", "b", "c", "b"])
    assert (found.clusters, found.won, found.lost) == (3, 1, 1)


def test_repeated_comparisons_narrow_the_interval_as_far_as_they_are_independent() -> None:
    rng = random.Random(6)
    covered, narrower = 0, 0
    for _ in range(400):
        # Half of the luck is the prompt's.
        chances = [rng.choice((0.35, 0.85)) for _ in range(120)]
        scores = [float(rng.random() < chance) for chance in chances for _ in range(3)]
        prompts = [prompt for prompt in range(120) for _ in range(3)]
        found, once = repeated_win_rate(scores, prompts).rate, clustered_win_rate(scores, prompts).rate
        covered += found.low <= 0.6 <= found.high
        narrower += found.high - found.low < once.high - once.low
    assert 370 <= covered <= 391
    assert narrower == 400


def test_repeated_comparisons_that_all_agree_are_no_surer_than_so_many_trials() -> None:
    found = repeated_win_rate([1.0] * 12, [0, 1, 2] * 4)
    assert found.rate[:3] == pytest.approx(win_rate(12, 0, 0)[:3])
    assert repeated_win_rate([1.0, 0.0], "ab") == clustered_win_rate([1.0, 0.0], "ab")


def test_a_ratio_counts_what_is_counted_and_its_interval_the_examples() -> None:
    found = ratio_interval([1.0, 4.0, 9.0], [1, 2, 3])
    assert found.mean == pytest.approx(14 / 6)
    # Residuals of the examples: 1 - 7/3, 4 - 14/3, 9 - 7, over the mean count 2.
    assert found.high - found.mean == pytest.approx(student_t_quantile(0.975, 2) * stdev([-2 / 3, -1 / 3, 1]) / 3**0.5)
    assert found.n == 3
    alike = ratio_interval([2.0, 4.0, 8.0], [1, 2, 4])
    assert (alike.low, alike.high) == (pytest.approx(2.0), pytest.approx(2.0))
    with pytest.raises(ValueError, match="each total needs a count"):
        ratio_interval([1.0], [])
