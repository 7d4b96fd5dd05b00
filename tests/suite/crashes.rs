//! The main points between two effects, each with a death before and after it by a real `kill -9`.
//!
//! The simulations die at all points; here the program itself does, on its own cloud of one machine, and what it has left
//! on the disk is gone on with.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use penstock_tests::{
    PATIENCE,
    conservation::{Owed, check},
    death::VARIABLE,
    simulation::witness::Crash,
};

use super::{place, sample};

/// The points, and how often each is passed at most before the death.
const POINTS: [(&str, u64); 22] = [
    ("track: track", 5),
    ("queue: delete from file-events", 1),
    ("quarantine: copy to quarantine", 1),
    ("quarantine: quarantine", 1),
    ("fold: take lease flush", 1),
    ("fold: assemble", 1),
    ("fold: claim", 3),
    ("fold: put manifests", 1),
    ("fold: commit the manifest", 1),
    ("announce: put ManifestReady", 1),
    ("announce: announced", 1),
    ("convert: take lease manifest", 1),
    ("convert: begin an attempt", 1),
    ("convert: put a part", 1),
    ("convert: put logs", 1),
    ("convert: record the commit", 1),
    ("convert: complete an output", 1),
    ("convert: complete", 1),
    ("settle: settle as completed", 2),
    ("settle: settled", 1),
    ("queue: delete from manifest-ready", 1),
    ("change_stream: checkpoint under lease arn", 1),
];

/// Runs into the death, and then to the end.
fn die_and_go_on(crash: &Crash) {
    let place = place().with("MAX_FILES", 8);
    let owed = Owed::from(sample(22, 3, 5).write(&place.path("files")).unwrap());
    let pattern = place.path("files").display().to_string();
    let died = place.die_in_pipeline(crash, &["--land", &pattern, "--until-idle"]).wait(PATIENCE);
    assert_eq!(died.signal, Some(9), "it wasn't killed {crash}, but ended with {:?}:\n{}", died.code, died.err);
    assert!(died.err.contains(&format!("Dies {crash}.")), "it was killed elsewhere than {crash}:\n{}", died.err);
    place.run_until_idle("files").expect_code(3);
    check(&place, &owed);
}

#[test]
fn i1_i2_i4_i7_i8_a_real_death_before_and_after_each_of_the_main_effects_loses_and_doubles_nothing() {
    let crashes: Vec<Crash> = POINTS
        .iter()
        .flat_map(|(point, nth)| [false, true].map(|after| Crash { point: (*point).to_owned(), after, nth: *nth }))
        .collect();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(crash) = crashes.get(next.fetch_add(1, Ordering::Relaxed)) {
                    println!("{VARIABLE}={crash}");
                    die_and_go_on(crash);
                }
            });
        }
    });
}
