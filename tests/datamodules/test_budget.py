from datamodules.budget import Budget, Skipped


def drawn(budget, count, bad):
    budget.add({"a": count}, skipped(bad))
    return budget.exceeded()


def skipped(count, epoch=0, first=0):
    return [Skipped("a", str(i), f"reason {i}", i, epoch, i) for i in range(first, first + count)]


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
    assert drawn(budget, 800, 24) == ["a"]


def test_a_source_seen_whole_is_held_to_the_limit_exactly():
    assert drawn(Budget(0.01, {"a": 1000}), 1000, 10) == []
    assert drawn(Budget(0.01, {"a": 1000}), 1000, 11) == ["a"]


def test_error_names_source_share_and_first_reasons():
    budget = Budget(0.01, {"a": 10, "b": 10})
    drawn(budget, 10, 9)
    message = str(budget.error("a"))
    assert "data source a: 9 of the 10 samples drawn so far are bad (90.0%, allowed 1.0%)" in message
    assert "0: reason 0" in message and "5: reason 5" not in message
    assert "data.bad_budget" in message


def test_a_bad_sample_counts_once_over_all_epochs():
    budget = Budget(0.1, {"a": 100})
    for epoch in range(9):
        budget.add({"a": 0 if epoch else 100}, skipped(10, epoch))
        assert budget.exceeded() == []


def test_samples_that_go_bad_in_a_later_epoch_count():
    budget = Budget(0.1, {"a": 100})
    budget.add({"a": 100}, skipped(6))
    budget.add({}, skipped(5, epoch=3, first=50))
    assert budget.exceeded() == ["a"] and "11 of the 100" in str(budget.error("a"))


def test_every_source_has_its_own_budget():
    budget = Budget(0.1, {"a": 100, "b": 100_000})
    budget.add({"a": 100, "b": 10_000}, skipped(20))
    assert budget.exceeded() == ["a"]


def test_state_goes_on():
    whole, first, second = (Budget(0.1, {"a": 100}) for _ in range(3))
    for budget in (whole, first):
        budget.add({"a": 60}, skipped(8))
    second.load_state_dict(first.state_dict())
    for budget in (whole, second):
        budget.add({"a": 40}, skipped(4, first=7))
    assert whole.exceeded() == second.exceeded() == ["a"]
    assert str(whole.error("a")) == str(second.error("a"))
    Budget(0.1, {"b": 3}).load_state_dict(first.state_dict())
