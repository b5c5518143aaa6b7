//! From text to batches of token ids.
pub mod corpus;
pub mod error;
pub mod files;
pub mod order;
pub mod prepare;
pub mod shard;
pub mod tokenizer;
pub mod train_tokenizer;
