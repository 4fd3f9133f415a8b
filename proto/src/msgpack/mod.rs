//! MessagePack as this protocol needs it: a reader that is bounded in everything, and a writer.
//!
//! Format: <https://github.com/msgpack/msgpack/blob/master/spec.md>.

mod read;
mod write;

pub(crate) use read::{Reader, Token, Unsound};
pub(crate) use write::Write;
