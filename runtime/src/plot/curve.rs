//! Lines of many points: smoothing, and thinning to what a picture can show.
//!
//! Owns both. Must not know axes or formats.

/// A moving average over about `span` values, `None` where the value is missing: each neighbour at a distance of `d`
/// values has the weight `(1 - w)^d` with `w = 2 / (span + 1)`. It looks both ways, so that a line is not shifted to the
/// right of what it stands for. A span of 1 changes nothing.
pub(crate) fn smoothed(values: &[Option<f64>], span: f64) -> Vec<Option<f64>> {
    let weight = 2.0 / (span.max(1.0) + 1.0);
    let finite = |value: &Option<f64>| value.filter(|value| value.is_finite());
    // Weighted sums over a value and all before it, with the sums of the weights.
    let pass = |order: &mut dyn Iterator<Item = &Option<f64>>| -> Vec<(f64, f64)> {
        let (mut sum, mut weights) = (0.0, 0.0);
        let add = |value: &Option<f64>| {
            if let Some(value) = finite(value) {
                sum += weight * (value - sum);
                weights += weight * (1.0 - weights);
            }
            (sum, weights)
        };
        order.map(add).collect()
    };
    let back = pass(&mut values.iter());
    let mut ahead = pass(&mut values.iter().rev());
    ahead.reverse();
    let mean = |index: usize| {
        // Both sums have the value itself.
        let value = finite(&values[index])?;
        let ((back, back_weights), (ahead, ahead_weights)) = (back[index], ahead[index]);
        Some((back + ahead - weight * value) / (back_weights + ahead_weights - weight))
    };
    (0..values.len()).map(mean).collect()
}

/// Thins a line to at most four points for each column of one pixel: the first, the lowest, the highest and the last,
/// in their order. The line drawn through them covers the same pixels, so no spike is lost. A missing point ends one
/// piece of the line, and the next one begins another.
pub(crate) fn thinned(points: impl Iterator<Item = Option<(f64, f64)>>) -> Vec<Vec<(f64, f64)>> {
    let mut pieces = Vec::new();
    let mut piece = Vec::new();
    let mut column: Vec<(f64, f64)> = Vec::new();
    for point in points {
        let Some(point) = point else {
            flush(&mut column, &mut piece);
            if !piece.is_empty() {
                pieces.push(std::mem::take(&mut piece));
            }
            continue;
        };
        if column.first().is_some_and(|first| first.0.floor() != point.0.floor()) {
            flush(&mut column, &mut piece);
        }
        column.push(point);
    }
    flush(&mut column, &mut piece);
    if !piece.is_empty() {
        pieces.push(piece);
    }
    pieces
}

/// Moves the four telling points of a column to the line.
fn flush(column: &mut Vec<(f64, f64)>, piece: &mut Vec<(f64, f64)>) {
    let by_height = |a: &usize, b: &usize| column[*a].1.total_cmp(&column[*b].1);
    let lowest = (0..column.len()).min_by(by_height);
    let highest = (0..column.len()).max_by(by_height);
    if let (Some(lowest), Some(highest)) = (lowest, highest) {
        let mut kept = [0, lowest, highest, column.len() - 1];
        kept.sort_unstable();
        let mut last = None;
        for index in kept {
            if last != Some(index) {
                piece.push(column[index]);
            }
            last = Some(index);
        }
    }
    column.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_looks_both_ways() {
        let values: Vec<_> = [4.0, 2.0, 2.0].map(Some).to_vec();
        assert_eq!(smoothed(&values, 1.0), values);
        // Weights of 1, 1/2 and 1/4 for distances of 0, 1 and 2.
        let expected = [
            (4.0 + 2.0 / 2.0 + 2.0 / 4.0) / 1.75,
            (4.0 / 2.0 + 2.0 + 2.0 / 2.0) / 2.0,
            (4.0 / 4.0 + 2.0 / 2.0 + 2.0) / 1.75,
        ];
        for (found, expected) in smoothed(&values, 3.0).into_iter().zip(expected) {
            assert!((found.unwrap() - expected).abs() < 1e-12, "{found:?} {expected}");
        }
    }

    /// A falling line smoothed by an average that only looks back lies above itself.
    #[test]
    fn smoothing_does_not_shift() {
        let values: Vec<_> = (0..1000).map(|i| Some(f64::from(1000 - i))).collect();
        assert!((smoothed(&values, 50.0)[500].unwrap() - 500.0).abs() < 1e-6);
    }

    #[test]
    fn smoothing_passes_over_what_is_missing() {
        let values = [Some(1.0), None, Some(f64::NAN), Some(1.0)];
        let smooth = smoothed(&values, 9.0);
        assert_eq!((smooth[1], smooth[2]), (None, None));
        assert!((smooth[3].unwrap() - 1.0).abs() < 1e-12);
        let flat = smoothed(&vec![Some(3.0); 500], 50.0);
        assert!(flat.iter().all(|value| (value.unwrap() - 3.0).abs() < 1e-9));
    }

    /// One update of fifty thousand that jumps is seen in a picture of 800 pixels.
    #[test]
    fn spikes_survive_thinning() {
        let count = 50_000;
        let line = (0..count).map(|i| {
            let y = if i == 31_415 { 99.0 } else { (i % 7) as f64 };
            Some((800.0 * i as f64 / count as f64, y))
        });
        let pieces = thinned(line);
        assert_eq!(pieces.len(), 1);
        assert!(pieces[0].len() <= 4 * 800, "{}", pieces[0].len());
        assert_eq!(pieces[0].iter().filter(|(_, y)| *y == 99.0).count(), 1);
        assert!(pieces[0].is_sorted_by(|a, b| a.0 <= b.0));
        assert_eq!(pieces[0].iter().filter(|(_, y)| *y == 0.0).count() / 790, 1);
    }

    #[test]
    fn short_lines_stay_as_they_are_and_gaps_part_them() {
        let points = [Some((0.0, 1.0)), Some((5.0, 2.0)), None, None, Some((9.0, 3.0))];
        let pieces = thinned(points.into_iter());
        assert_eq!(pieces, [vec![(0.0, 1.0), (5.0, 2.0)], vec![(9.0, 3.0)]]);
        assert!(thinned([None, None].into_iter()).is_empty());
        assert!(thinned(std::iter::empty()).is_empty());
    }
}
