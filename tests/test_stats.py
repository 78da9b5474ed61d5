"""Chapter 08: known answers, exact error rates by counting, promises under other seeds than the chapter's, state that survives, and counts that cannot be."""
import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st
from scipy import optimize, stats

from mlops_course.stats import (Sequential, Thompson, against_champion, always_valid_p, power, power_means, regret, sample_size, sample_size_means, srm, srm_anytime,
                                two_means, two_proportions, _score_variance)
from mlops_course.train import wilson

RUNS = 2000


def low_of(flags): return wilson(np.sum(flags), len(flags))[0]


def holds(promised, flags):
    low, high = wilson(np.sum(flags), len(flags), 0.99)
    return low <= promised <= high


tables = st.tuples(st.integers(1, 200), st.integers(1, 200)).flatmap(lambda n: st.tuples(st.integers(0, n[0]), st.just(n[0]), st.integers(0, n[1]), st.just(n[1])))


# --- the split ----------------------------------------------------------------------------------------------------------------

@given(st.lists(st.tuples(st.integers(0, 10_000), st.floats(0.01, 100)), min_size=2, max_size=15))
def test_srm_is_scipys_chi_square(variants):
    counts, shares = zip(*variants)
    assume(sum(counts))
    r = srm(counts, shares)
    assert np.isclose(r.pvalue, stats.chisquare(counts, r.expected).pvalue, atol=1e-12) and np.isclose(sum(r.expected), sum(counts))
    assert r.alarm == (r.pvalue < 0.001 and min(r.expected) >= 5)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("limit", [0.05, 0.001])
def test_a_right_split_watched_after_every_user_alarms_as_rarely_as_promised(share, limit):
    """Exactly, by following the probability of every count that has not yet raised the alarm."""
    quiet = np.ones(1)  # probability of k users of variant 1 so far, and no alarm
    for n in range(1, 401):
        quiet = np.append(quiet * (1 - share), 0) + np.append(0, quiet * share)
        for k in np.flatnonzero(quiet):
            if srm_anytime([n - int(k), int(k)], [1 - share, share], limit).alarm: quiet[k] = 0
    assert 0 <= 1 - quiet.sum() <= limit


@pytest.mark.parametrize("lost,users", [(0.5, 2_000), (0.05, 100_000)])
def test_lost_users_are_found_by_both(lost, users):
    rng = np.random.default_rng(5)
    kept = rng.multinomial(users, np.array([1, 1 - lost]) / (2 - lost), size=100)
    assert all(srm(x.tolist(), [1, 1]).alarm and srm_anytime(x.tolist(), [1, 1]).alarm for x in kept)


# --- two proportions ----------------------------------------------------------------------------------------------------------

@pytest.mark.filterwarnings("error")
@given(tables, st.sampled_from([0.1, 0.05, 0.001]), st.integers(1, 14))
def test_interval_and_test_agree(table, alpha, tests):
    r = two_proportions(*table, alpha, tests)
    assume(abs(r.pvalue - alpha) > 1e-9)
    assert -1 <= r.low <= r.difference <= r.high <= 1 and 0 <= r.pvalue <= 1
    assert r.significant == (not r.low <= 0 <= r.high)


@given(tables)
def test_variants_may_change_places(table):
    k0, n0, k1, n1 = table
    r, s, t = two_proportions(k0, n0, k1, n1), two_proportions(k1, n1, k0, n0), two_proportions(n0 - k0, n0, n1 - k1, n1)
    for other in (s, t): assert np.allclose([r.difference, r.low, r.high, r.pvalue], [-other.difference, -other.high, -other.low, other.pvalue], atol=1e-6)


@settings(max_examples=60)
@given(tables, st.floats(-0.95, 0.95))
def test_the_variance_is_that_of_the_most_likely_rates(table, delta):
    k0, n0, k1, n1 = table
    low, high = max(0, -delta), min(1, 1 - delta)
    def surprise(r0): return -stats.binom.logpmf(k0, n0, r0) - stats.binom.logpmf(k1, n1, min(r0 + delta, 1))
    r0 = optimize.minimize_scalar(surprise, bounds=(low, high), method="bounded", options=dict(xatol=1e-13)).x
    assert abs(_score_variance(*table, delta) - (r0*(1 - r0)/n0 + (r0 + delta)*(1 - r0 - delta)/n1)) < 1e-5


def test_the_worked_example_of_newcombe_1998():
    r = two_proportions(48, 80, 56, 70)
    assert (round(r.low, 4), round(r.high, 4)) == (0.0533, 0.3377)


@pytest.mark.parametrize("n0,n1", [(40, 40), (180, 20), (300, 300)])
@pytest.mark.parametrize("p,delta", [(0.1, 0), (0.5, 0), (0.1, 0.2)])
def test_the_interval_holds_the_truth_exactly_counted(n0, n1, p, delta):
    k0, k1 = np.arange(n0 + 1)[:, None], np.arange(n1 + 1)
    weight = stats.binom.pmf(k0, n0, p) * stats.binom.pmf(k1, n1, p + delta)
    v = _score_variance(k0, n0, k1, n1, delta)
    z = np.divide(np.abs(k1/n1 - k0/n0 - delta), np.sqrt(v), out=np.zeros_like(v), where=v > 0)
    assert 0.03 < weight[z > stats.norm.isf(0.025)].sum() < 0.065


def test_rare_successes_among_very_many_users():
    """Few among a million are Poisson counts: the interval of a share of sums is known from the binomial."""
    r, d = two_proportions(40, 1_000_000, 80, 1_000_000), 40e-6
    assert np.isclose(r.pvalue, stats.chi2_contingency([[40, 999_960], [80, 999_920]], correction=False).pvalue)
    se = lambda delta: math.sqrt(_score_variance(40, 1_000_000, 80, 1_000_000, delta))
    assert np.isclose(se(d), math.sqrt(120) * 1e-6, rtol=1e-3)
    assert np.isclose((d - r.low) / se(r.low), stats.norm.isf(0.025), rtol=1e-3) and 1e-5 < r.low < d < r.high < 8e-5


# --- power --------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("p0,p1,n,ratio", [(0.10, 0.13, 1774, 1), (0.5, 0.75, 77, 1), (0.10, 0.13, 948, 3), (0.02, 0.03, 3826, 1)])
def test_power_is_what_counting_every_outcome_gives(p0, p1, n, ratio):
    n0 = n * ratio
    k0 = np.arange(*stats.binom.ppf([1e-7, 1 - 1e-7], n0, p0).astype(int))[:, None]
    k1 = np.arange(*stats.binom.ppf([1e-7, 1 - 1e-7], n, p1).astype(int))
    pooled = (k0 + k1) / (n0 + n)
    z = np.abs(k1/n - k0/n0) / np.sqrt(pooled * (1 - pooled) * (1/n + 1/n0))
    found = (stats.binom.pmf(k0, n0, p0) * stats.binom.pmf(k1, n, p1))[z > stats.norm.isf(0.025)].sum()
    assert abs(found - power(p0, p1, n, ratio=ratio)) < 0.01


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.sampled_from([0.05, 0.01, 0.05/14]), st.floats(0.3, 0.99), st.sampled_from([1, 9, 0.25]))
def test_the_sample_size_is_the_least_that_has_the_power(p0, p1, alpha, wanted, ratio):
    assume(abs(p0 - p1) > 0.005)
    n = sample_size(p0, p1, alpha, wanted, ratio)
    assert power(p0, p1, n, alpha, ratio) >= wanted and (n == 2 or power(p0, p1, n - 1, alpha, ratio) < wanted)


def test_known_sizes():
    assert sample_size(0.10, 0.13) == 1774 and sample_size(0.5, 0.75, power=0.9) == 77  # R: power.prop.test
    assert abs(power_means(1, 1, 20) - 0.8689528) < 1e-6 and sample_size_means(1, 1, power=0.9) == 23 and sample_size_means(0.5, 1) == 64  # R: power.t.test


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", [11, 12])
def test_promises_under_other_seeds(seed):
    rng = np.random.default_rng(seed)
    def ps(p1, n): return np.array([two_proportions(int(a), n, int(b), n).pvalue for a, b in rng.binomial(n, [0.10, p1], size=(300, 2))])
    assert holds(0.05, ps(0.10, 1774) < 0.05) and holds(power(0.10, 0.13, 1774), ps(0.13, 1774) < 0.05)
    x, y = rng.normal(0, 2, (300, 50)), rng.normal(1, 2, (300, 150))
    p = [two_means(a.mean(), a.std(ddof=1), 50, b.mean(), b.std(ddof=1), 150).pvalue for a, b in zip(x, y)]
    assert holds(power_means(1, 2, 150, ratio=1/3), np.array(p) < 0.05)


def test_fourteen_challengers_keep_the_five_percent_together():
    rng = np.random.default_rng(3)
    wins = [any(r.significant for r in against_champion(k, [1000] * 15)) for k in rng.binomial(1000, 0.1, size=(30, 15)).tolist()]
    assert low_of(wins) <= 0.05
    assert [r.significant for r in against_champion([100, 160, 100], [1000] * 3)] == [True, False]


# --- sequential ---------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("ratio,looks", [(1, 2000), (9, 600), (99, 150)])
@pytest.mark.parametrize("p,tau", [(0.005, 0.005), (0.1, 0.03), (0.9, 0.05), (0.3, 0.5)])
def test_looking_after_every_user_keeps_the_five_percent(ratio, looks, p, tau):
    rng, n1 = np.random.default_rng(21), np.arange(1, looks + 1)
    k0, k1 = rng.binomial(ratio, p, size=(RUNS, looks)).cumsum(1), rng.binomial(1, p, size=(RUNS, looks)).cumsum(1)
    ever = (always_valid_p(k1/n1 - k0/(ratio*n1), _score_variance(k0, ratio*n1, k1, n1, 0), tau) < 0.05).any(1)
    assert low_of(ever) <= 0.05


def test_the_object_keeps_the_five_percent_and_finds_what_is_there():
    rng = np.random.default_rng(4)
    def ends(p1, looks=15):
        test = Sequential(["a", "b"], 0.03)
        for _ in range(looks):
            for who, p in (("a", 0.10), ("b", p1)): test.count(who, int(rng.binomial(400, p)), 400)
            r = test.look()["b"]
        return r
    assert low_of([ends(0.10).significant for _ in range(40)]) <= 0.05
    found = [ends(0.13) for _ in range(20)]  # 6,000 users each
    assert sum(r.significant for r in found) >= 17 and sum(r.low <= 0.03 <= r.high for r in found) >= 17


def test_means_wait_and_keep_the_five_percent():
    rng, alarms = np.random.default_rng(8), []
    for _ in range(100):
        test = Sequential(["a", "b"], 5.0, kind="mean")
        for _ in range(25):
            for who in "ab": test.update(who, rng.exponential(20, 40))
            r = test.look()["b"]
            if test.seen["b"][0] < 100: assert r.pvalue == 1 and r.low == -math.inf
        alarms.append(r.significant)
    assert low_of(alarms) <= 0.05
    test.update("b", np.full(1000, 60.0))
    assert test.look()["b"].significant and test.look()["b"].low > 0


@settings(max_examples=25)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.sampled_from([0, 1]), max_size=30)), max_size=12), st.randoms())
def test_pieces_order_and_restarts_change_nothing(pieces, random):
    whole, parts = Sequential("abc", 0.05), Sequential("abc", 0.05)
    for who in "abc": whole.update(who, [x for w, values in pieces if w == who for x in values])
    random.shuffle(pieces)
    for who, values in pieces:
        if random.random() < 0.5: parts.update(who, values)
        else: parts.count(who, sum(values), len(values))
        parts = Sequential.from_dict(json.loads(json.dumps(parts.to_dict())))
    for who in "abc": assert np.allclose(whole.seen[who], parts.seen[who])
    for c, r in whole.look().items(): assert np.allclose(list(asdict(r).values())[:5], list(asdict(parts.look()[c]).values())[:5], equal_nan=True)


@pytest.mark.filterwarnings("error")
@settings(max_examples=40)
@given(tables)
def test_sequential_interval_and_p_agree_at_a_first_look(table):
    k0, n0, k1, n1 = table
    test = Sequential(["a", "b"], 0.1)
    test.count("a", k0, n0); test.count("b", k1, n1)
    r = test.look()["b"]
    assume(abs(r.pvalue - 0.05) > 1e-9)
    assert r.significant == (not r.low <= 0 <= r.high) and r.low <= r.difference <= r.high
    once = two_proportions(*table)
    assert r.pvalue >= once.pvalue - 1e-12 and r.low <= once.low and r.high >= once.high  # the price of looking


def test_evidence_does_not_go_away_and_counts_for_each_challenger():
    test = Sequential(["a", "b", "c"], 0.05)
    test.count("a", 100, 1000); test.count("b", 200, 1000); test.count("c", 100, 1000)
    p = test.look()["b"].pvalue
    assert p < 0.05 and test.look()["c"].pvalue > 0.05
    alone = Sequential(["a", "b"], 0.05)
    alone.count("a", 100, 1000); alone.count("b", 200, 1000)
    assert np.isclose(p, 2 * alone.look()["b"].pvalue)
    test.count("b", 0, 1000)
    assert test.look()["b"].pvalue == p and test.look()["b"].low < 0.05


# --- bandit -------------------------------------------------------------------------------------------------------------------

def test_thompson_replays_and_survives():
    rates, names = np.linspace(0.05, 0.4, 15), [f"v{i}" for i in range(15)]
    def game(restart):
        bandit, rng, chosen = Thompson(names, seed=3), np.random.default_rng(0), []
        for _ in range(1500):
            v = bandit.choose(); chosen.append(v)
            bandit.update(v, bool(rng.random() < rates[names.index(v)]))
            if restart: bandit = Thompson.from_dict(json.loads(json.dumps(bandit.to_dict())))
        return bandit, chosen
    (a, chosen), (b, again) = game(False), game(True)
    assert chosen == again and a.to_dict() == b.to_dict() and a.weights() == b.weights()
    users = [chosen.count(v) for v in names]
    assert regret(rates, users) < regret(rates, [100] * 15) / 2 and sum(users[-3:]) > 750
    assert Thompson(names, seed=4).choose() != a.choose() or Thompson(names, seed=5).choose() != a.choose()


def test_weights_are_the_shares_of_the_choices():
    bandit = Thompson(["a", "b", "c"], seed=1)
    bandit.seen = {"a": [12, 88], "b": [20, 80], "c": [17, 83]}
    weights, chosen = bandit.weights(), [bandit.choose() for _ in range(3000)]  # no answers come: the state stays
    for v in "abc": assert abs(chosen.count(v)/3000 - weights[v]) < 0.04
    assert np.isclose(sum(weights.values()), 1)


# --- what comes out, what must not go in --------------------------------------------------------------------------------------

def test_results_are_plain():
    seq = Sequential(["a", "b"], 0.1)
    seq.count("a", np.int64(5), np.int64(50)); seq.update("b", np.ones(40, bool))
    results = [srm([5, 5], [1, 1]), srm_anytime([np.int64(5), 6], np.array([0.5, 0.5])), two_proportions(np.int64(1), 5, 2, 6), two_means(np.float64(1), 2, 5, 3, 1, 9), seq.look()["b"]]
    for r in results:
        assert json.loads(json.dumps(asdict(r))) and "np." not in repr(r) and repr(r).startswith(("Split(", "Comparison("))
    json.dumps([seq.to_dict(), Thompson(["a", "b"]).to_dict()])


seq, means = Sequential(["a", "b"], 0.1), Sequential(["a", "b"], 1.0, kind="mean")

@pytest.mark.parametrize("call,text", [
    (lambda: srm([-1, 5], [1, 1]), "users of variant 0: a count is a whole number"), (lambda: srm([1.5, 5], [1, 1]), "got 1.5"), (lambda: srm([True, 5], [1, 1]), "got True"),
    (lambda: srm([], []), "at least two variants"), (lambda: srm([5], [1]), "at least two variants"), (lambda: srm([0, 0], [1, 1]), "no variant has users"),
    (lambda: srm([1, 2], [1, 1, 1]), "2 counts and 3 shares"), (lambda: srm([1, 2], [1, 0]), "share of variant 1"), (lambda: srm([1, 2], [1, math.nan]), "share of variant 1"),
    (lambda: srm([1, 2], [1, math.inf]), "share of variant 1"), (lambda: srm_anytime([-1, 2], [1, 1]), "users of variant 0"), (lambda: srm([1, 2], [1, 1], 1), "limit must be"),
    (lambda: two_proportions(5, 4, 1, 4), "the champion has 5 successes among 4"), (lambda: two_proportions(1, 4, 0, 0), "the challenger has no users"),
    (lambda: two_proportions(1, 4, -1, 4), "successes of the challenger"), (lambda: two_proportions(1, 4, 1, 4, alpha=0), "alpha must be"), (lambda: two_proportions("1", 4, 1, 4), "got '1'"),
    (lambda: against_champion([1], [4]), "at least one challenger"), (lambda: against_champion([1, 2], [4]), "2 and 1 counts"),
    (lambda: two_means(1, 1, 1, 1, 1, 9), "at least 2"), (lambda: two_means(1, -1, 9, 1, 1, 9), "0 or more"), (lambda: two_means(1, 0, 9, 2, 0, 9), "both standard deviations"),
    (lambda: two_means(math.nan, 1, 9, 2, 1, 9), "finite"), (lambda: power(10, 13, 100), "p0 must be"), (lambda: power(0.1, 0.2, 0), "n must be"), (lambda: power(0.1, 0.2, 10, ratio=0), "ratio must be"),
    (lambda: sample_size(0.1, 0.1), "no number of users"), (lambda: sample_size(0.1, 0.2, power=1), "power must be"), (lambda: sample_size_means(0, 1), "smallest difference"),
    (lambda: always_valid_p(0.1, 0.1, 0), "tau must be"), (lambda: Sequential(["a"], 0.1), "at least one challenger"), (lambda: Sequential(["a", "a"], 0.1), "own name"),
    (lambda: Sequential(["a", "b"], 0), "smallest must be"), (lambda: Sequential(["a", "b"], 2), "smallest must be"), (lambda: Sequential(["a", "b"], 0.1, "median"), "choose one of"),
    (lambda: seq.count("c", 1, 2), "not part of this test"), (lambda: seq.count("a", 3, 2), "a has 3 successes among 2"), (lambda: seq.count("a", -3, 0), "whole number"),
    (lambda: seq.count("a", 1, 0), "no users"), (lambda: seq.update("a", [0.5]), "0 or a 1"), (lambda: seq.update("a", [math.nan]), "finite"), (lambda: means.count("a", 1, 2), "give the values"),
    (lambda: means.update("a", [1, math.inf]), "finite"), (lambda: Sequential.from_dict({**seq.to_dict(), "p": {"c": 1.0}}), "the state holds"),
    (lambda: Thompson(["a"]), "at least one challenger"), (lambda: Thompson(["a", "b"], -1), "seed"), (lambda: Thompson(["a", "b"]).update("c", 1), "not part of this bandit"),
    (lambda: Thompson(["a", "b"]).update("a", 2), "0 or 1"), (lambda: regret([0.1, 2], [1, 1]), "rate of variant 1"), (lambda: regret([0.1], [-1]), "users of variant 0"), (lambda: regret([], []), "needs one of both"),
])
def test_bad_input_is_named(call, text):
    with pytest.raises(ValueError) as e: call()
    assert text in str(e.value)


def test_what_was_refused_left_no_trace():
    assert seq.seen == {"a": [0, 0.0, 0.0], "b": [0, 0.0, 0.0]} == means.seen
