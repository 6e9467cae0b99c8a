"""Views of a task and the vote over their predictions, on votes worked out by hand."""

from selfadapt.domains.arc import ArcTask, Pair, check_grid, solved, views, vote

PAIRS = tuple(Pair(check_grid([[n, 1, 2]]), check_grid([[2, 1, n]])) for n in range(3, 7))
TASK = ArcTask("t", PAIRS, (check_grid([[8, 1, 2]]), check_grid([[9], [1]])))
A, B, C, D = (check_grid([[n, n]]) for n in range(1, 5))
NAMES = ["identity", "transpose", "flip up-down", "flip left-right", "rotate 90", "rotate 180"]


def test_each_test_is_asked_under_six_transformations_in_several_orders():
    asked = views(TASK, 2)
    assert len(asked) == 2
    for test, own in zip(TASK.tests, asked, strict=True):
        assert [view.transformation.name for view in own] == [name for name in NAMES for _ in range(2)]
        assert own[0].pairs == PAIRS and own[0].test == test
        for view in own:
            change = view.transformation.apply
            assert view.test == change(test) and view.restored(view.test) == test and view.restored(None) is None
            assert sorted(view.pairs) == sorted(Pair(change(p.input), change(p.output)) for p in PAIRS)
    assert len({view.pairs for view in asked[0][:2]} | {view.pairs for view in asked[1][:2]}) > 1
    assert views(TASK, 2) == asked


def test_the_grid_of_most_views_comes_first_and_the_next_second():
    predictions = [(name, A) for name in NAMES[:3]] + [(NAMES[3], B), (NAMES[4], B), (NAMES[5], C)]
    assert vote(predictions) == [A, B]


def test_what_is_no_grid_does_not_vote():
    assert vote([("identity", None), ("transpose", A), ("transpose", None)]) == [A]
    assert vote([("identity", None)]) == [] == vote([])


def test_each_transformation_has_three_nominations_however_often_it_predicts():
    # A has 3 of "transpose" and 2 of all together, where it is most frequent; B has 3 + 3 + 1.
    predictions = [("transpose", A)] * 5 + [("identity", B), ("rotate 90", B)]
    assert vote(predictions) == [B, A]


def test_a_transformation_whose_views_disagree_divides_its_nominations():
    # A has 2 of "identity", 2 of "transpose" and 1 of all; C 3 of "rotate 90"; B and D have 1, and 1 of all, each.
    predictions = [("identity", A), ("identity", B), ("transpose", A), ("transpose", D), ("identity", A)]
    assert vote([*predictions, ("rotate 90", C)]) == [A, C]


def test_a_tie_for_the_second_attempt_is_decided_by_the_task_as_it_is():
    # A has 8 nominations. B and C have 3 of one transformation, 1 of all and 1 of "identity", which made C twice.
    tied = [("flip up-down", B)] * 3 + [("rotate 90", C), ("transpose", A), ("rotate 180", A)]
    assert vote([*tied, *(("identity", grid) for grid in (C, C, B, A))]) == [A, C]
    assert vote(tied) == [A, B]


def test_a_test_is_solved_by_either_of_two_attempts():
    assert solved([A, B], A) and solved([A, B], B) and solved([A], A)
    assert not solved([A, B, C], C) and not solved([], A)
