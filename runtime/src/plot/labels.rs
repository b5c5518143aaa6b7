//! Labels at the ends of lines.
//!
//! Owns where they stand, so that none covers another, and how wide a text is drawn. Must not know what they say.

/// Moves labels apart: each gets a place at least `gap` from the next, as near as may be to where it was wanted, within
/// `top..=bottom` as far as there is room. The order of equals is kept.
pub(crate) fn spread(wanted: &[f64], gap: f64, top: f64, bottom: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|&a, &b| wanted[a].total_cmp(&wanted[b]));
    let mut places: Vec<f64> = order.iter().map(|&i| wanted[i].clamp(top, bottom)).collect();
    // Neighbours that are too near form a block around the mean of what they wanted; blocks that meet are joined.
    let mut blocks: Vec<(f64, usize)> = Vec::new();
    for &place in &places {
        let mut block = (place, 1);
        while let Some(&(centre, count)) = blocks.last() {
            let reach = gap * (count + block.1) as f64 / 2.0;
            if block.0 - centre >= reach {
                break;
            }
            let total = (count + block.1) as f64;
            let mean = (centre * count as f64 + block.0 * block.1 as f64) / total;
            let half = gap * (total - 1.0) / 2.0;
            let lowest = (bottom - half).max(top + half);
            block = (mean.clamp(top + half, lowest), count + block.1);
            blocks.pop();
        }
        blocks.push(block);
    }
    let mut index = 0;
    for (centre, count) in blocks {
        for i in 0..count {
            places[index] = centre + gap * (i as f64 - (count as f64 - 1.0) / 2.0);
            index += 1;
        }
    }
    let mut result = vec![0.0; wanted.len()];
    for (place, index) in places.into_iter().zip(order) {
        result[index] = place;
    }
    result
}

/// About how wide a text is, for a font of `size` pixels: a little too much rather than too little.
pub(crate) fn width(text: &str, size: f64) -> f64 {
    let ems: f64 = text
        .chars()
        .map(|c| match c {
            'i' | 'j' | 'l' | 't' | 'f' | 'r' | ' ' | '.' | ',' | ':' | '-' | '|' | '\'' => 0.34,
            'm' | 'w' | 'M' | 'W' => 0.88,
            c if c.is_ascii_uppercase() => 0.68,
            c if c.is_ascii() => 0.57,
            _ => 1.0,
        })
        .sum();
    ems * size
}

/// A text cut in its middle so that it is at most about `most` wide; names differ at their ends.
pub(crate) fn shortened(text: &str, size: f64, most: f64) -> String {
    if width(text, size) <= most {
        return text.to_owned();
    }
    let characters: Vec<char> = text.chars().collect();
    for kept in (2..characters.len()).rev() {
        let (head, tail) = (kept / 2, kept - kept / 2);
        let begin = characters[..head].iter();
        let cut: String =
            begin.chain(&['…']).chain(&characters[characters.len() - tail..]).collect();
        if width(&cut, size) <= most {
            return cut;
        }
    }
    "…".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_with_room_stay_where_they_are() {
        assert_eq!(spread(&[50.0, 10.0, 90.0], 14.0, 0.0, 100.0), [50.0, 10.0, 90.0]);
        assert!(spread(&[], 14.0, 0.0, 100.0).is_empty());
    }

    #[test]
    fn labels_never_overlap() {
        for wanted in [
            vec![50.0, 50.0, 50.0],
            vec![0.0, 1.0, 2.0, 99.0, 100.0],
            vec![-500.0, 40.0, 45.0, 600.0],
            vec![100.0; 6],
        ] {
            let places = spread(&wanted, 14.0, 0.0, 100.0);
            let mut sorted = places.clone();
            sorted.sort_by(f64::total_cmp);
            assert!(sorted.windows(2).all(|w| w[1] - w[0] > 13.999), "{places:?}");
            assert!(sorted[0] > -0.001 && sorted[sorted.len() - 1] < 100.001, "{places:?}");
        }
        // Where there is no room for all, they still do not overlap.
        let places = spread(&[50.0; 20], 14.0, 0.0, 100.0);
        assert!(places.windows(2).all(|w| w[1] - w[0] > 13.999), "{places:?}");
    }

    #[test]
    fn the_order_is_kept() {
        assert_eq!(spread(&[51.0, 50.0], 10.0, 0.0, 100.0), [55.5, 45.5]);
        assert_eq!(spread(&[50.0, 50.0], 10.0, 0.0, 100.0), [45.0, 55.0]);
    }

    #[test]
    fn long_names_lose_their_middle() {
        assert_eq!(shortened("full-rank", 12.0, 100.0), "full-rank");
        let short = shortened("experiments/2026/wide-model-seed-7", 12.0, 120.0);
        assert!(short.starts_with("exper") && short.ends_with("seed-7"), "{short}");
        assert!(width(&short, 12.0) <= 120.0);
        assert_eq!(shortened("wide", 12.0, 1.0), "…");
    }
}
