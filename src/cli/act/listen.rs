//! The sockets of `lapo act`: TCP on a loopback address, or a Unix socket.
//!
//! Clients are served one after the other. A client that is waiting is served when the one before
//! it disconnects.

use std::io::{BufReader, Error as IoError, ErrorKind, Read, Result as IoResult, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{Failure, POLL, Server, UntilSignal};
use crate::cli::stderr;
use crate::cli::stdout::print;
use crate::error::CommandError as Error;
use crate::error::Result;
use crate::stages::Stop;

/// How often a listener looks for a client.
const ACCEPT_POLL: Duration = Duration::from_millis(10);
/// How long a client may leave answers unread.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A loopback address and a port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// Parses the value of `--listen`.
pub fn parse_address(text: &str) -> Result<Address, Error> {
    let wrong = |problem: String| Error::Usage {
        what: format!("--listen {text}: {problem}"),
        hint: "give 127.0.0.1:PORT, [::1]:PORT or unix:PATH; other machines reach it through a \
               tunnel, such as `ssh -L`"
            .into(),
    };
    if let Some(path) = text.strip_prefix("unix:") {
        let is_empty = path.is_empty();
        return if is_empty {
            Err(wrong("has no path".into()))
        } else {
            Ok(Address::Unix(path.into()))
        };
    }
    let address: SocketAddr =
        text.parse().map_err(|_| wrong("is neither IP:PORT nor unix:PATH".into()))?;
    if !address.ip().is_loopback() {
        return Err(wrong(format!("{} is not a loopback address", address.ip())));
    }
    Ok(Address::Tcp(address))
}

/// A socket that listens.
pub enum Listener {
    /// A loopback address.
    Tcp(TcpListener),
    /// A Unix socket. Its file is removed with it.
    Unix { listener: UnixListener, _file: SocketFile },
}

/// The file of a Unix socket, removed when dropped.
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have removed it.
        _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Listens on an address and prints it.
    pub fn bind(address: &Address) -> Result<Listener> {
        let failed = |name: String| move |source| Error::Input { from: name, source };
        match address {
            Address::Tcp(address) => {
                let listener = TcpListener::bind(address).map_err(failed(address.to_string()))?;
                let bound = listener.local_addr().map_err(failed(address.to_string()))?;
                listener.set_nonblocking(true).map_err(failed(bound.to_string()))?;
                print(&format!("listening on {bound}\n"))?;
                Ok(Listener::Tcp(listener))
            }
            Address::Unix(path) => {
                remove_stale(path)?;
                let name = || path.display().to_string();
                let listener = UnixListener::bind(path).map_err(failed(name()))?;
                let file = SocketFile(path.clone());
                // Only this user may connect.
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
                    .and_then(|()| listener.set_nonblocking(true))
                    .map_err(failed(name()))?;
                print(&format!("listening on unix:{}\n", path.display()))?;
                Ok(Listener::Unix { listener, _file: file })
            }
        }
    }

    /// Serves clients until a signal arrives.
    pub fn serve(&self, server: &mut Server, stop: &Stop) -> Result<()> {
        while !stop.is_set() {
            let served = match self {
                Listener::Tcp(listener) => match listener.accept() {
                    Ok((stream, _)) => serve_tcp(&stream, server, stop),
                    Err(error) => Err(Failure::Read(error)),
                },
                Listener::Unix { listener, .. } => match listener.accept() {
                    Ok((stream, _)) => serve_unix(&stream, server, stop),
                    Err(error) => Err(Failure::Read(error)),
                },
            };
            match served {
                Ok(()) => {}
                Err(Failure::Read(error)) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(ACCEPT_POLL);
                }
                Err(Failure::Read(_)) if stop.is_set() => {}
                Err(Failure::Read(error) | Failure::Write(error)) => {
                    stderr::line(format!("note: a client was dropped: {error}"));
                    // A failing accept must not spin.
                    std::thread::sleep(ACCEPT_POLL);
                }
                Err(Failure::Network(error)) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn serve_tcp(stream: &TcpStream, server: &mut Server, stop: &Stop) -> Result<(), Failure> {
    let set_up = || -> IoResult<()> {
        stream.set_nonblocking(false)?;
        // An answer leaves at once.
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(POLL))?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))
    };
    set_up().map_err(Failure::Write)?;
    converse(stream, stream, server, stop)
}

fn serve_unix(stream: &UnixStream, server: &mut Server, stop: &Stop) -> Result<(), Failure> {
    let set_up = || -> IoResult<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(POLL))?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))
    };
    set_up().map_err(Failure::Write)?;
    converse(stream, stream, server, stop)
}

fn converse(
    input: impl Read,
    mut output: impl Write,
    server: &mut Server,
    stop: &Stop,
) -> Result<(), Failure> {
    let mut input = BufReader::with_capacity(1 << 16, UntilSignal { reader: input, stop });
    server.serve(&mut input, &mut output)
}

/// Removes the socket file of a process that was killed. Returns an error if the path is another
/// file, or if a process listens on it.
fn remove_stale(path: &Path) -> Result<(), Error> {
    let refuse = |problem: &str| Error::Usage {
        what: format!("--listen unix:{}: {problem}", path.display()),
        hint: "choose another path".into(),
    };
    let failed = |source| Error::Input { from: path.display().to_string(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(file) if !file.file_type().is_socket() => {
            Err(refuse("the path exists and is no socket"))
        }
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => Err(refuse("another process listens on it")),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)
            }
            Err(error) => Err(failed(IoError::new(error.kind(), format!("is in use: {error}")))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_can_be_listened_on() {
        for (text, is_valid) in [
            ("127.0.0.1:0", true),
            ("127.8.0.1:5000", true),
            ("[::1]:5000", true),
            ("unix:a", true),
            ("unix:", false),
            ("0.0.0.0:5000", false),
            ("[::]:5000", false),
            ("192.168.0.1:5000", false),
            ("127.0.0.1", false),
            ("example.org:80", false),
        ] {
            assert_eq!(parse_address(text).is_ok(), is_valid, "{text}");
        }
    }
}
