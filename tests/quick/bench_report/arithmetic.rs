//! Medians, ratios and verdicts.

use catbird_bench_report::results::{Kind, Series, Who, median};

use crate::bench_report::fixture::{ADVISORY, YARDSTICK, series, target};

fn rate(one: &Series, other: &Series) -> Option<f64> {
    one.ratio(other, |sample| sample.rate)
}

#[test]
fn the_median_is_the_middle_or_the_mean_of_the_two_in_the_middle() {
    assert_eq!(median(vec![9.0, 1.0, 5.0]), Some(5.0));
    assert_eq!(median(vec![9.0, 1.0, 5.0, 6.0]), Some(5.5));
    assert_eq!(median(vec![7.0]), Some(7.0));
    assert_eq!(median(Vec::new()), None);
}

#[test]
fn a_ratio_is_made_within_a_round_and_its_median_is_quoted() {
    let yardstick = series("send", "spread", Who::Yardstick, 32, &YARDSTICK);
    let advisory = series("send", "spread", Who::Advisory, 32, &ADVISORY);
    assert_eq!(rate(&advisory, &yardstick), Some(1.2));
    assert_eq!(advisory.median(|sample| sample.rate), Some(2_400.0));
}

#[test]
fn a_round_that_one_side_lacks_does_not_count() {
    let mut yardstick = series("send", "spread", Who::Yardstick, 32, &YARDSTICK);
    let advisory = series("send", "spread", Who::Advisory, 32, &ADVISORY);
    yardstick.samples.remove(0);
    assert_eq!(rate(&advisory, &yardstick), Some(1.1), "of 1.0 and 1.2");
    yardstick.samples.clear();
    assert_eq!(rate(&advisory, &yardstick), None);
}

#[test]
fn a_round_in_which_the_yardstick_did_nothing_does_not_count() {
    let yardstick = series("send", "spread", Who::Yardstick, 32, &[0.0, 1_000.0]);
    let advisory = series("send", "spread", Who::Advisory, 32, &[700.0, 700.0]);
    assert_eq!(rate(&advisory, &yardstick), Some(0.7));
}

#[test]
fn a_target_is_met_on_its_bound_and_missed_beyond_it() {
    let met = |measured, kind| {
        let target = target("", measured, 1.0, if kind == Kind::AtLeast { 1.5 } else { 0.5 }, kind);
        (target.is_met(), target.reaches_aim())
    };
    assert_eq!(met(0.99, Kind::AtLeast), (false, false));
    assert_eq!(met(1.0, Kind::AtLeast), (true, false));
    assert_eq!(met(1.5, Kind::AtLeast), (true, true));
    assert_eq!(met(1.01, Kind::AtMost), (false, false));
    assert_eq!(met(1.0, Kind::AtMost), (true, false));
    assert_eq!(met(0.5, Kind::AtMost), (true, true));
    assert_eq!(met(f64::NAN, Kind::AtLeast), (false, false));
    assert_eq!(met(f64::NAN, Kind::AtMost), (false, false));
}
