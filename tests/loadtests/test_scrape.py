"""Histograms of a Prometheus page."""

from loadtests.scrape import Histogram, parse_histogram

PAGE = """# HELP hotplate_batch_size Rows in a batch.
# TYPE hotplate_batch_size histogram
hotplate_batch_size_bucket{model="a",version="1",le="1.0"} 3.0
hotplate_batch_size_bucket{model="a",version="1",le="8.0"} 5.0
hotplate_batch_size_bucket{model="a",version="1",le="+Inf"} 6.0
hotplate_batch_size_sum{model="a",version="1"} 30.0
hotplate_batch_size_count{model="a",version="1"} 6.0
hotplate_batch_size_bucket{model="b",version="1",le="1.0"} 9.0
hotplate_batch_size_sum{model="b",version="1"} 9.0
other_bucket{le="1.0"} 1.0
"""


def test_buckets_of_one_model_are_taken_apart() -> None:
    histogram = parse_histogram(PAGE, "hotplate_batch_size", {"model": "a"})
    assert histogram == Histogram({"1.0": 3.0, "8.0": 2.0, "+Inf": 1.0}, 30.0)
    assert histogram.mean == 5.0


def test_series_without_a_wanted_label_are_summed() -> None:
    assert parse_histogram(PAGE, "hotplate_batch_size", {}).counts["1.0"] == 12.0


def test_a_difference_holds_only_what_came_since() -> None:
    earlier = Histogram({"1.0": 3.0, "8.0": 1.0}, 10.0)
    later = Histogram({"1.0": 3.0, "8.0": 5.0, "32.0": 1.0}, 60.0)
    assert later.minus(earlier) == Histogram({"8.0": 4.0, "32.0": 1.0}, 50.0)
    assert later.minus(earlier).mean == 10.0


def test_a_histogram_that_is_not_there_is_empty_and_has_no_mean() -> None:
    histogram = parse_histogram(PAGE, "missing", {})
    assert histogram.counts == {}
    assert histogram.mean is None
