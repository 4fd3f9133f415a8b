//! The data directory: where it is made, and what it holds before the log is opened.
//!
//! ```text
//! data/ca.pem                 certificate of the private CA: give it to devices
//! data/server.pem             the gateway's own certificate, issued again when names change
//! data/keys/ca-key.pem        private keys, 0600
//! data/keys/server-key.pem
//! data/keys/token.pem         signs device tokens (ES256)
//! ```
//!
//! It promises: a file is whole or absent, whatever happens while it is written; an existing key is
//! never replaced. It refuses: a key that cannot be read, a file with other content than its name
//! says, a CA certificate of another key. Only [`prepare`] writes; call it under the lock of the
//! data directory.

mod file;
mod hosts;
mod keys;
mod pki;

use std::{
    io,
    path::{Path, PathBuf},
};

pub use hosts::{is_host, wanted as wanted_hosts};
pub use keys::TokenKey;

/// Paths of everything that [`prepare`] made or found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir {
    /// The directory itself.
    pub path: PathBuf,
}

impl DataDir {
    /// The layout below `path`; nothing is read or made.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Certificate of the private CA, PEM.
    pub fn ca_file(&self) -> PathBuf {
        self.path.join("ca.pem")
    }

    /// The server's certificate, PEM.
    pub fn cert_file(&self) -> PathBuf {
        self.path.join("server.pem")
    }

    /// The server's private key, PKCS#8 PEM.
    pub fn key_file(&self) -> PathBuf {
        self.keys().join("server-key.pem")
    }

    /// The key that signs device tokens, PKCS#8 PEM.
    pub fn token_key_file(&self) -> PathBuf {
        self.keys().join("token.pem")
    }

    fn ca_key_file(&self) -> PathBuf {
        self.keys().join("ca-key.pem")
    }

    fn keys(&self) -> PathBuf {
        self.path.join("keys")
    }
}

/// Why the data directory cannot be used. Every message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// A file or directory cannot be read or written.
    #[error("cannot {action} {}: {source}; {}", path.display(), remedy(path, source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file holds something else than it should.
    #[error("{} {what}; {remedy}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// A key, certificate or token could not be made.
    #[error("cannot make {what}: {why}")]
    Crypto {
        /// What was to be made.
        what: &'static str,
        /// The library's words.
        why: String,
    },
}

fn remedy(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "run the gateway as the owner of {}, or give its user access to it",
            path.parent().unwrap_or(path).display()
        ),
        io::ErrorKind::StorageFull => "free some space on its disk".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => {
            "name a writable directory with --data-dir or \"data_dir\"".to_owned()
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "name another directory with --data-dir or \"data_dir\"".to_owned()
        }
        _ => "check the path and the disk".to_owned(),
    }
}

/// Makes what is missing of the data directory: the directory itself, the CA, the server's
/// certificate and the token key. `hosts` are covered by the certificate besides the machine's own
/// names and addresses; `None` means that the certificate comes from elsewhere and none is made.
///
/// # Errors
/// See [`DataDirError`].
pub fn prepare(path: &Path, hosts: Option<&[String]>) -> Result<DataDir, DataDirError> {
    let dir = DataDir::new(path);
    file::make_directory(&dir.path)?;
    file::make_directory(&dir.keys())?;
    if let Some(hosts) = hosts {
        pki::ensure(&dir, &wanted_hosts(hosts), pki::now())?;
    }
    keys::ensure(&dir.token_key_file())?;
    Ok(dir)
}

#[cfg(test)]
mod tests;
