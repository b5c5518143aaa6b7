//! From text to batches of token ids.
//!
//! Owns everything between a text file and the `tokens` and `labels` of a training step: reading text, tokenizers and
//! their training, the files tokens are kept in, the order of samples, and the rows of a batch. Must not know models,
//! executors, plans (but for the recipe's words about data) or training (but for the two interfaces in
//! [`crate::train::rows`] that its rows have), and prints nothing.
//!
//! ```text
//! files ──source──▶ documents ──prepare──▶ token shards ──corpus──▶ one stream, one list of documents
//!                                  ▲           token files ──▲                │
//!                      tokenizer ──┘                order, mixture ──batch──▶ tokens, labels   [rows, sequence_length]
//! ```
//!
//! Three things hold throughout:
//!
//! - **Nothing depends on chance or on threads.** Equal texts give equal tokenizers and equal shards, byte for byte;
//!   which rows make up a step is a pure function of seed and step ([`order`]), so that a run resumes anywhere and a
//!   global batch is the same however it is split.
//! - **Ids never travel without their meaning.** Every shard carries the hash of the vocabulary its ids are from
//!   ([`tokenizer::VocabularyHash`]), and every place where ids meet a model or a tokenizer can check it.
//! - **Files are believed when they are checked.** Opening a shard reads all of it: hashes, sizes, every id. After
//!   that, batches are filled without a failure or an allocation.
//!
//! ```no_run
//! use std::path::{Path, PathBuf};
//! use std::sync::Arc;
//!
//! use colac_plan::recipe::BatchMode;
//! use colac_runtime::data::{PrepareOptions, TokenCorpus, Tokenizer, TrainingBatches, prepare};
//!
//! # fn main() -> Result<(), colac_runtime::data::DataError> {
//! let tokenizer = Tokenizer::from_file(Path::new("examples/corpus/tokenizer-4096.json"))?;
//! let texts = [PathBuf::from("examples/corpus/train")];
//! let directory = PathBuf::from("data/train");
//! let go_on = &mut |_| std::ops::ControlFlow::Continue(());
//! prepare(&texts, &tokenizer, &directory, &PrepareOptions::default(), go_on)?;
//!
//! let corpus = Arc::new(TokenCorpus::open(&[directory])?);
//! let batches = TrainingBatches::new(corpus, BatchMode::Pack, 256, 42)?;
//! let (mut tokens, mut labels) = (vec![0; 8 * 256], vec![0; 8 * 256]);
//! batches.fill(0, &mut tokens, &mut labels);
//! # Ok(())
//! # }
//! ```

pub mod batch;
pub mod corpus;
pub mod corpus_writer;
pub mod error;
pub mod files;
pub mod inspect;
pub mod mixture;
pub mod order;
pub mod prepare;
pub mod shard;
pub mod source;
pub mod token_file;
pub mod tokenizer;
pub mod train_tokenizer;
pub mod training_batches;

pub use batch::EvaluationBatches;
pub use corpus::{OpenOptions, TokenCorpus, holds_tokens};
pub use corpus_writer::{Side, SideSummary};
pub use error::DataError;
pub use inspect::{SourceInfo, inspect};
pub use order::SampleOrder;
pub use prepare::{PrepareOptions, PrepareProgress, PrepareSummary, prepare};
pub use shard::{ShardHeader, TokenShard};
pub use source::ReadOptions;
pub use token_file::TokenFile;
pub use tokenizer::{SpecialTokens, StreamingDecoder, Tokenizer, VocabularyHash};
pub use train_tokenizer::train_bpe;
pub use training_batches::{MixedCorpus, RowOrigin, SourceShare, TrainingBatches};
