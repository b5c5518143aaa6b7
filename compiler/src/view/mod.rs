//! Reports of a plan for people and machines.
//!
//! Owns what is counted and under which names it is reported. Reads plans only: what it says is what the runtime does.
//! Must not know specs, graphs or passes; only [`picture`] reads graphs, since it shows what passes did.

pub mod compare;
pub mod difference;
pub mod difference_text;
pub mod draw;
pub mod inspection;
pub mod memory;
pub mod memory_text;
pub mod page;
pub mod picture;
pub mod text;
pub mod timeline;

pub use difference::Difference;
pub use inspection::Inspection;
pub use memory::MemoryReport;
pub use timeline::Timeline;
