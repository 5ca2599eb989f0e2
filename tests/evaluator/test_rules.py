"""Each rule of the design about alerts, as a story in seconds."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from evaluator_driver import T0, Watch, at, policy, seconds, span

from medic.evaluator import Interval, OpenRun, Status, evaluate, resolved_by_hand
from medic.schedule import AtLeast, Cron, Every, OnCalendar

MINUTELY = Cron("* * * * *", "UTC")
HOURLY = Cron("0 * * * *", "UTC")


def test_a_silent_service_is_late_after_the_deadline_and_missed_after_grace() -> None:
    watch = Watch(policy(60, 10)).hear("ok", 5).tick(64)
    assert (watch.state.status, seconds(watch.verdict.due_at)) == (Status.UP, 65)
    watch.tick(65)
    assert (watch.state.status, seconds(watch.verdict.due_at), watch.story) == (Status.LATE, 75, [])
    watch.tick(75)
    assert watch.state.status is Status.DOWN
    assert watch.story == [("opened", "missed", 75)]


def test_a_sweep_that_was_down_for_a_day_dates_the_alert_as_if_it_had_not_been() -> None:
    watch = Watch(policy(60, 10)).hear("ok", 5).hear("ok", 300).tick(86_400)
    assert watch.story == [("opened", "missed", 75), ("resolved", "missed", 300), ("opened", "missed", 370)]


def test_a_success_resolves_and_the_evidence_says_what_decided() -> None:
    watch = Watch(policy(60, 10)).hear("ok", 0).hear("ok", 100).tick(101)
    opened, resolved = watch.transitions
    assert opened.evidence["deadline"] == "2026-03-02T00:01:00Z"
    assert opened.evidence["last_success_at"] == "2026-03-02T00:00:00Z"
    assert (opened.evidence["failures"], opened.evidence["policy_version"]) == (1, 1)
    assert (resolved.kind, resolved.evidence["because"]) == ("resolved", "recovered")


def test_the_counter_counts_deadlines_and_never_sweeps() -> None:
    watch = Watch(policy(60, failure_threshold=3)).hear("ok", 0)
    for second in range(0, 175, 5):
        watch.tick(second)
    assert (watch.state.failures, watch.story, watch.state.status) == (2, [], Status.LATE)
    watch.tick(180)
    assert (watch.state.failures, watch.story) == (3, [("opened", "missed", 180)])
    assert watch.transitions[0].evidence["deadline"] == "2026-03-02T00:03:00Z"
    watch.tick(301)
    assert watch.state.failures == 5


def test_a_fail_signal_or_an_exit_code_alerts_at_once() -> None:
    assert Watch(policy(60)).hear("ok", 0).hear("fail", 3).tick(3).story == [("opened", "failed", 3)]
    assert Watch(policy(60)).hear("complete", 3, exit_code=2).tick(3).story == [("opened", "failed", 3)]


def test_a_failure_restarts_the_deadline_without_being_life() -> None:
    watch = Watch(policy(60)).hear("ok", 0).hear("fail", 50).tick(109)
    assert watch.state.failures == 1
    assert watch.state.last_success_at == at(0)
    assert watch.tick(110).story == [("opened", "failed", 50), ("reason_joined", "missed", 110)]


def test_a_failure_that_comes_just_after_its_miss_is_counted_once() -> None:
    watch = Watch(policy(60)).hear("ok", 0).hear("fail", 58, late=4).tick(63)
    assert watch.state.failures == 1
    assert [reason for reason, _ in watch.state.reasons] == ["missed", "failed"]


def test_misses_and_failures_share_one_counter_that_a_success_resets() -> None:
    watch = Watch(policy(60, failure_threshold=3)).hear("ok", 0).hear("fail", 30).tick(151)
    assert (watch.state.failures, watch.story) == (3, [("opened", "missed", 150)])
    assert watch.hear("ok", 160).tick(160).state.failures == 0


def test_recovery_takes_as_many_successes_in_a_row_as_the_threshold_says() -> None:
    watch = Watch(policy(60, recovery_threshold=2)).hear("fail", 1).hear("ok", 2).hear("fail", 3)
    watch.hear("ok", 4).tick(5)
    assert watch.story == [("opened", "failed", 1)]
    assert watch.hear("ok", 6).tick(6).story[-1] == ("resolved", "failed", 6)


def test_start_and_log_are_no_life() -> None:
    watch = Watch(policy(60)).hear("ok", 0).hear("start", 30).hear("log", 50).tick(60)
    assert watch.story == [("opened", "missed", 60)]


def test_a_service_that_never_beat_alerts_once_and_never_again_until_it_does() -> None:
    watch = Watch(policy(60, 5)).tick(64)
    assert watch.state.status is Status.LATE
    watch.tick(100_000)
    assert watch.story == [("opened", "missed", 65)]
    watch.state = resolved_by_hand(watch.state, at(100_000))
    assert len(watch.tick(300_000).story) == 1
    watch.hear("ok", 300_001).tick(300_070)
    assert watch.story[1:] == [("opened", "missed", 300_066)]


def test_a_month_of_silence_at_a_second_is_counted_without_a_loop() -> None:
    watch = Watch(policy(1)).hear("ok", 0).tick(30 * 86_400)
    assert watch.state.failures == 30 * 86_400
    assert seconds(watch.verdict.due_at) == 30 * 86_400 + 1


def test_a_long_silence_on_a_calendar_is_counted_up_to_a_bound() -> None:
    watch = Watch(policy(OnCalendar("*:*:*", "UTC"))).hear("ok", 0).tick(30 * 86_400)
    assert (watch.state.failures, watch.story) == (10_000, [("opened", "missed", 1)])
    assert watch.tick(30 * 86_400 + 5).state.failures == 10_005


def test_a_cron_occurrence_is_settled_by_its_first_final_signal() -> None:
    watch = Watch(policy(MINUTELY, 20)).hear("ok", 65).tick(200)
    assert watch.story == [("opened", "missed", 140)]


def test_an_early_beat_is_accepted_for_the_nearest_occurrence() -> None:
    watch = Watch(policy(HOURLY, 60)).hear("ok", 3590).tick(7200)
    assert watch.story == []
    assert watch.tick(7260).story == [("opened", "missed", 7260)]


def test_a_second_beat_for_one_occurrence_does_not_stand_for_the_next() -> None:
    watch = Watch(policy(HOURLY, 1200)).hear("ok", 3605).hear("ok", 4700).tick(9000)
    assert watch.story == [("opened", "missed", 8400)]


def test_a_late_run_does_not_hide_that_the_next_one_stays_out() -> None:
    watch = Watch(policy(HOURLY, 60)).hear("ok", 4000).tick(7300)
    assert watch.story == [
        ("opened", "missed", 3660),
        ("resolved", "missed", 4000),
        ("opened", "missed", 7260),
    ]


def test_retries_that_fail_within_one_cron_occurrence_count_once() -> None:
    watch = Watch(policy(HOURLY, 600, failure_threshold=2)).hear("fail", 3605).hear("fail", 3700).tick(7000)
    assert (watch.state.failures, watch.story) == (1, [])
    assert watch.hear("fail", 7210).tick(7210).story == [("opened", "failed", 7210)]


def test_a_failed_occurrence_is_never_also_missed() -> None:
    watch = Watch(policy(HOURLY, 60)).hear("fail", 3605).tick(7259)
    assert (watch.state.failures, watch.story) == (1, [("opened", "failed", 3605)])


def test_too_few_is_judged_from_the_first_full_window_and_its_grace_on() -> None:
    watch = Watch(policy(AtLeast(2, span(100)), 30)).hear("ok", 90).tick(129)
    assert watch.story == []
    assert seconds(watch.verdict.due_at) == 130
    watch.hear("ok", 150).tick(300)
    assert watch.story == [
        ("opened", "too_few", 130),
        ("resolved", "too_few", 150),
        ("opened", "too_few", 190),
    ]


def test_too_few_counts_each_further_window() -> None:
    watch = Watch(policy(AtLeast(2, span(100)), failure_threshold=3)).hear("ok", 50).tick(299)
    assert (watch.state.failures, watch.story, watch.state.status) == (2, [], Status.LATE)
    assert watch.tick(300).story == [("opened", "too_few", 300)]


def test_every_open_run_is_watched_not_only_the_newest() -> None:
    watch = Watch(policy(10_000, max_runtime=span(100)))
    watch.hear("start", 0, run_id="old").hear("start", 50, run_id="new").hear("complete", 60, run_id="new")
    assert watch.tick(60).story == []
    assert seconds(watch.verdict.due_at) == 100
    assert watch.tick(500).story == [("opened", "overrun", 100)]
    watch.hear("fail", 510, run_id="old").tick(511)
    assert watch.story[1:] == [("resolved", "overrun", 510), ("opened", "failed", 510)]


def test_the_second_later_success_closes_a_run_as_lost_and_ends_its_overrun() -> None:
    watch = Watch(policy(1000, max_runtime=span(100))).hear("start", 0, run_id="a")
    watch.hear("ok", 200).hear("ok", 300).tick(301)
    assert watch.story == [("opened", "overrun", 100), ("resolved", "overrun", 300)]
    assert [change.run.run_id for change in watch.verdict.lost_runs] == ["a"]


def test_a_run_is_lost_a_day_after_its_start_or_ten_times_its_max_runtime() -> None:
    watch = Watch(policy(1_000_000)).hear("start", 0).tick(90_000)
    assert watch.run_story == [("started", 0), ("lost", 86_400)]
    watch = Watch(policy(1_000_000, max_runtime=span(20_000))).hear("start", 0).tick(300_000)
    assert watch.run_story == [("started", 0), ("overrun", 20_000), ("lost", 200_000)]
    assert watch.story == [("opened", "overrun", 20_000), ("resolved", "overrun", 200_000)]


def test_an_end_without_run_id_closes_the_newest_open_run_without_one() -> None:
    watch = Watch(policy(1000)).hear("start", 0).hear("start", 10).hear("start", 12, run_id="x")
    watch.hear("complete", 20).tick(20)
    assert [run.started_at for run in watch.runs if run.ended_at is None] == [at(0), at(12)]


def test_a_start_that_comes_after_its_end_opens_nothing() -> None:
    watch = Watch(policy(1000, max_runtime=span(60)))
    watch.hear("complete", 20, run_id="a").tick(21).hear("start", 10, late=12, run_id="a").tick(500)
    watch.hear("complete", 600).hear("start", 590, late=15).tick(900)
    assert watch.run_story == [("unpaired", 20)]
    assert watch.story == []


def test_a_run_settled_by_hand_ends_its_overrun() -> None:
    watch = Watch(policy(1000, max_runtime=span(60))).hear("ok", 0).hear("start", 1).tick(100)
    watch.runs = []
    assert watch.tick(120).story == [("opened", "overrun", 61), ("resolved", "overrun", 100)]


def test_a_run_open_across_a_blind_interval_never_overruns() -> None:
    watch = Watch(policy(10_000, max_runtime=span(100)), blind=[Interval(at(40), at(60))])
    assert watch.hear("start", 0).tick(5000).story == []


def test_medics_own_silence_makes_every_start_afresh() -> None:
    watch = Watch(policy(60, 10), blind=[Interval(at(50), at(400))]).hear("ok", 0).tick(469)
    assert (watch.story, watch.state.status) == ([], Status.LATE)
    assert watch.tick(470).story == [("opened", "missed", 470)]


def test_a_cron_occurrence_touched_by_a_blind_interval_is_neither_miss_nor_success() -> None:
    watch = Watch(policy(MINUTELY, 5), blind=[Interval(at(110), at(118))]).hear("ok", 61).tick(184)
    assert (watch.story, watch.state.failures) == ([], 0)
    assert watch.tick(185).story == [("opened", "missed", 185)]


def test_an_open_alert_outlives_a_blind_interval() -> None:
    watch = Watch(policy(60), blind=[Interval(at(70), at(200))]).hear("ok", 0).tick(259)
    assert (watch.story, watch.state.failures) == ([("opened", "missed", 60)], 1)
    assert watch.tick(260).state.failures == 2


def test_history_clears_a_miss_that_it_disproves_but_never_recovers() -> None:
    watch = Watch(policy(300)).hear("ok", 0).tick(310).hear("ok", 290, late=70).tick(400)
    assert watch.story == [("opened", "missed", 300), ("resolved", "missed", 300)]
    assert watch.transitions[-1].evidence["because"] == "disproved"
    assert watch.state.last_success_at == at(0)
    assert watch.tick(600).story[2:] == [("opened", "missed", 600)]


def test_history_older_than_a_miss_that_still_stands_leaves_the_alert_open() -> None:
    watch = Watch(policy(60)).hear("ok", 0).hear("ok", 50, late=100).tick(170)
    assert (watch.story, watch.state.failures) == ([("opened", "missed", 60)], 1)


def test_history_that_arrives_before_grace_ends_prevents_the_miss() -> None:
    watch = Watch(policy(HOURLY, 600)).hear("ok", 3605, late=300).tick(7000)
    assert watch.story == []


def test_a_failure_among_history_opens_nothing() -> None:
    assert Watch(policy(600)).hear("ok", 0).hear("fail", 10, late=90).tick(120).story == []


def test_a_failure_older_than_the_last_success_is_no_alert() -> None:
    assert Watch(policy(600)).hear("ok", 20).hear("fail", 15, late=10).tick(30).story == []


def test_a_manual_resolve_holds_until_n_further_misses() -> None:
    watch = Watch(policy(60, failure_threshold=2)).hear("ok", 0).tick(130)
    watch.state = resolved_by_hand(watch.state, at(130))
    assert watch.state.status is Status.LATE
    assert watch.tick(239).story == [("opened", "missed", 120)]
    assert watch.tick(240).story[1:] == [("opened", "missed", 240)]


def test_a_success_ends_the_hold_of_a_manual_resolve() -> None:
    watch = Watch(policy(60)).hear("ok", 0).tick(60)
    watch.state = resolved_by_hand(watch.state, at(61))
    assert watch.hear("ok", 62).tick(122).story[1:] == [("opened", "missed", 122)]


def test_a_manual_resolve_silences_the_run_that_overran() -> None:
    watch = Watch(policy(1000, max_runtime=span(60))).hear("ok", 0).hear("start", 1).tick(61)
    watch.state = resolved_by_hand(watch.state, at(70))
    assert watch.hear("ok", 100).tick(900).story == [("opened", "overrun", 61)]


def test_reasons_join_one_alert_and_it_closes_with_the_last() -> None:
    watch = Watch(policy(200, max_runtime=span(100))).hear("start", 0, run_id="a").hear("ok", 250).tick(250)
    assert watch.story == [
        ("opened", "overrun", 100),
        ("reason_joined", "missed", 200),
        ("reason_cleared", "missed", 250),
    ]
    watch.hear("complete", 260, run_id="a").tick(260)
    assert watch.story[-1] == ("resolved", "overrun", 260)


def test_pausing_closes_the_alert_with_that_reason_and_resuming_starts_afresh() -> None:
    watch = Watch(policy(60)).hear("ok", 0).tick(70)
    watch.policy = replace(watch.policy, version=2, paused=True, started_at=at(80))
    watch.tick(5000)
    assert (watch.state.status, watch.story[-1]) == (Status.PAUSED, ("resolved", "paused", 80))
    assert watch.verdict.due_at is None
    watch.policy = replace(watch.policy, version=3, paused=False, started_at=at(5000))
    assert watch.tick(5059).state.status is Status.UP
    assert watch.tick(5060).story[-1] == ("opened", "missed", 5060)


def test_what_arrives_during_a_pause_is_life_and_alerts_of_nothing_afterwards() -> None:
    watched = policy(600, max_runtime=span(60))
    for kind, first_deadline in (("fail", 1600), ("ok", 1500)):
        watch = Watch(watched).hear("ok", 0).tick(10)
        watch.policy = replace(watched, version=2, paused=True, started_at=at(20))
        watch.tick(20)
        watch.hear("start", 100, run_id="a").hear("complete", 300, run_id="a").hear(kind, 900)
        watch.policy = replace(watched, version=3, started_at=at(1000))
        assert watch.tick(1000).story == []
        assert watch.tick(1600).story == [("opened", "missed", first_deadline)]


def test_a_tighter_schedule_gives_one_fresh_period() -> None:
    watch = Watch(policy(86_400)).hear("ok", 0).tick(10_000)
    watch.policy = replace(watch.policy, version=2, schedule=Every(span(300)), started_at=at(10_000))
    assert watch.tick(10_299).story == []
    assert watch.tick(10_300).story == [("opened", "missed", 10_300)]


def test_a_wider_schedule_ends_an_alert_that_is_no_longer_true() -> None:
    watch = Watch(policy(60)).hear("ok", 0).tick(100)
    watch.policy = replace(watch.policy, version=2, schedule=Every(span(600)), started_at=at(110))
    assert watch.tick(120).story[-1] == ("resolved", "missed", 110)
    assert watch.tick(600).story[-1] == ("opened", "missed", 600)


def test_edits_that_keep_the_schedule_postpone_nothing() -> None:
    watch = Watch(policy(60)).hear("ok", 0)
    for second in range(10, 200, 10):
        watch.policy = replace(watch.policy, version=second)
        watch.tick(second)
    assert (watch.story, watch.state.failures) == ([("opened", "missed", 60)], 3)


def test_a_shorter_max_runtime_finds_the_runs_that_are_over_it() -> None:
    watch = Watch(policy(10_000, max_runtime=span(5000))).hear("start", 0).tick(1000)
    watch.policy = replace(watch.policy, version=2, max_runtime=span(600), started_at=at(1000))
    assert watch.tick(1001).story == [("opened", "overrun", 1000)]
    watch.policy = replace(watch.policy, version=3, max_runtime=None, started_at=at(1100))
    assert watch.tick(1101).story[-1] == ("resolved", "overrun", 1100)


def test_a_run_that_ended_before_a_shorter_max_runtime_came_is_not_over_it() -> None:
    watch = Watch(policy(10_000, max_runtime=span(5000))).hear("start", 0).tick(1)
    # Ingest leaves the row alone: nothing is judged between the end of the run and the new policy.
    watch.hear("complete", 100)
    watch.policy = replace(watch.policy, version=2, max_runtime=span(600), started_at=at(1000))
    assert watch.tick(1001).story == []
    assert [run.id for run in watch.runs if run.ended_at is None] == []


def test_what_arrived_before_a_new_calendar_does_not_settle_its_first_occurrence() -> None:
    watch = Watch(policy(MINUTELY, 600)).hear("ok", 0).tick(1)
    # Nearer to 01:00 than to 00:00, by the new calendar.
    watch.hear("ok", 2400)
    watch.policy = replace(watch.policy, version=2, schedule=HOURLY, grace=span(60), started_at=at(2500))
    assert watch.tick(3659).story == []
    assert watch.tick(3660).story == [("opened", "missed", 3660)]


def test_a_signal_that_was_seen_late_counts_from_when_it_was_seen() -> None:
    watch = Watch(policy(60)).hear("ok", 0).tick(60)
    watch.hear("ok", 59).tick(65)
    assert watch.story == [("opened", "missed", 60), ("resolved", "missed", 60)]


def test_quiet_ends_with_an_open_run_and_with_any_failure() -> None:
    watch = Watch(policy(60)).hear("ok", 0).tick(1)
    assert watch.verdict.quiet
    assert not watch.hear("start", 2).tick(2).verdict.quiet
    assert watch.hear("complete", 3).tick(3).verdict.quiet
    assert not Watch(policy(60, failure_threshold=2)).hear("ok", 0).hear("fail", 1).tick(1).verdict.quiet
    assert not Watch(policy(MINUTELY)).hear("ok", 0).tick(1).verdict.quiet


def test_a_closed_run_is_not_opened_again_by_a_repeated_start() -> None:
    watch = Watch(policy(600, max_runtime=span(60))).hear("start", 10, run_id="a")
    closed = [OpenRun(1, "a", at(0), ended_at=at(5))]
    verdict = evaluate(watch.policy, watch.state, watch.heard, closed, [], T0 + timedelta(seconds=100))
    assert (verdict.runs, verdict.transitions) == ((), ())
