import math
import re
from xml.etree import ElementTree

import pytest

from rlhf_tuning.reports.charts import (
    IntervalRow,
    count_bars,
    histogram,
    histogram_pair,
    interval_plot,
    line_chart,
    nice_ticks,
    share_bar,
    share_text,
)


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter("text")]


def test_ticks_are_round_and_enclose_the_values() -> None:
    assert nice_ticks(0.13, 0.87) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert nice_ticks(-3, 12) == [-5, 0, 5, 10, 15]
    assert nice_ticks(0, 3, whole=True, about=20) == [0, 1, 2, 3]


@pytest.mark.parametrize("value", [0.0, 5.0, -2e-7, 1e9])
def test_ticks_around_one_value_have_room(value: float) -> None:
    ticks = nice_ticks(value, value)
    assert ticks[0] < value < ticks[-1]


def test_a_line_passes_through_its_points() -> None:
    svg = line_chart("Reward", [(0, 0.0), (50, 1.0), (100, 0.5)])
    path = re.search(r'class="line" d="M([^"]+)"', svg)
    assert path
    (x0, y0), (x1, y1), (x2, y2) = [tuple(map(float, point.split())) for point in path[1].split("L")]
    assert x1 == pytest.approx((x0 + x2) / 2)
    assert y2 == pytest.approx((y0 + y1) / 2)
    assert y1 < y0


def test_a_line_chart_names_its_axes_and_points() -> None:
    svg = line_chart("Reward <b>", [(1, 0.25), (2, 0.75)], x_label="step")
    assert texts(svg)[0] == "Reward <b>"
    assert "step" in texts(svg)
    assert "<title>step 2: 0.75</title>" in svg


def test_shares_run_from_0_to_100_percent() -> None:
    labels = texts(line_chart("Ended", [(1, 0.4), (2, 0.6)], share=True))
    assert [label for label in labels if label.endswith("%")] == ["0%", "25%", "50%", "75%", "100%"]


def test_small_values_are_written_short() -> None:
    labels = texts(line_chart("Learning rate", [(1, 1e-4), (2, 5e-5)]))
    assert "1e−4" in labels


def test_smoothing_needs_enough_points() -> None:
    assert "average" not in line_chart("x", [(step, float(step)) for step in range(11)])
    assert "average" in line_chart("x", [(step, float(step)) for step in range(12)])
    assert "average" not in line_chart("x", [(step, float(step)) for step in range(12)], smooth=False)


def test_a_long_run_is_thinned() -> None:
    svg = line_chart("x", [(step, math.sin(step / 500)) for step in range(10_000)])
    assert svg.count("<circle") <= 200
    assert len(svg) < 60_000


def test_a_single_point_is_a_dot() -> None:
    svg = line_chart("x", [(3, 2.0)])
    assert 'class="dot"' in svg
    assert "<path" not in svg


@pytest.mark.parametrize("points", [[], [(1.0, math.nan)], [(math.inf, 1.0)]])
def test_no_finite_value_draws_no_line(points: list[tuple[float, float]]) -> None:
    svg = line_chart("x", points)
    assert "no values" in svg
    assert "nan" not in svg
    ElementTree.fromstring(svg)


def test_histograms_count_every_value_once() -> None:
    base, tuned = [0.1, 0.2, 0.2, 0.3, 1.0], [0.3, 0.9, 1.0]
    svg = histogram_pair("Score", [("base", "base", base), ("tuned", "tuned", tuned)], x_label="score")
    counted = [tuple(map(int, pair)) for pair in re.findall(r": base (\d+), tuned (\d+)</title>", svg)]
    assert sum(a for a, _ in counted) == 5
    assert sum(b for _, b in counted) == 3


def test_scores_in_steps_get_one_bin_a_step() -> None:
    """0.3 / 0.1 is 2.9999999999999996, which would put 0.3 with the values below it."""
    values = [step / 10 for step in range(11)] * 20
    svg = histogram_pair("Score", [("base", "base", values)], x_label="score")
    assert re.findall(r"base (\d+)</title>", svg) == ["20"] * 11
    assert "<title>0.3 to 0.4: base 20</title>" in svg


def test_few_values_get_few_bins() -> None:
    values = [math.sqrt(n) for n in range(8)]
    assert len(re.findall(r"base \d+</title>", histogram_pair("x", [("base", "base", values)], x_label="x"))) <= 7


def test_whole_numbers_get_bins_no_narrower_than_one() -> None:
    svg = histogram_pair("Length", [("base", "base", [3, 4, 4, 5])], x_label="tokens", whole=True)
    assert re.findall(r"<title>(\S+): base (\d+)</title>", svg) == [("3", "1"), ("4", "2"), ("5", "1")]


def test_histograms_of_equal_or_absent_values_are_drawn() -> None:
    for values in ([2.0, 2.0], []):
        ElementTree.fromstring(histogram_pair("x", [("base", "base", values)], x_label="y"))


def test_an_interval_is_marked_by_its_side_of_the_reference() -> None:
    rows = [IntervalRow("a", 0.8, 0.7, 0.9), IntervalRow("b", 0.5, 0.4, 0.6), IntervalRow("c", 0.2, 0.1, 0.3)]
    svg = interval_plot("Wins", rows)
    assert re.findall(r'class="interval (\w+)"', svg) == ["better", "unclear", "worse"]
    assert "<title>a: 80.0% [70.0%, 90.0%]</title>" in svg


def test_labels_are_escaped() -> None:
    hostile = "</svg><script>\"'&"
    for svg in (
        line_chart(hostile, [(1, 1.0), (2, 2.0)], x_label=hostile),
        histogram_pair(hostile, [(hostile, "base", [1.0, 2.0])], x_label=hostile),
        interval_plot(hostile, [IntervalRow(hostile, 0.5, 0.4, 0.6, hostile)], reference_label=hostile),
        histogram(hostile, [1, 2], x_label=hostile, limit=1),
        share_bar(hostile, IntervalRow(hostile, 0.5, 0.4, 0.6, hostile), hostile),
        count_bars(hostile, {hostile: 1}),
    ):
        assert hostile in texts(svg)
        assert "<script" not in svg


def test_labels_cannot_turn_the_text_around_them_or_break_the_file() -> None:
    svg = line_chart("a\u202eb\ud800c\x00", [(1, 1.0)])
    assert texts(svg)[0] == "aU+202Eb\ufffdc\ufffd"


@pytest.mark.parametrize("name", ["gemini-" + "x" * 60, "判断" * 30])
def test_a_long_label_leaves_room_for_the_plot_and_keeps_its_number(name: str) -> None:
    svg = interval_plot("Wins", [IntervalRow(f"by {name}: 84%", 0.84, 0.8, 0.9), IntervalRow("by x: 5%", 0.05, 0, 0.1)])
    (label,) = [text for text in texts(svg) if text.endswith(": 84%")]
    assert label.startswith(f"by {name[:10]}")
    assert len(label.encode("utf-16-le")) / 2 + sum(character in "判断" for character in label) <= 36
    assert f"<title>by {name}: 84%: 84.0%" in svg
    assert "by x: 5%" in texts(svg)


def test_a_histogram_says_how_many_values_are_beyond_the_limit() -> None:
    words = " ".join(texts(histogram("Answers", [10] * 90 + [70] * 10, x_label="tokens", limit=64)))
    assert "10 of 100 (10.0%) beyond the limit of 64" in words
    assert "beyond" not in " ".join(texts(histogram("Answers", [10, 20], x_label="tokens")))
    assert "no values" in " ".join(texts(histogram("Answers", [], x_label="tokens", limit=64)))


def bars(svg: str) -> list[tuple[str, float]]:
    """Return each bar's class and height."""
    return [(kind, float(tall)) for kind, tall in re.findall(r'<rect class="(bar[^"]*)"[^>]* height="([0-9.]+)"', svg)]


def test_a_bin_that_holds_the_limit_is_split_at_it() -> None:
    svg = histogram("Answers", [*range(1, 101), 63, 64, 65], x_label="tokens", limit=64)
    counted = [int(count) for count in re.findall(r"<title>[^<]*: (\d+)</title>", svg)]
    assert sum(counted) == 103
    assert "37 of 103" in " ".join(texts(svg))
    tall = sum(height for _, height in bars(svg))
    beyond = sum(height for kind, height in bars(svg) if kind == "bar beyond")
    assert beyond / tall == pytest.approx(37 / 103, rel=0.02)


def test_a_few_very_long_values_share_the_last_bar_of_a_histogram() -> None:
    svg = histogram("Prompts", [*[10, 20, 30, 40] * 250, 5_000, 90_000], x_label="tokens", limit=512)
    assert re.findall(r"<title>\d+ to 90,000: (\d+)</title>", svg) == ["2"]
    assert "to 90,000" in texts(svg)
    # Were the axis as long as the longest value, all others would stand in one bar.
    assert len([kind for kind, _ in bars(svg) if kind == "bar"]) >= 3
    assert "2 of 1,002 (0.2%) beyond the limit of 512" in texts(svg)


def test_a_limit_far_beyond_all_values_is_said_but_not_drawn() -> None:
    near, far = (histogram("x", [10, 20, 30], x_label="tokens", limit=limit) for limit in (40, 4_000))
    assert 'class="limit"' in near
    assert 'class="limit"' not in far
    assert "none of 3 beyond the limit of 4,000" in texts(far)


@pytest.mark.parametrize("values", [[0], [0, 0, 0], [10**9], [0, 10**9], list(range(10_000)), [7] * 10_000])
def test_histograms_of_any_values_are_drawn_in_the_picture_and_small(values: list[int]) -> None:
    for limit in (None, 1, 512):
        svg = histogram("x", values, x_label="tokens", limit=limit)
        ElementTree.fromstring(svg)
        assert len(svg) < 20_000
        for left, wide in re.findall(r'<rect class="bar[^"]*" x="([^"]+)" y="[^"]+" width="([^"]+)"', svg):
            assert float(left) >= 46
            assert float(left) + float(wide) <= 331
        counts = re.findall(r"<title>[^<]*: ([\d,]+)</title>", svg)
        assert sum(int(count.replace(",", "")) for count in counts) == len(values)


def test_a_share_bar_ends_at_its_share() -> None:
    svg = share_bar("Which candidate", IntervalRow("first", 0.25, 0.2, 0.3, "n = 300"), "second")
    assert 'class="bar" x="10" y="46" width="80.0"' in svg
    assert {"first 25.0%", "second 75.0%", "n = 300"} <= set(texts(svg))
    narrow = share_bar("Which candidate", IntervalRow("first", 0.5011, 0.5008, 0.5014), "second")
    assert "95% interval 50.08% to 50.14%, above 50%" in texts(narrow)


def test_a_share_bar_says_on_which_side_of_the_reference_the_interval_lies() -> None:
    for low, high, word in ((0.4, 0.45, "below"), (0.45, 0.55, "includes"), (0.55, 0.7, "above")):
        svg = share_bar("Which candidate", IntervalRow("first", (low + high) / 2, low, high, "n = 9"), "second")
        assert f"{word} 50%" in " ".join(texts(svg))


def test_the_smallest_counts_share_one_bar() -> None:
    words = texts(count_bars("Scripts", {str(number): number for number in range(1, 11)}, most=4))
    assert "7 others" in words
    assert any(word.startswith("28 ") for word in words)


@pytest.mark.parametrize(
    ("count", "n", "shown"),
    [(0, 5, "0%"), (5, 5, "100%"), (1, 5000, "under 0.1%"), (4999, 5000, "over 99.9%"), (1, 3, "33.3%")],
)
def test_a_share_never_rounds_something_to_nothing_or_most_to_all(count: int, n: int, shown: str) -> None:
    assert share_text(count, n) == shown
