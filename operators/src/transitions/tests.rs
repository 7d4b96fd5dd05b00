//! The table is whole, and [`judge`] refuses what it hasn't.

use super::*;

fn file() -> Key {
    Key::new("2026-02-01", "a.ndjson")
}

fn settle() -> Write {
    let condition =
        Condition::equals("status", "manifested#3").and(Condition::equals("manifest_path", "s3://m/batch-1.json"));
    ["completed_time", "rows", "rejected_rows", "ttl"]
        .into_iter()
        .fold(Write::update(file(), condition), |write, name| write.set(name, "x"))
        .set("status", "completed#3")
}

fn with_condition(condition: Condition) -> Write {
    Write { condition, ..settle() }
}

#[test]
fn i3_what_the_table_has_is_allowed_and_each_departure_is_refused() {
    assert_eq!(judge("settle", &settle()).unwrap().name, "settle as completed");
    let refused = |operator: &str, write: Write, wanted: &str| {
        let error = judge(operator, &write).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    };
    refused("fold", settle(), "only settle, sweep may");
    refused("settle", with_condition(Condition::equals("manifest_path", "m")), "it depends on no state");
    refused("settle", with_condition(Condition::equals("status", "manifested#3")), "manifest_path = M");
    let elsewhere = Condition::equals("status", "pending#3").and(Condition::equals("manifest_path", "m"));
    refused("settle", with_condition(elsewhere), "may not start from");
    let alternative = Condition::Any(vec![settle().condition, Condition::absent("x")]);
    refused("settle", with_condition(alternative), "it depends on no state");
    refused("settle", settle().set("candidates", "x"), "it may not set candidates");
    refused("settle", settle().remove("etag"), "it may not remove etag");
    refused("settle", settle().set("status", "vanished#3"), "leads to `vanished`");
    refused("settle", Write::delete(file(), settle().condition), "leads to `deleted`");
}

#[test]
fn every_state_can_be_reached_and_left_until_it_is_final() {
    for kind in [ItemKind::File, ItemKind::Manifest] {
        for state in states(kind) {
            let of_kind = || TRANSITIONS.iter().filter(|transition| transition.of == kind);
            assert!(of_kind().any(|transition| transition.to == Some(state)), "nothing leads to {state}");
            let is_left = of_kind().any(|transition| {
                transition.from.contains(&state)
                    && transition.to.is_some_and(|to| to != state)
                    && !transition.by.contains(&"person")
                    && transition.name != "redrive"
            });
            let is_final = match kind {
                ItemKind::File => FileState::parse(state).is_some_and(FileState::is_final),
                _ => ["completed", "failed", "abandoned"].contains(&state),
            };
            assert_eq!(is_left, !is_final, "{state}");
        }
        for transition in TRANSITIONS.iter().filter(|transition| transition.of == kind) {
            let known = states(kind);
            assert!(transition.from.iter().chain(transition.to.iter()).all(|state| known.contains(state)));
        }
    }
}

#[test]
fn work_that_is_not_final_never_expires() {
    // `ttl` is set by final states alone, and what leads out of one removes it.
    for transition in TRANSITIONS {
        let leads_to_final =
            transition.to.is_none_or(|to| ["completed", "failed", "quarantined", "abandoned"].contains(&to));
        assert!(leads_to_final || !transition.sets.contains(&"ttl"), "{}", transition.name);
        let from_final = transition.from.iter().any(|from| FileState::parse(from).is_some_and(FileState::is_final));
        if transition.of == ItemKind::File && from_final {
            assert!(transition.removes.contains(&"ttl"), "{}", transition.name);
        }
    }
}

#[test]
fn architecture_shows_the_table() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../ARCHITECTURE.md")).unwrap();
    assert!(text.contains(&rows()), "ARCHITECTURE.md must show this table:\n\n{}", rows());
}
