//! A ring of bytes in which copies wait for their turn.
//!
//! Owns which part of it is whose. Must not know what lies in it, nor devices.

use std::collections::VecDeque;

/// Parts begin at multiples of this, as copies of devices like it.
const ALIGNMENT: usize = 64;

/// Parts that are claimed and, oldest first, released. The parts that are claimed never overlap.
#[derive(Debug)]
pub(super) struct Ring {
    bytes: usize,
    /// Beginnings of the parts, oldest first.
    parts: VecDeque<usize>,
    /// Where the next part would begin.
    next: usize,
}

impl Ring {
    /// A ring of so many bytes, or a few more.
    pub(super) fn new(bytes: usize) -> Ring {
        let bytes = bytes.next_multiple_of(ALIGNMENT);
        Ring { bytes, parts: VecDeque::new(), next: 0 }
    }

    /// All its bytes: no part is larger.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The beginning of so many bytes that follow each other; `None` until more is released.
    pub(super) fn claim(&mut self, bytes: usize) -> Option<usize> {
        let bytes = bytes.max(1).next_multiple_of(ALIGNMENT);
        let begin = match self.parts.front() {
            None => Some(0).filter(|_| bytes <= self.bytes),
            Some(&oldest) if self.next > oldest => match self.next + bytes <= self.bytes {
                true => Some(self.next),
                // Not up to the oldest itself: a full ring would look like one whose parts begin there.
                false => Some(0).filter(|_| bytes < oldest),
            },
            Some(&oldest) => Some(self.next).filter(|next| next + bytes < oldest),
        }?;
        self.next = begin + bytes;
        self.parts.push_back(begin);
        Some(begin)
    }

    /// Gives the oldest part back.
    pub(super) fn release(&mut self) {
        self.parts.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::random::Stream;

    #[test]
    fn parts_never_overlap_and_everything_that_fits_gets_in() {
        let stream = Stream::new(7, "ring", 0);
        let mut ring = Ring::new(1024);
        let mut live: VecDeque<(usize, usize)> = VecDeque::new();
        for step in 0..20_000 {
            let [size, _] = stream.uniform_pair(step);
            let bytes = (size * size * 1100.0) as usize;
            match ring.claim(bytes) {
                Some(begin) => {
                    let end = begin + bytes;
                    assert!(begin.is_multiple_of(ALIGNMENT) && end <= 1024);
                    assert!(live.iter().all(|&(b, e)| end <= b || e <= begin), "step {step}");
                    live.push_back((begin, end));
                }
                None if live.is_empty() => assert!(bytes > 1024, "{bytes} bytes fit"),
                None => {
                    ring.release();
                    live.pop_front();
                }
            }
        }
    }

    #[test]
    fn a_ring_is_used_to_its_end_and_then_from_its_beginning() {
        let mut ring = Ring::new(256);
        assert_eq!([1, 64, 65].map(|bytes| ring.claim(bytes)), [Some(0), Some(64), Some(128)]);
        assert_eq!(ring.claim(1), None);
        ring.release();
        // One part between the newest and the oldest stays free.
        assert_eq!(ring.claim(64), None);
        ring.release();
        assert_eq!((ring.claim(64), ring.claim(1)), (Some(0), None));
        (0..2).for_each(|_| ring.release());
        assert_eq!(ring.claim(256), Some(0));
        assert_eq!(ring.claim(257), None);
    }
}
