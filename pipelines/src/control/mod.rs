//! How a command reaches the process that owns a local folder.
//!
//! One process owns a folder, so what a person wants written is written by that process: it listens on a Unix socket in
//! the folder, and `flush`, `redrive`, `tap` and `top` talk to it. If nobody listens the command opens the folder itself;
//! on AWS, where nobody owns anything, it always does. Either way the same function does the work ([`Hands`]).
//!
//! The socket is for the folder's own user: its mode is 0600 and the peer's user is compared. One connection is one
//! request, a line of JSON of bounded length, answered by lines of JSON ([`protocol`]). A socket that a killed owner left
//! behind refuses connections and is replaced by the next owner: only who holds the folder's lock binds it.

mod client;
mod events;
mod hands;
pub mod protocol;
pub mod remote;
mod server;
mod tapping;
#[cfg(test)]
mod tests;

use std::{
    fs::{File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

pub use client::{Client, call};
pub use hands::Hands;
pub use server::Control;

/// The socket's name in the folder.
pub const SOCKET: &str = "control.sock";

/// The longest path that a socket's address holds, with some room.
const MAX_PATH_BYTES: usize = 100;

/// The socket's address: its path, or, where that is too long for an address, a short way to the same place.
struct Address {
    path: PathBuf,
    /// Keeps the short way open.
    _dir: Option<File>,
}

impl Address {
    fn of(dir: &Path) -> io::Result<Self> {
        let path = dir.join(SOCKET);
        if path.as_os_str().len() <= MAX_PATH_BYTES {
            return Ok(Self { path, _dir: None });
        }
        use std::os::fd::AsRawFd;
        let opened = OpenOptions::new().read(true).open(dir)?;
        let short = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd())).join(SOCKET);
        Ok(Self { path: short, _dir: Some(opened) })
    }
}
