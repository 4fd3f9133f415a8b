//! x
/// x
pub struct BatchEncoder;
