//! What sums of usage have to keep.

use proptest::prelude::*;

use super::*;

fn owner(model: &str, deployment: &str) -> Owner {
    Owner {
        model_id: "model000".parse().unwrap(),
        model_name: model.into(),
        deployment_id: deployment.parse().unwrap(),
        deployment_name: format!("{deployment}-name"),
    }
}

fn row(minute: Minute, deployment: &str, requests_ok: u64, replica_ms: u64) -> UsageRow {
    UsageRow {
        minute,
        owner: owner("m", deployment),
        counters: Counters {
            requests_ok,
            replica_ms,
            ..Counters::default()
        },
    }
}

#[test]
fn partial_minutes_count_whole_and_whole_ones_once() {
    for (replica_ms, minutes) in [
        (0, 0),
        (1, 1),
        (59_999, 1),
        (60_000, 1),
        // A minute measured by two clocks.
        (60_000 + MINUTE_SLACK_MS, 1),
        (61_000, 2),
        (180_000, 3),
        (u64::MAX, 307_445_734_561_826),
    ] {
        assert_eq!(replica_minutes(replica_ms), minutes, "{replica_ms}");
    }
}

#[test]
fn minutes_add_up_to_days_each_rounded_by_itself() {
    let day = Resolution::Day.minutes();
    let rows = [
        row(0, "aaaaaaaa", 1, 1000),
        row(0, "aaaaaaaa", 2, 1000),
        row(day - 1, "aaaaaaaa", 4, 1000),
        row(day, "aaaaaaaa", 8, 90_000),
        row(0, "bbbbbbbb", 16, 0),
    ];
    let days = bucketed(&rows, Resolution::Day);
    let told: Vec<_> = days
        .iter()
        .map(|bucket| {
            let deployment = bucket.owner.deployment_id.to_string();
            let count = bucket.counters.requests();
            (bucket.start, deployment, count, bucket.replica_minutes)
        })
        .collect();
    assert_eq!(
        told,
        [
            (0, "aaaaaaaa".into(), 7, 2),
            (0, "bbbbbbbb".into(), 16, 0),
            (day, "aaaaaaaa".into(), 8, 2),
        ]
    );
    let [a, b] = &by_deployment(days)[..] else {
        panic!("wanted two deployments")
    };
    assert_eq!(
        (a.counters.requests(), a.replica_minutes, a.parts.len()),
        (15, 4, 2)
    );
    assert_eq!(
        (b.counters.requests(), b.replica_minutes, b.parts.len()),
        (16, 0, 1)
    );
}

#[test]
fn minutes_before_1970_start_at_their_own_hour() {
    assert_eq!(Resolution::Hour.start_of(-1), -60);
    assert_eq!(Resolution::Hour.start_of(59), 0);
    assert_eq!(Resolution::Minute.start_of(-7), -7);
}

#[test]
fn the_time_of_replicas_lies_in_the_minutes_that_it_passed_in() {
    let used = Counters {
        replica_ms: 2000,
        requests_ok: 3,
        ..Counters::default()
    };
    let parts = spread(used, 59_500, 61_500);
    let told: Vec<_> = parts
        .iter()
        .map(|(minute, part)| (*minute, part.replica_ms, part.requests_ok))
        .collect();
    assert_eq!(told, [(0, 500, 0), (1, 1500, 3)]);
    // A clock that was set back, or far ahead.
    assert_eq!(spread(used, 61_500, 59_500), [(0, used)]);
    assert_eq!(spread(used, 0, i64::MAX), [(i64::MAX / MINUTE_MS, used)]);
    assert_eq!(spread(Counters::default(), 0, 60_000), []);
}

#[test]
fn a_row_reads_back_also_without_the_counters_of_a_later_release() {
    let row = row(7, "aaaaaaaa", 1, 2);
    let text = serde_json::to_string(&row).unwrap();
    assert_eq!(serde_json::from_str::<UsageRow>(&text).unwrap(), row);
    let older = text.replace("\"bytes_out\":0", "\"unknown\":0");
    assert_ne!(older, text);
    assert_eq!(serde_json::from_str::<UsageRow>(&older).unwrap(), row);
}

proptest! {
    #[test]
    fn nothing_is_lost_by_spreading(
        values in proptest::array::uniform17(0..u64::MAX / 100),
        from_ms in -1_000_000_i64..1_000_000,
        took_ms in -100_000_i64..2_000_000,
    ) {
        let used = Counters::from_values(values);
        let parts = spread(used, from_ms, from_ms + took_ms);
        let sum = parts.iter().fold(Counters::default(), |sum, (_, part)| sum.plus(part));
        prop_assert_eq!(sum, used);
    }

    #[test]
    fn what_came_since_and_before_is_all(
        before in proptest::array::uniform17(0..u64::MAX / 2),
        more in proptest::array::uniform17(0..u64::MAX / 2),
    ) {
        let (before, more) = (Counters::from_values(before), Counters::from_values(more));
        prop_assert_eq!(before.plus(&more).since(&before), more);
    }
}
