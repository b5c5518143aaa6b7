//! Damaged plans whose hash is good: refused in one line or verified, never a panic.
//!
//! `COLAC_PLAN=FILE` points the test to a compiled plan, `COLAC_MUTATIONS=N` changes how often it is damaged (for a large
//! plan each time costs its whole decoding).

#![allow(clippy::unwrap_used, reason = "a test may fail where it unwraps")]

mod common;

fn damage(seed: u64) {
    let setting = |name: &str| std::env::var(name).ok();
    let plan = match setting("COLAC_PLAN") {
        Some(path) => colac_plan::file::read_from_path(path.as_ref()).unwrap(),
        None => common::plan(),
    };
    let count = setting("COLAC_MUTATIONS").map_or(50_000, |count| count.parse().unwrap());
    let outcome = common::mutate::run(&plan, count, seed);
    println!("{outcome:?}");
    assert_eq!(outcome.refused + outcome.accepted, count);
    // Both kinds occur, or the damage would not reach the rules or be nothing but noise.
    assert!(outcome.refused > count / 2 && outcome.accepted > count / 1000, "{outcome:?}");
}

#[test]
fn random_damage_is_refused_or_harmless() {
    damage(20_241);
}

/// The same with other damage, as a test of its own so that the two run side by side.
#[test]
fn other_random_damage_is_refused_or_harmless() {
    damage(118_203);
}
