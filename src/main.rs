//! colac.
fn main() {}
