//! Tokenizing with several threads.
//!
//! Owns how texts are cut and spread over threads. The ids do not depend on either.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{PIECE_BYTES, Tokenizer, pieces};
use crate::data::error::{DataError, one_line};

impl Tokenizer {
    /// Ids of a text, without special tokens before or after it. What the text spells is never read as a special token.
    ///
    /// # Errors
    ///
    /// If the tokenizer's model fails, for example at a character it has no token for; [`DataError::Encode`] then names
    /// this tokenizer's file.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let mut all = self.encode_all(&[text], NonZeroUsize::MIN).map_err(|(_, error)| error)?;
        Ok(all.pop().unwrap_or_default())
    }

    /// The ids of each of several texts, with up to `threads` threads; the ids do not depend on their number.
    ///
    /// # Errors
    ///
    /// As for [`Tokenizer::encode`], with the index of the first text that fails.
    pub fn encode_all(
        &self,
        texts: &[&str],
        threads: NonZeroUsize,
    ) -> Result<Vec<Vec<u32>>, (usize, DataError)> {
        let mut work: Vec<(usize, &str)> = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            if self.splits_at_line_ends && text.len() > PIECE_BYTES {
                work.extend(pieces(text, PIECE_BYTES).into_iter().map(|piece| (index, piece)));
            } else {
                work.push((index, text));
            }
        }
        let next = AtomicUsize::new(0);
        let worker = || {
            let mut done = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some((_, piece)) = work.get(at) else { return done };
                done.push((at, self.encode_piece(piece)));
            }
        };
        let threads = threads.get().min(work.len());
        let mut done = if threads <= 1 {
            worker()
        } else {
            std::thread::scope(|scope| {
                let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
                let join = |worker: std::thread::ScopedJoinHandle<'_, _>| {
                    worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                };
                workers.into_iter().flat_map(join).collect::<Vec<_>>()
            })
        };
        // Which thread had which piece is chance; their places are not.
        done.sort_unstable_by_key(|(at, _)| *at);
        let mut all = vec![Vec::new(); texts.len()];
        for (at, ids) in done {
            let index = work[at].0;
            let ids = ids.map_err(|error| (index, error))?;
            match all[index].is_empty() {
                true => all[index] = ids,
                false => all[index].extend_from_slice(&ids),
            }
        }
        Ok(all)
    }

    pub(super) fn encode_piece(&self, piece: &str) -> Result<Vec<u32>, DataError> {
        self.inner
            .encode_fast(piece, false)
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|error| DataError::Encode { path: self.path.clone(), reason: one_line(error) })
    }
}
