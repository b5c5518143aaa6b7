//! A plan that fills a memory, together with what the device holds for it beside.
//!
//! Owns the search: what is held is known once there is a plan, and a plan once it is known how much it may take. Must not
//! know how plans are made or what is held for them.

/// A plan that takes at most `room` bytes with what is held for it. `within` makes the one that fills so many bytes, `needs`
/// says how many a plan takes and how many are held for it.
///
/// Each further plan leaves as much as the one before it wanted held, which ends at the latest when no plan wants more. The
/// last may still not fit, where less room means more to be held; whoever allocates it says so.
pub(crate) fn filled<P, E>(
    room: u64,
    within: impl Fn(u64) -> Result<P, E>,
    needs: impl Fn(&P) -> [u64; 2],
) -> Result<P, E> {
    let mut left = 0;
    loop {
        let plan = within(room.saturating_sub(left))?;
        let [own, held] = needs(&plan);
        if held <= left || own + held <= room {
            return Ok(plan);
        }
        left = held;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Plans of so many rows take 10 bytes for each, and something is held for them.
    fn rows(room: u64, held: fn(u64) -> u64) -> (Result<u64, ()>, u32) {
        let made = Cell::new(0);
        let within = |bytes: u64| {
            made.set(made.get() + 1);
            if bytes < 10 { Err(()) } else { Ok(bytes / 10) }
        };
        (filled(room, within, |rows| [10 * rows, held(*rows)]), made.get())
    }

    #[test]
    fn what_is_held_finds_room() {
        assert_eq!(rows(100, |_| 0), (Ok(10), 1));
        assert_eq!(rows(104, |_| 4), (Ok(10), 1), "there was room without looking for it");
        assert_eq!(rows(100, |_| 4), (Ok(9), 2));
        assert_eq!(rows(100, |rows| 3 * rows), (Ok(7), 2));
        // Nothing is held for many rows, since the library does not take them.
        assert_eq!(rows(100, |rows| if rows > 9 { 1 } else { 2 * rows }), (Ok(8), 3));
        assert_eq!(rows(100, |rows| 20 * rows), (Err(()), 2), "too little is left for a plan");
    }
}
