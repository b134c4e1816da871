from datamodules.budget import Budget, Skipped


def drawn(budget, count, bad):
    budget.add(drawn={"a": count}, bad={"a": bad})
    return budget.exceeded()


def test_a_few_bad_samples_stop_no_run():
    assert drawn(Budget(0.01, {"a": 20}), 20, 2) == []


def test_a_small_source_that_is_mostly_bad_stops():
    assert drawn(Budget(0.01, {"a": 1}), 1, 1) == ["a"]
    assert drawn(Budget(0.01, {"a": 3}), 3, 2) == ["a"]


def test_a_source_that_is_mostly_bad_stops_early():
    assert drawn(Budget(0.01, {"a": 1_000_000}), 8, 8) == ["a"]


def test_a_share_below_the_limit_is_not_stopped_by_chance():
    budget = Budget(0.01, {"a": 100_000})
    assert drawn(budget, 200, 4) == []
    assert drawn(budget, 800, 20) == ["a"]


def test_a_source_seen_whole_is_held_to_the_limit_exactly():
    assert drawn(Budget(0.01, {"a": 1000}), 1000, 10) == []
    assert drawn(Budget(0.01, {"a": 1000}), 1000, 11) == ["a"]


def test_error_names_source_share_and_first_reasons():
    budget = Budget(0.01, {"a": 10, "b": 10})
    budget.remember([Skipped("a", str(i), f"reason {i}", i) for i in range(9)])
    drawn(budget, 10, 9)
    message = str(budget.error("a", budget.reasons["a"]))
    assert "data source a: 9 of the 10 samples drawn so far are bad (90.0%, allowed 1.0%)" in message
    assert "0: reason 0" in message and "5: reason 5" not in message
    assert "data.bad_budget" in message
