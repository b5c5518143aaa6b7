//! From text to batches of token ids.
pub mod error;
pub mod files;
pub mod order;
pub mod tokenizer;
pub mod train_tokenizer;
