//! Which errors of reading a video may pass by themselves.

use std::io;

/// Returns whether a local file may become readable without a change: a disk error, or a network
/// disk that is away.
pub fn is_transient_io(cause: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkDown,
        NetworkUnreachable, NotConnected, ResourceBusy, StaleNetworkFileHandle, TimedOut,
        WouldBlock,
    };
    /// Linux error codes of a disk that does not answer, and of too many open files.
    const TRANSIENT: [i32; 3] = [5, 23, 24];
    cause.raw_os_error().is_some_and(|code| TRANSIENT.contains(&code))
        || matches!(
            cause.kind(),
            ConnectionAborted
                | ConnectionReset
                | HostUnreachable
                | Interrupted
                | NetworkDown
                | NetworkUnreachable
                | NotConnected
                | ResourceBusy
                | StaleNetworkFileHandle
                | TimedOut
                | WouldBlock
        )
}
