"""Estimates with their intervals, in plain Python: proportions, means, win rates and paired differences.

All intervals are two-sided and 95% unless `confidence` says otherwise. Each function names its method and paper. No
data is an error, except where "nothing is known" is itself an interval: a proportion of 0 trials lies in [0, 1], the
mean behind one value in [-inf, inf].

By hand on purpose: no image has scipy, which would add 143 MB, and 0.9 s of a processor where `scipy.stats` is imported.
"""

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

_CONFIDENCE = 0.95
#: Share of comparisons in which either side gives the longer answer, or both are as long, without which nothing is said of
#: equal length: `benchmarks/promotion_gate.py --equal-length` has the coverage on both sides of it.
LEAST_OVERLAP = 0.05
#: Prompts, or whatever the comparisons belong to, with fewer of which nothing is said of it either.
LEAST_CLUSTERS = 10


class Interval(NamedTuple):
    """Lower and upper end of a confidence interval."""

    low: float
    high: float


class MeanEstimate(NamedTuple):
    """A mean of `n` values and its confidence interval."""

    mean: float
    low: float
    high: float
    n: int


class WinRate(NamedTuple):
    """How often one model beats another; a tie counts half."""

    rate: float
    low: float
    high: float
    wins: int
    ties: int
    losses: int
    n: int


class ClusteredWinRate(NamedTuple):
    """A win rate over answers that come in clusters, and in how many clusters there were more wins, or more losses."""

    rate: WinRate
    clusters: int
    won: int
    lost: int


def wilson_interval(successes: float, n: int, confidence: float = _CONFIDENCE) -> Interval:
    """Return the Wilson score interval of a proportion (Wilson 1927, JASA 22:209).

    It keeps its coverage near 0 and 1 and for small `n`, where the textbook interval does not (Brown, Cai and DasGupta
    2001, Statistical Science 16:101). For `n` = 0 it is [0, 1], the formula's limit.

    Args:
        successes: How many of the trials succeeded; not necessarily whole.
        n: How many trials there were.
        confidence: Coverage asked for, between 0 and 1.

    Raises:
        ValueError: If `n` is negative, `successes` is not within 0 to `n`, or `confidence` not between 0 and 1.
    """
    z = _two_sided_z(confidence)
    if n < 0 or not 0 <= successes <= n:
        raise ValueError(f"successes must be between 0 and n, got {successes} of {n}.")
    if n == 0:
        return Interval(0.0, 1.0)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the formula gives 0 and 1 exactly, but for rounding.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(low, high)


def mean_interval(values: Sequence[float], confidence: float = _CONFIDENCE) -> MeanEstimate:
    """Return the mean of `values` with its Student t interval (Student 1908, Biometrika 6:1).

    One value gives the interval [-inf, inf]: nothing is known of its spread.

    Raises:
        ValueError: If there are no values, or one of them is not finite.
    """
    n = len(values)
    if n == 0:
        raise ValueError("a mean needs at least one value, got none.")
    for index, value in enumerate(values):
        if not math.isfinite(value):
            raise ValueError(f"a mean needs finite values, got {value} at position {index}.")
    mean = fmean(values)
    if n == 1:
        _two_sided_z(confidence)
        return MeanEstimate(mean, -math.inf, math.inf, 1)
    half = student_t_quantile(0.5 + confidence / 2, n - 1) * stdev(values) / math.sqrt(n)
    return MeanEstimate(mean, mean - half, mean + half, n)


def paired_difference(before: Sequence[float], after: Sequence[float], confidence: float = _CONFIDENCE) -> MeanEstimate:
    """Return the mean of `after[i] - before[i]` with its Student t interval.

    Pairing takes out what the two share (an easy prompt is easy for both), so it is narrower than two separate means.

    Raises:
        ValueError: If the lengths differ, there are no values, or one of them is not finite.
    """
    if len(before) != len(after):
        raise ValueError(f"paired values must have equal lengths, got {len(before)} and {len(after)}.")
    return mean_interval([second - first for first, second in zip(before, after, strict=True)], confidence)


def win_rate(wins: int, ties: int, losses: int, confidence: float = _CONFIDENCE) -> WinRate:
    """Return the win rate, a tie counting half, with Tango's score interval (Tango 1998, Stat. in Medicine 17:891).

    The win rate is (1 + d) / 2, where d is the share of wins less the share of losses: a difference of paired
    proportions, which is what Tango's interval is for. Without ties it is exactly Wilson's. With ties it is narrower
    than Wilson's interval on half-counted wins, which ignores that ties do not vary and covers far more than it says.

    Raises:
        ValueError: If a count is negative or all are 0.
    """
    z = _two_sided_z(confidence)
    if min(wins, ties, losses) < 0:
        raise ValueError(f"counts must be 0 or more, got {wins} wins, {ties} ties and {losses} losses.")
    n = wins + ties + losses
    if n == 0:
        raise ValueError("a win rate needs at least one comparison, got none.")

    def score(difference: float) -> float:
        """Return how many standard errors the observed difference lies above `difference`."""
        b = -wins - losses + (2 * n - wins + losses) * difference
        c = -losses * difference * (1 - difference)
        # The share of losses that is most likely when the true difference is `difference`.
        share_lost = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        variance = n * (2 * share_lost + difference * (1 - difference))
        distance = wins - losses - n * difference
        if variance <= 0:
            return math.copysign(math.inf, distance) if distance else 0.0
        return distance / math.sqrt(variance)

    observed = (wins - losses) / n
    low = -1.0 if losses == n else _bisect(lambda difference: score(difference) - z, -1.0, observed)
    high = 1.0 if wins == n else _bisect(lambda difference: score(difference) + z, observed, 1.0)
    return WinRate((1 + observed) / 2, (1 + low) / 2, (1 + high) / 2, wins, ties, losses, n)


def clustered_mean(
    values: Sequence[float], clusters: Sequence[Hashable], confidence: float = _CONFIDENCE
) -> MeanEstimate:
    """Return the mean of `values`, with an interval for values that come in clusters, as answers to the same prompt do.

    The standard error is that of Liang and Zeger 1986 (Biometrika 73:13), recommended for evaluations by Miller 2024
    (arXiv:2411.00640): values of a cluster may depend on each other in any way, clusters are independent. With one value
    a cluster it is Student's interval. `n` of the result counts clusters, since they are what is independent.

    Args:
        values: The measurements.
        clusters: What each belongs to, such as its prompt.
        confidence: Coverage asked for.

    Raises:
        ValueError: If the lengths differ, there are no values, or one of them is not finite.
    """
    if len(values) != len(clusters):
        raise ValueError(f"each value needs a cluster, got {len(values)} values and {len(clusters)} clusters.")
    mean = mean_interval(values, confidence).mean
    residuals: dict[Hashable, float] = {}
    for value, cluster in zip(values, clusters, strict=True):
        residuals[cluster] = residuals.get(cluster, 0.0) + value - mean
    n = len(residuals)
    if n == 1:
        return MeanEstimate(mean, -math.inf, math.inf, 1)
    error = math.sqrt(n / (n - 1) * math.fsum(residual**2 for residual in residuals.values())) / len(values)
    half = student_t_quantile(0.5 + confidence / 2, n - 1) * error
    return MeanEstimate(mean, mean - half, mean + half, n)


def clustered_share(points: Sequence[float], clusters: Sequence[Hashable]) -> MeanEstimate:
    """Return a share of trials, each worth 0 to 1, with a 95% interval for trials that come in clusters.

    Where every cluster has one trial it is Wilson's interval. Elsewhere it is `clustered_mean`'s, but never narrower than
    Wilson's of as many trials as there are clusters: where all agree, clusters show no spread. `n` counts trials.

    Raises:
        ValueError: If the lengths differ, or there are no points.
    """
    n, distinct = len(points), len(set(clusters))
    if n == distinct:
        share = fmean(points)
        return MeanEstimate(share, *wilson_interval(math.fsum(points), n), n)
    by_cluster = clustered_mean(points, clusters)
    alone = wilson_interval(by_cluster.mean * distinct, distinct)
    low, high = max(0.0, min(by_cluster.low, alone.low)), min(1.0, max(by_cluster.high, alone.high))
    return MeanEstimate(by_cluster.mean, low, high, n)


def clustered_auc(scores: Sequence[float], positive: Sequence[bool], clusters: Sequence[Hashable]) -> MeanEstimate:
    """Return how often a positive score is above a negative one, a tie counting half, with a 95% interval.

    That is the area under the receiver operating characteristic. The interval is DeLong's for scores that come in clusters
    (Obuchowski 1997, Biometrics 53:567), held between 0 and 1: Wilson's, of so many trials as would be as sure. Where all
    are in order there is no spread to see, and it is that of as many trials as clusters have the rarer kind. `n` counts
    scores.

    Args:
        scores: The measurements.
        positive: Of which kind each is.
        clusters: What each belongs to, such as its prompt.

    Raises:
        ValueError: If the lengths differ, or there are not scores of both kinds.
    """
    ordered = {
        kind: sorted(score for score, is_kind in zip(scores, positive, strict=True) if is_kind is kind)
        for kind in (True, False)
    }
    if not all(ordered.values()):
        raise ValueError("an area under the curve needs scores of both kinds.")

    def in_order(score: float, kind: bool) -> float:
        """Return the share of the other kind on whose right side a score is."""
        others = ordered[not kind]
        below, at_most = bisect_left(others, score) / len(others), bisect_right(others, score) / len(others)
        return (below + at_most) / 2 if kind else 1 - (below + at_most) / 2

    shares = [in_order(score, kind) for score, kind in zip(scores, positive, strict=True)]
    area = fmean(share for share, kind in zip(shares, positive, strict=True) if kind)
    found = _of_two_kinds(area, shares, positive, clusters)
    half, spread = found.high - area, area * (1 - area)
    if half and spread:
        trials = min(len(scores), round(_two_sided_z(_CONFIDENCE) ** 2 * spread / half**2))
    else:
        kinds = zip(clusters, positive, strict=True)
        trials = min(Counter(kind for _, kind in set(kinds)).values())
    return MeanEstimate(area, *wilson_interval(area * trials, trials), len(scores))


def clustered_difference(
    values: Sequence[float], positive: Sequence[bool], clusters: Sequence[Hashable]
) -> MeanEstimate:
    """Return the mean of the positive values less that of the others, with `clustered_mean`'s 95% interval.

    Raises:
        ValueError: If the lengths differ, or there are not values of both kinds.
    """
    kinds = {
        kind: [value for value, is_kind in zip(values, positive, strict=True) if is_kind is kind]
        for kind in (True, False)
    }
    if not all(kinds.values()):
        raise ValueError("a difference needs values of both kinds.")
    signed = [value if kind else -value for value, kind in zip(values, positive, strict=True)]
    return _of_two_kinds(fmean(kinds[True]) - fmean(kinds[False]), signed, positive, clusters)


def _of_two_kinds(
    estimate: float, parts: Sequence[float], positive: Sequence[bool], clusters: Sequence[Hashable]
) -> MeanEstimate:
    """Return an estimate, to which each part adds as to the mean of its kind, with its interval; linearised."""
    kinds = {
        kind: [part for part, is_kind in zip(parts, positive, strict=True) if is_kind is kind] for kind in (True, False)
    }
    means = {kind: fmean(members) for kind, members in kinds.items()}
    linear = [
        estimate + (part - means[kind]) * len(parts) / len(kinds[kind])
        for part, kind in zip(parts, positive, strict=True)
    ]
    return clustered_mean(linear, clusters)._replace(mean=estimate, n=len(parts))


def clustered_win_rate(scores: Sequence[float], clusters: Sequence[Hashable]) -> ClusteredWinRate:
    """Return the win rate of comparisons that come in clusters, as answers to the same prompt do, with its 95% interval.

    Where every cluster has one comparison it is Tango's interval, see `win_rate`. Elsewhere it is `clustered_mean`'s, but
    never narrower than Tango's of as many comparisons as there are clusters.

    Args:
        scores: 1 for a win, one half for a tie, 0 for a loss.
        clusters: What each belongs to, such as its prompt.

    Raises:
        ValueError: If the lengths differ, or there is no comparison.
    """
    counts = [sum(score == worth for score in scores) for worth in (1.0, 0.5, 0.0)]
    rate = win_rate(*counts)
    balance: dict[Hashable, float] = dict.fromkeys(clusters, 0.0)
    for score, cluster in zip(scores, clusters, strict=True):
        balance[cluster] += score - 0.5
    distinct = len(balance)
    if distinct < len(scores):
        by_cluster = clustered_mean(scores, clusters)
        alone = win_rate(*(math.ceil(count * distinct / len(scores)) for count in counts))
        low, high = max(0.0, min(by_cluster.low, alone.low)), min(1.0, max(by_cluster.high, alone.high))
        rate = rate._replace(low=low, high=high)
    won, lost = (sum(sign * value > 0 for value in balance.values()) for sign in (1, -1))
    return ClusteredWinRate(rate, distinct, won, lost)


def share_difference(before: Sequence[bool], after: Sequence[bool], clusters: Sequence[Hashable]) -> MeanEstimate:
    """Return how much larger the share is of what holds after than before, paired, with its 95% interval.

    It is that of a win rate, which moves by half as much: see `clustered_win_rate`.

    Args:
        before: Whether it holds of each.
        after: Whether it holds of each afterwards.
        clusters: What each belongs to, such as its prompt.

    Raises:
        ValueError: If the lengths differ, or there is nothing.
    """
    changes = [(1 + later - earlier) / 2 for earlier, later in zip(before, after, strict=True)]
    change = clustered_win_rate(changes, clusters).rate
    return MeanEstimate(2 * change.rate - 1, 2 * change.low - 1, 2 * change.high - 1, change.n)


def repeated_win_rate(scores: Sequence[float], clusters: Sequence[Hashable]) -> ClusteredWinRate:
    """Return the win rate of comparisons that are repeated for every cluster, as with several seeds for every prompt.

    Of many clusters with several comparisons each: the interval is `clustered_mean`'s, but never narrower than Tango's of as
    many independent comparisons. That of `clustered_win_rate` allows for clusters of which most have one comparison, and is
    never narrower than if all had one, so it would learn nothing from the repetitions.

    Args:
        scores: 1 for a win, one half for a tie, 0 for a loss.
        clusters: What each belongs to, such as its prompt.

    Raises:
        ValueError: If the lengths differ, or there is no comparison.
    """
    found = clustered_win_rate(scores, clusters)
    if found.clusters == len(scores):
        return found
    rate = found.rate
    by_cluster, independent = clustered_mean(scores, clusters), win_rate(rate.wins, rate.ties, rate.losses)
    low = max(0.0, min(by_cluster.low, independent.low))
    high = min(1.0, max(by_cluster.high, independent.high))
    return found._replace(rate=rate._replace(low=low, high=high))


def ratio_interval(totals: Sequence[float], counts: Sequence[float], confidence: float = _CONFIDENCE) -> MeanEstimate:
    """Return the sum of `totals` over that of `counts`, such as nats over tokens, with its interval.

    The examples are what is independent, not what they count: their residuals, linearised, have Student's interval (Cochran
    1977, Sampling Techniques, section 6.3).

    Args:
        totals: Of each example.
        counts: Of each example, above 0.
        confidence: Coverage asked for.

    Raises:
        ValueError: If the lengths differ, there are no examples, or a total is not finite.
    """
    if len(totals) != len(counts):
        raise ValueError(f"each total needs a count, got {len(totals)} totals and {len(counts)} counts.")
    mean_count = fmean(counts) if counts else 1.0
    ratio = mean_interval(totals, confidence).mean / mean_count
    residuals = [(total - ratio * count) / mean_count for total, count in zip(totals, counts, strict=True)]
    spread = mean_interval(residuals, confidence)
    return MeanEstimate(ratio, ratio + spread.low - spread.mean, ratio + spread.high - spread.mean, len(totals))


def length_controlled_win_rate(
    scores: Sequence[float],
    length_differences: Sequence[float],
    clusters: Sequence[Hashable],
    rate: WinRate,
) -> MeanEstimate | None:
    """Return the win rate that would have been seen had all answers been as long as their opponents.

    Where they all are it is the win rate that was seen. Elsewhere it is a model's:

    As Dubois et al. 2024 (arXiv:2404.04475): a logistic regression of the outcome on tanh(length difference / its standard
    deviation), read off at no difference. What differs: there is one comparison and no baseline of other models, so the
    terms for model and instruction fall together into the intercept; the interval is the delta method's on the logit scale,
    with the sandwich variance, which holds for ties too, summed up by cluster. A ridge of one hundredth of a comparison
    keeps the fit finite when length alone decides.

    Nothing is read off where next to nothing was seen: unless both models give the longer answer in a fair share of the
    comparisons, see `LEAST_OVERLAP`. Beyond what was seen the intervals cover less than they say.

    Args:
        scores: 1 for a win, one half for a tie, 0 for a loss.
        length_differences: Length of the answer less its opponent's, in any unit.
        clusters: What each comparison belongs to, such as its prompt.
        rate: The win rate of these comparisons, with its 95% interval.

    Returns:
        The estimate, or None when there are fewer than `LEAST_CLUSTERS`, or lengths hardly overlap.

    Raises:
        ValueError: If the lengths differ or a value is not finite.
    """
    if not len(scores) == len(length_differences) == len(clusters):
        raise ValueError(
            f"each score needs a length and a cluster, got {len(scores)}, {len(length_differences)} and {len(clusters)}."
        )
    if not all(map(math.isfinite, (*scores, *length_differences))):
        raise ValueError("scores and lengths must be finite.")
    n = len(scores)
    if not any(length_differences):
        return MeanEstimate(rate.rate, rate.low, rate.high, n)
    fewer = min(sum(sign * difference >= 0 for difference in length_differences) for sign in (1, -1))
    distinct = len(set(clusters))
    if distinct < LEAST_CLUSTERS or fewer < LEAST_OVERLAP * n:
        return None
    spread = stdev(length_differences)
    lengths = [math.tanh(difference / spread) for difference in length_differences]
    intercept = slope = 0.0
    ridge = 0.01
    for _ in range(50):
        # Newton's step for two coefficients: gradient g, information matrix [[a, b], [b, c]].
        chances = [_sigmoid(intercept + slope * length) for length in lengths]
        weights = [chance * (1 - chance) for chance in chances]
        a = math.fsum(weights) + ridge
        b = math.fsum(weight * length for weight, length in zip(weights, lengths, strict=True))
        c = math.fsum(weight * length**2 for weight, length in zip(weights, lengths, strict=True)) + ridge
        errors = [score - chance for score, chance in zip(scores, chances, strict=True)]
        g = math.fsum(errors) - ridge * intercept
        h = math.fsum(error * length for error, length in zip(errors, lengths, strict=True)) - ridge * slope
        determinant = a * c - b * b
        step = ((c * g - b * h) / determinant, (a * h - b * g) / determinant)
        intercept, slope = intercept + step[0], slope + step[1]
        if max(map(abs, step)) < 1e-9:
            break
    # The first row of information^-1 applied to each residual gives the intercept's sandwich variance.
    influence: dict[Hashable, float] = dict.fromkeys(clusters, 0.0)
    for cluster, error, length in zip(clusters, errors, lengths, strict=True):
        influence[cluster] += error * (c - b * length) / determinant
    deviation = math.sqrt(distinct / (distinct - 2) * math.fsum(value**2 for value in influence.values()))
    half = student_t_quantile(0.5 + _CONFIDENCE / 2, distinct - 2) * deviation
    return MeanEstimate(_sigmoid(intercept), _sigmoid(intercept - half), _sigmoid(intercept + half), n)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


#: One-sided: a claim that one model is better is wrong in at most so many cases.
ALPHA = 0.025


def sign_test(wins: int, losses: int) -> float:
    """Return the one-sided p-value of the exact sign test: how likely so many wins are when both are equally good.

    Ties say nothing of who is better and are left out, as in McNemar's exact test. Whatever the number of comparisons,
    a p-value of at most alpha comes up in at most a share alpha of all cases in which there is no difference, which
    score intervals keep on average only.

    Raises:
        ValueError: If a count is negative.
    """
    if min(wins, losses) < 0:
        raise ValueError(f"counts must be 0 or more, got {wins} wins and {losses} losses.")
    n = wins + losses
    log_half = -n * math.log(2)
    return min(
        1.0,
        math.fsum(
            math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + log_half)
            for k in range(wins, n + 1)
        ),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number (Holm 1979, Scandinavian Journal of Statistics 6:65), in the same order.

    Whichever differences there are, and however the tests depend on each other, calling those true whose adjusted value is
    at most alpha is wrong somewhere in at most a share alpha of all cases.

    Raises:
        ValueError: If a value is not between 0 and 1.
    """
    if not all(0 <= value <= 1 for value in p_values):
        raise ValueError(f"p-values must be between 0 and 1, got {list(p_values)}.")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def student_t_quantile(probability: float, degrees: int) -> float:
    """Return the quantile of Student's t distribution.

    Below 30 degrees of freedom it inverts the closed form of the distribution (Abramowitz and Stegun 1964, 26.7.3 and
    26.7.4); from 30 it is the expansion around the normal quantile (26.7.5), right to six digits at 95%.

    Args:
        probability: Between 0 and 1.
        degrees: Degrees of freedom, at least 1.

    Raises:
        ValueError: If an argument is out of its range.
    """
    if not 0 < probability < 1:
        raise ValueError(f"probability must be between 0 and 1, got {probability}.")
    if degrees < 1:
        raise ValueError(f"degrees must be at least 1, got {degrees}.")
    if degrees >= 30:
        x, v = NormalDist().inv_cdf(probability), degrees
        return (
            x
            + (x**3 + x) / (4 * v)
            + (5 * x**5 + 16 * x**3 + 3 * x) / (96 * v**2)
            + (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / (384 * v**3)
            + (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / (92160 * v**4)
        )
    # In the angle atan(t / sqrt(degrees)) the whole real line becomes an interval that bisection can halve.
    target = abs(2 * probability - 1)
    angle = _bisect(lambda theta: target - _central_mass(theta, degrees), 0.0, math.pi / 2)
    return math.copysign(math.sqrt(degrees) * math.tan(angle), probability - 0.5)


def _central_mass(angle: float, degrees: int) -> float:
    """Return P(|T| < sqrt(degrees) * tan(angle)), a finite sum for whole degrees of freedom."""
    cosine = math.cos(angle)
    odd = degrees % 2 == 1
    term = cosine if odd else 1.0
    total = 0.0
    for power in range(1 if odd else 0, degrees - 1, 2):
        total += term
        term *= cosine * cosine * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


def _bisect(falling: Callable[[float], float], low: float, high: float) -> float:
    """Return where a falling function crosses 0 between `low` and `high`."""
    for _ in range(60):
        middle = (low + high) / 2
        if falling(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _two_sided_z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}.")
    return NormalDist().inv_cdf(0.5 + confidence / 2)
