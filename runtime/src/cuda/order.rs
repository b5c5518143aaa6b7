//! The order in which an embedding's gradient adds up rows: by id, and for each id by position.
//!
//! The host knows the ids, so it sorts them while it uploads them: nothing is sorted on the device, and nothing there
//! depends on the order in which blocks run. Owns the table that the kernel reads. Must not know the kernel.

/// Table and scratch for a number of ids, and where the table lies on the device.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) address: u64,
    ids: usize,
    /// For each id where its next position goes; afterwards where its run ends.
    ends: Vec<i32>,
    /// `order[ids]`: the positions, sorted stably by id; `run_start[ids + 1]`: where each run of equal ids begins in them
    /// and the last ends; `run_id[ids]`: the id of each run; `count[1]`: the number of runs.
    table: Vec<i32>,
}

impl Order {
    /// For `ids` ids into a table of `rows` rows.
    pub(crate) fn new(ids: u64, rows: u64, address: u64) -> Order {
        let ids = ids as usize;
        Order { address, ids, ends: vec![0; rows as usize + 1], table: vec![0; 3 * ids + 2] }
    }

    /// Bytes of the table.
    pub(crate) fn bytes(&self) -> u64 {
        (self.table.len() * size_of::<i32>()) as u64
    }

    /// The table of some ids; ids outside the embedding's rows are left out, as they are by the gather.
    pub(crate) fn of(&mut self, ids: &[i32]) -> &[i32] {
        assert_eq!(ids.len(), self.ids);
        let rows = self.ends.len() - 1;
        let row = |id: i32| usize::try_from(id).ok().filter(|row| *row < rows);
        self.ends.fill(0);
        for row in ids.iter().filter_map(|id| row(*id)) {
            self.ends[row + 1] += 1;
        }
        let (order, rest) = self.table.split_at_mut(self.ids);
        let (starts, rest) = rest.split_at_mut(self.ids + 1);
        let (names, count) = rest.split_at_mut(self.ids);
        let mut runs = 0;
        for row in 0..rows {
            let length = self.ends[row + 1];
            self.ends[row + 1] += self.ends[row];
            if length > 0 {
                (starts[runs], names[runs]) = (self.ends[row], row as i32);
                runs += 1;
            }
        }
        starts[runs] = self.ends[rows];
        count[0] = runs as i32;
        for (position, row) in ids.iter().enumerate().filter_map(|(i, id)| Some((i, row(*id)?))) {
            order[self.ends[row] as usize] = position as i32;
            self.ends[row] += 1;
        }
        &self.table
    }
}

#[cfg(test)]
mod tests {
    use super::Order;

    #[test]
    fn ids_are_sorted_and_positions_stay_in_order() {
        let mut order = Order::new(6, 5, 0);
        for _ in 0..2 {
            let table = order.of(&[3, 0, 3, 4, 7, 0]).to_vec();
            assert_eq!(table[..5], [1, 5, 0, 2, 3]);
            assert_eq!(table[6..10], [0, 2, 4, 5]);
            assert_eq!(table[13..16], [0, 3, 4]);
            assert_eq!(table[19], 3);
        }
    }
}
