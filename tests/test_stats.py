"""Intervals compared with published values, each with its source."""
import math

import numpy as np
import pytest

from tbtt import stats

# Student's sleep data (1908), hours gained under two drugs by the same ten patients; the intervals are those
# that R's t.test prints for them.
DRUG_1 = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
DRUG_2 = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])


def test_the_interval_of_a_mean_is_students():
    mean, half = stats.mean_interval(DRUG_1 - DRUG_2)
    assert (mean - half, mean + half) == pytest.approx((-2.4598858, -0.7001142), abs=1e-7)
    assert stats.mean_interval([98.0])[0] == 98 and math.isnan(stats.mean_interval([98.0])[1])
    assert stats.mean_interval(np.full(8, 100.0)) == (100, 0)


@pytest.mark.parametrize('R, t', [(2, 12.706), (3, 4.303), (5, 2.776), (8, 2.365), (32, 2.040), (121, 1.980)])
def test_the_quantiles_of_t_are_those_of_the_printed_tables(R, t):
    values = np.arange(R) * 1.0
    assert stats.mean_interval(values)[1] == pytest.approx(t * values.std(ddof=1) / math.sqrt(R), rel=3e-4)


@pytest.mark.parametrize('count, total, low, high', [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605),
                                                     (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)])
def test_wilson_intervals_are_those_of_newcombe_1998_table_1(count, total, low, high):
    assert stats.wilson_interval(count, total) == pytest.approx((low, high), abs=5e-5)


def test_a_wilson_interval_stays_within_0_and_1():
    assert stats.wilson_interval(8, 8)[1] == 1 and stats.wilson_interval(0, 8)[0] == 0


@pytest.mark.parametrize('one, other, interval', [
    ((56, 70), (48, 80), (0.0524, 0.3339)), ((9, 10), (3, 10), (0.1705, 0.8090)),
    ((10, 10), (0, 10), (0.6075, 1.0000)), ((0, 10), (0, 10), (-0.2775, 0.2775))])
def test_intervals_of_a_difference_of_shares_are_those_of_newcombe_1998_table_2(one, other, interval):
    groups = (np.arange(total) < count for count, total in (one, other))
    assert stats.newcombe_interval(*groups) == pytest.approx(interval, abs=1e-4)


def test_the_interval_of_a_difference_of_means_is_welchs():
    assert stats.welch_interval(DRUG_1, DRUG_2) == pytest.approx((-3.3654832, 0.2054832), abs=1e-7)
    assert stats.welch_interval(np.full(3, 5.0), np.full(4, 2.0)) == (3, 3)


def test_the_bootstraps_standard_error_of_a_mean_is_the_published_one():
    # Survival of mice in days, Efron and Tibshirani 1993, table 2.1. The standard error is 25.24 by the
    # formula with n - 1, and 23.37 with n, which samples with replacement give.
    mice = np.array([94.0, 197, 16, 38, 99, 141, 23])
    means = stats.bootstrap([np.arange(7)], lambda chosen: [mice[chosen].mean()], 4000)
    assert means.shape == (4000, 1) and means.std() == pytest.approx(25.24 * math.sqrt(6 / 7), rel=0.03)


def test_a_bootstrap_keeps_the_size_of_each_group():
    groups = [np.array([0, 1]), np.array([2, 3, 4])]
    counts = stats.bootstrap(groups, lambda chosen: [np.sum(chosen < 2), np.sum(chosen >= 2)], 20)
    assert (counts == [2, 3]).all()


def test_the_logistic_curve_of_bliss_beetles_is_the_published_one():
    # Bliss 1935: beetles killed by carbon disulphide, against log10 of the dose. Dobson's textbook gives
    # -60.72 + 34.27 x.
    doses = [1.6907, 1.7242, 1.7552, 1.7842, 1.8113, 1.8369, 1.8610, 1.8839]
    beetles, killed = [59, 60, 62, 56, 63, 59, 62, 60], [6, 13, 18, 28, 52, 53, 61, 60]
    x = np.repeat(doses, beetles)
    y = np.concatenate([np.arange(n) < k for n, k in zip(beetles, killed)]).astype(float)
    at, slope = stats.logistic_fit(x, y)
    assert at == pytest.approx(60.72 / 34.27, abs=5e-4) and slope == pytest.approx(34.27, rel=0.02)


# --- thresholds

@pytest.mark.slow
def test_a_threshold_is_found_where_it_was_put_as_often_as_its_interval_says():
    random, inside = np.random.default_rng(0), 0
    sizes = np.repeat([500.0, 1000, 1500, 2500, 4000, 8000], 8)
    chance = 1 / (1 + np.exp((np.log(sizes) - np.log(2000)) / 0.3))
    for _ in range(12):
        found = stats.threshold(sizes, (random.random(len(sizes)) < chance).astype(float), -1, resamples=40)
        assert found.sure == 1 and found.low <= found.at <= found.high
        inside += found.low <= 2000 <= found.high
    assert inside >= 10


def test_where_the_sizes_are_separated_the_threshold_lies_between_them():
    found = stats.threshold(np.repeat([1932.0, 6216.0], 3), np.array([0.04, 0.05, 0.08, 1, 1, 1]), 1,
                            resamples=50)
    assert found.sure == 1 and 1932 < found.at < 6216 and (found.low,
                                                           found.high) == pytest.approx((1932, 6216))


@pytest.mark.slow
def test_noise_has_no_sure_threshold_and_no_end_beyond_what_was_looked_at():
    found = stats.threshold(np.repeat([1932.0, 6216.0], 3), np.array([0.0, 1, 0, 1, 0, 1]), 1, resamples=50)
    assert found.sure < 0.975 and (found.low, found.high) == pytest.approx((1932, 6216))
